"""A zone of engines in this process, alike for both kinds."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest
import trio

from cloudfs.fabric.local import Bus, LocalEngine
from cloudfs.fabric.zenoh import ZenohEngine
from tests.clouds import TestCloud


def free_ports(count):
    """UDP ports that nobody has at the moment."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            found.append(sock.getsockname()[1])
    return found


async def eventually(check, seconds=10.0):
    """Wait until check() is true; what it last was, for the message."""
    ends = time.monotonic() + seconds
    while not (last := check()):
        assert time.monotonic() < ends, f"not in {seconds} s: {last!r}"
        await trio.sleep(0.02)
    return last


async def take(feed, count, seconds=10.0):
    """The next things of a subscription."""
    found = []
    with trio.fail_after(seconds):
        while len(found) < count:
            found.append(await feed.__anext__())
    return found


async def silent(feed, seconds=0.3):
    """Nothing comes."""
    with trio.move_on_after(seconds) as scope:
        found = await feed.__anext__()
    assert scope.cancelled_caught, found


class Zone:
    """Engines by node name, and the way to have more of them or fewer."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.scopes = {}
        self.engines = {}

    def make(self, node):
        raise NotImplementedError

    async def start(self, engine):
        """Run the engine until `down`."""
        self.scopes[engine.node] = await self.nursery.start(self._run, engine)
        self.engines[engine.node] = engine
        return engine

    async def _run(self, engine, task_status):
        ended = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                task_status.started((scope, ended))
        ended.set()

    async def down(self, node):
        scope, ended = self.scopes.pop(node)
        del self.engines[node]
        scope.cancel()
        with trio.fail_after(10):
            await ended.wait()

    async def end(self):
        """All at once, the seed last: a session's end waits for its attempts to dial one."""
        first, *rest = self.engines or [None]
        async with trio.open_nursery() as nursery:
            for node in rest:
                nursery.start_soon(self.down, node)
        if first:
            await self.down(first)

    async def up(self, *nodes):
        """New engines of these names, that know each other and all there are."""
        made = [await self.start(self.make(node)) for node in nodes]
        everybody = frozenset(self.engines)
        await eventually(lambda: all(e.members() == everybody for e in self.engines.values()))
        return made if len(made) > 1 else made[0]


class LocalZone(Zone):
    def __init__(self, nursery):
        super().__init__(nursery)
        self.bus = Bus()

    def make(self, node):
        return LocalEngine(node, "c1", self.bus)


class ZenohZone(Zone):
    """All come in by the first one's address."""

    def __init__(self, nursery, folder):
        super().__init__(nursery)
        self.cloud = TestCloud(folder / "cloud")
        self.folder = folder
        self.ports = iter(free_ports(12))
        self.addresses = {}

    def files(self, node):
        return self.cloud.files(node, "c1")

    def make(self, node, seeds=None):
        if node not in self.addresses:
            self.addresses[node] = f"127.0.0.1:{next(self.ports)}"
        if seeds is None:
            seeds = list(self.addresses.values())[:1]
        return ZenohEngine(node, "c1", self.addresses[node], seeds, self.files(node))


@pytest.fixture(params=["local", "zenoh"])
async def zone(request, nursery, tmp_path):
    zone = LocalZone(nursery) if request.param == "local" else ZenohZone(nursery, tmp_path)
    yield zone
    await zone.end()


@pytest.fixture
async def zenoh_zone(nursery, tmp_path):
    zone = ZenohZone(nursery, tmp_path)
    yield zone
    await zone.end()


@pytest.fixture
async def bus(nursery):
    zone = LocalZone(nursery)
    yield zone
    await zone.end()
