"""What the simulator of large clouds prints."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

FIGURES = ("mean", "99 %", "most")


@dataclass
class Load:
    """What a node pays while nothing happens.  Lists are (mean, 99th percentile, most) over
    the nodes, a second."""

    nodes: int
    sent: list[float]  # bytes
    received: list[float]
    messages: list[float]  # sent, once for each receiver
    heard: list[float]  # messages received
    memory: list[float]  # bytes of its core
    members: int  # of the fullest zone


@dataclass
class Result:
    """What one size came to."""

    load: Load
    clusters: int
    leaves: int
    levels: int
    formed: float  # seconds until the root's digest counted all
    gone: list[float]  # seconds from a death until the last of the leaf knows: median and most
    gone_root: float  # seconds until the root's digest is right after the deaths
    joined_root: float  # seconds until it is after the joins
    joined_all: float  # seconds until 99 % of all nodes have that digest
    took: float  # real seconds


def figures(values: list[float]) -> list[float]:
    """Mean, 99th percentile and most."""
    ordered = sorted(values)
    return [statistics.fmean(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]]


COSTS = {
    "bytes/s sent by a node": ("sent", 1),
    "bytes/s received by a node": ("received", 1),
    "messages/s sent by a node": ("messages", 1),
    "messages/s received by a node": ("heard", 1),
    "memory of a node's core, kB": ("memory", 1000),
}


Rows = list[tuple[str, list[str]]]


def costs(loads: list[Load]) -> Rows:
    """What a node pays, by size."""
    rows: Rows = [("members of the fullest zone", [str(load.members) for load in loads])]
    for what, (name, unit) in COSTS.items():
        for at, which in enumerate(FIGURES):
            found = [getattr(load, name)[at] / unit for load in loads]
            rows.append((f"{what}, {which}", [f"{value:,.0f}" for value in found]))
    return rows


def show(results: list[Result]) -> str:
    """The results as a table in Markdown, and whether anything grew too fast."""
    rows: Rows = [
        ("clusters", [str(r.clusters) for r in results]),
        ("leaf zones", [str(r.leaves) for r in results]),
        ("levels", [str(r.levels) for r in results]),
        (
            "s until the root's digest counts all, all started at once",
            [f"{r.formed:.0f}" for r in results],
        ),
        *costs([r.load for r in results]),
    ]
    rows += [
        ("s from a kill until all of its leaf know, median", [f"{r.gone[0]:.1f}" for r in results]),
        ("s from a kill until all of its leaf know, most", [f"{r.gone[1]:.1f}" for r in results]),
        (
            "s from the kills until the root's digest is right",
            [f"{r.gone_root:.1f}" for r in results],
        ),
        (
            "s from the joins until the root's digest is right",
            [f"{r.joined_root:.1f}" for r in results],
        ),
        (
            "s from the joins until 99 % of all nodes have it",
            [f"{r.joined_all:.0f}" for r in results],
        ),
        ("s of real time", [f"{r.took:.0f}" for r in results]),
    ]
    return table([r.load for r in results], rows)


def table(loads: list[Load], rows: Rows) -> str:
    """Rows as a table in Markdown, and whether anything grew too fast."""
    rows = [("nodes", [f"{load.nodes:,}" for load in loads]), *rows]
    lines = ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows]
    lines.insert(1, "|---" * (len(loads) + 1) + "|")
    return "\n".join([*lines, "", told(loads)])


def growth(first: Load, last: Load) -> tuple[float, dict[str, float]]:
    """By what a node's figures may grow from one size to the other, as the logarithm of the
    number of nodes does, and by what they grew."""
    found = {}
    for name, _ in COSTS.values():
        for at in (0, 2):
            ratio = getattr(last, name)[at] / getattr(first, name)[at]
            found[f"{name}, {FIGURES[at]}"] = ratio
    return math.log(last.nodes) / math.log(first.nodes), found


def told(loads: list[Load]) -> str:
    """Whether a node's figures grew no faster than the logarithm of the number of nodes."""
    if len(loads) < 2:
        return "one size alone shows no growth"
    first, last = loads[0], loads[-1]
    allowed, found = growth(first, last)
    verdict = "ok" if max(found.values()) <= allowed else "too fast"
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items())
    return (
        f"growth from {first.nodes:,} to {last.nodes:,} nodes "
        f"({verdict}; log n: {allowed:.2f}): {ratios}"
    )
