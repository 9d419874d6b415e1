"""What getting and losing a place in a cloud costs.

    python -m tests.bench.places [ROUNDS]

A join (two handshakes, the checks, the certificate) beside two bare handshakes of the same
listener, so that the ratio says what the rest costs; how long a node hears nothing while its
session is opened anew for another certificate, beside how long it hears nothing otherwise; and
how long after a revocation the zone is shut to the one that goes on as before.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import trio

from cloudfs.fabric.zenoh import ZenohEngine
from cloudfs.factotum import authority
from cloudfs.factotum.authority import parse_join
from cloudfs.factotum.certificates import pem
from cloudfs.factotum.nodekeys import node_key, stranger_context
from cloudfs.joined import SPREAD
from cloudfs.wire import tls
from tests.clouds import TestCloud
from tests.fabric.conftest import eventually, free_ports
from tests.wire.stations import Station

EVERY = 0.01  # seconds between two words that are told
MEMBERS = 8  # of a zone


async def joins(folder: Path, rounds: int) -> None:
    first = Station(folder, "n1", time.time)
    first.credentials.init("home", "paris")
    async with first.running():
        host, port = "127.0.0.1", int(first.address.rpartition(":")[2])
        file = parse_join(first.invite(uses=rounds))
        took: dict[str, list[float]] = {"join": [], "bare": []}
        for number in range(rounds):
            station = Station(folder, f"j{number}", time.time)
            node_key(station.state / "node.key")
            await trio.sleep(0.1)  # strangers may ask so often and no more
            began = time.perf_counter()
            await station.enrolling.join(file)
            took["join"].append(time.perf_counter() - began)
            began = time.perf_counter()
            for _ in range(2):
                threads = tls.Threads()
                await (await tls.dial(host, port, stranger_context(None), "", threads)).aclose()
            took["bare"].append(time.perf_counter() - began)
        join, bare = (statistics.median(took[name]) for name in ("join", "bare"))
        print(f"join {join * 1e3:.1f} ms, two bare handshakes {bare * 1e3:.1f} ms,"
              f" ratio {join / bare:.1f}")  # fmt: skip


def issued(seconds: float = 1.0) -> None:
    now = time.time()
    root = authority.make_root("home", now)
    by = authority.make_cluster(root, "paris", now)
    with tempfile.TemporaryDirectory() as name:
        public = node_key(Path(name) / "key").public_key()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        authority.issue(by, "n1", public, now)
        count += 1
    print(f"certificates made on one core: {count / (time.perf_counter() - began):.0f}/s,"
          f" {len(pem(by.cert)) + len(pem(root.cert))} bytes of authorities each")  # fmt: skip


async def silence(engine: ZenohEngine, seconds: float) -> float:
    """The longest time in which it hears nothing."""
    longest, last = 0.0, time.perf_counter()
    with engine.subscribe("word") as heard, trio.move_on_after(seconds):
        async for _ in heard:
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    return max(longest, time.perf_counter() - last)


async def zone(folder: Path, rounds: int) -> None:
    cloud, shut = TestCloud(folder), set[str]()
    ports = free_ports(MEMBERS)
    engines = [
        ZenohEngine(
            f"n{i}", "c1", f"127.0.0.1:{ports[i]}", [f"127.0.0.1:{ports[0]}"],
            cloud.files(f"n{i}"), lambda: frozenset(shut),
        )
        for i in range(MEMBERS)
    ]  # fmt: skip
    async with trio.open_nursery() as nursery:
        for engine in engines:
            await nursery.start(engine.run)
        await eventually(lambda: all(len(e.members()) == MEMBERS for e in engines), 60)

        async def tell(engine: ZenohEngine, key: str) -> None:
            while True:
                engine.tell(key, b"x")
                await trio.sleep(EVERY)

        nursery.start_soon(tell, engines[1], "word")
        await trio.sleep(1)
        before, during = [], []
        for _ in range(rounds):
            before.append(await silence(engines[2], 4))
            engines[2].open_anew("measured", 0.0)
            during.append(await silence(engines[2], 4))
        print(f"longest silence in 4 s: {statistics.median(before) * 1e3:.0f} ms, with the session"
              f" opened anew {statistics.median(during) * 1e3:.0f} ms (worst {max(during):.2f} s)")  # fmt: skip

        bad = engines[-1]
        nursery.start_soon(tell, bad, "evil")
        shut.add(f"{bad.node}.test")
        began, last = time.perf_counter(), [0.0] * (MEMBERS - 1)
        for number, engine in enumerate(engines[:-1]):
            engine.open_anew("revoked", SPREAD * number / (MEMBERS - 2))

        async def listen(number: int) -> None:
            with engines[number].subscribe("evil") as heard:
                async for _ in heard:
                    last[number] = time.perf_counter() - began

        async with trio.open_nursery() as listening:
            for number in range(MEMBERS - 1):
                listening.start_soon(listen, number)
            await trio.sleep(20)
            listening.cancel_scope.cancel()
        print(f"a zone of {MEMBERS} heard the one that was shut out for {max(last):.1f} s more,"
              f" the median member for {statistics.median(last):.1f} s")  # fmt: skip
        nursery.cancel_scope.cancel()


def main(rounds: int) -> None:
    issued()
    with tempfile.TemporaryDirectory() as name:
        trio.run(joins, Path(name), 7 * rounds)
    with tempfile.TemporaryDirectory() as name, suppress(KeyboardInterrupt):
        trio.run(zone, Path(name), rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
