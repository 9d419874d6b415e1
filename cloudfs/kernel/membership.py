"""One node's part in its cloud: events in, actions out; no clock, no I/O.

The driver calls `tick` every TICK seconds, gives what the engines of its zones brought to
`heard` and `hint`, and does what the returned actions say, in order (beats.py).  A node

1. asks one that it knows where it belongs, or founds its cluster (`_ask`, introduce.py);
2. beats in its zones (telling.py) and judges the others there (roster.py);
3. as a delegate of a zone enters the one above and passes digests on (climbing.py);
4. goes to another leaf when its own splits or merges (moving.py), and as a delegate of its
   cluster to another group (standing.py).  It is a member of both until it has met somebody
   in the new one, so it is never outside every zone;
5. looks for those that it lost, in case both live on apart (mending.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import beats, claims, zones
from cloudfs.kernel.atlas import Atlas
from cloudfs.kernel.beats import BEAT, TICK, Action, Ask, Beat, Changed, Enter, Exit
from cloudfs.kernel.claims import DIGITS, Claim
from cloudfs.kernel.climbing import Climbing
from cloudfs.kernel.introduce import Asking, Introduction
from cloudfs.kernel.introduce import parse as parse_introduction
from cloudfs.kernel.mending import Mending
from cloudfs.kernel.moving import Moving
from cloudfs.kernel.reports import NEWS, WHOLE
from cloudfs.kernel.roster import GONE, Roster
from cloudfs.kernel.standing import Standing
from cloudfs.kernel.telling import Telling

STALL = 0.25  # seconds that a tick may be late before time is given back
SETTLE = 2 * BEAT + TICK  # seconds in a zone after which all its members have been heard
SEEDS = 6  # endpoints by which a zone is entered first
RIVAL = 3  # beats of another under the own name until that is believed
FOUND_AFTER, FOUND_AT_LAST = 2, 6  # rounds of asking: nobody answered; nobody knew


class Member(Atlas):
    """One node.

    id: the fingerprint of its key.  boot: a whole number that grows with each start.
    address: HOST:PORT of its 9P.  seeds: such addresses of nodes that may know the cloud.
    Where its own address is the first of them, or there is none, it may be the first node.
    """

    def __init__(
        self, name: str, cluster: str, id: str, boot: int, address: str, seeds: Iterable[str] = ()
    ) -> None:
        super().__init__(name, cluster, id, boot, address)
        given = list(seeds)
        self.seeds = [seed for seed in given if seed != address]
        self.founder = not given or given[0] == address
        self.why = ""  # why it was refused
        self.garbled = 0  # messages that could not be read
        self.asking = Asking()
        self.telling = Telling(self)
        self.climbing = Climbing(self)
        self.moving = Moving(self)
        self.standing = Standing(self)
        self.mending = Mending(self)
        self.random = random.Random(f"{name} {boot}")  # noqa: S311, spreads work over time
        self.known_doors: dict[str, list[str]] = {}  # endpoints by zone, from introductions
        self._ticked: float | None = None
        self._rivals: set[int] = set()
        self.out: list[Action] = []

    # --- inputs --------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Time went on.  Call it before anything that came in while the process stood still."""
        stood = 0.0 if self._ticked is None else now - self._ticked - TICK
        self._ticked = now
        if stood > STALL:
            self._stood(stood, now)
        if self.phase == "asking":
            self._ask(now)
        for roster in self.rosters.values():
            roster.judge(now)
        if self.leaf is not None and self.phase == "joined":
            self.moving.step(now)
            self.standing.step(now)
            self.climbing.step(now)
            self.mending.step(now)
            self._ask_next(now)
        self.telling.step(now)
        return self._take()

    def heard(
        self, zone: str, key: str, value: bytes | None, stamp: Any, now: float
    ) -> list[Action]:
        """A value was published in a zone, or withdrawn (None).  stamp: ordered, of the
        publication."""
        kind, _, rest = key.partition("/")
        read = _HEARD.get(kind)
        if zone in self.rosters and read is not None:
            try:
                read(self, zone, rest, value, stamp, now)
            except CloudError:
                self.garbled += 1
        return self._take()

    def hint(self, zone: str, node: str, joined: bool, now: float) -> list[Action]:
        """The engine of a zone made or lost the connection to a member."""
        if zone in self.rosters:
            self.rosters[zone].hint(node, joined, now)
        return self._take()

    def introduced(self, text: str, now: float) -> list[Action]:
        """The answer to the last `Ask`; "" where there was none."""
        self.asking.waiting = None
        try:
            found = parse_introduction(text)
        except CloudError:
            self.garbled += 1
            found = None
        if found is not None and self.phase == "asking":
            self._join(found, now)
        elif found is not None and self.phase == "joined":
            self.mending.compare(found, now)
        if self.phase == "asking":
            self._ask(now)
        else:
            self._ask_next(now)
        return self._take()

    def set_record(self, attributes: Mapping[str, object], now: float) -> list[Action]:
        """The node's attributes, `state` alive or drained among them.  Call it as often as
        they are measured: it is told when text changed or numbers drifted far."""
        self.telling.set_record(attributes, now)
        return self._take()

    def leave(self, now: float) -> list[Action]:
        """This node leaves its cloud: it says so, and its zones are closed by the next ticks."""
        self._end("left", "it was told to leave", now)
        return self._take()

    @property
    def claim(self) -> Claim:
        """This node's claim to its name."""
        return Claim(self.id[:DIGITS], self.boot, self.cluster)

    # --- what the parts use --------------------------------------------------------------

    def enter(self, zone: str, endpoints: Iterable[str], now: float) -> None:
        """Enter a zone, or once more by other members of it."""
        mine = zones.endpoint(self.address, zone)
        seeds = tuple(dict.fromkeys(one for one in endpoints if one and one != mine))
        if zone not in self.rosters:
            self.rosters[zone] = Roster(zone, self.name, now, now + SETTLE * bool(seeds))
        self.telling.sit(zone)
        self.reports.again(zone)
        self.out.append(Enter(zone, seeds))

    def exit(self, zone: str) -> None:
        """Leave a zone for good, after `Telling.part`."""
        del self.rosters[zone]
        self.reports.drop(zone)
        self.out.append(Exit(zone))

    # --- joining -------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Go on looking for one's place."""
        asking = self.asking
        self._ask_next(now)
        if not asking.idle or now < asking.again:
            return
        if asking.asked or not self.seeds:
            tries = 1 if self.founder else FOUND_AFTER
            found = asking.rounds >= (FOUND_AT_LAST if asking.heard else tries)
            if not self.seeds or found:
                seeds = [zones.endpoint(seed, self.cluster) for seed in self.seeds]
                self._settle_in(self.cluster, seeds, "the first of its cluster", now)
                return
        asking.rest(now)
        asking.start(self.seeds)
        self._ask_next(now)

    def _ask_next(self, now: float) -> None:
        address = self.asking.step(now)
        if address is not None:
            self.out.append(Ask(address))

    def _join(self, found: Introduction, now: float) -> None:
        """An answer while this node has no place yet."""
        self.asking.heard = True
        holder, mine = found.taken, self.claim
        if holder is not None and (holder.id != mine.id or holder.over(mine)):
            self._refuse(holder.why(self.name, mine), now)
        elif found.enter is not None and zones.covers(found.enter, self.cluster, self.name):
            for zone, peers in found.peers.items():
                self.known_doors[zone] = [zones.endpoint(at, zone) for _, at in peers[:SEEDS]]
            seeds = self.known_doors.get(found.enter, [])[:SEEDS]
            if zones.fits(self.cluster, found.stand):
                self.stand = found.stand
            self._settle_in(found.enter, seeds, f"{found.node} knew its place", now)
        else:
            self.asking.refer(at for at in found.ask if at != self.address)

    def _settle_in(self, leaf: str, seeds: Iterable[str], why: str, now: float) -> None:
        self.phase, self.leaf, self.why = "joined", leaf, ""
        self.asking = Asking()
        self.enter(leaf, seeds, now)
        self.telling.renew(now)
        self.out.append(Changed(self.name, "", "alive", why))

    def _refuse(self, why: str, now: float) -> None:
        """Another holds this node's name.  It asks again later, when that may be gone."""
        if self.why != why:
            self._end("refused", why, now)
        if not self.seeds:
            peers = (peer for roster in self.rosters.values() for peer in roster.live())
            self.seeds = [peer.address for peer in peers if peer.address][:SEEDS]
        self.phase, self.leaf, self.why = "asking", None, why
        self._rivals.clear()
        self.climbing, self.moving, self.standing = Climbing(self), Moving(self), Standing(self)
        self.stand = zones.ROOT
        self.asking = Asking(again=now + GONE, heard=True)

    def _end(self, state: str, why: str, now: float) -> None:
        self.out.append(Changed(self.name, self.own.get("state", ""), state, why))
        if state == "left":
            self.own = {**self.own, "state": "left"}
        for zone in self.rosters:
            self.telling.part(zone, "left", now)
        self.phase = state

    # --- hearing -------------------------------------------------------------------------

    def _hear_beat(self, zone: str, name: str, value: bytes | None, stamp: Any, now: float) -> None:
        if value is None:
            return
        beat = beats.beat(value)
        if name == self.name:
            self._hear_own_name(beat, now)
            return
        roster = self.rosters[zone]
        roster.beat(name, beat, now)
        if beat.miss or beat.seen or beat.want:
            roster.sights(beat.seen, now)
            self.telling.asked(zone, beat)

    def _hear_own_name(self, beat: Beat, now: float) -> None:
        """Another is about under this node's name, or it is an echo of an earlier start."""
        other = Claim(beat.id, beat.boot, zones.parts(beat.leaf)[0])
        if self.phase != "joined" or beat.bye or not other.over(self.claim):
            return
        self._rivals.add(beat.seq)
        if len(self._rivals) >= RIVAL:
            self._refuse(other.why(self.name, self.claim), now)

    def _hear_rival(
        self, zone: str, name: str, value: bytes | None, stamp: Any, now: float
    ) -> None:
        """Somebody found another under this node's name in another zone."""
        other = claims.of(ndb.parse(ndb.text_line(value))) if value is not None else None
        mine = self.phase == "joined" and name == self.name
        if mine and other is not None and other.over(self.claim):
            self._refuse(other.why(self.name, self.claim), now)

    def _hear_node(self, zone: str, name: str, value: bytes | None, stamp: Any, now: float) -> None:
        if value is not None and name != self.name:
            record = ndb.parse(ndb.text_line(value))
            if record.get("name") == name:
                self.rosters[zone].record(name, record, now)

    def _hear_up(
        self,
        zone: str,
        child: str,
        value: bytes | None,
        stamp: Any,
        now: float,
        kind: str = WHOLE,
    ) -> None:
        self.reports.take_up(zone, child, value, kind, stamp, now)

    def _hear_down(
        self, zone: str, above: str, value: bytes | None, stamp: Any, now: float
    ) -> None:
        if zones.inside(zone, above) and zone != above:
            self.reports.take_down(above, value, stamp, now)

    # --- the rest ------------------------------------------------------------------------

    def _stood(self, stood: float, now: float) -> None:
        """This process did not run for a while: the silence of others was its own."""
        for roster in self.rosters.values():
            roster.forgive(stood, now)
        if stood >= GONE / 2:  # others may have taken this node for dead
            self.telling.again()
            for zone in self.rosters:
                self.reports.again(zone)

    def _take(self) -> list[Action]:
        """The actions that came up, with the changes of the own leaf's members."""
        for zone, roster in self.rosters.items():
            if roster.changes:
                if zone == self.leaf:
                    told = (c for c in roster.changes if "parted" not in c[1:3])
                    self.out += [Changed(peer.name, *change) for peer, *change in told]
                roster.changes.clear()
        out, self.out = self.out, []
        return out


# The first part of a key: who takes its values.
_HEARD: dict[str, Callable[[Member, str, str, bytes | None, Any, float], None]] = {
    "beat": Member._hear_beat,
    "node": Member._hear_node,
    "rival": Member._hear_rival,
    "zone": Member._hear_up,
    "zone-news": partial(Member._hear_up, kind=NEWS),
    "up": Member._hear_down,
}
