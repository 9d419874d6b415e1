"""The node nearest to another, by few direct probes.  Pure.

Coordinates tell 20 from 200 ms, and not which of the nodes close by is the closest: between two
machines of one room the prediction is both their heights, which may be 20 times the truth.  So
they only choose candidates, and probes decide (Wong, Slivkins and Sirer, *Meridian*, SIGCOMM 2005).

Candidates come from three lists in turn, the best of each first:

- `likeness`: nodes of one room see all others alike, hence have like coordinates *and* like
  heights.  The distance with the heights' difference in place of their sum ranks them far better
  than the prediction does.
- the predicted time, which is right where heights really are access links;
- hearsay: what a candidate that proved near says it measured itself to its own near ones, as in
  Meridian's rings.  Counted only while it promises better than the best so far.

Whoever drives it has the target probe the candidate, or the other way round, and feeds back what
was measured.  Nobody is chosen for what it claims: only for a time that was measured.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cloudfs.kernel.coordinate import LONGEST, Coordinate

MOST = 10  # probes of one search
LIKE, PREDICTED = 3, 1  # how many are taken from each list in turn
HEARD = 16  # that one candidate may name
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
    _asked: int = 0

    def __post_init__(self) -> None:
        many, target, all_ = self.most * 2, self.target, self.candidates
        like = heapq.nsmallest(many, all_, key=lambda name: likeness(target, all_[name]))
        near = heapq.nsmallest(many, all_, key=lambda name: target.distance(all_[name]))
        first = heapq.nsmallest(KNOWN, self.known, key=self.known.__getitem__)
        self._lists = [list(reversed(part)) for part in (first, like, near)]

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
        for index, (other, seconds) in enumerate(heard):
            if index >= HEARD:
                break
            if other in self.candidates and 0 < seconds <= LONGEST:
                bound = rtt + seconds
                self._heard[other] = min(bound, self._heard.get(other, math.inf))

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

    def _pick(self) -> str | None:
        known, like, near = self._lists
        name = self._pop(known)
        if name is None and self._heard:
            name = min(self._heard, key=self._heard.__getitem__)
            bound = self._heard.pop(name)
            if name in self.probed or bound > 2 * self.best:
                name = None
        if name is None:
            self._asked += 1
            by_likeness = self._asked % (LIKE + PREDICTED) != 0
            one, two = (like, near) if by_likeness else (near, like)
            name = self._pop(one) or self._pop(two)
        return name

    def _pop(self, names: list[str]) -> str | None:
        """The next of a list that is a candidate and was not probed."""
        while names:
            name = names.pop()
            if name in self.candidates and name not in self.probed:
                return name
        return None
