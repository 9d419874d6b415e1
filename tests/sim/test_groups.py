"""Many clusters: they stand in groups below the root, and no zone has more than 32 members."""

from __future__ import annotations

import os

import pytest

from cloudfs.kernel import zones
from tests.sim.agree import agreed, wrong
from tests.sim.net import Net, Node
from tests.sim.test_faults import deaths
from tests.sim.test_routes import hops

COUNTS = [40, 100] if os.environ.get("CLOUDFS_TEST_LONG") else [40]


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


def test_eight_clusters_stand_in_the_root_and_with_one_more_they_go_down():
    net, nodes = many(8, 4)
    assert stands(nodes) == {zones.ROOT}
    nodes += [net.start(f"late{n}", "c8", ["n3:5640"]) for n in range(2)]
    net.until(agreed(net), 120, 1.0)
    net.until(lambda: stands(nodes) == {".0", ".1"} and agreed(net)(), 120, 1.0)
    assert deaths(net) == []
    for node in nodes:
        if node.member.cluster not in ("c0", "c1", "c2"):
            net.kill(node)
    net.until(lambda: stands(nodes) == {zones.ROOT} and agreed(net)(), 240, 1.0)


@pytest.mark.parametrize("count", COUNTS)
def test_many_clusters_start_at_once_by_one_seed(count):
    net = Net(4)
    nodes = [net.start("n0", "c0", [])]
    net.run(5)
    nodes += [net.start(f"n{n}", f"c{n}", ["n0:5640"]) for n in range(1, count)]
    net.until(agreed(net), 240, 1.0)
    assert deaths(net) == []
    standing = [n.member.stand for n in nodes]
    assert max(map(standing.count, standing)) <= 8


@pytest.mark.parametrize("each", [1, 3])
def test_delegates_of_groups_that_die_are_replaced_and_nobody_is_buried(each):
    net, nodes = many(16, each)
    for _ in range(3):
        top = [n for n in nodes if n.up and zones.ROOT in n.member.rosters][:2]
        for victim in top:
            net.kill(victim)
        net.until(agreed(net), 60, 1.0)
    dead = {n.name for n in nodes if not n.up}
    assert {victim for _, victim, _ in deaths(net)} <= dead


def test_sides_of_a_partition_of_many_clusters_agree_after_it():
    """Small sides come up to the root, large ones stay in their groups."""
    net, nodes = many(24)
    left, right = nodes[:4], nodes[4:]
    net.cut(left, right)
    net.run(150)
    assert not wrong(net, left, digests=False)
    assert not wrong(net, right, digests=False)
    assert stands(left) == {zones.ROOT}
    assert zones.ROOT not in stands(right)
    net.heal()
    net.until(agreed(net), 180, 1.0)


def test_both_halves_of_each_cluster_agree_on_its_group_after_a_partition():
    net, nodes = many(10, 2)
    left, right = nodes[:16], nodes[16:]
    net.cut(left, right)
    net.run(150)
    assert stands(right) == {zones.ROOT}
    net.heal()
    net.until(agreed(net), 180, 1.0)


def test_every_node_of_many_clusters_is_found_from_every_node():
    _, some = many(30)
    nodes = {node.name: node for node in some}
    found = [hops(start, name, nodes) for start in some[::9] for name in nodes]
    assert max(found) <= 8
