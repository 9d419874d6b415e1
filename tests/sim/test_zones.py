"""The simulator of large clouds, at small sizes: its figures are within the promises."""

from cloudfs.kernel import zones
from tests.sim.table import growth, show
from tests.sim.zones import leaves_of, simulate, stand, stands_of


def test_small_clouds_keep_the_promises():
    small, large = simulate(60), simulate(200)
    for found in (small, large):
        assert found.gone[1] <= 10
        assert found.gone_root <= 12
        assert found.joined_root <= 30
        assert found.load.received[0] < 4000
        assert found.load.memory[0] < 400e3
    assert "| nodes | 60 | 200 |" in show([small, large])
    assert "growth from 60 to 200 nodes" in show([small, large])


def test_no_figure_of_a_node_grows_faster_than_the_logarithm_of_the_nodes():
    """Of the mean and of the busiest node.  Larger sizes: python -m tests.sim.zones."""
    allowed, found = growth(stand(64)[2], stand(1024)[2])
    assert {name: ratio for name, ratio in found.items() if ratio > allowed} == {}


def test_no_zone_has_more_members_than_a_full_leaf():
    assert max(stand(200, clusters)[2].members for clusters in (1, 20, 60)) <= zones.MOST


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
