"""Commands about nodes: nodes, leave, drain, undrain, balance, top."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

import click

from cloudfs import config, ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files, write_each
from cloudfs.cli.groups import conduct
from cloudfs.cli.show import columns, live, size, span
from cloudfs.errors import CloudError

NUMBERS: dict[str, Callable[[str], object]] = {
    **{"cpus": int, "load": float, "free": int, "age": float, "started": float}
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON list of records.")
@click.pass_obj
def nodes(options: Options, as_json: bool) -> None:
    """List the nodes of the cloud, and how each is.

    Reads nodes/NAME/status.  The state is alive, drained, suspect, gone or left, and alone
    of this node where it is not in its cloud; AGE is how long ago the node was heard of;
    WHY, where there is something to tell, why it is drained or alone.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"cat {files.name('nodes/*/status')}")
        return
    found = list(records(files))
    if as_json:
        made = [
            {k: NUMBERS[k](v) if k in NUMBERS and v else v for k, v in r.items()} for r in found
        ]
        click.echo(json.dumps(made, indent=1))
        return
    for line in table(found):
        click.echo(line)


def typed(record: dict[str, str]) -> dict[str, object]:
    """A record for JSON: numbers are numbers, what is empty is null."""
    made: dict[str, object] = {}
    for name, text in record.items():
        made[name] = NUMBERS[name](text) if name in NUMBERS and text else text or None
    return made


def records(files: Files) -> Iterator[dict[str, str]]:
    """The status of every node."""
    for name in files.list("nodes"):
        if name != "help":
            try:
                yield ndb.parse(files.read(f"nodes/{name}/status"))
            except CloudError as error:
                yield {"name": name, "state": "unknown", "why": error.why or error.text}


def table(found: list[dict[str, str]]) -> Iterator[str]:
    head: tuple[str, ...] = ("NODE", "STATE", "CLUSTER", "CPUS", "LOAD", "FREE", "AGE")
    rows: list[tuple[str, ...]] = [
        (
            record["name"],
            record["state"],
            record.get("cluster") or "-",
            record.get("cpus") or "-",
            record.get("load") or "-",
            size(float(record["free"])) if record.get("free") else "-",
            span(float(record["age"])) if record.get("age") else "now",
        )
        for record in found
    ]
    if any(record.get("why") for record in found):
        head = (*head, "WHY")
        rows = [(*row, record.get("why", "")) for row, record in zip(rows, found, strict=True)]
    return columns(head, rows)


def own(files: Files) -> str:
    """The name of the node that these files are of: the one whose status has no age."""
    if isinstance(files, Shell):
        return own(files.files) if files.files else config.node_name()
    for record in records(files):
        if record["state"] != "unknown" and "age" not in record:
            return record["name"]
    raise CloudError("unreachable", "this node does not show itself", "see: cloudfs nodes")


@click.command()
@click.pass_obj
def leave(options: Options) -> None:
    """Leave the cloud: this node is alone from now on, and its objects go on.

    Writes leave to this node's ctl.
    """
    files = open_files(options)
    files.write(f"nodes/{own(files)}/ctl", "leave")


@click.command()
@click.argument("names", nargs=-1, metavar="NODE...")
@click.option("-s", "--stay", is_flag=True, help="Those that run there stay.")
@click.option("--undo", is_flag=True, help="Undrain, and bring back what was moved away.")
@click.pass_obj
def drain(options: Options, names: tuple[str, ...], stay: bool, undo: bool) -> None:
    """Have nodes take no new objects, and move those that run there to others.

    Each goes to where it fits best; one that cannot be moved stays, and is listed with the
    reason.  Without a name this node.  Writes drain, or undo, to nodes/NAME/ctl, and reads
    nodes/NAME/progress.
    """
    if stay and undo:
        raise click.UsageError("--stay and --undo are two things.")
    if stay:
        _each(options, names, "drain -s")
        return
    for name in names or (own(open_files(options)),):
        conduct(options, f"nodes/{name}", "undo" if undo else "drain")


@click.command()
@click.argument("names", nargs=-1, metavar="NODE...")
@click.pass_obj
def undrain(options: Options, names: tuple[str, ...]) -> None:
    """Have drained nodes take objects again; those that were moved away stay there.

    Without a name this node.  Writes undrain to nodes/NAME/ctl.
    """
    _each(options, names, "undrain")


@click.command()
@click.argument("state", type=click.Choice(["on", "off"]))
@click.argument("words", nargs=-1, metavar="[load=N] [gain=N] [rest=N] [NODE...]")
@click.pass_obj
def balance(options: Options, state: str, words: tuple[str, ...]) -> None:
    """Have objects leave busy or dear nodes by themselves, or no more.

    load is the part of a node beyond which it is busy (0.9), gain by how much the place of an
    object must be better (0.2), rest the seconds between two moves of one object (600).
    Without a name this node.  Writes balance to nodes/NAME/ctl; nodes/NAME/events tells each
    choice and its reason.
    """
    numbers = [word for word in words if "=" in word]
    names = tuple(word for word in words if "=" not in word)
    _each(options, names, " ".join(["balance", state, *map(ndb.quote, numbers)]))


def _each(options: Options, names: tuple[str, ...], line: str) -> None:
    files = open_files(options)
    write_each(files, names or (own(files),), lambda name: f"nodes/{name}/ctl", line)


@click.command()
@click.option("-n", "count", type=click.IntRange(1), help="That many pictures, then end.")
@click.pass_obj
def top(options: Options, count: int | None) -> None:
    """Watch the cloud: its nodes, and the objects that use most.

    A new picture every two seconds until ^C; one where the output is no terminal.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"watch cat '{files.root}/nodes/*/status' '{files.root}/proc/*/status'")
        return
    live(lambda: picture(files), count)


def picture(files: Files) -> Iterator[str]:
    """The lines of one picture."""
    from cloudfs.cli.objects import records as objects

    found = list(records(files))
    yield from table(found)
    every = list(objects(files))
    states = Counter(record["state"] for record in every)
    yield ""
    yield f"{len(every)} objects: " + (", ".join(f"{n} {s}" for s, n in states.items()) or "none")
    live = [record for record in every if record["state"] == "running"]
    live.sort(key=lambda record: float(record.get("cpu") or 0), reverse=True)
    rows = [
        (
            *(record["id"], record["node"], record["user"], record["app"] or "-"),
            span(float(record.get("cpu") or 0)),
            size(float(record.get("mem") or 0)),
            record["args"][:60],
        )
        for record in live
    ]
    yield from columns(("ID", "NODE", "USER", "APP", "CPU", "MEM", "COMMAND"), rows)
