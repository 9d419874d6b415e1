"""Zones: which there are, who is in which, and when one splits or merges.  Pure.

A zone's id is text: "" is the root, "CLUSTER" a cluster's zone, "CLUSTER.BITS" a part of
it that holds the nodes whose names hash to those bits.  A node is at home in one *leaf*
zone.  Leaves split one bit at a time; the zones above them stand only at every third bit,
so that one of those has at most 8 children:

    ""  ←  paris  ←  paris.011 (leaf)
                  ←  paris.010  ←  paris.01001 (leaf), paris.01000 (leaf)

Clusters are to the root what nodes are to a cluster.  As long as there are few, each
*stands* in the root; of more than 8 those stand together in a *group* ".BITS" whose names
hash to those bits, and groups split, merge and have zones above as leaves do:

    ""  ←  .01  ←  paris, rome
        ←  .100  ←  .1001  ←  oslo

Two members of every zone, the first by rendezvous hash (Thaler and Ravishankar 1998), are
its *delegates* and members of the zone above.  That has half the members of a full leaf: a
node that is delegate at every level pays for all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cloudfs.errors import CloudError

ROOT = ""
MOST = 32  # nodes of a leaf; with one more it splits
FEW = 16  # nodes of two sibling leaves together; they merge.  Far below MOST, so none flaps
MEET = 24  # nodes of leaves that overlap after a partition; more go down, fewer come up
DEEPEST = 16  # bits
PORTS = 2 * DEEPEST + 1  # the highest that `port` gives
STEP = 3  # bits from one inner zone to the next: 8 children, 16 delegates
DELEGATES = 2
WEIGHT = 4  # nodes as which a cluster counts in a group: with the 9th it splits
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"  # a DNS label: names of nodes and clusters
_ZONE = re.compile(rf"({LABEL})?(\.[01]{{1,{DEEPEST}}})?")


def check(zone: str) -> str:
    """The same zone id; CloudError("bad") where it is none."""
    if not _ZONE.fullmatch(zone):
        raise CloudError(
            "bad", f"{zone[:80]!r} is no zone", "write it as CLUSTER, CLUSTER.0110 or .0110"
        )
    return zone


@lru_cache(1 << 15)
def bits(name: str) -> str:
    """The bits by which a node's name is sorted into leaves, and a cluster's into groups,
    DEEPEST characters 0 or 1."""
    head = hashlib.blake2b(name.encode(), digest_size=2, person=b"cloudfs zone").digest()
    return f"{int.from_bytes(head):016b}"


@lru_cache(1 << 13)
def parts(zone: str) -> tuple[str, str]:
    """The cluster and the bits of a zone; the cluster is "" of the root and of groups."""
    cluster, _, tail = zone.partition(".")
    return cluster, tail


def join(cluster: str, tail: str) -> str:
    """The zone of a cluster and bits; the inverse of `parts`."""
    return f"{cluster}.{tail}" if tail else cluster


@lru_cache(1 << 13)
def parent(zone: str, stand: str = ROOT) -> str | None:
    """The zone above, where this one's delegates are; None of the root.  stand: the root or
    group where the zone's cluster stands."""
    if zone == ROOT:
        return None
    cluster, tail = parts(zone)
    return join(cluster, tail[: (len(tail) - 1) // STEP * STEP]) if tail else stand


@lru_cache(1 << 13)
def path(leaf: str, stand: str = ROOT) -> tuple[str, ...]:
    """The leaf and all zones above it, the root last."""
    found = [leaf]
    while (above := parent(found[-1], stand)) is not None:
        found.append(above)
    return tuple(found)


def depth(zone: str) -> tuple[bool, int]:
    """Orders the zones of one path, the root first."""
    cluster, tail = parts(zone)
    return bool(cluster), len(tail)


@lru_cache(1 << 15)
def inside(inner: str, outer: str) -> bool:
    """Whether a zone is the other one or belongs below it, whole."""
    if outer == ROOT:
        return True
    cluster, tail = parts(outer)
    other, deep = parts(inner)
    if other and not cluster:
        return bits(other).startswith(tail)
    return cluster == other and deep.startswith(tail)


def fits(cluster: str, stand: str) -> bool:
    """Whether a zone is the root or a group in which a cluster may stand."""
    return not parts(stand)[0] and inside(cluster, stand)


@lru_cache(1 << 15)
def stands(leaf: str, stand: str, zone: str, child: str) -> bool:
    """Whether a member of an inner zone whose leaf and stand these are stands there for a
    child of the zone, or for a part of that."""
    if parts(zone)[0]:
        return inside(leaf, child)
    if parts(child)[0]:
        return stand == zone and inside(leaf, child)
    return inside(stand, child)


def covers(zone: str, cluster: str, name: str) -> bool:
    """Whether a node of that name and cluster belongs into the zone or below it."""
    return inside(join(cluster, bits(name)), zone)


@lru_cache(1 << 15)
def child(zone: str, below: str, stand: str = ROOT) -> str:
    """The child of a zone through which a zone below it, whose cluster has this stand, is
    reached."""
    cluster, tail = parts(zone)
    other, deep = parts(below)
    if not cluster and other:
        if stand == zone or not inside(stand, zone):
            return other
        other, deep = parts(stand)
    return join(other, deep[: len(tail) // STEP * STEP + STEP])


def port(zone: str) -> int:
    """What a zone's QUIC port is above the node's own: 0 for a whole cluster, 1 for the
    root, then one for each bit of a leaf and of a group.  A node in two zones at once needs
    two ports also while it changes its leaf or its cluster its group, so depth counts and
    not the level above the leaf."""
    cluster, tail = parts(zone)
    if cluster:
        return len(tail) + 1 if tail else 0
    return DEEPEST + 1 + len(tail) if tail else 1


def endpoint(address: str, zone: str) -> str:
    """HOST:PORT of the zone's engine on the node whose 9P address is HOST:PORT."""
    host, _, number = address.rpartition(":")
    return f"{host}:{int(number) + port(zone)}"


@lru_cache(1 << 16)
def _weight(zone: str, name: str) -> bytes:
    return hashlib.blake2b(f"{zone}/{name}".encode(), digest_size=8).digest()


def rank(zone: str, names: Iterable[str]) -> list[str]:
    """The names in the order in which they become delegates of the zone."""
    return sorted(names, key=lambda name: (_weight(zone, name), name))


def delegates(zone: str, names: Iterable[str]) -> list[str]:
    """The zone's delegates among those that live, the first one first."""
    return rank(zone, names)[:DELEGATES]


def narrower(leaf: str, name: str) -> str:
    """The half of a leaf that takes this node when the leaf splits."""
    cluster, tail = parts(leaf)
    return join(cluster, bits(name)[: len(tail) + 1])


def wider(leaf: str) -> str:
    """The leaf that two halves merge into."""
    cluster, tail = parts(leaf)
    return join(cluster, tail[:-1])


def found(zone: str, children: Iterable[str], cluster: str, name: str) -> str:
    """The leaf that a node founds in an inner zone none of whose children covers it: as
    wide as it can be without overlapping one of them."""
    if not parts(zone)[0]:
        return cluster
    taken = list(children)
    least = len(parts(zone)[1]) + 1
    for length in range(least, DEEPEST):
        leaf = join(cluster, bits(name)[:length])
        if not any(inside(one, leaf) for one in taken):
            return leaf
    return join(cluster, bits(name))


@dataclass(frozen=True, slots=True)
class Size:
    """What is known of a zone: nodes at home in or below it, and whether it is a leaf."""

    nodes: int
    leaf: bool = True


def verdict(leaf: str, sizes: Mapping[str, Size]) -> str:
    """What a leaf is to do, "stay", "split" or "merge", given it and the zones around it.

    sizes: of this leaf, of its siblings and of what overlaps it.  Overlaps are what is
    left when both sides of a partition have gone on; those below come up where all fit
    into one leaf with room to spare, else the upper one goes down.  Every delegate gets
    to the same verdict from the same sizes.  Of groups it is the same, with WEIGHT nodes for
    each cluster.
    """
    tail = parts(leaf)[1]
    own = sizes[leaf].nodes
    deeper = [size for zone, size in sizes.items() if zone != leaf and inside(zone, leaf)]
    may_split = len(tail) < DEEPEST
    if deeper:
        total = own + sum(size.nodes for size in deeper)
        inner = any(not size.leaf for size in deeper)
        return "split" if may_split and (inner or total > MEET) else "stay"
    if own > MOST:
        return "split" if may_split else "stay"
    if not tail:
        return "stay"
    above = [zone for zone, size in sizes.items() if zone != leaf and inside(leaf, zone)]
    scope, limit = (min(above, key=len), MEET) if above else (wider(leaf), FEW)
    near = [size for zone, size in sizes.items() if inside(zone, scope)]
    inner = any(
        not size.leaf for zone, size in sizes.items() if zone != scope and inside(zone, scope)
    )
    return "merge" if not inner and sum(size.nodes for size in near) <= limit else "stay"
