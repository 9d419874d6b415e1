"""All benches, or those that are named, as one table.

    python -m tests.bench [--only NAME…] [--rounds N] [--json FILE]

Each line shows a case, its target, the ratio of ours to the peer's and whether that is
ok or short; a ratio with ~ was measured while others kept the machine busy.  The exit status is 0 even where something is short: a bench tells, and does
not judge.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import NOISE, ROUNDS, Bench, Row, Skip, Target, workshop

NAMES = ("wire", "attach", "remote", "fuse", "spawn", "startup", "hostile", "idle", "fabric")
UNITS = {
    "ops": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
    "entries": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
    "bytes": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "memory": ((1e6, "MB"), (1e3, "kB")),
    "share": ((0.01, "%"),),
}


def show(value: float | None, unit: str) -> str:
    """A figure with its unit, as people read it."""
    if value is None:
        return ""
    steps = UNITS[unit]
    scale, word = next((step for step in steps if value >= step[0]), steps[-1])
    return f"{value / scale:.3g} {word}"


def line(row: Row) -> str:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    ratio += "~" if row.others > NOISE else " "
    return (
        f"  {row.case:<44}{row.target!s:>7}{ratio:>9}  {row.word:<6}"
        f"{show(row.ours, row.unit):>11}{show(row.peer, row.unit):>12} {row.against}"
    ).rstrip()


def machine() -> dict[str, str | int]:
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }


def spawn(bench: Bench) -> Iterator[Row]:
    """Objects a second against the bare programs they run."""
    from tests.bench.spawn import measure

    plain, ours = measure(rounds=bench.rounds)
    yield Row("objects of runtime process", ours, "ops", plain, "posix_spawn", Target(0.5))


def rows(name: str, bench: Bench) -> Iterator[Row]:
    """The rows of the bench with this name, as they are measured."""
    if name == "spawn":
        return spawn(bench)
    found: Iterator[Row] = importlib.import_module(f"tests.bench.{name}").run(bench)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each case (default 7)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    asked = parser.parse_args()
    records = []
    for name in asked.only:
        began = time.monotonic()
        print(f"{name:<46}{'target':>7}{'ratio':>8}   {'':<6}{'ours':>11}{'peer':>12}", flush=True)
        try:
            with workshop(print, asked.rounds) as bench:
                for row in rows(name, bench):
                    print(line(row), flush=True)
                    records.append({"bench": name, **row.record()})
        except Skip as why:
            print(f"  skipped: {why}")
        print(f"  ({time.monotonic() - began:.0f} s)\n", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": records}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
