"""A name is one node's in the whole cloud, whatever its cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.cloud.machine import Machine
from tests.cloud.net import Net, always, eventually, expect
from tests.cloud.views import AGREE, GONE, JOIN, all_up, nodes

MakeNet = Callable[..., Net]

ONE, TWO = {"east": "n1 n2 n3 n4"}, {"east": "n1 n2", "west": "n3 n4"}
LOOK = 45.0  # seconds, in which other zones are asked for one's names, twice


def take_name(net: Net, node: Machine, name: str, seed: Machine) -> None:
    """Start a node under another's name."""
    net.rename(node, name)
    node.local.launch([seed.local.address])
    node.local.wait(time.monotonic() + JOIN)


def refused(node: Machine, name: str, cluster: str) -> None:
    """A node tells that it has no place, and why."""
    record = node.status("nodes", name, "status")
    expect(record["state"], "alone", str(record))
    expect(record["why"], f"a node named {name} with another key lives in cluster {cluster}")
    assert "state=refused" in node.read("events")


def held(at: list[Machine], name: str, address: str) -> None:
    """All of them know the node of that name by this address."""
    for node in at:
        expect(nodes(node).get(name, {}).get("state"), "alive", f"{name} as {node.name} sees it")
        assert address in node.read("nodes", name, "addr")


def test_a_name_of_another_cluster_is_refused(make_net: MakeNet) -> None:
    net = make_net(TWO, start=False)
    n1, n2, n3, late = net
    for node in (n1, n2, n3):
        node.start()
    eventually(lambda: all_up(net, [n1, n2, n3]), JOIN)
    take_name(net, late, "n2", n3)
    eventually(lambda: refused(late, "n2", "east"), JOIN)
    always(lambda: held([n1, n3], "n2", n2.local.address), 3)
    assert "with another key lives in cluster east" in late.run("cloudfs", "nodes").stdout


def test_a_name_is_free_when_its_holder_is_gone(make_net: MakeNet) -> None:
    net = make_net(TWO, start=False)
    n1, n2, n3, late = net
    for node in (n1, n2, n3):
        node.start()
    eventually(lambda: all_up(net, [n1, n2, n3]), JOIN)
    take_name(net, late, "n2", n3)
    eventually(lambda: refused(late, "n2", "east"), JOIN)
    n2.kill()
    eventually(lambda: held([n1, n3], "n2", late.local.address), GONE + LOOK)
    n2.start()
    eventually(lambda: refused(n2, "n2", "west"), JOIN)
    held([n1, n3], "n2", late.local.address)


@pytest.mark.parametrize("clusters", [TWO, ONE], ids=["over two clusters", "in one"])
def test_of_two_that_joined_in_two_halves_the_earlier_one_stays(
    make_net: MakeNet, clusters: dict[str, str]
) -> None:
    net = make_net(clusters, start=False)
    n1, n2, n3, late = net
    for node in (n1, n2, n3):
        node.start()
    eventually(lambda: all_up(net, [n1, n2, n3]), JOIN)
    net.partition("n1 n2", "n3 n4")
    eventually(lambda: expect(nodes(n3).get("n2", {}).get("state"), "gone"), GONE * 2)
    take_name(net, late, "n2", n3)
    eventually(lambda: held([n3], "n2", late.local.address), JOIN)
    held([n1], "n2", n2.local.address)
    net.heal()
    eventually(lambda: refused(late, "n2", "east"), AGREE + LOOK)
    eventually(lambda: held([n1, n3], "n2", n2.local.address), AGREE + LOOK)
    expect(n2.status("nodes/n2/status")["state"], "alive")
    always(lambda: refused(late, "n2", "east"), 3)
