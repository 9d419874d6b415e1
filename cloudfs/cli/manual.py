"""What people read: why, help, version, and the manual pages, made from the same tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

import cloudfs
from cloudfs.cli import TABLE, Options
from cloudfs.cli.files import Files, Shell, ids, open_files
from cloudfs.errors import CloudError

# topic: (the directory of the tree that it is about, what that is).  NODE and ID stand
# for any node and any object.
TREE = {
    "tree": ("", "the root of the tree"),
    "proc": ("proc", "objects"),
    "object": ("proc/ID", "one object: its files and verbs"),
    "nodes": ("nodes", "machines"),
    "node": ("nodes/NODE", "one machine: its files and verbs"),
    "net": ("net", "what the network costs"),
    "query": ("query", "nodes that meet conditions"),
    "view": ("view", "objects in other arrangements"),
    "secstore": ("secstore", "users, groups and sealed keys"),
    "factotum": ("factotum", "your own keys, and what they prove"),
}


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="All that are kept, with their times.")
@click.pass_obj
def why(options: Options, every: bool) -> None:
    """Print why you were last refused something, and what to do.

    A shell only shows the error's number; the sentence stands in the file err of the
    tree, for each user its own.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"{'cat' if every else 'tail -n 1'} {files.name('err')}")
        return
    lines = files.read("err").splitlines()
    if not lines:
        click.echo("you were refused nothing")
    for line in lines if every else lines[-1:]:
        click.echo(line if every else line.partition(" ")[2])


@click.command()
@click.argument("topic", required=False)
@click.option("--man", "folder", metavar="DIR", help="Write manual pages there instead.")
@click.pass_context
def show_help(ctx: click.Context, topic: str | None, folder: str | None) -> None:
    """Print the manual of a command or of a directory of the tree.

    TOPIC is a command, or a kind of directory (tree, proc, object, nodes, node,
    network, query, view, secstore, factotum), or the path of one: then it is the file help in it.
    As in: cloudfs help object
    """
    parent = ctx.find_root()
    if folder is not None:
        for path in write_pages(parent, Path(folder), open_files(ctx.obj)):
            click.echo(path)
    elif topic is None:
        click.echo(parent.get_help())
    elif topic in TABLE and topic not in TREE:
        click.echo(command_help(parent, topic))
    else:
        if topic in TABLE:
            click.echo(command_help(parent, topic))
        files = open_files(ctx.obj)
        try:
            for chunk in files.stream(help_file(files, topic)):
                click.echo(chunk, nl=False)
        except CloudError as error:
            if error.kind not in ("absent", "notdir"):
                raise
            raise CloudError(
                "absent",
                f"there is no manual of {topic}",
                f"it is of a command (see: cloudfs help), or of: {' '.join(TREE)}",
            ) from None


def help_file(files: Files, topic: str) -> str:
    """The path of the help file of a topic of TREE, or of a directory."""
    where, _ = TREE.get(topic, (topic.removeprefix("/cloud"), ""))
    if "NODE" in where.split("/"):
        where = where.replace("NODE", next(name for name in files.list("nodes") if name != "help"))
    if "ID" in where.split("/"):
        where = where.replace("ID", next(iter(ids(files)), "") or files.clone())
    return f"{where}/help".strip("/")


def command_help(parent: click.Context, name: str) -> str:
    """The text of cloudfs NAME --help."""
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None
    with click.Context(command, info_name=name, parent=parent) as ctx:
        text = command.get_help(ctx)
        if isinstance(command, click.Group):
            text += "".join(
                f"\n\n{part.get_help(click.Context(part, info_name=word, parent=ctx))}"
                for word, part in command.commands.items()
            )
    return text


def write_pages(parent: click.Context, folder: Path, files: Files) -> Iterator[Path]:
    """Write cloudfs.1, a page for each command, and one for each kind of directory."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"cloudfs.1": ("the Cloud Operating System, seen as files", parent.get_help())}
    for name, (_, line) in TABLE.items():
        pages[f"cloudfs-{name}.1"] = (line.rstrip("."), command_help(parent, name))
    for topic, (_, line) in TREE.items():
        pages[f"cloudfs-{topic}.4"] = (line, files.read(help_file(files, topic)))
    for name, (line, text) in pages.items():
        path = folder / name
        path.write_text(page(path.stem, path.suffix[1:], line, text))
        yield path


def page(name: str, section: str, line: str, text: str) -> str:
    """A manual page in roff; the text keeps its lines as they are."""
    body = re.sub(r"(?m)^([.'])", r"\\&\1", text.replace("\\", "\\e").replace("-", "\\-"))
    return (
        f'.TH {name.upper()} {section} "" "cloudfs {cloudfs.__version__}"\n'
        f".SH NAME\n{name} \\- {line}\n.SH DESCRIPTION\n.nf\n{body.strip()}\n.fi\n"
    )


@click.command()
@click.pass_obj
def version(options: Options) -> None:
    """Print the version of this program, and of the node if one answers."""
    click.echo(f"cloudfs {cloudfs.__version__}")
    try:
        click.echo(f"node: {open_files(Options()).read('version').strip()}")
    except CloudError as error:
        click.echo(f"node: {error}")
