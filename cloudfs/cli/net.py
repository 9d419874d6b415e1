"""Commands about what the network costs: find, net, net probe, net top."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.cli.show import columns, duration, live, rate, span
from cloudfs.errors import CloudError

TABLES = ("latency", "loss", "bandwidth")
COLUMNS = ("value", "age", "how", "error")

Row = dict[str, dict[str, str | float]]  # table → column → what it says


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


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON list of records.")
@click.pass_context
def net(ctx: click.Context, as_json: bool) -> None:
    """Show what it costs to reach each other node, the nearest first.

    Reads the tables of /cloud/net.  LATENCY is of a round trip, with its standard error,
    measured AGE ago or predicted from coordinates; LOSS is of probes.  Other nodes' sight
    is at nodes/NAME/net.
    """
    if ctx.invoked_subcommand is not None:
        return
    files = open_files(ctx.obj)
    if isinstance(files, Shell):
        files.say(f"sort -n -k2 {files.name('net/latency')}")
        return
    found = rows(files)
    if as_json:
        click.echo(json.dumps([{"node": name, **row} for name, row in found], indent=1))
        return
    for line in table(found):
        click.echo(line)


def rows(files: Files) -> list[tuple[str, Row]]:
    """What the tables say of each node, the nearest first."""
    found: dict[str, Row] = {}
    for name in TABLES:
        for line in files.read(f"net/{name}").splitlines():
            node, *words = ndb.words(line)
            if len(words) != len(COLUMNS):
                raise CloudError("proto", f"net/{name}: {line[:80]!r} is no row")
            pairs = zip(COLUMNS, words, strict=True)
            found.setdefault(node, {})[name] = {
                column: word if column == "how" else float(word) for column, word in pairs
            }
    return sorted(found.items(), key=lambda pair: _seconds(pair[1]))


def _seconds(row: Row) -> float:
    return float(row["latency"]["value"]) if "latency" in row else float("inf")


def table(found: list[tuple[str, Row]]) -> Iterator[str]:
    head = ("NODE", "LATENCY", "±", "HOW", "AGE", "LOSS", "BANDWIDTH")
    return columns(head, [_cells(name, row) for name, row in found])


def _cells(name: str, row: Row) -> tuple[str, ...]:
    way, lost, speed = (row.get(table) for table in TABLES)
    return (
        name,
        duration(float(way["value"])) if way else "-",
        duration(float(way["error"])) if way else "-",
        str(way["how"]) if way else "-",
        span(float(way["age"])) if way else "-",
        f"{float(lost['value']):.1%}" if lost else "-",
        rate(float(speed["value"])) if speed else "-",
    )


@net.command()
@click.option("-n", "count", type=click.IntRange(1), help="That many pictures, then end.")
@click.pass_obj
def top(options: Options, count: int | None) -> None:
    """Watch the ways to other nodes, the shortest first.

    A new picture every two seconds until ^C; one where the output is no terminal.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"watch sort -n -k2 {files.name('net/latency')}")
        return
    live(lambda: picture(files), count)


def picture(files: Files) -> Iterator[str]:
    """The lines of one picture."""
    found = rows(files)
    ways = [row["latency"] for _, row in found if "latency" in row]
    measured = sum(way["how"] == "measured" for way in ways)
    yield f"{len(ways)} nodes, {measured} measured and the others predicted"
    yield ""
    yield from table(found)


@net.command()
@click.argument("node")
@click.option("-c", "--count", type=click.IntRange(1, 32), default=10, show_default=True,
              help="Probes that are sent.")  # fmt: skip
@click.option("--bandwidth", is_flag=True, help="Measure the bandwidth instead.")
@click.pass_obj
def probe(options: Options, node: str, count: int, bandwidth: bool) -> None:
    """Measure the way to a node now, and print what is known then.

    Writes `probe` to net/NODE/ctl and reads the files beside it.
    """
    files = open_files(options)
    if not node or "/" in node or node.startswith("."):
        raise CloudError("bad", f"{node!r} is no node's name", "see: cloudfs nodes")
    try:
        files.write(f"net/{node}/ctl", "probe bandwidth" if bandwidth else f"probe count={count}")
    except CloudError as error:
        if error.kind != "absent":
            raise
        raise CloudError("absent", f"there is no node {node!r}", "see: cloudfs nodes") from None
    if isinstance(files, Shell):
        what = "bandwidth" if bandwidth else "latency"
        files.say(f"cat {files.name(f'net/{node}/{what}')}")
        return
    if bandwidth:
        known = ndb.parse(files.read(f"net/{node}/bandwidth"))
        text = f"{node}: {rate(float(known['value']))} ± {rate(float(known['error']))}"
        if "back" in known:
            back, doubt = float(known["back"]), float(known["back.error"])
            text += f", back {rate(back)} ± {rate(doubt)}"
        click.echo(text)
        return
    known, lost = (ndb.parse(files.read(f"net/{node}/{name}")) for name in ("latency", "loss"))
    jitter = files.read(f"net/{node}/jitter").strip()
    click.echo(
        f"{node}: {duration(float(known['value']))} ± {duration(float(known['error']))}"
        + (f", jitter {duration(float(jitter))}" if jitter else "")
        + f", loss {float(lost['value']):.1%}"
    )
