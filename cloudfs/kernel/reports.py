"""Digests on their way: up from child zones, and down from the zones above.  Pure.

In an inner zone the delegates of each child publish its digest; the first of them does so
on change and now and then, the second only where the first is silent or wrong.  Down go
the digest of each zone above, merged, and whom to enter that zone by, so that a delegate
that takes over knows the way when both before it are dead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import aggregate, zones
from cloudfs.kernel.aggregate import Digest
from cloudfs.kernel.roster import GONE, Peer, Roster
from cloudfs.kernel.zones import Size

REPEAT = 20.0  # seconds after which an unchanged digest is told again
LIFE = 3 * REPEAT  # seconds after which one that is not told again counts no more
ALONE = GONE + 6.0  # the same where none of the child's delegates is left
STANDBY = 3.0  # seconds that the second delegate gives the first
# Seconds after which a change is told once more: in case it was lost, and when those who
# were only about to become delegates have stopped telling what little they knew.
ECHOES = (4.0, 20.0)
LEAF_PAUSE, INNER_PAUSE = 1.0, 3.0  # seconds between two of one zone at least
DOWN_PAUSE, DOWN_REPEAT = 5.0, 60.0  # the same on the way down
DOORS = 6  # members of a zone above that are passed down

Door = tuple[str, str]  # a node's name and 9P address


@dataclass(slots=True)
class Report:
    """What was last heard of a zone, and when, by our clock less the age it came with."""

    zone: str
    by: str
    address: str
    leaf: bool
    doors: tuple[Door, ...]
    digest: Digest
    at: float
    stamp: Any = None  # ordered; of the publication


@lru_cache(1 << 9)
def _read(value: bytes) -> tuple[dict[str, str], tuple[Door, ...], Digest]:
    text = value.decode(errors="replace")
    head: dict[str, str] = {}
    doors: list[Door] = []
    for line in text.splitlines():
        if line.startswith("zone="):
            head = ndb.parse(line)
        elif line.startswith("door="):
            pairs = ndb.parse(line)
            doors.append((pairs["door"], pairs.get("addr", "")))
    return head, tuple(doors[:DOORS]), aggregate.parse(text)


def parse(value: bytes, now: float, stamp: Any) -> Report:
    """A report as it came; CloudError("bad") where it is none.  Its digest is shared: it is
    never changed."""
    head, doors, digest = _read(value)
    try:
        age = max(0.0, float(head.get("age") or 0))
        return Report(
            zones.check(head["zone"]),
            head.get("by", ""),
            head.get("addr", ""),
            head.get("leaf") == "yes",
            doors,
            digest,
            now - age,
            stamp,
        )
    except (KeyError, ValueError) as failure:
        raise CloudError("bad", f"no report of a zone: {failure}") from None


@dataclass(slots=True)
class Told:
    """What this node last published of a zone."""

    at: float = -math.inf
    size: tuple[int, int] = (-1, -1)
    differs: float | None = None  # since when what others told is not what we see
    echoes: tuple[float, ...] = ()  # when a change is told once more

    def changed(self, size: tuple[int, int], pause: float, now: float) -> bool:
        """Whether a change is due to be told, or to be told once more."""
        if size != self.size and now - self.at >= pause:
            self.echoes = tuple(now + echo for echo in ECHOES)
            return True
        if self.echoes and now >= self.echoes[0]:
            self.echoes = self.echoes[1:]
            return True
        return False

    def denied(self, heard: Report | None, differs: bool, now: float) -> bool:
        """Whether another, who knows less, has told otherwise since."""
        return heard is not None and differs and heard.at > self.at and now - self.at >= STANDBY

    def now(self, size: tuple[int, int], now: float) -> bool:
        """It is told now."""
        self.at, self.size, self.differs = now, size, None
        return True


@dataclass(slots=True)
class Reports:
    """The digests that one node holds."""

    up: dict[str, dict[str, Report]] = field(default_factory=dict)  # zone: its children's
    down: dict[str, Report] = field(default_factory=dict)  # of each zone above
    told: dict[tuple[str, str], Told] = field(default_factory=dict)  # by (zone in, key)

    def take_up(self, zone: str, child: str, value: bytes | None, stamp: Any, now: float) -> None:
        """A child's digest was published in a zone, or withdrawn (None)."""
        table = self.up.setdefault(zone, {})
        old = table.get(child)
        if old is not None and not _newer(stamp, old.stamp):
            return
        if value is None:
            table.pop(child, None)
            return
        report = parse(value, now, stamp)
        if report.zone == child != zone and zones.inside(child, zone):
            table[child] = report

    def take_down(self, zone: str, value: bytes | None, stamp: Any, now: float) -> None:
        """The digest of a zone above was passed down."""
        if value is None:
            return
        report = parse(value, now, stamp)
        old = self.down.get(zone)
        if report.zone == zone and (old is None or report.at > old.at):
            self.down[zone] = report

    def again(self, zone: str) -> None:
        """Publish in the zone as if nothing had been."""
        for key in [key for key in self.told if key[0] == zone]:
            del self.told[key]

    def drop(self, zone: str) -> None:
        """This node is no member of the zone any more."""
        self.up.pop(zone, None)
        self.again(zone)

    def children(self, roster: Roster, now: float) -> dict[str, Report]:
        """The children of an inner zone of which something fresh is known."""
        table = self.up.get(roster.zone)
        if not table:
            return {}
        found = {}
        for child, report in list(table.items()):
            age = now - report.at
            if age > 4 * LIFE:
                del table[child]
            elif age <= ALONE or (age <= LIFE and _manned(child, roster)):
                found[child] = report
        return found

    def sizes(self, rosters: Iterable[Roster], now: float) -> dict[str, Size]:
        """The size of each zone of which these rosters hold a digest and a delegate."""
        return {
            child: Size(report.digest.nodes, report.leaf)
            for roster in rosters
            for child, report in self.children(roster, now).items()
            if report.digest.nodes and _manned(child, roster)
        }

    def due_up(
        self, place: str, zone: str, size: tuple[int, int], leaf: bool, first: bool, now: float
    ) -> bool:
        """Whether this delegate is to publish a child's digest in the zone above now.
        size: of its nodes how many there are, and how many are drained."""
        told = self.told.setdefault((place, zone), Told())
        heard = self.up.get(place, {}).get(zone)
        pause = LEAF_PAUSE if leaf else INNER_PAUSE
        said = (heard.digest.nodes, heard.digest.states.get("drained", 0)) if heard else None
        if first or heard is None:
            due = told.changed(size, pause, now) or now - told.at >= REPEAT
            due = due or told.denied(heard, said != size, now)
        else:
            told.echoes = ()
            told.differs = None if said == size else (told.differs or now)
            wrong = told.differs is not None and now - told.differs >= STANDBY
            late = now - heard.at >= REPEAT + STANDBY
            due = (wrong or late) and now - told.at >= max(pause, STANDBY)
        return due and told.now(size, now)

    def due_down(self, place: str, zone: str, nodes: int, first: bool, now: float) -> bool:
        """Whether this delegate is to pass the digest of a zone above down now."""
        told = self.told.setdefault((place, zone), Told())
        heard = self.down.get(zone)
        if first:
            due = told.changed((nodes, 0), DOWN_PAUSE, now) or now - told.at >= DOWN_REPEAT
            due = due or told.denied(heard, heard is not None and heard.digest.nodes != nodes, now)
        else:
            late = heard is None or now - heard.at >= DOWN_REPEAT + STANDBY
            due = late and now - told.at >= DOWN_PAUSE
        return due and told.now((nodes, 0), now)


def _manned(child: str, roster: Roster) -> bool:
    """Whether somebody in an inner zone stands for a child of it, or a part of that."""
    return any(zones.inside(peer.leaf, child) for peer in roster.live())


def _newer(stamp: Any, old: Any) -> bool:
    return old is None or stamp is None or bool(old < stamp)


def text(
    zone: str,
    digest: Digest,
    *,
    by: str,
    address: str,
    leaf: bool,
    doors: Sequence[Door] = (),
    age: float = 0.0,
) -> bytes:
    """A report as it is published."""
    head: dict[str, object] = {"zone": zone, "by": by, "addr": address}
    head["leaf"] = "yes" if leaf else "no"
    if age >= 1:
        head["age"] = round(age, 1)
    lines = [ndb.record(head)]
    lines += [ndb.record({"door": name, "addr": at}) for name, at in doors[:DOORS]]
    return ("\n".join(lines) + "\n" + digest.text()).encode()


def summary(roster: Roster, leaf: str, own: tuple[str, dict[str, str]] | None) -> Digest:
    """The digest of those at home in a leaf: the others, and this node's own record."""
    rows: list[tuple[str, Any]] = [
        (_state(peer), peer.record or {"name": peer.name}) for peer in roster.home(leaf)
    ]
    return aggregate.of([*rows, own] if own else rows)


def _state(peer: Peer) -> str:
    return peer.state if peer.state != "alive" else (peer.shown or "alive")
