"""What a daemon costs that does nothing: 1,000 silent connections, 1,000 sleeping objects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench import peers
from tests.bench.measure import Bench, Row, Target
from tests.bench.nine import Nine
from tests.bench.noise import of_process
from tests.bench.peers import Cloud

COUNT = 1000  # connections, and objects
WATCH = 20.0  # seconds the daemon's CPU is watched
SETTLE = 2.0  # seconds after the last object was started


def memory(pid: int, field: str) -> int:
    """Rss or Pss of a process in bytes, 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (ProcessLookupError, FileNotFoundError):
        return 0
    return next(1024 * int(each.split()[1]) for each in lines if each.startswith(f"{field}:"))


def keepers(pids: set[int]) -> set[int]:
    """The parents of these processes: each object's keeper stands above its program."""
    found = set()
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (ProcessLookupError, FileNotFoundError):
            continue
        found.add(int(fields[1]))
    return found


def programs(cloud: Cloud, ids: list[str]) -> set[int]:
    """The first process of each object."""
    with Nine(cloud.address) as client:
        status = [client.read(f"proc/{made}/status").decode() for made in ids]
    words = [word for each in status for word in each.split() if word.startswith("pid=")]
    return {int(word[4:]) for word in words if word != "pid="}


def cpu_share(pid: int) -> float:
    """The part of one core a process takes while it is watched."""
    before, began = of_process(pid), time.monotonic()
    time.sleep(WATCH)
    return (of_process(pid) - before) / (time.monotonic() - began)


def run(bench: Bench) -> Iterator[Row]:
    with peers.cloud(bench) as cloud, ExitStack() as stack:
        bare = memory(cloud.pid, "Rss")
        yield Row("daemon alone, RSS", bare, "memory")
        for _ in range(COUNT):
            stack.enter_context(Nine(cloud.address))
        connected = memory(cloud.pid, "Rss")
        yield Row(f"{COUNT:,} connections, RSS beyond", connected - bare, "memory")
        ids = []
        try:
            for _ in range(COUNT):
                ids.append(cloud.run("sleep", "3600"))
            yield Row(
                f"{COUNT:,} objects, RSS beyond", memory(cloud.pid, "Rss") - connected, "memory"
            )
            above = keepers(programs(cloud, ids)) - {cloud.pid}
            total = float(sum(memory(pid, "Pss") for pid in above))
            yield Row(f"{len(above):,} keepers in sum, PSS", total, "memory")
            time.sleep(SETTLE)
            yield Row(
                "CPU of a core", cpu_share(cloud.pid), "share", 0.01, "bound", Target(most=1.0)
            )
        finally:
            cloud.wipe(*ids)
