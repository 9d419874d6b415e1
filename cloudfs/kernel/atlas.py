"""What one node knows of its cloud, for others to read.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cloudfs import ndb
from cloudfs.kernel import aggregate, bloom, claims, introduce, reports, zones
from cloudfs.kernel.aggregate import Digest, Packed
from cloudfs.kernel.claims import Claim
from cloudfs.kernel.reports import Report, Reports
from cloudfs.kernel.roster import Peer, Roster


@dataclass(frozen=True, slots=True)
class Known:
    """One node as it stands in its leaf."""

    name: str
    state: str  # alive drained suspect gone left
    age: float  # seconds since it was last heard
    since: float  # seconds that it has been in this state
    record: dict[str, str]


class Atlas:
    """The zones that a node is in, who is there, and the digests around them."""

    def __init__(self, name: str, cluster: str, id: str, boot: int, address: str) -> None:
        self.name = name
        self.cluster = cluster
        self.id = id
        self.boot = boot
        self.address = address
        self.phase = "asking"  # then joined; refused or left
        self.leaf: str | None = None  # where it is at home
        self.stand = zones.ROOT  # where its cluster is
        self.own: dict[str, str] = {}  # its record as it was last told
        self.rosters: dict[str, Roster] = {}  # of the zones that it is in
        self.reports = Reports()
        self._delegates: dict[str, tuple[object, list[str]]] = {}

    def above(self, zone: str) -> str | None:
        """The zone above one of the own; None of the root."""
        return zones.parent(zone, self.stand)

    def path(self) -> tuple[str, ...]:
        """The own leaf and all zones above it, the root last."""
        return zones.path(self.leaf or "", self.stand)

    # --- who is there --------------------------------------------------------------------

    def members(self, now: float) -> list[Known]:
        """This node and all that are known of its leaf, by name."""
        found = [Known(self.name, self.own.get("state", "alive"), 0.0, 0.0, dict(self.own))]
        roster = self.rosters.get(self.leaf) if self.leaf is not None else None
        for peer in roster.peers.values() if roster else ():
            if peer.shown and peer.state != "parted":
                ages = (now - peer.heard, now - peer.since)
                found.append(Known(peer.name, peer.shown, *ages, dict(peer.record or {})))
        return sorted(found, key=lambda known: known.name)

    def address_of(self, name: str) -> str:
        """HOST:PORT where a node of one of the own zones serves 9P; "" if it is not known."""
        if name == self.name:
            return self.address
        found = (roster.peers.get(name) for roster in self.rosters.values())
        return next((peer.address for peer in found if peer and peer.address), "")

    def homes(self, leaf: str) -> list[str]:
        """Who lives and is at home in a leaf."""
        roster = self.rosters.get(leaf)
        names = [peer.name for peer in roster.home(leaf)] if roster else []
        return [*names, self.name] if leaf == self.leaf else names

    def delegates(self, zone: str) -> list[str]:
        """The delegates of a zone that this node is in, the first one first: of a leaf chosen
        from those at home there, of an inner zone from the delegates of its children, of a
        group from those whose clusters stand in it or in those below, as its own does."""
        roster = self.rosters.get(zone)
        if roster is None:
            return []
        state = (roster, roster.version, self.leaf, self.stand)
        kept, found = self._delegates.get(zone, (None, []))
        if kept != state:
            if zone == self.leaf:
                names = self.homes(zone)
            else:
                here = self.stand == zone
                mates = (p for p in roster.live() if p.leaf != zone)
                names = [*(p.name for p in mates if (p.stand == zone) is here), self.name]
            found = zones.delegates(zone, names)
            self._delegates[zone] = (state, found)
        return found

    def below(self, zone: str, child: str) -> list[Peer]:
        """The members of an inner zone who stand for a child of it, or a zone in that."""
        roster = self.rosters.get(zone)
        return roster.below(child) if roster else []

    def clusters(self, zone: str) -> int:
        """How many clusters stand in the root or a group."""
        roster = self.rosters.get(zone)
        found = roster.clusters() if roster else set()
        return len(found | {self.cluster} if zone == self.stand else found)

    # --- what is known of zones ----------------------------------------------------------

    def digest(self, zone: str, now: float) -> Report | None:
        """The digest of a zone: made from what is known here if this node is in it, else as
        it was last heard; None where nothing is known.  `at` tells how old it is."""
        roster = self.rosters.get(zone)
        if roster is not None and now >= roster.settles:
            digest = self.sum(zone, now)
            return Report(zone, self.name, self.address, zone == self.leaf, (), Packed(digest), now)
        for table in self.reports.up.values():
            if zone in table:
                return table[zone]
        return self.reports.down.get(zone)

    def count(self, zone: str, now: float) -> int | None:
        """How many nodes the zone has, as `digest` knows it."""
        roster = self.rosters.get(zone)
        if roster is not None and now >= roster.settles:
            return self.size(zone, now)[0]
        report = self.digest(zone, now)
        return report.kept.nodes if report else None

    def sum(self, zone: str, now: float) -> Digest:
        """The digest of a zone that this node is in, from its members."""
        roster = self.rosters[zone]
        mine = self._mine(zone, now)
        reported = self.reports.children(roster, now).items()
        found = [report.digest for child, report in reported if child != mine]
        if mine is not None:
            found.append(self.sum(mine, now))
        own = (self.own.get("state", "alive"), self.own) if zone == self.leaf else None
        if own or roster.home(zone):
            found.append(reports.summary(roster, zone, own))
        digest = aggregate.merge(found)
        return replace(digest, clusters=1) if zone == self.cluster else digest

    def size(self, zone: str, now: float) -> tuple[int, int]:
        """Nodes of a zone that this node is in, and how many of them are drained."""
        roster = self.rosters[zone]
        mine = self._mine(zone, now)
        home = roster.home(zone)
        nodes = len(home) + (zone == self.leaf)
        drained = sum(peer.shown == "drained" for peer in home)
        drained += zone == self.leaf and self.own.get("state") == "drained"
        for child, report in self.reports.children(roster, now).items():
            if child != mine:
                nodes += report.kept.nodes
                drained += report.kept.drained
        if mine is not None:
            more = self.size(mine, now)
            nodes, drained = nodes + more[0], drained + more[1]
        return nodes, drained

    def _mine(self, zone: str, now: float) -> str | None:
        """The child of an inner zone that this node knows better than any report tells."""
        if self.leaf is None or zone == self.leaf or zone not in self.path():
            return None
        child = zones.child(zone, self.leaf, self.stand)
        return child if child in self.rosters and now >= self.rosters[child].settles else None

    # --- the way to others ---------------------------------------------------------------

    def where_is(self, name: str, now: float) -> list[str]:
        """Zones that may hold a node, the nearest first: the own leaf if it is known there,
        else children of the inner zones that this node is in, else the zone above."""
        if self.leaf is None:
            return []
        roster = self.rosters.get(self.leaf)
        if name == self.name or (roster and name in roster.peers):
            return [self.leaf]
        found = []
        mine = self.leaf
        for zone in self.path()[1:]:
            if zone not in self.rosters:
                found.append(zone)
                break
            for child, report in self.reports.children(self.rosters[zone], now).items():
                cluster = zones.parts(child)[0]
                fits = not zones.parts(zone)[0] or zones.covers(child, cluster, name)
                if fits and child != mine and bloom.holds(report.kept.names, name):
                    found.append(child)
            mine = zone
        return found

    def routes(self, zone: str) -> list[str]:
        """Whom to ask about a zone, the best first: its delegates where they are known, else
        those one step nearer to it.  Their addresses: `address_of`."""
        if zone in self.rosters:
            return self.delegates(zone)
        if self.leaf is None:
            return []
        inner = [place for place in self.rosters if zones.inside(zone, place)]
        for place in sorted(inner, key=zones.depth, reverse=True):
            peers = self._towards(place, zone)
            if peers:
                return zones.rank(zone, [peer.name for peer in peers])
        return [name for name in self.delegates(self._highest()) if name != self.name]

    def _towards(self, place: str, zone: str) -> list[Peer]:
        """The members of an inner zone who stand there for the child that holds another zone,
        as far as that is known: of a cluster, in the group that its name belongs into."""
        cluster = zones.parts(zone)[0]
        if zones.parts(place)[0] or not cluster:
            return self.below(place, zones.child(place, zone))
        live = self.below(place, cluster)
        deeper = (p for p in self.rosters[place].live() if p.stand != place)
        return live or [
            p for p in deeper if zones.inside(cluster, zones.child(place, p.leaf, p.stand))
        ]

    def _highest(self) -> str:
        """The zone nearest to the root that this node is in; its delegates are in the next."""
        return [zone for zone in self.path() if zone in self.rosters][-1]

    def doors(self, zone: str, most: int = reports.DOORS) -> list[tuple[str, str]]:
        """Members of a zone with their addresses, this node among them if it is one."""
        roster = self.rosters.get(zone)
        if roster is None:
            report = self.reports.down.get(zone)
            return list(report.doors) if report else []
        live = zones.rank(zone, [peer.name for peer in roster.live() if peer.address])
        pairs = [(name, roster.peers[name].address) for name in live[: most - 1]]
        return [(self.name, self.address), *pairs]

    def introduction(self, cluster: str, name: str, now: float) -> str:
        """The answer to a node that asks where it belongs: see introduce.py; "" from one
        that has no place itself."""
        if self.phase != "joined" or self.leaf is None:
            return ""
        head = {"node": self.name, "leaf": self.leaf, "nodes": len(self.homes(self.leaf))}
        lines = [ndb.record(head), *self._place(cluster, name, now)]
        for zone in self.rosters:
            for peer, address in self.doors(zone, introduce.PEERS):
                lines.append(ndb.record({"peer": peer, "zone": zone, "addr": address}))
        for roster in self.rosters.values():
            holder = roster.peers.get(name)
            if holder is not None and roster.lives(name):
                cluster = (holder.record or {}).get("cluster") or zones.parts(holder.leaf)[0]
                lines.append(claims.line(name, Claim(holder.id, holder.boot, cluster)))
                break
        return "\n".join(lines) + "\n"

    def _place(self, cluster: str, name: str, now: float) -> Iterator[str]:
        """The line that says where a node belongs, or lines that say who knows better."""
        assert self.leaf is not None
        if zones.covers(self.leaf, cluster, name):
            yield _enter(self.leaf, self.stand)
            return
        inner = [z for z in self.rosters if z != self.leaf and zones.covers(z, cluster, name)]
        if inner:
            zone = max(inner, key=zones.depth)
            roster = self.rosters[zone]
            mates = (p for p in roster.live() if p.leaf != zone)
            taken = {zones.child(zone, p.leaf, p.stand) for p in mates}
            taken |= set(self.reports.children(roster, now))
            ways = [child for child in taken if zones.covers(child, cluster, name)]
            if ways:
                yield from self._refer(p for way in ways for p in self.below(zone, way))
            elif now >= roster.settles:
                stand = self.stand if zones.parts(zone)[0] else zone
                yield _enter(zones.found(zone, taken, cluster, name), stand)
            return
        for zone in self.path()[1:]:
            if zone in self.reports.down and zones.covers(zone, cluster, name):
                for door, address in self.reports.down[zone].doors:
                    yield ndb.record({"ask": door, "addr": address})
                break
        known = self.rosters[self._highest()].peers
        names = self.delegates(self._highest())
        yield from self._refer(known[name] for name in names if name in known)

    @staticmethod
    def _refer(peers: Iterable[Peer]) -> Iterator[str]:
        for peer in peers:
            if peer.address:
                yield ndb.record({"ask": peer.name, "addr": peer.address})


def _enter(leaf: str, stand: str) -> str:
    return ndb.record({"enter": leaf} | ({"stand": stand} if stand else {}))
