"""Finding those again that a fault has separated from this node.  Pure.

The engine makes broken connections anew by itself, while both ends know each other.  What
is left: two groups that never met, because seeds were down or both sides started afresh;
two nodes of a zone that do not know each other, which the sums in their beats betray; a node
that stood still while its zone went elsewhere.  So now and then a node that is
alone, or misses somebody, asks for an introduction, and compares what it hears.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from cloudfs.kernel import zones
from cloudfs.kernel.introduce import Introduction

if TYPE_CHECKING:
    from cloudfs.kernel.membership import Member

EVERY = 8.0  # seconds between two questions, on average
LOOK = 2.0  # and between two looks for strangers, who follow where all of a zone above died
ASKERS = 2  # members of a zone that ask for one that is gone, in each such time
SEED_SHARE = 0.2  # of those times in which a delegate of the root asks a seed
AGAIN, LAST_AGAIN = 10.0, 320.0  # seconds between two entries into an open zone, doubling
APART = 10.0  # seconds that another's view of a zone may differ from the own
STRANGE = 6.0  # seconds that a stranger is watched before it is believed


class Mending:
    """What one node does to find others again."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._at = self._looked = -math.inf
        self._entered: dict[str, tuple[float, float]] = {}  # when, and the pause after

    def step(self, now: float) -> None:
        me = self.member
        if now >= self._looked + LOOK:
            self._looked = now
            self._strangers(now)
        if now < self._at:
            return
        self._at = now + EVERY * (0.5 + me.random.random())
        if me.asking.idle and me.moving.target is None:
            me.asking.start(self._whom(now))

    def _whom(self, now: float) -> list[str]:
        """The addresses to ask now; mostly none."""
        me = self.member
        roster = me.rosters[me.leaf or ""]
        peers = list(roster.peers.values())
        live = len(me.homes(roster.zone))
        if live == 1 and (peers or me.seeds):
            known = [peer.address for peer in peers if peer.address and peer.state != "left"]
            me.random.shuffle(known)
            return [*known[:4], *me.seeds]
        for place in me.rosters.values():
            gone = [p.address for p in place.peers.values() if p.state == "gone" and p.address]
            share = ASKERS / max(1, sum(1 for _ in place.live()))
            if gone and me.random.random() < share:
                return [me.random.choice(gone)]
        for place in me.rosters.values():
            for peer in place.live():
                if peer.apart is not None and now - peer.apart > APART and peer.address:
                    return [peer.address]
        if zones.ROOT in me.rosters and me.seeds and me.random.random() < SEED_SHARE:
            return [me.random.choice(me.seeds)]
        return []

    def _strangers(self, now: float) -> None:
        """Another stands in the zone above for the same zone, which does not know it: the
        zone has two halves."""
        me = self.member
        rungs = me.climbing.wanted
        for zone, above in itertools.pairwise(rungs):
            for peer in me.below(above, zone):
                known = me.rosters[zone].lives(peer.name)
                apart = zone == me.leaf and peer.leaf != zone
                if not known and not apart and now - peer.since > STRANGE and peer.address:
                    self._enter(zone, [peer.address], now)

    def compare(self, found: Introduction, now: float) -> None:
        """Somebody answered: are there others of the own zones, or is the leaf elsewhere?"""
        me = self.member
        me.asking.refer(at for at in found.ask if at != me.address)
        mine = len(me.homes(me.leaf or ""))
        goal = found.enter
        if goal is not None and goal != me.leaf and me.moving.target is None:
            right = zones.covers(goal, me.cluster, me.name)
            there = goal == found.leaf and (-found.nodes, goal) < (-mine, me.leaf or "")
            if right and (there or (mine == 1 and goal != found.leaf)):
                at = [address for _, address in found.peers.get(goal, [])]
                me.moving.go(goal, at, "mending", now)
        for zone, peers in found.peers.items():
            if zone in me.rosters:
                fresh = (at for name, at in peers if not me.rosters[zone].lives(name))
                self._enter(zone, [at for at in fresh if at != me.address], now)

    def _enter(self, zone: str, addresses: list[str], now: float) -> None:
        last, pause = self._entered.get(zone, (-math.inf, 0.0))
        if addresses and now - last >= pause:
            calm = now - last >= 2 * LAST_AGAIN
            self._entered[zone] = (now, AGAIN if calm else min(LAST_AGAIN, 2 * pause))
            self.member.enter(zone, [zones.endpoint(at, zone) for at in addresses], now)
