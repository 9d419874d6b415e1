"""Zone ids, delegates, and when leaves split and merge."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import zones
from cloudfs.kernel.zones import Size

NAMES = st.from_regex(rf"\A{zones.LABEL}\Z")
CLUSTERS = st.sampled_from(["paris", "rome", "a-b"])
LEAVES = st.builds(zones.join, CLUSTERS, st.text("01", max_size=zones.DEEPEST))


@given(LEAVES)
def test_the_path_of_a_leaf_goes_up_in_steps_to_the_root(leaf):
    path = zones.path(leaf)
    assert path[0] == leaf
    assert path[-1] == zones.ROOT
    for lower, upper in itertools.pairwise(path):
        assert zones.inside(lower, upper)
        assert not zones.inside(upper, lower)
        assert zones.child(upper, leaf) == lower or lower == leaf
        assert len(zones.parts(upper)[1]) % zones.STEP == 0
    assert len(path) <= 2 + math.ceil(zones.DEEPEST / zones.STEP)


@given(LEAVES, st.integers(0, zones.DEEPEST))
def test_a_cluster_stands_in_a_group_below_the_root(leaf, deep):
    cluster = zones.parts(leaf)[0]
    stand = zones.join("", zones.bits(cluster)[:deep])
    assert zones.fits(cluster, stand)
    assert zones.check(stand) == stand
    path = zones.path(leaf, stand)
    assert path[-1] == zones.ROOT
    assert {stand, cluster} <= set(path)
    for lower, upper in itertools.pairwise(path):
        assert zones.inside(lower, upper)
        assert not zones.inside(upper, lower)
        assert zones.child(upper, leaf, stand) == lower or lower == leaf
        assert zones.stands(leaf, stand, upper, lower)
        assert zones.depth(lower) > zones.depth(upper)
    halves = [zones.join("", zones.bits(cluster)[: deep + 1]), zones.wider(stand) if deep else ""]
    ports = {zone: zones.port(zone) for zone in {*path, *halves, zones.wider(leaf)}}
    assert len(set(ports.values())) == len(ports)
    assert max(ports.values()) <= zones.PORTS


def test_no_cluster_stands_in_a_zone_of_nodes_or_in_the_wrong_half():
    wrong = "1" if zones.bits("paris")[0] == "0" else "0"
    assert not zones.fits("paris", f".{wrong}")
    assert not zones.fits("paris", "paris")
    assert not zones.fits("paris", "paris.0")


@given(LEAVES, NAMES)
def test_one_half_of_a_leaf_takes_each_of_its_nodes(leaf, name):
    cluster, tail = zones.parts(leaf)
    leaf = zones.join(cluster, zones.bits(name)[: min(len(tail), zones.DEEPEST - 1)])
    half = zones.narrower(leaf, name)
    assert zones.covers(leaf, cluster, name)
    assert zones.covers(half, cluster, name)
    assert zones.wider(half) == leaf
    assert zones.parent(half) in (leaf, zones.parent(leaf))


@given(LEAVES)
def test_no_two_zones_that_a_node_is_in_share_a_port(leaf):
    path = zones.path(leaf)
    also = [zones.wider(leaf)] if zones.parts(leaf)[1] else []
    ports = {zone: zones.port(zone) for zone in {*path, *also}}
    assert len(set(ports.values())) == len(ports)


def test_ports_of_a_small_cloud_are_the_levels():
    assert zones.endpoint("h:5640", "paris") == "h:5640"
    assert zones.endpoint("[::1]:5640", "") == "[::1]:5641"


@pytest.mark.parametrize(
    "zone", ["Paris", "paris.", "paris.012", "a/b", "paris.0\n", ".", ".2", "x" * 64]
)
def test_what_is_no_zone_is_refused(zone):
    with pytest.raises(CloudError, match="is no zone"):
        zones.check(zone)


@given(LEAVES)
def test_what_is_a_zone_is_taken(zone):
    assert zones.check(zone) == zone


@given(st.sets(NAMES, min_size=3, max_size=40), st.data())
def test_delegates_change_only_where_one_of_them_goes(names, data):
    before = zones.delegates("paris", names)
    gone = data.draw(st.sampled_from(sorted(names)))
    after = zones.delegates("paris", names - {gone})
    if gone not in before:
        assert after == before
    else:
        assert next(name for name in before if name != gone) in after


@given(st.sets(NAMES, min_size=1, max_size=60), CLUSTERS)
def test_founded_leaves_cover_their_founder_and_never_overlap(names, cluster):
    made: list[str] = []
    for name in sorted(names):
        if not any(zones.covers(leaf, cluster, name) for leaf in made):
            made.append(zones.found(cluster, made, cluster, name))
            assert zones.covers(made[-1], cluster, name)
    assert not any(a != b and zones.inside(a, b) for a in made for b in made)


def test_a_leaf_splits_with_the_33rd_node_and_merges_far_below():
    assert zones.verdict("c", {"c": Size(32)}) == "stay"
    assert zones.verdict("c", {"c": Size(33)}) == "split"
    assert zones.verdict("c.0", {"c.0": Size(16), "c.1": Size(17)}) == "stay"
    assert zones.verdict("c.0", {"c.0": Size(8), "c.1": Size(9)}) == "stay"
    assert zones.verdict("c.0", {"c.0": Size(8), "c.1": Size(8)}) == "merge"
    assert zones.verdict("c.0", {"c.0": Size(3)}) == "merge"
    assert zones.verdict("c", {"c": Size(1)}) == "stay"
    assert zones.verdict("c.0000", {"c.0000": Size(2), "c.0001": Size(2, leaf=False)}) == "stay"


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_split_is_not_undone_by_a_merge_nor_the_other_way(left, right):
    """Hysteresis: the halves of what splits stay apart; what merges stays together."""
    halves = {"c.0": Size(left), "c.1": Size(right)}
    if zones.verdict("c", {"c": Size(left + right)}) == "split":
        assert all(zones.verdict(half, halves) != "merge" for half in halves)
    if zones.verdict("c.0", halves) == "merge":
        assert zones.verdict("c.1", halves) == "merge"
        assert zones.verdict("c", {"c": Size(left + right)}) == "stay"


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40))
def test_leaves_that_overlap_are_moved_by_one_side(upper, low, high):
    """After a partition: either the upper leaf goes down or those below come up."""
    sizes = {"c": Size(upper), "c.0": Size(low)} | ({"c.1": Size(high)} if high else {})
    down = zones.verdict("c", sizes) == "split"
    for half in sizes:
        if half != "c" and sizes[half].nodes <= zones.MOST:
            assert (zones.verdict(half, sizes) == "merge") is not down
