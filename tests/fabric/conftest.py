"""Both engines behind one way to start nodes, so that one suite holds both."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from cloudfs.fabric.local import Bus, LocalEngine
from cloudfs.fabric.zenoh import ZenohEngine
from cloudfs.factotum import cloudkey


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Local:
    """Engines on one bus."""

    def __init__(self, path):
        self.bus = Bus()

    def make(self, node, zone="paris"):
        return LocalEngine(node, zone, self.bus)


class Zenoh:
    """Engines over QUIC on loopback, the first one the seed of the others."""

    def __init__(self, path):
        self.path = path
        self.seed = ""
        cloudkey.make_cloud(path)

    def files(self, node):
        state = self.path / node
        state.mkdir(exist_ok=True)
        (state / "cloud.key").write_bytes((self.path / "cloud.key").read_bytes())
        return cloudkey.node_files(state, node, "paris")

    def make(self, node, zone="paris"):
        listen = f"127.0.0.1:{free_port()}"
        seeds = [self.seed] if self.seed else []
        self.seed = self.seed or listen
        return ZenohEngine(node, zone, listen, seeds, self.files(node))


@pytest.fixture(params=[Local, Zenoh], ids=["local", "zenoh"])
def kind(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture
async def start(kind, nursery):
    """start(name, …): engines that run until the test ends."""

    async def start(*names, zone="paris"):
        made = [kind.make(name, zone) for name in names]
        for engine in made:
            await nursery.start(_running, engine)
        return made if len(made) > 1 else made[0]

    return start


async def _running(engine, task_status):
    with trio.CancelScope() as engine.scope:
        await engine.run(task_status=task_status)


async def until(true, seconds=15):
    """Wait until something holds."""
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.02)


@asynccontextmanager
async def soon(seconds=15):
    with trio.fail_after(seconds):
        yield
