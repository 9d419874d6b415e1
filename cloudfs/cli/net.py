"""Commands about the network: find, net top."""

from __future__ import annotations

import math
from collections.abc import Iterator

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.cli.show import columns, live, size, span, time_of
from cloudfs.errors import CloudError

TABLES = ("latency", "bandwidth", "loss")  # files of /cloud/net with a node a line

Table = dict[str, tuple[float, float, str, float]]  # node: value, age, how, error


@click.command()
@click.argument("exprs", nargs=-1, required=True, metavar="EXPR...")
@click.pass_obj
def find(options: Options, exprs: tuple[str, ...]) -> None:
    """Find nodes that meet conditions, the best first.

    As in: cloudfs find arch=x86_64 'mem.free>=4e9' near=paris-3 count=3.  Prints a record
    for each node, as query/EXPR/.../.answer has it; cloudfs help query tells more.
    """
    files = open_files(options)
    path = "/".join(["query", *exprs, ".answer"])
    if isinstance(files, Shell):
        files.say(f"cat {files.name(path)}")
        return
    if any("/" in expr for expr in exprs):
        raise CloudError("bad", "an expression holds no /", "give each as an argument of its own")
    click.echo(files.read(path), nl=False)


@click.group()
def net() -> None:
    """What the network costs, from this node."""


@net.command()
@click.option("-n", "count", type=click.IntRange(1), help="That many pictures, then end.")
@click.pass_obj
def top(options: Options, count: int | None) -> None:
    """Watch the ways to other nodes, the shortest first.

    Reads the tables latency, bandwidth and loss of net.  A new picture every two seconds
    until ^C; one where the output is no terminal.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"watch sort -n -k2 {files.name('net/latency')}")
        return
    live(lambda: picture(files), count)


def table(text: str) -> Table:
    """What a table of net says; lines that are none are passed over."""
    found: Table = {}
    for line in text.splitlines():
        try:
            node, value, age, how, error = ndb.words(line)
            found[node] = float(value), float(age), how, float(error)
        except (CloudError, ValueError):
            continue
    return found


def picture(files: Files) -> Iterator[str]:
    """The lines of one picture."""
    latency, bandwidth, loss = (table(files.read(f"net/{name}")) for name in TABLES)
    measured = sum(how == "measured" for _, _, how, _ in latency.values())
    yield f"{len(latency)} nodes, {measured} measured and the others predicted"
    yield ""
    names = sorted(
        latency.keys() | bandwidth.keys() | loss.keys(),
        key=lambda name: (latency[name][0] if name in latency else math.inf, name),
    )
    yield from columns(
        ("NODE", "LATENCY", "ERROR", "HOW", "AGE", "LOSS", "BANDWIDTH"),
        [_row(name, latency, bandwidth, loss) for name in names],
    )


def _row(name: str, latency: Table, bandwidth: Table, loss: Table) -> tuple[str, ...]:
    times = ("-", "-", "-", "-")
    if name in latency:
        value, age, how, error = latency[name]
        times = (time_of(value), time_of(error), how, span(age))
    lost = f"{loss[name][0]:.1%}" if name in loss else "-"
    rate = f"{size(bandwidth[name][0])}/s" if name in bandwidth else "-"
    return (name, *times, lost, rate)
