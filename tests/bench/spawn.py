"""How fast objects of runtime `process` start, against bare posix_spawn and waitpid of
the same program in the same run, interleaved.  Prints the ratio of the medians.

    python -m tests.bench.spawn [COUNT [ROUNDS]]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

from cloudfs.node.api import Launch
from cloudfs.node.host import RealHost

PROGRAM = "/bin/true"
IN_FLIGHT = 4  # objects that start or run at once
MEMORY = "/dev/shm"


def bare(count: int) -> float:
    """Programs a second, one after the other."""
    began = time.perf_counter()
    for _ in range(count):
        os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], {}), 0)
    return count / (time.perf_counter() - began)


async def objects(machine: RealHost, home: Path, ids: list[str]) -> float:
    """Objects a second, from `start` until the exit record is read and the control
    groups are gone."""
    todo = iter(ids)

    async def worker() -> None:
        for id in todo:
            running = await machine.start(Launch(id, home / id, [PROGRAM], {}, "/", "process"))
            end = await running.ended()
            assert end.code == 0, end

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(worker)
    return len(ids) / (time.perf_counter() - began)


def measure(count: int = 300, rounds: int = 7, folder: str | None = MEMORY) -> tuple[float, float]:
    """Medians of bare programs and of objects, each a second.

    folder: where the state directory is.  In memory by default, since a disk may be
    anything; nothing is removed between rounds, since some file systems (ext4 without
    a journal) make files slower while they remember removed ones.
    """
    plain, ours = [], []
    usable = folder and os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_NOEXEC
    with tempfile.TemporaryDirectory(
        prefix="cloudfs-spawn-", dir=folder if usable else None
    ) as name:
        home = Path(name)
        machine = RealHost(home, f"bench{os.getpid()}")
        for turn in range(rounds):
            plain.append(bare(count))
            ids = [f"spawn{turn}-{number}" for number in range(count)]
            ours.append(trio.run(objects, machine, home, ids))
        machine.close()
    return statistics.median(plain), statistics.median(ours)


def main() -> None:
    for folder in (MEMORY, None):
        plain, ours = measure(*map(int, sys.argv[1:]), folder=folder)
        print(
            f"state in {folder or tempfile.gettempdir()}: posix_spawn {plain:.0f}/s, "
            f"object {ours:.0f}/s, ratio {ours / plain:.2f}"
        )


if __name__ == "__main__":
    main()
