"""Three nodes that reach each other through their real trees."""

import pytest

from tests.kernel.nodes import Net


@pytest.fixture
async def net(autojump_clock, tmp_path, nursery):
    net = Net(tmp_path, nursery)
    for name, cluster in (("n1", "paris"), ("n2", "rome"), ("n3", "rome")):
        await net.add(name, cluster=cluster)
    return net


@pytest.fixture
def n1(net):
    return net.nodes["n1"]
