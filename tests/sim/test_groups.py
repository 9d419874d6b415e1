"""Many clusters: they stand in groups below the root, and no zone has more than 32 members."""

from __future__ import annotations

import pytest

from cloudfs.kernel import zones
from tests.sim.agree import agreed, wrong
from tests.sim.net import Net, Node
from tests.sim.test_faults import deaths


def many(clusters: int, each: int = 1, seed: int = 1) -> tuple[Net, list[Node]]:
    """A cloud of so many clusters, whose nodes joined by the first two, and agree."""
    net = Net(seed)
    nodes = []
    for n in range(clusters * each):
        nodes.append(net.start(f"n{n}", f"c{n % clusters}", ["n0:5640", "n1:5640"]))
        net.run(0.3)
    net.until(agreed(net), 180, 1.0)
    return net, nodes


def stands(nodes: list[Node]) -> set[str]:
    return {node.member.stand for node in nodes if node.up}


def test_sixteen_clusters_stand_in_the_root_and_with_one_more_they_go_down():
    net, nodes = many(16, 2)
    assert stands(nodes) == {zones.ROOT}
    nodes += [net.start(f"late{n}", "c16", ["n3:5640"]) for n in range(2)]
    net.until(agreed(net), 120, 1.0)
    net.until(lambda: stands(nodes) == {".0", ".1"} and agreed(net)(), 120, 1.0)
    assert deaths(net) == []
    for node in nodes:
        if node.member.cluster not in ("c0", "c1", "c2"):
            net.kill(node)
    net.until(lambda: stands(nodes) == {zones.ROOT} and agreed(net)(), 240, 1.0)
