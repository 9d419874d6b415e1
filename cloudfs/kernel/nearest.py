"""The node nearest to another, by few direct probes.  Pure.

Coordinates tell 20 from 200 ms, and not which of the nodes close by is the closest: between two
machines of one room the prediction is both their heights, which may be 20 times the truth.  So
they only choose candidates, and probes decide (Wong, Slivkins and Sirer, *Meridian*, SIGCOMM 2005).

Candidates come from three lists in turn, the best of each first:

- `likeness`: nodes of one room see all others alike, hence have like coordinates *and* like
  heights.  The distance with the heights' difference in place of their sum ranks them far better
  than the prediction does.  Added to it is what measured times say against a node: where c is 20
  from the target and 90 from a node, that node is about 70 from the target or more (the triangle).
  It only moves nodes down the list, since triangles are broken at times and witnesses lie;
- the predicted time, which is right where heights really are access links;
- hearsay: what a candidate that proved near says it measured itself to its own near ones, as in
  Meridian's rings.  Followed only from CLOSE by, and while it promises to be no farther than twice
  the best so far.

Whoever drives it has the target probe the candidate, or the other way round, and feeds back what
was measured.  Nobody is chosen for what it claims: only for a time that was measured.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from cloudfs.kernel.coordinate import LONGEST, Coordinate

MOST = 10  # probes of one search
LIKE, PREDICTED = 3, 1  # how many are taken from each list in turn
HEARD = 48  # that one candidate may name
DEEP = 60  # nodes that seem alike, of which the next one to probe is taken
CLOSE = 0.005  # seconds: hearsay of candidates is followed when the best is nearer
KNOWN = 2  # of the times known before that are tried first


def likeness(one: Coordinate, other: Coordinate) -> float:
    """How differently two nodes see the rest, in seconds; small where they stand in one room."""
    return math.dist((*one.place, one.height), (*other.place, other.height))


@dataclass(frozen=True, slots=True)
class Nearest:
    """What a search found.

    node: "" when there was no candidate; seconds: measured, or predicted when no probe came
    back; how: measured or predicted; probed: seconds of each node probed, None without answer.
    """

    node: str
    seconds: float
    how: str
    probed: Mapping[str, float | None]


@dataclass(slots=True)
class Search:
    """One search.  `next` names the node to probe, `answered` or `missed` says what came of it.

    known: seconds to nodes that the target has measured before, tried first.
    """

    target: Coordinate
    candidates: Mapping[str, Coordinate]
    known: Mapping[str, float] = field(default_factory=dict)
    most: int = MOST
    probed: dict[str, float | None] = field(default_factory=dict)
    _lists: list[list[str]] = field(default_factory=list)
    _heard: dict[str, float] = field(default_factory=dict)
    _apart: dict[str, float] = field(default_factory=dict)  # seconds, at least, by triangles
    _alike: list[str] = field(default_factory=list)
    _asked: int = 0

    def __post_init__(self) -> None:
        many, target, all_ = self.most * 2, self.target, self.candidates
        self._alike = heapq.nsmallest(DEEP, all_, key=lambda name: likeness(target, all_[name]))
        near = heapq.nsmallest(many, all_, key=lambda name: target.distance(all_[name]))
        first = heapq.nsmallest(KNOWN, self.known, key=self.known.__getitem__)
        self._lists = [list(reversed(part)) for part in (first, near)]

    @property
    def best(self) -> float:
        """Seconds of the nearest so far; infinite before there is one."""
        return min((time for time in self.probed.values() if time is not None), default=math.inf)

    def next(self) -> str | None:
        """The node to probe now; None when the search is over."""
        if len(self.probed) >= self.most:
            return None
        name = self._pick()
        if name is not None:
            self.probed[name] = None
        return name

    def answered(self, name: str, rtt: float, heard: Iterable[tuple[str, float]] = ()) -> None:
        """A candidate was `rtt` seconds from the target.

        heard: what that candidate says it measured to those near it.
        """
        if name not in self.probed or not 0 < rtt <= LONGEST:
            return
        self.probed[name] = rtt
        for other, seconds in self._sound(heard):
            bound = rtt + seconds
            self._heard[other] = min(bound, self._heard.get(other, math.inf))
            self._apart[other] = max(abs(rtt - seconds), self._apart.get(other, 0.0))

    def told(self, rtt: float, heard: Iterable[tuple[str, float]]) -> None:
        """What a node says it measured that the target has measured before to be `rtt` seconds
        away.  It costs no probe."""
        if 0 < rtt <= LONGEST:
            for other, seconds in self._sound(heard):
                self._apart[other] = max(abs(rtt - seconds), self._apart.get(other, 0.0))

    def missed(self, name: str) -> None:
        """A probe came back from nowhere; the search goes on without that node."""
        self._heard.pop(name, None)

    def found(self) -> Nearest:
        """The answer so far."""
        times = {name: time for name, time in self.probed.items() if time is not None}
        if times:
            node = min(times, key=times.__getitem__)
            return Nearest(node, times[node], "measured", dict(self.probed))
        left = [name for name in self.candidates if name not in self.probed]
        if not left:
            return Nearest("", math.inf, "predicted", dict(self.probed))
        node = min(left, key=lambda name: self.target.distance(self.candidates[name]))
        seconds = self.target.distance(self.candidates[node])
        return Nearest(node, seconds, "predicted", dict(self.probed))

    def _sound(self, heard: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
        """Those of the first HEARD that are times to candidates."""
        for other, seconds in islice(heard, HEARD):
            if other in self.candidates and 0 < seconds <= LONGEST:
                yield other, seconds

    def _pick(self) -> str | None:
        known, near = self._lists
        name = self._pop(known)
        if name is None and self._heard and self.best < CLOSE:
            name = min(self._heard, key=self._heard.__getitem__)
            bound = self._heard.pop(name)
            if name in self.probed or bound > 2 * self.best:
                name = None
        if name is None:
            self._asked += 1
            by_likeness = self._asked % (LIKE + PREDICTED) != 0
            name = self._likest() if by_likeness else self._pop(near)
            name = name or self._pop(near) or self._likest()
        return name

    def _likest(self) -> str | None:
        """The node most alike that was not probed, counting what triangles say against it."""
        left = (name for name in self._alike if name not in self.probed)
        return min(left, key=self._unlike, default=None)

    def _unlike(self, name: str) -> float:
        return likeness(self.target, self.candidates[name]) + self._apart.get(name, 0.0)

    def _pop(self, names: list[str]) -> str | None:
        """The next of a list that is a candidate and was not probed."""
        while names:
            name = names.pop()
            if name in self.candidates and name not in self.probed:
                return name
        return None
