"""Going from one leaf to another: splits, merges, and the way back after a partition.  Pure.

The delegates of a leaf see its size and that of its siblings and get to the same verdict
(zones.verdict); when it has stood for a while they go, and say so in their beats; who hears
that goes as well.  A node enters the new leaf first, makes it its home once it has met
somebody there, and only then leaves the old one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cloudfs.kernel import zones
from cloudfs.kernel.beats import Changed
from cloudfs.kernel.zones import Size

if TYPE_CHECKING:
    from cloudfs.kernel.membership import Member

STOOD = {"split": 2.0, "merge": 15.0}  # seconds that a verdict must have stood
ALONE = 5.0  # seconds in the new leaf after which a node makes it its home with nobody there
SIGN = 20.0  # seconds for which beats in the old leaf say where its nodes go
SEEDS = 6


class Moving:
    """The leaf that one node is on its way to."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.target: str | None = None
        self._began = 0.0
        self._from = ""
        self._kind = ""
        self._leaning, self._since = "stay", 0.0

    def sign(self, zone: str, now: float) -> str:
        """What beats in a zone say of where its nodes go."""
        return self._kind if zone == self._from and now - self._began < SIGN else ""

    def step(self, now: float) -> None:
        if self.target is not None:
            self._arrive(now)
            return
        me = self.member
        assert me.leaf is not None
        if now < me.rosters[me.leaf].settles:
            return
        kind = self._followed() or self._verdict(now)
        if kind == "split":
            target = zones.narrower(me.leaf, me.name)
            self.go(target, self._others(me.leaf, target), kind, now)
        elif kind == "merge":
            target = zones.wider(me.leaf)
            self.go(target, self._near(me.leaf, target), kind, now)

    def go(self, target: str, addresses: Iterable[str], kind: str, now: float) -> None:
        """Begin to move to a leaf in which the nodes at these 9P addresses are, or will be."""
        me = self.member
        self.target, self._began, self._from, self._kind = target, now, me.leaf or "", kind
        self._leaning = "stay"
        if target in me.rosters:
            me.telling.stay(target)
        else:
            me.enter(target, [zones.endpoint(at, target) for at in addresses], now)

    def _followed(self) -> str:
        """What the beats of others in this leaf say."""
        me = self.member
        peers = me.rosters[me.leaf or ""].live()
        kind = next((p.move for p in peers if p.move in STOOD), "")
        return "" if kind == "merge" and "." not in (me.leaf or "") else kind

    def _verdict(self, now: float) -> str:
        """What this node, as a delegate, holds that the leaf is to do, once it has for long."""
        me = self.member
        leaf = me.leaf or ""
        if me.name not in me.delegates(leaf):
            self._leaning = "stay"
            return ""
        above = me.rosters.get(zones.parent(leaf) or "")
        around = [me.rosters[leaf]]
        sizes: dict[str, Size] = {}
        if above is not None and now >= above.settles:
            around.append(above)
            here = len(above.home(above.zone))
            if here:
                sizes[above.zone] = Size(here)
        sizes |= me.reports.sizes(around, now)
        sizes[leaf] = Size(len(me.homes(leaf)))
        kind = zones.verdict(leaf, sizes)
        if kind == "merge" and len(around) < 2:
            kind = "stay"
        if kind != self._leaning:
            self._leaning, self._since = kind, now
        return kind if kind in STOOD and now - self._since >= STOOD[kind] else ""

    def _others(self, leaf: str, target: str) -> list[str]:
        """The addresses of those of the leaf that go the same way when it splits."""
        me = self.member
        peers = me.rosters[leaf].peers
        same = (name for name in me.homes(leaf) if zones.narrower(leaf, name) == target)
        names = zones.rank(target, (name for name in same if name != me.name))
        return [peers[name].address for name in names if peers[name].address][:SEEDS]

    def _near(self, leaf: str, target: str) -> list[str]:
        """The addresses of delegates of this leaf and of its sibling."""
        me = self.member
        names = [name for name in me.delegates(leaf) if name != me.name]
        above = zones.parent(leaf) or ""
        names += [peer.name for peer in me.below(above, target) if peer.leaf != leaf]
        return [at for name in names if (at := me.address_of(name))][:SEEDS]

    def _arrive(self, now: float) -> None:
        """Make the new leaf the home once somebody is met there, or nobody comes."""
        me = self.member
        assert self.target is not None
        roster = me.rosters[self.target]
        met = any(peer.record is not None for peer in roster.live())
        if (met and now - self._began >= 1.0) or now - self._began >= ALONE:
            old, me.leaf, self.target = me.leaf or "", self.target, None
            me.telling.renew(now)
            why = f"its zone is {me.leaf}, after {self._kind} of {old}"
            me.out.append(Changed(me.name, "alive", "alive", why))
            if old not in zones.path(me.leaf):
                me.climbing.dissolve(old)
