"""What the simulator of large clouds prints."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

FIGURES = ("mean", "99 %", "most")


@dataclass
class Result:
    """What one size came to.  Lists are (mean, 99th percentile, most) over the nodes."""

    nodes: int
    leaves: int
    levels: int
    formed: float  # seconds until the root's digest counted all
    sent: list[float]  # bytes/s of a node
    received: list[float]
    messages: float  # received by a node, a second
    memory: list[float]  # bytes of a node's core; the most is sought in the root as well
    gone: list[float]  # seconds from a death until the last of the leaf knows: median and most
    gone_root: float  # seconds until the root's digest is right after the deaths
    joined_root: float  # seconds until it is after the joins
    joined_all: float  # seconds until 99 % of all nodes have that digest
    took: float  # real seconds


def figures(values: list[float]) -> list[float]:
    """Mean, 99th percentile and most."""
    ordered = sorted(values)
    return [statistics.fmean(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]]


def show(results: list[Result]) -> str:
    """The results as a table in Markdown, and whether anything grew too fast."""
    rows: list[tuple[str, list[str]]] = [
        ("nodes", [f"{r.nodes:,}" for r in results]),
        ("leaf zones", [str(r.leaves) for r in results]),
        ("levels", [str(r.levels) for r in results]),
        (
            "s until the root's digest counts all, all started at once",
            [f"{r.formed:.0f}" for r in results],
        ),
    ]
    for at, what in enumerate(FIGURES):
        rows.append((f"bytes/s sent by a node, {what}", [f"{r.sent[at]:,.0f}" for r in results]))
    for at, what in enumerate(FIGURES):
        rows.append(
            (f"bytes/s received by a node, {what}", [f"{r.received[at]:,.0f}" for r in results])
        )
    rows.append(("messages/s received by a node, mean", [f"{r.messages:.1f}" for r in results]))
    for at, what in ((0, "mean"), (2, "most")):
        rows.append(
            (
                f"memory of a node's core, kB, {what}",
                [f"{r.memory[at] / 1e3:,.0f}" for r in results],
            )
        )
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
    lines = ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows]
    lines.insert(1, "|---" * (len(results) + 1) + "|")
    return "\n".join([*lines, "", growth(results)])


def growth(results: list[Result]) -> str:
    """Whether a node's figures grew no faster than the logarithm of the number of nodes."""
    if len(results) < 2:
        return "one size alone shows no growth"
    first, last = results[0], results[-1]
    allowed = math.log(last.nodes) / math.log(first.nodes)
    found = {
        "sent": last.sent[0] / first.sent[0],
        "received": last.received[0] / first.received[0],
        "sent, most": last.sent[2] / first.sent[2],
        "received, most": last.received[2] / first.received[2],
        "memory": last.memory[0] / first.memory[0],
        "memory, most": last.memory[2] / first.memory[2],
    }
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items())
    good = all(ratio <= allowed for ratio in found.values())
    return f"growth from {first.nodes:,} to {last.nodes:,} nodes ({'ok' if good else 'too fast'}; log n: {allowed:.2f}): {told}"
