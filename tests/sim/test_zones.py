"""The simulator of large clouds, at small sizes: its figures are within the promises."""

import os

import pytest

from cloudfs.kernel import zones
from tests.sim.net import Net
from tests.sim.table import growth, show
from tests.sim.zones import at_root, form, leaves_of, simulate, stand, stands_of

COUNTS = [512, 1024] if os.environ.get("CLOUDFS_TEST_LONG") else [512]


def test_small_clouds_keep_the_promises():
    small, large = simulate(60), simulate(200)
    for found in (small, large):
        assert found.gone[1] <= 10
        # Mostly 11; where all members of an inner zone died, those who follow meet above it first.
        assert found.gone_root <= 20
        assert found.joined_root <= 30
        assert found.load.received[0] < 4000
        assert found.load.memory[0] < 400e3
    assert "| nodes | 60 | 200 |" in show([small, large])
    assert "growth from 60 to 200 nodes" in show([small, large])


@pytest.mark.parametrize("count", COUNTS)
def test_no_figure_of_a_node_grows_faster_than_the_logarithm_of_the_nodes(count):
    """Of the mean and of the busiest node.  Larger sizes: python -m tests.sim.zones."""
    allowed, found = growth(stand(64)[2], stand(count)[2])
    assert {name: ratio for name, ratio in found.items() if ratio > allowed} == {}


@pytest.mark.parametrize("clusters", [1, 20, 60])
def test_no_zone_has_more_members_than_a_full_leaf(clusters):
    net = Net(1)
    nodes = form(net, 120, clusters)
    net.until(lambda: at_root(nodes, 120), 60)
    net.run(20)
    assert max(len(s.peers) + 1 for n in nodes for s in n.sessions.values()) <= zones.MOST


def test_leaves_hold_all_nodes_once():
    names = [(f"n{n}", f"c{n % 3}") for n in range(1000)]
    leaves = leaves_of(names)
    assert sorted(pair for pairs in leaves.values() for pair in pairs) == sorted(names)
    assert max(map(len, leaves.values())) <= 32


def test_groups_hold_at_most_eight_clusters():
    clusters = [f"c{n}" for n in range(400)]
    stands = list(stands_of(clusters).values())
    assert len(stands) == 400
    assert max(map(stands.count, stands)) <= 8
