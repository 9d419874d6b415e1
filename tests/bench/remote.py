"""A file of another node through an import, against the same file of the node itself.

Both are read by the same client through the same server: walk, open, read and clunk, one
after the other.  The client and its node share one core; the other node, which elsewhere
has a machine of its own, has the other one.  What is left of a far read once one round
trip is taken off is what the import costs.  A round trip is one small request to that node,
in TLS, by a client on the near node's core that is busy for as long in between as that
node is: an idle core takes longer to wake.

A relay then holds back everything between the two nodes by 10 ms each way: there each
further round trip would add 20 ms, so the rows count them.  There the node's own file is
read after as long a pause, since what is done every 20 ms finds the caches of nobody.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from cloudfs.factotum.nodekeys import client_context, files_in
from cloudfs.wire.codec import codec
from cloudfs.wire.messages import NODES, NOFID
from tests.bench import nodes
from tests.bench.measure import (
    PATIENCE,
    SHOWN,
    Bench,
    Row,
    Sample,
    Target,
    await_socket,
    core,
    pin,
    started,
)
from tests.bench.nine import Nine
from tests.bench.peers import STATUS_PATH

MODULE = "tests.bench.nodes"
HELD = 0.010  # seconds each way
TARGET = Target(most=2.5)
SECONDS = "1"  # of one run
BUSY = 100e-6  # seconds between two round trips, about what a far read takes of the near node


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextmanager
def process(bench: Bench, name: str, *words: str | Path) -> Iterator[int]:

    log = bench.folder / f"{name}.log"
    with started([sys.executable, "-m", MODULE, *words], log) as running:
        yield running.pid


class Asker:
    """A client of the far node that waits for each answer."""

    def __init__(self, folder: Path, port: int) -> None:
        files = files_in(folder / "near")
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = client_context(files).wrap_socket(plain)
        self._codec = codec("u")
        self._ask("Tversion", 65536, NODES)
        self._ask("Tattach", 0, NOFID, "root", "node", NOFID)

    def _ask(self, name: str, *fields: object) -> None:
        self._socket.sendall(self._codec.encode[name](1, *fields))
        assert self._socket.recv(16 << 10)[4] == self._codec.number["R" + name[1:]]

    def round_trip(self, seconds: float) -> float:
        """Seconds of a request, the median."""
        found = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            until = time.perf_counter() + BUSY
            while (began := time.perf_counter()) < until:
                pass
            self._ask("Tstat", 0)
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def imported(bench: Bench, name: str, port: int) -> Iterator[tuple[str, int]]:
    """(socket, pid) of a near node that has the far one at that port."""
    sock = bench.folder / f"{name}.sock"
    log = bench.folder / f"{name}.log"

    words = ["near", str(bench.folder), str(port), str(sock)]
    with started([sys.executable, "-m", MODULE, *words], log) as running:
        await_socket(sock, log, running)
        with Nine(str(sock)) as client:
            client.read(f"nodes/far/{STATUS_PATH}")  # so that the import is there
        yield str(sock), running.pid


def sample(
    bench: Bench, address: str, pid: int, path: str, cpus: set[int], mode: str = "cycle"
) -> Sample:
    words = ["-t", SECONDS, "-q1", address, mode, path]
    return bench.sample([bench.build("load"), *words], cpus, pid)


def asked(folder: Path, port: int, cpus: set[int]) -> Sample:
    """Round trips, on these cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        asker = Asker(folder, port)
        trip = asker.round_trip(float(SECONDS))
        asker.close()
    finally:
        os.sched_setaffinity(0, mine)
    return Sample(1 / trip, trip, trip, 1.0, "ops")


def paced(address: str, path: str, times: int, pause: float) -> float:
    """Seconds of reads with a pause before each, the median."""
    found = []
    with Nine(address) as client:
        for _ in range(times):
            time.sleep(pause)
            began = time.perf_counter()
            client.open(path, os.O_RDONLY)
            client.receive_data()
            client.clunk()
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def run(bench: Bench) -> Iterator[Row]:
    """All rows, as they are measured."""
    bench.build("load")
    nodes.make_keys(bench.folder)
    port, relayed = free_port(), free_port()
    with ExitStack() as stack:
        enter = stack.enter_context
        far_pid = enter(process(bench, "far", "far", bench.folder, str(port)))
        await_port(port)
        every = os.sched_getaffinity(0)
        enter(process(bench, "relay", "relay", str(relayed), str(port), str(HELD)))
        await_port(relayed)
        near = core()
        pin(far_pid, every - near or near)
        first, pid = enter(imported(bench, "loopback", port))
        pin(pid, near)
        yield from _rows("loopback", asking(bench, first, pid, port, near))
        pin(far_pid, every)
        address, _ = enter(imported(bench, "20ms", relayed))
        yield from _rows("20 ms", waiting(bench, address, relayed))
        far, own = (
            paced(first, path, 3 * bench.rounds, 1.05)
            for path in (f"nodes/far/{STATUS_PATH}", STATUS_PATH)
        )
        trip = asked(bench.folder, port, every).p50
        less = "one far status in a second, less a round trip"
        yield Row(less, max(far - trip, 0), "seconds", own, "own", SHOWN)
        yield bulk(bench, *enter(imported(bench, "bulk", port)))


Found = tuple[Sample, Sample, Sample]  # far, own, a round trip


def asking(bench: Bench, address: str, pid: int, port: int, cpus: set[int]) -> Found:
    """One after the other, as fast as it goes."""
    runs: dict[str, Callable[[], Sample]] = {
        "far": partial(sample, bench, address, pid, f"nodes/far/{STATUS_PATH}", cpus),
        "own": partial(sample, bench, address, pid, STATUS_PATH, cpus),
        "trip": partial(asked, bench.folder, port, cpus),
    }
    found = bench.interleave(runs)
    return found["far"], found["own"], found["trip"]


def waiting(bench: Bench, address: str, port: int) -> Found:
    """One after the other, and its own ones as seldom as those of the far node."""
    every, times = os.sched_getaffinity(0), int(float(SECONDS) / 2 / HELD)
    runs: dict[str, Callable[[], Sample]] = {
        "far": lambda: _of(paced(address, f"nodes/far/{STATUS_PATH}", times, 0)),
        "own": lambda: _of(paced(address, STATUS_PATH, times, 2 * HELD)),
        "trip": partial(asked, bench.folder, port, every),
    }
    found = bench.interleave(runs)
    return found["far"], found["own"], found["trip"]


def _of(seconds: float) -> Sample:
    return Sample(1 / seconds, seconds, seconds, 1.0, "ops")


def _rows(name: str, found: Found) -> Iterator[Row]:
    far, own, trip = (each.p50 for each in found)
    others = max(each.others for each in found)
    yield Row(f"one round trip, {name}", trip, "seconds")
    row = Row(f"far status, {name}", far, "seconds", own, "own", SHOWN, others)
    yield row
    less = f"far status less a round trip, {name}"
    yield replace(row, case=less, ours=max(far - trip, 0), target=TARGET)


def bulk(bench: Bench, address: str, pid: int) -> Row:
    every = os.sched_getaffinity(0)
    runs: dict[str, Callable[[], Sample]] = {
        "far": partial(sample, bench, address, pid, "nodes/far/big", every, "read"),
        "own": partial(sample, bench, address, pid, "big", every, "read"),
    }
    found = bench.interleave(runs)
    far, mine = found["far"], found["own"]
    return Row("read a large file, loopback", far.rate, far.unit, mine.rate, "own")
