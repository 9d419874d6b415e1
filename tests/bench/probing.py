"""What measuring the network costs a node that knows 10,000 others.

    python -m tests.bench.probing

Two real networks in this process probe each other with real datagrams over loopback, each with
16 references that it chose and 16 that chose it.  Printed are the processor's seconds of a probe,
both ends together, the share of a core at the schedule's rate, and how long tables take.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import trio

from cloudfs.kernel import coordinate, probing
from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.coordinate import Coordinate
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.network import Network
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin
from cloudfs.tree.api import OREAD, PLAIN, Ref, Who
from cloudfs.tree.net import Net
from cloudfs.tree.space import Space
from cloudfs.wait import settle
from cloudfs.wire.datagrams import Datagrams

COUNT = 10_000
PROBES = 3000


def network(name: str, path: Path) -> Network:
    """A node that knows many others and has measured its references."""
    records, log = Records(":memory:"), Log(100)
    machine = Machine(name, "paris", "root", Metrics(path), records, log)
    cloud = Cloud(machine, Objects(Twin(), records, path, name, "root", events=log))
    dice = random.Random(name)
    for number in range(COUNT):
        place = tuple(dice.uniform(-0.1, 0.1) for _ in range(coordinate.DIMS))
        told = {"coordinate": str(Coordinate(place, 0.002, 0.1))}
        info = NodeInfo(f"n{number}", f"c{number % 40}", "alive", "h:1", cloud.clock(), True, told)
        cloud.hear(info)
    made = Network(cloud)
    made.refer({f"n{i}": i < 4 for i in range(16)})
    for i in range(32):
        claim = made.coordinate_of(f"n{i}")
        assert claim is not None
        made.took(f"n{i}", dice.uniform(0.001, 0.2), claim, "reference" if i < 16 else "answer")
    return made


async def run(path: Path) -> None:
    one, other = network("a", path), network("b", path)
    here, there = Datagrams(one), Datagrams(other)
    assert here.listen("127.0.0.1", 0)
    assert there.listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        began = 0.0
        asking = None
        for number in range(PROBES + 100):
            if number % 16 == 0:  # so that the bound on floods does not act
                asking = here.ask(there.offer("a"), "127.0.0.1")
            if number == 100:
                began = time.process_time()
            assert asking is not None
            found = await asking.ping(one.ping("reference"), 2.0)
            assert found is not None
            one.took(f"n{number % 16}", 0.05, coordinate.unpack(found[1]), "reference")
        spent = (time.process_time() - began) / PROBES
        nursery.cancel_scope.cancel()
    print(f"CPU of a probe, both ends      {spent * 1e6:.0f} µs")
    print(f"share of a core at that rate   {spent / probing.PERIOD:.3%}")
    at = Space(Net(one).dir).attach(Who("root", 0, boss=True))
    for name in ("latency", "latency", "loss"):
        began = time.perf_counter()
        ref = at.find([name])
        assert isinstance(ref, Ref)
        handle = await settle(at.open(ref, OREAD))
        size = len((await settle(handle.read(0, 1 << 30))).splitlines())
        print(f"table {name:10} {size:6} rows  {time.perf_counter() - began:.4f} s")
    began = time.perf_counter()
    await settle(Net(one).dir.open(OREAD, at, PLAIN))
    print(f"first listing of net           {time.perf_counter() - began:.4f} s")
    began = time.perf_counter()
    one.near()
    print(f"near                           {time.perf_counter() - began:.6f} s")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        trio.run(run, Path(name))


if __name__ == "__main__":
    main()
