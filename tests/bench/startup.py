"""How soon the command line answers: `cloudfs --help` against the import of trio."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bench.measure import ROOT, Bench, Row, Sample, Target

ROUNDS = 15


def timed(command: list[str]) -> Sample:
    """One start to end of a command, as a sample whose `p50` is its seconds."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, timeout=60)
    took = time.perf_counter() - began
    return Sample(1 / took, took, took, 1, "seconds")


def run(bench: Bench) -> Iterator[Row]:
    script = Path(sys.executable).with_name("cloudfs")
    ours = [str(script)] if script.exists() else [sys.executable, "-m", "cloudfs"]
    runs = {
        "ours": partial(timed, [*ours, "--help"]),
        "trio": partial(timed, [sys.executable, "-c", "import trio"]),
        "python": partial(timed, [sys.executable, "-c", ""]),
    }
    for once in runs.values():
        once()  # the first start reads the disk
    found = bench.interleave(runs, ROUNDS)
    mine, trio, bare = (found[name].p50 for name in ("ours", "trio", "python"))
    yield Row("cloudfs --help", mine, "seconds", trio, "import trio", Target(most=1.5))
    yield Row("cloudfs --help", mine, "seconds", bare, "python alone")
