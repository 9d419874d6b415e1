"""The members of one zone as one of them sees them: who lives, by what sign.  Pure.

Every member beats; silence makes it suspect and then gone.  Three things keep the living
from being buried: the time that this node itself stood still does not count (`forgive`,
after HashiCorp's Lifeguard), a member that one does not hear directly is asked for in the
next beat and those who hear it say so (after SWIM), and the engine's word that a connection
was lost only shortens the wait.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cloudfs.kernel import zones
from cloudfs.kernel.beats import LISTED, Beat, Sight


class Patience(NamedTuple):
    """Seconds of silence and what follows from them."""

    missed: float  # without a beat of its own: others are asked
    suspect: float
    gone: float
    lost: float  # gone as well, where the connection is lost and was not made anew


HOME = Patience(3.2, 4.5, 9.0, 6.5)  # for those at home in the zone, who beat every BEAT,
ABOVE = Patience(4.6, 7.5, 12.0, 7.5)  # and for delegates from below, every SLOW
GONE = HOME.gone
GRACE = 3.0  # seconds that the engine has to make a connection anew
KEEP = 3600.0  # seconds for which those that are gone or left are remembered,
KEEP_MOST = 64  # and how many

# (state, event): next state.  "" is one whose record came before its first beat.
TRANSITIONS = {
    ("", "beat"): "alive",
    ("alive", "silence"): "suspect",
    ("alive", "overdue"): "gone",
    ("suspect", "beat"): "alive",
    ("suspect", "overdue"): "gone",
    ("gone", "beat"): "alive",
    ("left", "beat"): "alive",
    ("parted", "beat"): "alive",
    **{(state, "left"): "left" for state in ("", "alive", "suspect", "gone", "parted")},
    **{(state, "parted"): "parted" for state in ("", "alive", "suspect", "gone")},
}
LIVE = frozenset({"alive", "suspect"})


class Peer:
    """One member: what it said of itself and when."""

    __slots__ = (
        "apart",
        "boot",
        "direct",
        "heard",
        "id",
        "leaf",
        "lost",
        "move",
        "name",
        "record",
        "record_rev",
        "rev",
        "seq",
        "since",
        "stand",
        "state",
    )  # fmt: skip

    def __init__(self, name: str, id: str, boot: int, now: float) -> None:
        self.name = name
        self.id = id
        self.boot = boot
        self.seq = -1  # of the last beat
        self.heard = self.direct = now  # the last sign of life; the last beat of its own
        self.lost: float | None = None  # when the engine lost it
        self.state = ""
        self.since = now  # in this state
        self.leaf = self.stand = ""
        self.move = ""
        self.apart: float | None = None  # since when it does not hold the same for living
        self.rev = self.record_rev = -1  # that it has; that we have
        self.record: Mapping[str, str] | None = None

    @property
    def address(self) -> str:
        return (self.record or {}).get("addr", "")

    @property
    def shown(self) -> str:
        """Its state for all to read: of one that lives, what its record says; "" of one
        whose record has not come."""
        if self.record is None:
            return ""
        return self.record.get("state") or "alive" if self.state == "alive" else self.state


Change = tuple[Peer, str, str, str]  # the peer, its old and new shown state, why


class Roster:
    """The others in one zone."""

    def __init__(self, zone: str, own: str, now: float, settles: float) -> None:
        self.zone = zone
        self.own = own  # this node's name
        self.entered = now
        self.settles = settles  # when all its members have been heard
        self.peers: dict[str, Peer] = {}
        self.changes: list[Change] = []  # to be taken away by the member's core
        self.version = 0  # grows when who lives, or where, changes
        self.sum = _sum(own)  # of the names of those who live; two with the same agree
        self._turn = 0

    def live(self) -> Iterator[Peer]:
        """Those who live, suspects included."""
        return (peer for peer in self.peers.values() if peer.state in LIVE)

    def lives(self, name: str) -> bool:
        peer = self.peers.get(name)
        return peer is not None and peer.state in LIVE

    def home(self, leaf: str) -> list[Peer]:
        """Those who live and are at home in a leaf."""
        return [peer for peer in self.live() if peer.leaf == leaf]

    def below(self, child: str) -> list[Peer]:
        """Those who live and stand in this zone for a child of it, or for a part of that."""
        return [p for p in self.live() if zones.stands(p.leaf, p.stand, self.zone, child)]

    def manned(self, child: str) -> bool:
        """Whether anybody does; of a child that can be no inner zone, itself.  Where it was
        split and somebody missed that it was withdrawn, those below do not keep it alive."""
        if len(zones.parts(child)[1]) % zones.STEP:
            return any(child in (p.leaf, p.stand) for p in self.live())
        return any(zones.stands(p.leaf, p.stand, self.zone, child) for p in self.live())

    def clusters(self) -> set[str]:
        """The clusters that stand in this zone, of those who live."""
        return {zones.parts(p.leaf)[0] for p in self.live() if p.stand == self.zone}

    def beat(self, name: str, beat: Beat, now: float) -> None:
        """Take a beat.  One that came late or twice has an old number and says nothing."""
        peer = self.peers.get(name)
        if peer is not None and peer.boot == beat.boot and peer.id == beat.id:
            if beat.seq <= peer.seq:
                return
            why = "heard again"
        else:
            peer, why = self._claim(name, beat.id, beat.boot, now)
            if peer is None:
                return
        peer.seq, peer.rev = beat.seq, beat.rev
        peer.heard = peer.direct = now
        peer.lost = None
        peer.move = beat.move
        if beat.sum == self.sum:
            peer.apart = None
        elif peer.apart is None:
            peer.apart = now
        if peer.leaf != beat.leaf or peer.stand != beat.stand:
            peer.leaf, peer.stand = beat.leaf, beat.stand
            self.version += 1
        if beat.bye:
            self._go(peer, beat.bye, now, "it said so")
        elif peer.state != "alive":
            self._go(peer, "beat", now, why)

    def record(self, name: str, record: Mapping[str, str], now: float) -> None:
        """Take a record: its identity, revision (`rev=`) and attributes."""
        try:
            boot, rev = int(record["boot"]), int(record["rev"])
        except (KeyError, ValueError):
            return
        peer = self.peers.get(name)
        if peer is None or (peer.id, peer.boot) != (record.get("id", "")[:8], boot):
            peer, _ = self._claim(name, record.get("id", "")[:8], boot, now)
            if peer is None:
                return
        if "zone" not in record:  # told above the leaf: what identifies it is in the peer
            record = {"name": peer.name} | {n: record[n] for n in ("addr", "state") if n in record}
        if rev > peer.record_rev:
            old = peer.shown
            peer.record, peer.record_rev = record, rev
            if peer.shown != old:
                self.changes.append((peer, old, peer.shown, "it told its record"))

    def _claim(self, name: str, id: str, boot: int, now: float) -> tuple[Peer | None, str]:
        """The peer of a name for one who claims it; None where the claim does not hold.

        While the holder of a name is heard, another key does not get it, and an older
        start of the same key is an echo.  Where the clock was set back, the older stamp
        is the newer start: it holds once the other is silent.
        """
        peer = self.peers.get(name)
        if peer is None:
            self.peers[name] = peer = Peer(name, id, boot, now)
            return peer, "joined"
        if peer.id != id and (peer.state in LIVE or not peer.state):
            return None, ""
        if peer.id == id and boot < peer.boot and peer.state in ("", "alive"):
            return None, ""
        if peer.id != id:
            peer.record = None
        elif peer.state == "alive" and peer.record:
            self.changes.append((peer, peer.shown, peer.shown, "started again"))
        peer.id, peer.boot, peer.seq, peer.rev, peer.record_rev = id, boot, -1, -1, -1
        return peer, "started again"

    def sights(self, seen: tuple[Sight, ...], now: float) -> None:
        """Another member says whom it hears.  Only a newer beat than ours is news."""
        for name, boot, seq in seen:
            peer = self.peers.get(name)
            if peer is not None and peer.boot == boot and seq > peer.seq and peer.seq >= 0:
                peer.seq, peer.heard = seq, now
                if peer.state in ("suspect", "gone"):
                    self._go(peer, "beat", now, "others hear it")

    def hint(self, name: str, joined: bool, now: float) -> None:
        """The engine made or lost the connection to a member."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.lost = None if joined else now

    def forgive(self, stood: float, now: float) -> None:
        """This node stood still for so many seconds, in which it could hear nobody."""
        for peer in self.peers.values():
            peer.heard = min(now, peer.heard + stood)
            peer.direct = min(now, peer.direct + stood)
            if peer.lost is not None:
                peer.lost = min(now, peer.lost + stood)

    def judge(self, now: float) -> None:
        """Let silence have its consequences."""
        forget = []
        for peer in self.peers.values():
            silence, state = now - peer.heard, peer.state
            if state == "alive" and silence < HOME.suspect and peer.lost is None:
                continue
            if state not in LIVE:
                if now - peer.since > (KEEP if state else GONE):
                    forget.append(peer.name)
                continue
            cut = peer.lost is not None and now - peer.lost >= GRACE
            most = self._patience(peer)
            if silence >= most.gone or (cut and silence >= most.lost):
                why = "the connection is lost" if cut else "nobody hears it"
                self._go(peer, "overdue", now, f"silent for {silence:.1f} s, {why}")
            elif silence >= most.suspect and state == "alive":
                self._go(peer, "silence", now, f"silent for {silence:.1f} s")
        over = [peer for peer in self.peers.values() if peer.state not in LIVE]
        if len(over) > KEEP_MOST:
            over.sort(key=lambda peer: peer.since)
            forget += [peer.name for peer in over[:-KEEP_MOST]]
        for name in forget:
            self.peers.pop(name, None)

    def missed(self, now: float) -> tuple[str, ...]:
        """Whom to ask the others for: those not heard directly, and now and then the gone."""
        self._turn += 1
        states = LIVE | {"gone"} if self._turn % 8 == 0 else LIVE
        names = [
            p.name
            for p in self.peers.values()
            if p.state in states and now - p.direct >= self._patience(p).missed
        ]
        at = self._turn * LISTED % len(names) if len(names) > LISTED else 0
        return tuple((names[at:] + names[:at])[:LISTED])

    def vouch(self, names: set[str], now: float) -> tuple[Sight, ...]:
        """Of those that others miss, whom this node hears."""
        found = (self.peers.get(name) for name in sorted(names))
        heard = (
            p
            for p in found
            if p and p.state == "alive" and now - p.direct < self._patience(p).missed
        )
        return tuple((peer.name, peer.boot, peer.seq) for peer in heard)[:LISTED]

    def _patience(self, peer: Peer) -> Patience:
        return HOME if peer.leaf == self.zone else ABOVE

    def wanted(self) -> tuple[str, ...]:
        """Whose newest record has not come."""
        return tuple(p.name for p in self.live() if p.rev > p.record_rev)[:LISTED]

    def _go(self, peer: Peer, event: str, now: float, why: str) -> None:
        state = TRANSITIONS.get((peer.state, event))
        if state is None:
            return
        old, lived = peer.shown, peer.state in LIVE
        peer.state, peer.since = state, now
        if (state in LIVE) is not lived:
            self.version += 1
            self.sum ^= _sum(peer.name)
        if peer.shown != old:
            self.changes.append((peer, old, peer.shown, why))


def _sum(name: str) -> int:
    return zlib.crc32(name.encode()) & 0xFFFF
