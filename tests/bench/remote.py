"""A file of another node through an import, against the same file of the node itself.

Both are read by the same client through the same server: walk, open, read and clunk, one
after the other.  A relay holds back everything between the two nodes by 10 ms each way,
so that what is left once one round trip is taken off says how many there were: each more
would add 20 ms.  A round trip is measured too, by an echo through the same relay.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import nodes
from tests.bench.measure import PATIENCE, SHOWN, Bench, Row, Sample, Target, await_socket, started
from tests.bench.nine import Nine
from tests.bench.peers import STATUS_PATH

MODULE = "tests.bench.nodes"
HELD = 0.010  # seconds each way
TARGET = Target(most=2.5)
SECONDS = "1"  # of one run


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


@contextmanager
def echo(port: int) -> Iterator[None]:
    """A server that sends back what comes."""
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with client:
                    while data := client.recv(4096):
                        client.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def round_trip(port: int, times: int) -> float:
    """Seconds of an echo, the median."""
    found = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(times):
            began = time.perf_counter()
            client.sendall(bytes(200))
            client.recv(4096)
            found.append(time.perf_counter() - began)
    return statistics.median(found)


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


def sample(bench: Bench, address: str, pid: int, path: str, mode: str = "cycle") -> Sample:
    words = ["-t", SECONDS, "-q1", address, mode, path]
    return bench.sample([bench.build("load"), *words], os.sched_getaffinity(0), pid)


def cold(bench: Bench, address: str, pid: int, times: int = 40) -> Sample:
    """Reads that come so seldom that nothing is known of the path any more."""
    found = []
    with Nine(address) as client:
        for _ in range(times):
            time.sleep(1.05)
            began = time.perf_counter()
            client.open(f"nodes/far/{STATUS_PATH}", os.O_RDONLY)
            client._read_at(0)
            client.clunk()
            found.append(time.perf_counter() - began)
    middle = statistics.median(found)
    return Sample(1 / middle, middle, max(found), 1.0, "ops")


def run(bench: Bench) -> Iterator[Row]:
    """All rows, as they are measured."""
    bench.build("load")
    nodes.make_keys(bench.folder)
    port, relayed, echoed, echo_relayed = (free_port() for _ in range(4))
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(process(bench, "far", "far", bench.folder, str(port)))
        await_port(port)
        enter(echo(echoed))
        for at, to in ((relayed, port), (echo_relayed, echoed)):
            enter(process(bench, f"relay{to}", "relay", str(at), str(to), str(HELD)))
            await_port(at)
        for name, far_port, echo_port in (
            ("loopback", port, echoed),
            ("20 ms", relayed, echo_relayed),
        ):
            address, pid = enter(imported(bench, name.replace(" ", ""), far_port))
            trip = round_trip(echo_port, 100)
            runs: dict[str, Callable[[], Sample]] = {
                "far": partial(sample, bench, address, pid, f"nodes/far/{STATUS_PATH}"),
                "own": partial(sample, bench, address, pid, STATUS_PATH),
            }
            found = bench.interleave(runs)
            far, mine = found["far"], found["own"]
            others = max(far.others, mine.others)
            yield Row(f"round trip, {name}", trip, "seconds")
            row = Row(f"far status, {name}", far.p50, "seconds", mine.p50, "own", SHOWN, others)
            yield row
            less = f"far status less a round trip, {name}"
            yield replace(row, case=less, ours=far.p50 - trip, target=TARGET)
            first = cold(bench, address, pid, 5 * bench.rounds)
            less = f"first far status in a second, less that, {name}"
            yield replace(row, case=less, ours=first.p50 - trip)
        yield bulk(bench, *enter(imported(bench, "bulk", port)))


def bulk(bench: Bench, address: str, pid: int) -> Row:
    runs: dict[str, Callable[[], Sample]] = {
        "far": partial(sample, bench, address, pid, "nodes/far/big", "read"),
        "own": partial(sample, bench, address, pid, "big", "read"),
    }
    found = bench.interleave(runs)
    far, mine = found["far"], found["own"]
    return Row("read a large file, loopback", far.rate, far.unit, mine.rate, "own")
