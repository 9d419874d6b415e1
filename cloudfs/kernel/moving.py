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
    from cloudfs.kernel.roster import Peer, Roster

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
        if now < me.rosters[self.home].settles:
            return
        kind = self._followed() or self._verdict(now)
        if kind == "split":
            target = self._half()
            self.go(target, self._others(self.home, target), kind, now)
        elif kind == "merge":
            target = zones.wider(self.home)
            self.go(target, self._near(self.home, target), kind, now)

    # --- what is different of groups (standing.py) ---------------------------------------

    @property
    def home(self) -> str:
        """The zone that this is about."""
        return self.member.leaf or ""

    def _half(self) -> str:
        """The half of it into which this node belongs."""
        return zones.narrower(self.home, self.member.name)

    def _count(self, zone: str) -> int:
        """How many are at home in a zone."""
        return len(self.member.homes(zone))

    def _sizes(self, around: list[Roster], now: float) -> dict[str, Size]:
        return self.member.reports.sizes(around, now)

    def _others(self, home: str, target: str) -> list[str]:
        """The addresses of those who go the same way when it splits."""
        peers = self.member.rosters[home].home(home)
        return _addresses(target, [p for p in peers if zones.narrower(home, p.name) == target])

    def _arrived(self, old: str, new: str, now: float) -> None:
        """The new zone is the home now."""
        me = self.member
        me.leaf = new
        me.telling.renew(now)
        why = f"its zone is {new}, after {self._kind} of {old}"
        me.out.append(Changed(me.name, "alive", "alive", why))
        if old not in zones.path(new):
            me.climbing.dissolve(old)

    # --- what is the same ----------------------------------------------------------------

    def go(self, target: str, addresses: Iterable[str], kind: str, now: float) -> None:
        """Begin to move to a leaf in which the nodes at these 9P addresses are, or will be."""
        me = self.member
        self.target, self._began, self._from, self._kind = target, now, self.home, kind
        self._leaning = "stay"
        if target in me.rosters:
            me.telling.stay(target)
        else:
            me.enter(target, [zones.endpoint(at, target) for at in addresses], now)

    def _followed(self) -> str:
        """What the beats of others at home here say."""
        peers = self.member.rosters[self.home].live()
        kind = next((p.move for p in peers if p.move in STOOD), "")
        return "" if kind == "merge" and not zones.parts(self.home)[1] else kind

    def _verdict(self, now: float) -> str:
        """What this node, as a delegate, holds that the zone is to do, once it has for long."""
        me, home = self.member, self.home
        if me.name not in me.delegates(home):
            self._leaning = "stay"
            return ""
        above = me.rosters.get(me.above(home) or "")
        around = [me.rosters[home]]
        sizes: dict[str, Size] = {}
        if above is not None and above is not around[0] and now >= above.settles:
            around.append(above)
            here = self._count(above.zone)
            if here:
                sizes[above.zone] = Size(here)
        sizes |= self._sizes(around, now)
        sizes[home] = Size(self._count(home))
        kind = zones.verdict(home, sizes)
        if kind == "merge" and len(around) < 2:
            kind = "stay"
        if kind != self._leaning:
            self._leaning, self._since = kind, now
        return kind if kind in STOOD and now - self._since >= STOOD[kind] else ""

    def _near(self, home: str, target: str) -> list[str]:
        """The addresses of delegates of this zone and of its sibling."""
        me = self.member
        names = [name for name in me.delegates(home) if name != me.name]
        above = me.above(home) or ""
        names += [peer.name for peer in me.below(above, target) if peer.leaf != home]
        return [at for name in names if (at := me.address_of(name))][:SEEDS]

    def _arrive(self, now: float) -> None:
        """Make the new zone the home once somebody is met there, or nobody comes."""
        assert self.target is not None
        met = any(p.record is not None for p in self.member.rosters[self.target].live())
        if (met and now - self._began >= 1.0) or now - self._began >= ALONE:
            old, new, self.target = self.home, self.target, None
            self._arrived(old, new, now)


def _addresses(zone: str, peers: list[Peer]) -> list[str]:
    """Of some members, of those first who come to be its delegates first."""
    known = {peer.name: peer.address for peer in peers if peer.address}
    return [known[name] for name in zones.rank(zone, known)][:SEEDS]
