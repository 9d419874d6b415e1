"""What hostile clients cost a good one: its latencies while they do their worst.

Run as `python -m tests.bench.hostile KIND ADDRESS`, this file is one of them.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

from tests.bench import peers
from tests.bench.measure import SHOWN, Bench, Row, Sample, Target, started
from tests.bench.nine import TREAD, TWALK, Nine, frame, text

BOUND = 0.1  # seconds: what the good client's p99 should stay under
SECONDS = "1.5"  # of one run of the good client
ROUNDS = 3
CROWD = 50  # connections of a client that holds many


def _connect(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(1.0)
    made.connect(address)
    return made


def garbage(address: str) -> None:
    """Random bytes, and frames that lie about their size, on one connection after another."""
    noise = random.Random(9)
    with _connect(address) as made:
        made.sendall(struct.pack("<I", noise.choice([0, 3, 7, 300, 1 << 20, 0xFFFFFFFF])))
        made.sendall(noise.randbytes(noise.randrange(1, 5000)))
        made.recv(1 << 16)


def halves(address: str) -> None:
    """Many connections that each send a frame byte by byte and never its end."""
    with ExitStack() as stack:
        crowd = [stack.enter_context(Nine(address)) for _ in range(CROWD)]
        message = frame(TWALK, 1, struct.pack("<IIH", 0, 9, 1) + text("x" * 200))
        for at in range(len(message) - 1):
            for client in crowd:
                client.socket.sendall(message[at : at + 1])
            time.sleep(0.005)


def fids(address: str) -> None:
    """New fids without end, 128 to a batch."""
    with Nine(address) as client:
        for first in range(100, 1 << 20, 128):
            batch = [frame(TWALK, i, struct.pack("<IIH", 0, first + i, 0)) for i in range(128)]
            client.socket.sendall(b"".join(batch))
            for _ in range(128):
                client.receive()


def mute(address: str) -> None:
    """Connections that ask for listings until nothing more can be sent, and read nothing."""
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(Nine(address, timeout=0.2))
            client.open("/", os.O_RDONLY)
            ask = b"".join(
                frame(40, tag, struct.pack("<IQI", 1, 0, client.iounit)) for tag in range(64)
            )
            with suppress(TimeoutError):
                for _ in range(100):
                    client.socket.sendall(ask)
        time.sleep(0.5)


def vanish(address: str) -> None:
    """Connections that close with locks, and while many of their reads are blocked."""
    with Nine(address) as client:
        client.open("/version", os.O_RDONLY, fid=2)
        client.lock(2)
        client.open("/.follow/events", os.O_RDONLY)
        for tag in range(100):
            client.send(TREAD, tag, struct.pack("<IQI", 1, 1 << 40, 4096))
        time.sleep(0.01)


KINDS: dict[str, Callable[[str], None]] = {
    "garbage": garbage,
    "halves": halves,
    "fids": fids,
    "mute": mute,
    "vanish": vanish,
}


def sample(bench: Bench, cloud: peers.Cloud, path: str, kinds: list[str]) -> Sample:
    """The good client's latencies while these hostile ones are at work."""
    with ExitStack() as stack:
        for kind in kinds:
            command = [sys.executable, "-m", "tests.bench.hostile", kind, cloud.address]
            stack.enter_context(started(command, bench.folder / f"{kind}.log"))
        if kinds:
            time.sleep(0.5)  # until they have begun
        load = bench.build("load")
        return bench.sample([load, "-t", SECONDS, cloud.address, "cycle", path])


def run(bench: Bench) -> Iterator[Row]:
    bench.build("load")
    with peers.cloud(bench) as cloud:
        made = cloud.run("sleep", "1000")
        path = f"proc/{made}/status"
        try:
            runs: dict[str, list[str]] = {"alone": [], **{kind: [kind] for kind in KINDS}}
            runs["all of them"] = list(KINDS)
            found = bench.interleave(
                {
                    name: lambda kinds=kinds: sample(bench, cloud, path, kinds)  # type: ignore[misc]
                    for name, kinds in runs.items()
                },
                min(ROUNDS, bench.rounds),
            )
            quiet = found.pop("alone")
            for name, heard in found.items():
                yield Row(f"median beside {name}", heard.p50, "seconds", quiet.p50, "alone", SHOWN)
                yield Row(f"p99 beside {name}", heard.p99, "seconds", quiet.p99, "alone", SHOWN)
            worst = found["all of them"].p99
            yield Row("p99 beside all", worst, "seconds", BOUND, "bound", Target(most=1.0))
        finally:
            cloud.wipe(made)


def main() -> None:
    kind, address = sys.argv[1:]
    while True:
        with suppress(OSError):  # the server cut us off, which is what it should do
            KINDS[kind](address)


if __name__ == "__main__":
    main()
