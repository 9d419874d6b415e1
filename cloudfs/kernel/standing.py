"""Where a cluster stands: in the root, or of many clusters in one of the groups below.  Pure.

What nodes and leaves are in moving.py, clusters and groups are here.  The two delegates of a
cluster are members of the group; those of the group come to the verdict, the others hear it in
their beats and go as well.  All other nodes of the cluster hear of it from the delegates of
their own zones, from beat to beat, so that whoever becomes a delegate knows the way.
"""

from __future__ import annotations

from cloudfs.kernel import zones
from cloudfs.kernel.moving import Moving, _addresses
from cloudfs.kernel.roster import Roster
from cloudfs.kernel.zones import Size


class Standing(Moving):
    """The group that one node's cluster is on its way to."""

    def step(self, now: float) -> None:
        me = self.member
        if me.cluster in me.rosters and me.name in me.delegates(me.cluster):
            if me.stand in me.rosters:
                super().step(now)
        else:
            self.target = None
            self._follow(now)

    def _follow(self, now: float) -> None:
        """Take over what the first delegate of the highest of the own zones says."""
        me = self.member
        mine = [zone for zone in me.path() if zone in me.rosters and zones.parts(zone)[0]]
        roster = me.rosters[mine[-1]]
        first = roster.peers.get(me.delegates(roster.zone)[0])
        if first is not None and now >= roster.settles and zones.fits(me.cluster, first.stand):
            me.stand = first.stand

    @property
    def home(self) -> str:
        return self.member.stand

    def _half(self) -> str:
        return zones.join("", zones.bits(self.member.cluster)[: len(self.home.lstrip(".")) + 1])

    def _count(self, zone: str) -> int:
        return zones.WEIGHT * self.member.clusters(zone)

    def _sizes(self, around: list[Roster], now: float) -> dict[str, Size]:
        return self.member.reports.groups(around, now)

    def _others(self, home: str, target: str) -> list[str]:
        peers = self.member.rosters[home].live()
        return _addresses(target, [p for p in peers if zones.inside(p.leaf, target)])

    def _arrived(self, old: str, new: str, now: float) -> None:
        me = self.member
        me.stand = new
        me.climbing.withdraw(old, me.cluster)
        if old not in zones.path(new):
            me.climbing.dissolve(old)
