"""How long a virtual machine takes to start and to boot, and for how long it stands still when
it moves, beside what QEMU itself does between two processes of this machine without any node.

    python -m tests.bench.vm [ROUNDS]

Two nodes in network name spaces of this machine; the guest has 128 MiB and prints a number
every 10 ms at most.  `seen` is the longest gap at its console less the usual one, `told` what
the event `moved` says, `QEMU's` what QEMU counts of that.  By hand: the same machine, its
memory sent over a unix socket by QMP alone; the gap is seen there likewise.  Medians.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import trio

from cloudfs import ndb
from cloudfs.node.api import Image, Launch, Limits
from cloudfs.node.host import RealHost
from cloudfs.node.virtual import VmKept
from tests import vmimage
from tests.cloud.machine import Machine
from tests.cloud.net import Net
from tests.cloud.views import settle

MEM = 128 << 20
PATIENCE = 300.0  # seconds
# What it prints is the guest's own clock, which stands still with it; so gaps are seen here.
COUNT = "i=0; while :; do echo n $i; i=$((i+1)); usleep 5000; done &"


async def follow(paths: list[Path], gaps: list[float]) -> None:
    """Note every time that passes between two growths of what these files have in all."""
    size, since = 0, time.perf_counter()
    while True:
        now = sum(path.stat().st_size if path.exists() else 0 for path in paths)
        if now != size:
            gaps.append(time.perf_counter() - since)
            size, since = now, time.perf_counter()
        await trio.sleep(0.001)


def launch(state: Path, id: str) -> Launch:
    return Launch(id, state / id, vmimage.words(), {}, "", "vm", Limits(mem=MEM), user="root")


async def migrate(host: RealHost, here: VmKept, state: Path, new: str) -> VmKept:
    """The machine at its new place, between two processes, with nothing in between."""
    first, second = state / "one", state / "two"
    for folder in (first, second):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    ours, theirs = socket.socketpair()
    source = trio.socket.from_stdlib_socket(ours)
    ready = trio.Event()
    found: list[VmKept] = []

    async def carry() -> None:
        await ready.wait()
        there = await host.receive(launch(state, new), Image(first, 1.0))
        assert isinstance(there, VmKept)
        while data := await source.recv(1 << 20):
            await there.feed(data)
        await there.feed(b"")
        found.append(there)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry)
        await here.send(first, theirs.detach(), ready.set)
    await here.dump(second)
    await host.go_on(found[0], Image(second, 1.0))
    return found[0]


async def by_hand(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of a migration between two QEMUs, the gap seen, and QEMU's own figure."""
    state = Path(tempfile.mkdtemp(prefix="bench-"))
    state.chmod(0o711)
    host = RealHost(state, f"bench{os.getpid()}")
    totals, seen, counted = [], [], []
    try:
        here = await host.start(launch(state, "a0"))
        assert isinstance(here, VmKept)
        while b"ready" not in (state / "a0/stdout").read_bytes():
            await trio.sleep(0.05)
        here.write_stdin(COUNT.encode() + b"\n")
        await trio.sleep(2)
        for number in range(rounds):
            old, new = f"a{number}", f"a{number + 1}"
            gaps: list[float] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, [state / old / "stdout", state / new / "stdout"], gaps)
                await trio.sleep(0.5)
                began = time.perf_counter()
                there = await migrate(host, here, state, new)
                totals.append(time.perf_counter() - began)
                counted.append(here.still["qemu"])
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()
            seen.append(max(gaps[2:]) - statistics.median(gaps))
            here.kill("moved")
            await here.ended()
            host.discard(old, state / old)
            here = there
        here.kill("over")
        await here.ended()
        host.discard(f"a{rounds}", state / f"a{rounds}")
    finally:
        host.close()
        shutil.rmtree(state)
    return totals, seen, counted


def begin(node: Machine) -> tuple[str, float, float]:
    """A machine that runs; seconds until it was started, and until it had booted."""
    id = node.read("proc/clone").strip()
    for line in ("runtime vm", f"limit mem={MEM}", f"on {node.name}"):
        node.write(line, "proc", id, "ctl")
    began = time.perf_counter()
    words = " ".join(map(ndb.quote, vmimage.words()))
    node.write(f"exec {words}", "proc", id, "ctl", seconds=PATIENCE)
    started = time.perf_counter() - began
    while "ready" not in node.read("proc", id, "stdout"):
        time.sleep(0.02)
    return id, started, time.perf_counter() - began


def gaps_of(nodes: list[Machine], id: str, stop: list[bool], found: list[float]) -> None:
    """The same as `follow`, of the nodes' own files."""
    paths = [node.local.state / "objects" / id / "stdout" for node in nodes]
    size, since = 0, time.perf_counter()
    while not stop:
        sizes = []
        for path in paths:
            try:
                sizes.append(path.stat().st_size)
            except OSError:
                sizes.append(0)
        if (now := max(sizes)) > size:
            found.append(time.perf_counter() - since)
            size, since = now, time.perf_counter()
        time.sleep(0.001)


def main(rounds: int = 5) -> None:
    if os.geteuid() != 0:
        raise SystemExit("this needs root")
    starts, boots, totals, seen, told, counted = [], [], [], [], [], []
    with Net({"east": "n1 n2"}) as net:
        settle(net)
        for _ in range(rounds):
            id, started, booted = begin(net["n1"])
            starts.append(started)
            boots.append(booted)
            net["n1"].write("kill", "proc", id, "ctl", seconds=30)
        id, _, _ = begin(net["n1"])
        net["n1"].write(COUNT, "proc", id, "stdin")
        time.sleep(2)
        for number in range(rounds):
            to = net["n2" if number % 2 == 0 else "n1"]
            stop: list[bool] = []
            gaps: list[float] = []
            watch = threading.Thread(target=gaps_of, args=([*net], id, stop, gaps))
            watch.start()
            time.sleep(0.5)
            began = time.perf_counter()
            path = (f".MaxTime={PATIENCE:g}", "proc", id, "ctl")
            to.write(f"move {to.name}", *path, seconds=PATIENCE)
            totals.append(time.perf_counter() - began)
            time.sleep(0.5)
            stop.append(True)
            watch.join()
            seen.append(max(gaps[2:]) - statistics.median(gaps))
            events = map(ndb.parse, to.read("proc", id, "events").splitlines())
            moved = [event for event in events if event["event"] == "moved"][-1]
            told.append(float(moved["down"]))
            counted.append(float(moved["qemu"]))
        to.write("kill", "proc", id, "ctl", seconds=30)
    hand = trio.run(by_hand, rounds)
    median = statistics.median
    print(f"start {median(starts):.3f} s, boot {median(boots):.3f} s")
    print("              total      seen      told    QEMU's")
    print(f"nodes    {median(totals):9.3f} {median(seen):9.3f} {median(told):9.3f}"
          f" {median(counted):9.3f}")  # fmt: skip
    print(
        f"by hand  {median(hand[0]):9.3f} {median(hand[1]):9.3f}         - {median(hand[2]):9.3f}"
    )
    print(f"seen, nodes / by hand: {median(seen) / median(hand[1]):.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
