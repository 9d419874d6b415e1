"""A delegate's part: to be in the zones above, and to pass digests up and down.  Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cloudfs.kernel import reports, zones
from cloudfs.kernel.beats import Publish, Withdraw

if TYPE_CHECKING:
    from cloudfs.kernel.membership import Member

LINGER = 3.0  # seconds in a zone after a node has no more to do there,
RELIEF = 20.0  # and at most, where it waits for the delegate that takes over


class Climbing:
    """The zones above the leaf in which one node is to be."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.wanted: list[str] = []  # the leaf, and upwards the zones it is delegate for
        self._idle: dict[str, float] = {}  # zones where there is no more to do, since when

    def step(self, now: float) -> None:
        self.wanted = self._ladder(now)
        self._enter(now)
        self._retire(now)
        for zone, above in zip(self.wanted, self.wanted[1:], strict=False):
            if above in self.member.rosters and now >= self.member.rosters[zone].settles:
                self._pass_up(zone, above, now)
                self._pass_down(zone, above, now)

    def _ladder(self, now: float) -> list[str]:
        me = self.member
        assert me.leaf is not None
        found = [me.leaf]
        while (above := me.above(found[-1])) is not None:
            roster = me.rosters.get(found[-1])
            # One who has just come does not know yet who else is there.
            if roster is None or now < roster.settles or me.name not in me.delegates(found[-1]):
                break
            found.append(above)
        return found

    def _enter(self, now: float) -> None:
        me = self.member
        for zone, above in zip(self.wanted, self.wanted[1:], strict=False):
            if above in me.rosters:
                me.telling.stay(above)
            else:
                doors = [zones.endpoint(at, above) for _, at in me.doors(above)]
                mates = [name for name in me.delegates(zone) if name != me.name]
                doors += [zones.endpoint(at, above) for n in mates if (at := me.address_of(n))]
                me.enter(above, [*doors, *me.known_doors.get(above, ())], now)

    def _retire(self, now: float) -> None:
        """Leave the zones where there is nothing to do, once another does it."""
        me = self.member
        keep = {*self.wanted, me.moving.target, me.standing.target}
        for zone in list(me.rosters):
            if zone in keep or me.telling.seats[zone].closing is not None:
                self._idle.pop(zone, None)
                continue
            idle = now - self._idle.setdefault(zone, now)
            relieved = zone not in me.path() or me.below(
                zone, zones.child(zone, self.wanted[0], me.stand)
            )
            if idle >= RELIEF or (idle >= LINGER and relieved):
                del self._idle[zone]
                me.telling.part(zone, "parted", now)

    def _pass_up(self, zone: str, above: str, now: float) -> None:
        me = self.member
        below = me.reports.children(me.rosters[zone], now)
        if zones.parts(zone)[0]:
            leaf = zone == me.leaf and not below
        else:
            leaf = all(zones.parts(child)[0] for child in below)
        first = me.delegates(zone)[0] == me.name
        size = me.size(zone, now)
        due = me.reports.due_up(above, zone, size, lambda: me.sum(zone, now), leaf, first, now)
        if due is not None:
            kind, digest = due
            value = reports.text(zone, digest, by=me.name, address=me.address, leaf=leaf)
            me.out.append(Publish(above, f"zone{kind}/{zone}", value))

    def _pass_down(self, zone: str, above: str, now: float) -> None:
        me = self.member
        speaks = me.delegates(zone)[-1] == me.name
        for high in zones.path(above, me.stand):
            heard = me.reports.down.get(high)
            if high in me.rosters:
                if now < me.rosters[high].settles:
                    break
                nodes, at = me.size(high, now)[0], now
            elif heard is not None:
                nodes, at = heard.kept.nodes, heard.at
            else:
                break
            doors = me.doors(high)
            if me.reports.due_down(zone, high, nodes, doors, speaks, now):
                value = reports.text(
                    high,
                    replace(reports.UNKNOWN, nodes=nodes),
                    by=me.name,
                    address=me.address,
                    leaf=False,
                    doors=doors,
                    age=now - at,
                )
                me.out.append(Publish(zone, f"up/{high}", value))

    def dissolve(self, old: str) -> None:
        """The leaf that this node was at home in is none any more, as far as it is concerned."""
        above = zones.parent(old, self.member.stand)
        if above is not None:
            self.withdraw(above, old)

    def withdraw(self, above: str, old: str) -> None:
        """A zone is not below another any more, as far as this node is concerned."""
        me = self.member
        if (above, old) in me.reports.told:
            del me.reports.told[above, old]
            me.out += [
                Withdraw(above, f"zone{kind}/{old}") for kind in (reports.WHOLE, reports.NEWS)
            ]
