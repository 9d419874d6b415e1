"""The real cores under faults, in virtual time: everything converges within a bound."""

from __future__ import annotations

import pytest

from cloudfs.kernel import zones
from tests.sim.agree import agreed, wrong
from tests.sim.net import Net, Node

JOIN = 60.0  # seconds until all agree after joins, digests of the root everywhere included
KILLED, STOPPED = 10.0, 15.0  # the promised bounds
HEALED = 10.0


def cloud(
    count: int, clusters: tuple[str, ...] = ("c",), seed: int = 1, **how: object
) -> tuple[Net, list[Node]]:
    """A cloud of so many nodes that joined by the first two, and agrees."""
    net = Net(seed, **how)  # type: ignore[arg-type]
    nodes = []
    for n in range(count):
        seeds = ["n0:5640", "n1:5640"] if count > 1 else []
        nodes.append(net.start(f"n{n}", clusters[n % len(clusters)], seeds))
        net.run(0.2)
    net.until(agreed(net), JOIN + 60 * bool(net.loss))
    return net, nodes


def deaths(net: Net) -> list[tuple[str, str, str]]:
    """Who took whom for gone, and why."""
    return [
        (n.name, e.node, e.why) for n in net.nodes.values() for _, e in n.events if e.new == "gone"
    ]


@pytest.mark.parametrize("clusters", [("c",), ("a", "b", "c")])
@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_dead_node_is_gone_everywhere_in_time(fault, clusters):
    net, nodes = cloud(12, clusters)
    for victim in nodes[:3]:
        getattr(net, fault)(victim)
        net.until(agreed(net), KILLED if fault == "kill" else STOPPED)
    assert {victim for _, victim, _ in deaths(net)} == {"n0", "n1", "n2"}


def test_without_a_word_from_the_engine_it_is_gone_as_well():
    net, nodes = cloud(8)
    net._hint = lambda *_: None  # type: ignore[method-assign]
    net.kill(nodes[3])
    net.until(agreed(net, digests=False), KILLED)
    net.stop(nodes[4])
    net.until(agreed(net, digests=False), STOPPED)


def test_a_node_that_stood_still_longer_than_the_lease_is_back_with_a_fresh_view():
    net, nodes = cloud(20, ("a", "b"))
    net.stop(nodes[2])
    net.run(40)
    late = net.start("late", "a", ["n4:5640"])
    net.kill(nodes[6])
    net.run(30)
    net.go_on(nodes[2])
    net.until(agreed(net, digests=False), HEALED)
    net.until(agreed(net), JOIN)
    assert late.name in {m.name for m in nodes[2].member.members(nodes[2].now)}
    assert not [d for d in deaths(net) if d[0] == "n2" and d[1] not in ("n6",)]


def test_a_zone_that_went_elsewhere_meanwhile_is_found_again():
    net, nodes = cloud(30)
    net.stop(nodes[5])
    for n in range(30, 44):
        net.start(f"n{n}", "c", ["n1:5640"])
        net.run(0.3)
    net.until(agreed(net), JOIN)
    assert "c" not in {n.member.leaf for n in nodes if not n.stopped}
    net.run(60)
    net.go_on(nodes[5])
    net.until(agreed(net), JOIN)


def test_the_33rd_node_splits_the_zone_and_few_that_are_left_merge_it():
    net, nodes = cloud(32)
    assert {n.member.leaf for n in nodes} == {"c"}
    nodes.append(net.start("n32", "c", ["n7:5640"]))

    def split() -> bool:
        for node in nodes:  # never outside every zone, whatever happens
            assert node.member.leaf is None or node.member.leaf in node.sessions
        return {n.member.leaf for n in nodes} == {"c.0", "c.1"} and agreed(net)()

    net.until(split, JOIN)
    for node in nodes[14:]:
        net._do(node, node.member.leave(node.now))
        net.later(3.0, lambda n=node: net.kill(n))
        net.run(0.5)

    def merged() -> bool:
        left = nodes[:14]
        assert all(n.member.leaf in n.sessions for n in left)
        return {n.member.leaf for n in left} == {"c"} and agreed(net)()

    net.until(merged, 90.0)
    assert not [d for d in deaths(net) if d[1] in {n.name for n in nodes[:14]}]


@pytest.mark.parametrize("sides", [2, 3])
def test_both_sides_of_a_partition_go_on_and_agree_after_it(sides):
    net, nodes = cloud(6, ("a", "b"))
    parts = [nodes[n::sides] for n in range(sides)]
    for n, part in enumerate(parts):
        for other in parts[n + 1 :]:
            net.cut(part, other)
    net.until(agreed(net, *parts, digests=False), STOPPED)
    net.run(120)
    net.heal()
    net.until(agreed(net, digests=False), HEALED + 10)
    net.until(agreed(net), JOIN)


def test_a_large_partition_in_which_both_sides_change_their_zones():
    net, nodes = cloud(44)
    left, right = nodes[:15], nodes[15:]
    net.cut(left, right)
    net.run(150)
    assert not wrong(net, left, digests=False)
    assert not wrong(net, right, digests=False)
    assert {n.member.leaf for n in left} == {"c"}
    net.heal()
    net.until(agreed(net), 150)


def test_one_link_that_is_cut_buries_nobody():
    """Others hear it and say so."""
    net, nodes = cloud(8)
    net.cut([nodes[3]], [nodes[4]])
    net.run(120)
    assert deaths(net) == []
    assert not wrong(net)
    net.heal()
    net.run(10)
    assert not wrong(net)


def test_a_one_way_cut_to_all_is_a_death_and_heals():
    net, nodes = cloud(8)
    net.cut([nodes[3]], nodes, both=False)
    others = [n for n in nodes if n is not nodes[3]]
    net.until(agreed(net, others, digests=False), STOPPED)
    net.run(100)
    net.heal()
    net.until(agreed(net), JOIN)


@pytest.mark.parametrize("which", [1, 2])
def test_delegates_that_die_are_replaced(which):
    net, nodes = cloud(16, ("a", "b"))
    by_name = {n.name: n for n in nodes}
    at = nodes[2].member
    for name in at.delegates("a")[:which]:
        if by_name[name] is not nodes[2]:
            net.kill(by_name[name])
    net.until(agreed(net), 60)
    root = [n for n in nodes if n.up and zones.ROOT in n.member.rosters]
    assert len(root) == 4


def test_a_whole_cluster_is_lost_and_comes_back():
    net, nodes = cloud(15, ("a", "b", "c"))
    lost = [n for n in nodes if n.member.cluster == "b"]
    for node in lost:
        net.kill(node)
    net.until(agreed(net), 60)
    for node in lost:
        net.restart(node)
    net.until(agreed(net), JOIN)


def test_a_node_restarts_with_the_same_key_and_another_clock():
    net, nodes = cloud(6)
    for ahead in (0.0, -500000.0, 500000.0):
        net.kill(nodes[4])
        nodes[4] = net.start("n4", "c", ["n0:5640"], ahead=ahead)
        net.until(agreed(net), 30)


def test_another_key_under_the_same_name_is_refused_until_the_first_is_gone():
    net, nodes = cloud(6)
    thief = net.start("n4", "c", ["n0:5640"], key="thief")
    net.run(20)
    assert not thief.sessions
    assert "another key" in thief.member.why
    assert [e.new for _, e in thief.events] == ["refused"]
    assert not wrong(net)
    assert deaths(net) == []
    net.kill(nodes[4])
    net.run(40)
    assert thief.member.phase == "joined"
    net.until(agreed(net), JOIN)


def test_two_keys_under_one_name_that_meet_after_a_partition_leave_one():
    net, nodes = cloud(6)
    left, right = nodes[:3], nodes[3:]
    net.cut(left, right)
    net.run(20)
    twin = net.start("n4", "c", ["n0:5640"], key="twin")
    net.cut([twin], right)
    net.run(20)
    assert twin.member.phase == "joined"
    net.heal()
    net.run(40)
    assert twin.member.phase != "joined"
    assert "another key" in twin.member.why
    assert nodes[4].member.phase == "joined"
    assert not wrong(net)


def test_seeds_that_are_wrong_or_late_do_no_harm():
    net = Net(3)
    nodes = [net.start("n0", "c", ["nowhere:5640"])]
    net.run(40)
    assert nodes[0].member.leaf == "c"
    # All start at once, each with all as seeds, in clusters that nobody knows yet.
    seeds = [f"n{n}:5640" for n in range(9)]
    nodes += [net.start(f"n{n}", "abc"[n % 3], seeds) for n in range(1, 9)]
    net.until(agreed(net), 120)


def test_many_at_once_by_one_seed():
    net = Net(4)
    nodes = [net.start("n0", "c", [])]
    net.run(5)
    nodes += [net.start(f"n{n}", "c", ["n0:5640"]) for n in range(1, 120)]
    net.until(agreed(net), 120)
    assert deaths(net) == []
    assert max(len(n.member.rosters) for n in nodes) <= 3


def test_a_busy_machine_kills_nobody():
    """Each node stands still for up to 4 s now and then, as at full load; 10 minutes."""
    net, nodes = cloud(20, ("a", "b"))

    def stall(node: Node) -> None:
        net.stop(node)
        net.later(net.random.uniform(0.5, 4.0), lambda: net.go_on(node))
        net.later(net.random.uniform(6.0, 20.0), lambda: stall(node))

    for node in nodes:
        stall(node)
    net.run(600)
    assert deaths(net) == []


@pytest.mark.parametrize("seed", range(3))
def test_lost_and_late_messages_only_take_longer(seed):
    net, nodes = cloud(40, seed=seed, loss=0.1, delay=(0.01, 1.5))
    net.run(120)
    assert deaths(net) == []
    net.kill(nodes[7])
    net.until(agreed(net, digests=False), STOPPED)
    net.until(agreed(net), 120)


def test_two_of_a_zone_that_never_met_are_brought_together():
    """One stood still while the other came; no engine told them of each other."""
    net, nodes = cloud(8)
    net.stop(nodes[5])
    net.run(1.0)
    late = net.start("late", "c", ["n1:5640"])
    net.run(1.0)
    net.go_on(nodes[5])
    net.until(agreed(net), JOIN)
    assert late.member.phase == "joined"


def test_all_members_of_an_inner_zone_die_and_those_who_follow_find_each_other():
    """They enter the zone alone, each by dead doors, and meet in the zone above it."""
    net, nodes = cloud(300)
    inner = [n for n in nodes if "c.010" in n.member.rosters and n.member.leaf != "c.010"]
    assert len(inner) >= 4
    for node in inner:
        net.kill(node)
    net.until(agreed(net), 60)
