"""From any node to any other, by asking whom the one before names."""

from __future__ import annotations

from cloudfs.kernel import zones
from tests.sim.net import Node
from tests.sim.test_faults import cloud


def hops(start: Node, name: str, nodes: dict[str, Node]) -> int:
    """Nodes asked until one knows the name as of its own leaf; 99 for never."""
    todo, asked = [start.name], 0
    seen = set()
    while todo:
        at = nodes[todo.pop(0)]
        if at.name in seen:
            continue
        seen.add(at.name)
        asked += 1
        places = at.member.where_is(name, at.now)
        if places and places[0] == at.member.leaf:
            return asked
        fresh = [route for place in places for route in at.member.routes(place)[:1]]
        todo = fresh + todo
    return 99


def test_every_node_is_found_from_every_node_in_a_few_steps():
    _, some = cloud(80, ("a", "b"))
    nodes = {node.name: node for node in some}
    found = [hops(start, name, nodes) for start in some[::7] for name in nodes]
    assert max(found) <= 6
    assert sum(found) / len(found) < 4
    assert len({node.member.leaf for node in some}) > 2


def test_a_name_that_is_nowhere_is_denied_by_the_root():
    net, some = cloud(12, ("a", "b", "c"))
    roots = [node.member for node in some if zones.ROOT in node.member.rosters]
    assert all(member.where_is("nobody-of-this-name", net.now) == [] for member in roots)
    assert all(set(member.routes("a")) <= {node.name for node in some[::3]} for member in roots)
