"""What a node tells in its zones: that it lives, what it is, and that it goes.  Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cloudfs import ndb
from cloudfs.kernel.beats import BEAT, SLOW, Beat, Publish
from cloudfs.kernel.query import number

if TYPE_CHECKING:
    from cloudfs.kernel.membership import Member

DRIFT = 0.2  # a number that changed by this share is told,
DRIFT_PAUSE = 15.0  # but not before so many seconds have passed;
REPEAT = 60.0  # the whole record is told again after so many,
WANTED = 2.0  # or when somebody asks for it, after so many
FAREWELL = 1.0  # seconds between the last beat in a zone and leaving it
# What a record says beside the attributes that were set, and what of it is told in zones
# above the leaf.
OWN = ("name", "id", "cluster", "state", "addr", "boot", "version", "zone", "rev")
BRIEF = ("name", "id", "state", "addr", "boot", "rev")


class Seat:
    """What this node tells in one zone."""

    __slots__ = ("asked", "beat_at", "closing", "rev", "rev_at", "want")

    def __init__(self) -> None:
        self.beat_at = -math.inf  # when the next beat is due
        self.rev, self.rev_at = -1, -math.inf  # of the record last told there, and when
        self.want = False  # whether somebody asked for the record
        self.asked: set[str] = set()  # whom others miss
        self.closing: float | None = None  # when it said goodbye


class Telling:
    """The beats and the record of one node."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.seats: dict[str, Seat] = {}
        self._latest: dict[str, str] = {}  # the attributes last set
        self._brief: dict[str, str] = {}  # the record as it is told in zones above the leaf
        self._seq = self._rev = 0
        self._drift_at = -math.inf

    def sit(self, zone: str) -> None:
        """The zone was entered: tell everything at once."""
        self.seats[zone] = Seat()

    def again(self) -> None:
        """Tell everything at once in every zone."""
        self.seats = {zone: Seat() for zone in self.seats}

    def asked(self, zone: str, beat: Beat) -> None:
        """Another's beat says whom it misses and whose record it wants."""
        seat = self.seats[zone]
        seat.asked.update(beat.miss)
        seat.want = seat.want or self.member.name in beat.want

    def set_record(self, attributes: Mapping[str, object], now: float) -> None:
        """See `Member.set_record`."""
        told = {name: ndb.show(value) for name, value in attributes.items()}
        told = {name: text for name, text in told.items() if text and name not in OWN}
        told |= {n: ndb.show(attributes[n]) for n in ("state", "version") if attributes.get(n)}
        self._latest = told
        old = {name: text for name, text in self.member.own.items() if name not in OWN}
        old |= {n: text for n, text in self.member.own.items() if n in told}
        changed, drifted = told.keys() != old.keys(), False
        for name in told.keys() & old.keys():
            if told[name] != old[name]:
                a, b = number(old[name]), number(told[name])
                if a is None or b is None:
                    changed = True
                else:
                    drifted |= abs(a - b) > DRIFT * max(abs(a), abs(b))
        if changed or (drifted and now - self._drift_at >= DRIFT_PAUSE):
            self.renew(now)

    def renew(self, now: float) -> None:
        """Make the record anew from the attributes last set; it is told with the next tick."""
        me = self.member
        self._rev += 1
        self._drift_at = now
        me.own = {"state": "alive", **self._latest, "name": me.name, "id": me.id}
        me.own |= {"cluster": me.cluster, "addr": me.address, "boot": str(me.boot)}
        me.own |= {"zone": me.leaf or "", "rev": str(self._rev)}
        if any(self._brief.get(name) != me.own.get(name) for name in BRIEF if name != "rev"):
            self._brief = {name: me.own[name] for name in BRIEF if name in me.own}

    def _record(self, zone: str) -> dict[str, str]:
        """The record for a zone.  Above the leaf it has a new revision only where it changed."""
        return self.member.own if zone == self.member.leaf else self._brief

    def part(self, zone: str, bye: str, now: float) -> None:
        """Say goodbye in a zone: "left" the cloud, or "parted" from the zone only."""
        seat = self.seats[zone]
        if seat.closing is None:
            seat.closing = now
            if bye == "left":
                self._tell_record(zone, seat, now)
            self._tell_beat(zone, seat, now, bye)

    def stay(self, zone: str) -> None:
        """Take a goodbye back."""
        if self.seats[zone].closing is not None:
            self.sit(zone)

    def step(self, now: float) -> None:
        """Tell what is due, and leave the zones to which goodbye was said."""
        for zone, seat in list(self.seats.items()):
            if seat.closing is not None:
                if now - seat.closing >= FAREWELL:
                    del self.seats[zone]
                    self.member.exit(zone)
                continue
            since = now - seat.rev_at
            if since >= REPEAT and seat.rev >= 0 and zone == self.member.leaf:
                self.renew(now)
            wanted = since >= (WANTED if seat.want else REPEAT)
            if wanted or seat.rev != int(self._record(zone)["rev"]):
                self._tell_record(zone, seat, now)
            # Ticks come a little early or late; a beat does not wait for the next one.
            if now + 0.05 >= seat.beat_at:
                self._tell_beat(zone, seat, now)

    def _tell_record(self, zone: str, seat: Seat, now: float) -> None:
        record = self._record(zone)
        seat.rev, seat.rev_at, seat.want = int(record["rev"]), now, False
        text = ndb.record(record).encode()
        self.member.out.append(Publish(zone, f"node/{self.member.name}", text))

    def _tell_beat(self, zone: str, seat: Seat, now: float, bye: str = "") -> None:
        me, roster = self.member, self.member.rosters[zone]
        # The first interval is a random part of one, so that not all beat at once.
        first = seat.beat_at == -math.inf
        pause = BEAT if zone in (me.leaf, me.moving.target) else SLOW
        seat.beat_at = now + (BEAT * me.random.random() if first else pause)
        self._seq += 1
        beat = Beat(
            me.id[:8],
            me.boot,
            self._seq,
            me.leaf if me.leaf is not None else zone,
            int(self._record(zone)["rev"]),
            roster.sum,
            me.stand,
            me.moving.sign(zone, now) or me.standing.sign(zone, now),
            bye,
            roster.missed(now),
            roster.vouch(seat.asked, now) if seat.asked else (),
            roster.wanted(),
        )
        seat.asked.clear()
        me.out.append(Publish(zone, f"beat/{me.name}", beat.text()))
