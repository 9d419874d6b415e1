"""9P: ours against diod, py9p's server and a minimal one in C, by the same load.

One at a time and 32 deep share one core with the server, where a server's own work is
all that counts; 32 connections run free.  Cycles go on step by step, 32 at once: diod
hands the messages of one connection to many threads and fails when those of one cycle
are sent together, so that is shown for ours and the C server only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.bench import peers
from tests.bench.measure import SHOWN, Bench, Row, Sample, Target, core, pin
from tests.bench.nine import Nine
from tests.bench.peers import Peer


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what the load is told, which file of a peer it works on, whether client
    and server share one core, and the target."""

    name: str
    options: tuple[str, ...]
    mode: str
    path: str = "small"
    pinned: bool = True
    target: Target = SHOWN


AGAINST_DIOD = (
    Case("stat, one at a time", ("-q1",), "stat", target=Target(0.9)),
    Case("stat, 32 deep", ("-q32",), "stat", target=Target(2.5)),
    Case("cycle of version, one at a time", ("-q1",), "cycle", "plain", target=Target(0.85)),
    Case("cycle of version, 32 deep", ("-q32",), "cycle", "plain", target=Target(2.5)),
    Case("cycle of ID/status, one at a time", ("-q1",), "cycle", target=Target(0.85)),
    Case("cycle of ID/status, 32 deep", ("-q32",), "cycle", target=Target(2.5)),
    Case("stat, 32 connections", ("-c32",), "stat", pinned=False, target=Target(1.5)),
    Case("cycle of version, 32 connections", ("-c32",), "cycle", "plain", False, Target(1.5)),
    Case("read, msize 64 KiB", ("-m65536",), "read", "big", target=Target(1.0)),
)
LISTING = (Case("list {:,.0f} entries", ("-m65536",), "list", "many", target=Target(0.4)),)
AGAINST_PY9P = (
    Case("9P2000 stat, one at a time", ("-q1",), "stat"),
    Case("9P2000 stat, 32 deep", ("-q32",), "stat", target=Target(5.0)),
    Case("9P2000 cycle of ID/status, 32 deep", ("-q32",), "cycle", target=Target(5.0)),
    Case("9P2000 burst of ID/status, 32 deep", ("-q32",), "burst", target=Target(5.0)),
)
AGAINST_C = (
    Case("read, msize 1 MiB", ("-m1048576",), "read", "big", target=Target(0.8)),
    Case("stat, one at a time", ("-q1",), "stat"),
    Case("burst of ID/status, 32 deep", ("-q32",), "burst"),
)
IDLE = 1000  # connections that stay silent beside one that does not
SECONDS = "0.2"  # of one run


ALONE = AGAINST_DIOD[0]


def sample(bench: Bench, peer: Peer, case: Case, *more: str) -> Sample:
    """One run of the load against one server."""
    cpus = core() if case.pinned else None
    pin(peer.pid, cpus or os.sched_getaffinity(0))
    options = [*peer.options, *more, *case.options]
    words = ["-t", SECONDS, *options, peer.address, case.mode, getattr(peer, case.path)]
    return bench.sample([bench.build("load"), *words], cpus, peer.pid)


def compare(
    bench: Bench, ours: Peer, peer: Peer, table: Sequence[Case], *more: str
) -> Iterator[Row]:
    """Every case of a table, ours beside the peer."""
    for case in table:
        runs: dict[str, Callable[[], Sample]] = {
            each.name: partial(sample, bench, each, case, *more) for each in (ours, peer)
        }
        found = bench.interleave(runs)
        mine, its = found[ours.name], found[peer.name]
        name = case.name.format(mine.each)
        yield Row(
            name,
            mine.rate,
            mine.unit,
            its.rate,
            peer.name,
            case.target,
            max(mine.others, its.others),
        )


def beside_idle(bench: Bench, ours: Peer) -> Row:
    """One at a time with 1,000 silent connections, against the same without them."""
    runs: dict[str, Callable[[], Sample]] = {
        "with": partial(sample, bench, ours, ALONE, f"-i{IDLE}"),
        "without": partial(sample, bench, ours, ALONE),
    }
    found = bench.interleave(runs)
    name = f"stat beside {IDLE:,} idle connections"
    one, two = found["with"], found["without"]
    return Row(name, one.rate, "ops", two.rate, "itself", Target(0.95), max(one.others, two.others))


@contextmanager
def filled(bench: Bench) -> Iterator[Peer]:
    """Our daemon with an object that runs and one that wrote a large stdout."""
    with peers.cloud(bench) as cloud:
        running = cloud.run("sleep", "1000")
        writer = cloud.run("sh", "-c", f"yes 'a line of output' | head -c {peers.BIG}")
        cloud.await_state(writer, "exited")
        small, big = f"proc/{running}/status", f"proc/{writer}/stdout"
        try:
            yield Peer("ours", cloud.address, cloud.pid, "version", small, big, "proc")
        finally:
            cloud.wipe(running, writer)


@contextmanager
def crowd(address: str, count: int) -> Iterator[None]:
    """count objects that were made and not started; they go with the connection, and a
    minute after they were made."""
    with Nine(address) as client:
        for _ in range(count):
            made = client.read_once("proc/clone").decode().strip()
            client.walk(f"proc/{made}", 1)  # a promised object is made when it is looked for
            client.clunk()
        yield


def run(bench: Bench) -> Iterator[Row]:
    """All rows, as they are measured."""
    bench.build("load")
    folder = peers.export(bench.folder / "export")
    small = peers.export(bench.folder / "small", many=100, big=0)
    with ExitStack() as stack:
        enter = stack.enter_context
        ours = enter(filled(bench))
        diod = enter(peers.diod(bench, folder))
        with crowd(ours.address, peers.MANY - 2):
            yield from compare(bench, ours, diod, LISTING)
        yield from compare(bench, ours, diod, AGAINST_DIOD)
        yield beside_idle(bench, ours)
        yield from compare(bench, ours, enter(peers.cserver(bench, folder)), AGAINST_C)
        py9p = enter(peers.py9p(bench, small))
        yield from compare(bench, ours, py9p, AGAINST_PY9P, "-d", "9P2000")
