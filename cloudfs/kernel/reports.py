"""Digests on their way: up from child zones, and down from the zones above.  Pure.

In an inner zone the delegates of each child publish its digest; the first of them does so
on change and now and then, the second only where the first is silent or wrong.  The whole
goes rarely; *news* between say how many nodes there are and what went beyond the whole
(`Digest.beyond`), so that a change at the far end of a large cloud costs a line.  Down, by
the last delegate, goes of each zone above how many nodes it has and whom to enter it by, so
that a delegate that takes over knows the way when both before it are dead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import aggregate, bloom, zones
from cloudfs.kernel.aggregate import Digest, Packed
from cloudfs.kernel.roster import GONE, Peer, Roster
from cloudfs.kernel.zones import Size

REPEAT = 120.0  # seconds after which the whole of a leaf's digest is told again,
INNER_REPEAT = 240.0  # of an inner zone's, whose range of numbers narrows seldom,
LOOK = 30.0  # and what went beyond that meanwhile; counts of nodes are told when they change
LIFE = 2 * INNER_REPEAT  # seconds after which one that is not told again counts no more
ALONE = GONE + 6.0  # the same where none of the child's delegates is left
STANDBY = 3.0  # seconds that the second delegate gives the first
# Seconds after which a change is told once more: in case it was lost, and when those who
# were only about to become delegates have stopped telling what little they knew.
ECHOES = (4.0, 20.0, 60.0)
LEAF_PAUSE, INNER_PAUSE = 1.0, 3.0  # seconds between two of one zone at least
DOWN_PAUSE, DOWN_REPEAT = 5.0, 180.0  # the same on the way down
DOORS = 4  # members of a zone above that are passed down

WHOLE, NEWS = "", "-news"  # what is told, as a key's first word says it

NO_NEWS = Digest()
UNKNOWN = Digest(cut=True, names=bloom.FULL)  # of a zone in which anything may be

Door = tuple[str, str]  # a node's name and 9P address


@dataclass(slots=True)
class Report:
    """What was last heard of a zone, and when, by our clock less the age it came with."""

    zone: str
    by: str
    address: str
    leaf: bool
    doors: tuple[Door, ...]
    kept: Packed
    at: float
    stamp: Any = None  # ordered; of the publication
    news: Digest | None = None  # all that was heard, where the whole has not come yet

    @property
    def digest(self) -> Digest:
        return self.kept.digest()


@lru_cache(1 << 4)
def _read(value: bytes) -> tuple[dict[str, str], tuple[Door, ...], Packed]:
    text = value.decode(errors="replace")
    head: dict[str, str] = {}
    doors: list[Door] = []
    for line in text.splitlines():
        if line.startswith("zone="):
            head = ndb.parse(line)
        elif line.startswith("door="):
            pairs = ndb.parse(line)
            doors.append((pairs["door"], pairs.get("addr", "")))
    return head, tuple(doors[:DOORS]), Packed(aggregate.parse(text))


def parse(value: bytes, now: float, stamp: Any) -> Report:
    """A report as it came; CloudError("bad") where it is none."""
    head, doors, kept = _read(value)
    try:
        age = max(0.0, float(head.get("age") or 0))
        return Report(
            zones.check(head["zone"]),
            head.get("by", ""),
            head.get("addr", ""),
            head.get("leaf") == "yes",
            doors,
            kept,
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
    doors: tuple[Door, ...] = ()
    whole: Packed | None = None  # the last that was told whole,
    whole_at: float = -math.inf  # when,
    news: Digest = field(default_factory=lambda: NO_NEWS)  # and the news since
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

    def told(self, size: tuple[int, int], now: float) -> None:
        """It is told now, or there is nothing to tell."""
        self.at, self.size, self.differs = now, size, None


@dataclass(slots=True)
class Reports:
    """The digests that one node holds."""

    up: dict[str, dict[str, Report]] = field(default_factory=dict)  # zone: its children's
    down: dict[str, Report] = field(default_factory=dict)  # of each zone above
    told: dict[tuple[str, str], Told] = field(default_factory=dict)  # by (zone in, key)

    def take_up(
        self, zone: str, child: str, value: bytes | None, kind: str, stamp: Any, now: float
    ) -> None:
        """A child's digest, whole or news, was published in a zone, or withdrawn (None)."""
        table = self.up.setdefault(zone, {})
        old = table.get(child)
        newer = old is None or _newer(stamp, old.stamp)
        if value is None:
            if newer and kind == WHOLE:
                table.pop(child, None)
            return
        report = parse(value, now, stamp)
        if report.zone == child != zone and zones.inside(child, zone):
            table[child] = _join(old, report, kind, newer)

    def take_down(self, zone: str, value: bytes | None, stamp: Any, now: float) -> None:
        """The size of a zone above was passed down."""
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
            elif age <= ALONE or (age <= LIFE and roster.manned(child)):
                found[child] = report
        return found

    def sizes(self, rosters: Iterable[Roster], now: float) -> dict[str, Size]:
        """The size of each zone of which these rosters hold a digest and a delegate."""
        return {
            child: Size(report.kept.nodes, report.leaf)
            for roster in rosters
            for child, report in self.children(roster, now).items()
            if report.kept.nodes and roster.manned(child)
        }

    def groups(self, rosters: Iterable[Roster], now: float) -> dict[str, Size]:
        """The size of each group of which these rosters hold a digest and a delegate."""
        return {
            child: Size(zones.WEIGHT * report.kept.clusters, report.leaf)
            for roster in rosters
            for child, report in self.children(roster, now).items()
            if report.kept.clusters and not zones.parts(child)[0] and roster.manned(child)
        }

    def due_up(
        self,
        place: str,
        zone: str,
        size: tuple[int, int],
        digest: Callable[[], Digest],
        leaf: bool,
        first: bool,
        now: float,
    ) -> tuple[str, Digest] | None:
        """What this delegate is to publish of a child in the zone above now, if anything.
        size: of its nodes how many there are, and how many are drained."""
        told = self.told.setdefault((place, zone), Told())
        heard = self.up.get(place, {}).get(zone)
        pause, repeat = (LEAF_PAUSE, REPEAT) if leaf else (INNER_PAUSE, INNER_REPEAT)
        said = (heard.kept.nodes, heard.kept.drained) if heard else None
        if first or heard is None:
            changed = told.changed(size, pause, now)
            changed = changed or told.denied(heard, said != size, now)
            if changed or now - told.at >= LOOK:
                return self._tell(told, heard, size, digest(), changed, repeat, now)
            return None
        told.echoes = ()
        told.differs = None if said == size else (told.differs or now)
        wrong = told.differs is not None and now - told.differs >= STANDBY
        late = now - heard.at >= repeat + STANDBY
        if not (wrong or late) or now - told.at < max(pause, STANDBY):
            return None
        told.whole = None
        return self._tell(told, heard, size, digest(), True, repeat, now)

    def due_down(
        self, place: str, zone: str, nodes: int, doors: Sequence[Door], speaks: bool, now: float
    ) -> bool:
        """Whether this delegate is to pass the size of a zone above down now."""
        told = self.told.setdefault((place, zone), Told())
        heard = self.down.get(zone)
        if speaks:
            due = told.changed((nodes, 0), DOWN_PAUSE, now) or now - told.at >= DOWN_REPEAT
            due = due or (told.doors != tuple(doors) and now - told.at >= LOOK)
            due = due or told.denied(heard, heard is not None and heard.kept.nodes != nodes, now)
        else:
            late = heard is None or now - heard.at >= DOWN_REPEAT + STANDBY
            due = late and now - told.at >= DOWN_PAUSE
        if due:
            told.doors = tuple(doors)
            told.told((nodes, 0), now)
        return due

    def _tell(
        self,
        told: Told,
        heard: Report | None,
        size: tuple[int, int],
        digest: Digest,
        changed: bool,
        repeat: float,
        now: float,
    ) -> tuple[str, Digest] | None:
        """The whole digest where that is due or news would be as long, else the news."""
        told.told(size, now)
        # News of ours, beyond our own whole, do not mend what another told since.
        other = heard is not None and heard.at > told.whole_at
        if told.whole is not None and not other and now - told.whole_at < repeat:
            news, more = digest.beyond(told.whole.digest(), told.news)
            parts = len(news.numbers) + len(news.texts)
            if 2 * parts <= len(digest.numbers) + len(digest.texts):
                if not (changed or more):
                    return None
                told.news = news
                return NEWS, news
        told.whole, told.whole_at, told.news = Packed(digest), now, NO_NEWS
        return WHOLE, digest


def _join(old: Report | None, new: Report, kind: str, newer: bool) -> Report:
    """What is known of a zone when a report of it came, maybe late: of the whole and the news
    a newcomer gets the newest of each in any order."""
    if kind == WHOLE:
        if old is None or newer:
            return new
        if old.news is None:
            return old
        return replace(old, kept=Packed(new.digest.overlaid(old.news)), news=None)
    if old is not None and not newer:
        return old
    if old is not None and old.news is None:
        return replace(new, kept=Packed(old.digest.overlaid(new.digest)))
    news = new.digest if old is None or old.news is None else old.news.overlaid(new.digest)
    return replace(new, kept=Packed(UNKNOWN.overlaid(news)), news=news)


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
