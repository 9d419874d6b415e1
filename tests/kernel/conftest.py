"""Three nodes that reach each other through their real trees."""

import pytest
import trio

from tests.kernel.nodes import Net


@pytest.fixture
def opened():
    """Records of nodes, which nobody else closes where a node is lost."""
    found = []
    yield found
    for records in found:
        records.close()


@pytest.fixture
async def net(autojump_clock, tmp_path, opened, nursery):
    net = Net(tmp_path, nursery)
    net.opened = opened
    for name, cluster in (("n1", "paris"), ("n2", "rome"), ("n3", "rome")):
        await net.add(name, cluster=cluster)
    return net


@pytest.fixture
def n1(net):
    return net.nodes["n1"]


@pytest.fixture
def no_threads(monkeypatch):
    """What is done in threads is done in line: the virtual clock would not wait for it."""

    async def at_once(work, *args):
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
