"""The mount: ours against a small file system of libfuse in C, and the kernel's own /proc.

The C one has one thread, and lets the kernel keep names and attributes for as long as
ours does, so that both are asked the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloudfs.fuse.operations import VALID
from tests.bench import peers
from tests.bench.measure import (
    SHOWN,
    Bench,
    Row,
    Sample,
    Skip,
    Target,
    await_mount,
    core,
    pin,
    started,
)
from tests.bench.wire import crowd

NAMES = 0.0  # seconds the kernel may keep a name, on both mounts
SECONDS = "0.3"  # of one run
BUSY = 32  # 9P connections beside, for the p99 that small readers then see

# case, mode of the load, which file of a mount it works on, target against C
LISTINGS = (
    ("list {:,.0f} with attributes", "list", "many", Target(0.6)),
    ("list {:,.0f} and stat each", "long", "many", SHOWN),
)
CASES = (
    ("open+read+close of version", "cycle", "shallow", Target(0.17)),
    ("open+read+close of proc/ID/status", "cycle", "deep", Target(0.17)),
    ("stat of version", "stat", "shallow", Target(0.17)),
    ("stat of proc/ID/status", "stat", "deep", Target(0.17)),
)


@dataclass(slots=True)
class Mount:
    """A mounted tree: the process that serves it (0: the kernel), a short file in its
    root, one two directories down, and a long directory."""

    pid: int
    shallow: Path
    deep: Path
    many: Path


KERNEL = Mount(0, Path("/proc/version"), Path("/proc/self/status"), Path("/proc"))


def fuse_flags() -> list[str]:
    """What a C compiler needs to be told for libfuse 3."""
    told = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise Skip("libfuse3 is not installed; type: apt-get install libfuse3-dev pkg-config")
    return told.stdout.split()


@contextmanager
def hello(bench: Bench) -> Iterator[Mount]:
    """The C file system, mounted in the bench's folder."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
        raise Skip("this machine cannot mount: there is no /dev/fuse or no fusermount3")
    program = bench.build("hello_ll", *fuse_flags())
    at = bench.folder / "hello"
    at.mkdir()
    log = bench.folder / "hello.log"
    with started([program, at, str(NAMES), str(VALID)], log) as process:
        await_mount(at, log, process)
        yield Mount(process.pid, at / "version", at / "proc/object00042/status", at / "proc")


def sample(bench: Bench, mount: Mount, mode: str, which: str) -> Sample:
    """One run of the load, on the core that the mount's server has to itself."""
    if mount.pid:
        pin(mount.pid, core())
    path = getattr(mount, which)
    return bench.sample([bench.build("fuseload"), "-t", SECONDS, mode, path], core(), mount.pid)


def beside_busy(bench: Bench, cloud: peers.Cloud, mount: Mount, path: str) -> Row:
    """p99 of open+read+close while 32 connections ask over 9P without a pause, against
    the same with none.  They run on the cores that the mount does not use, if any."""
    load = bench.build("load")

    def busy() -> Sample:
        others = os.sched_getaffinity(0) - core() or core()
        command = ["taskset", "-c", ",".join(map(str, sorted(others))), str(load)]
        command += ["-t", "30", f"-c{BUSY}", cloud.address, "stat", path]
        with started(command, bench.folder / "busy.log"):
            pin(mount.pid, core())
            words = ["-t", SECONDS, "cycle", str(mount.deep)]
            return bench.sample([bench.build("fuseload"), *words], core())

    runs: dict[str, Callable[[], Sample]] = {
        "idle": partial(sample, bench, mount, "cycle", "deep"),
        "busy": busy,
    }
    found = bench.interleave(runs)
    busy_p99, idle_p99 = found["busy"].p99, found["idle"].p99
    case = f"p99 beside {BUSY} busy 9P connections"
    return Row(case, busy_p99, "seconds", idle_p99, "idle p99", Target(most=25.0))


def compare(
    bench: Bench, ours: Mount, theirs: Mount, table: Sequence[tuple[str, str, str, Target]]
) -> Iterator[Row]:
    """Every case of a table, ours beside the C one and the kernel's own."""
    for case, mode, which, target in table:
        runs: dict[str, Callable[[], Sample]] = {
            name: partial(sample, bench, mount, mode, which)
            for name, mount in (("ours", ours), ("C", theirs), ("kernel", KERNEL))
        }
        found = bench.interleave(runs)
        mine = found["ours"]
        others = max(each.others for each in found.values())
        name = case.format(mine.each)
        yield Row(name, mine.rate, mine.unit, found["C"].rate, "libfuse in C", target, others)
        yield Row(name, mine.rate, mine.unit, found["kernel"].rate, "/proc", SHOWN, others)


def run(bench: Bench) -> Iterator[Row]:
    bench.build("fuseload")
    with ExitStack() as stack:
        theirs = stack.enter_context(hello(bench))
        cloud = stack.enter_context(peers.cloud(bench, mounted=True))
        assert cloud.mount is not None
        made = cloud.run("sleep", "1000")
        stack.callback(cloud.wipe, made)
        path, top = f"proc/{made}/status", cloud.mount
        ours = Mount(cloud.pid, top / "version", top / path, top / "proc")
        for listing in LISTINGS:
            with crowd(cloud.address, peers.MANY - 1):
                yield from compare(bench, ours, theirs, [listing])
        yield from compare(bench, ours, theirs, CASES)
        yield beside_busy(bench, cloud, ours, path)
