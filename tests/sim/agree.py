"""Whether all nodes of a simulated cloud know what is so, and what they have wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from cloudfs.kernel import zones
from tests.sim.net import Net, Node


def wrong(net: Net, among: Iterable[Node] | None = None, *, digests: bool = True) -> list[str]:
    """What does not hold yet among the nodes that run; with `among` they are a part of the
    cloud that is cut off, and nobody else counts as living."""
    nodes = [n for n in (net.nodes.values() if among is None else among) if n.up and not n.stopped]
    members = [node.member for node in nodes if node.member.phase == "joined"]
    found = [
        f"{n.place} is {n.member.phase}"
        for n in nodes
        if n.member.phase != "joined" and not n.member.why
    ]
    homes: dict[str, set[str]] = defaultdict(set)
    for member in members:
        homes[member.leaf or ""].add(member.name)
        if not zones.covers(member.leaf or "", member.cluster, member.name):
            found.append(f"{member.name} is in {member.leaf}, which does not cover it")
    stands = {(member.cluster, member.stand) for member in members}
    clusters = [cluster for cluster, _ in stands]
    found += [f"{c} stands in more than one" for c in clusters if clusters.count(c) > 1]
    found += [f"{c} does not fit into {at}" for c, at in stands if not zones.fits(c, at)]
    groups = {stand for _, stand in stands}
    found += [f"{a} and {b} overlap" for a in groups for b in groups - {a} if zones.inside(a, b)]
    leaves = sorted(homes)
    found += [
        f"{a} and {b} overlap" for a in leaves for b in leaves if a != b and zones.inside(a, b)
    ]
    for node, member in zip(nodes, members, strict=False):
        leaf = member.leaf or ""
        live = {m.name for m in member.members(node.now) if m.state in ("alive", "drained")}
        if live != homes[leaf]:
            found.append(
                f"{member.name} in {leaf}: misses {homes[leaf] - live}, has {live - homes[leaf]}"
            )
        if set(member.rosters) != set(member.climbing.wanted):
            found.append(
                f"{member.name} is in {set(member.rosters)} and wants {member.climbing.wanted}"
            )
        if digests:
            count = member.count(zones.ROOT, node.now)
            if count != len(members):
                found.append(f"{member.name} counts {count} nodes of {len(members)}")
    for zone in {zone for member in members for zone in member.climbing.wanted[1:]}:
        there = [m.name for m in members if zone in m.climbing.wanted[1:]]
        if len(there) > zones.MOST:
            found.append(f"{zone or 'the root'} has {len(there)} members")
    return found


def agreed(net: Net, *parts: Iterable[Node], digests: bool = True) -> Callable[[], bool]:
    """The question whether nothing is wrong, in the cloud or in each of its parts."""

    def agreement() -> bool:
        return not any(wrong(net, part, digests=digests) for part in (parts or (None,)))

    return agreement
