"""What people read: why, help, version, and the manual pages, made from the same tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

import cloudfs
from cloudfs.cli import TABLE, Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.errors import CloudError

# page: (path of its help file in the tree, what it is about).  NODE and ID stand for
# the first node and a new object.
TREE = {
    "cloudfs-tree": ("help", "the root of the tree"),
    "cloudfs-proc": ("proc/help", "objects"),
    "cloudfs-object": ("proc/ID/help", "one object"),
    "cloudfs-nodes": ("nodes/help", "machines"),
    "cloudfs-node": ("nodes/NODE/help", "one machine"),
    "cloudfs-view": ("view/help", "objects in other arrangements"),
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

    TOPIC is a command, or a directory as proc or nodes: then it is the file help in it.
    """
    parent = ctx.find_root()
    if folder is not None:
        for path in write_pages(parent, Path(folder), open_files(ctx.obj)):
            click.echo(path)
    elif topic is None:
        click.echo(parent.get_help())
    elif topic in TABLE:
        click.echo(command_help(parent, topic))
    else:
        where = topic.removeprefix("/cloud").strip("/")
        for chunk in open_files(ctx.obj).stream(f"{where}/help" if where else "help"):
            click.echo(chunk, nl=False)


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
    node, id = next(name for name in files.list("nodes") if name != "help"), files.clone()
    for name, (where, line) in TREE.items():
        text = files.read(where.replace("NODE", node).replace("ID", id))
        pages[f"{name}.4"] = (line, text)
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
