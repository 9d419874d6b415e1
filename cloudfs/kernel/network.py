"""What the network costs, as this node knows it: measured where it was, else predicted.

    measure.py ──times──▶ Network ──figures──▶ tree/net.py, queries, placing
    telling.py ◀─own coordinate─┘ ▲
    cloud.py ──others' coordinates┘

Every figure carries its age, how it was got and its error.  State grows with the nodes that
were measured, at most KEPT, never with the cloud.  What others say is taken for a coordinate
or an opinion, never for a time that this node measured.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median
from typing import Protocol

from cloudfs.errors import CloudError
from cloudfs.kernel import coordinate
from cloudfs.kernel.bandwidth import Flow
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.coordinate import LONGEST, WORST, Coordinate, Position
from cloudfs.kernel.demands import Demands
from cloudfs.kernel.estimator import Estimator, Latency
from cloudfs.kernel.figure import SELF, Known
from cloudfs.kernel.forecast import Forecast, Series
from cloudfs.kernel.nearest import likeness
from cloudfs.kernel.probing import Schedule

KEPT = 256  # nodes whose times are kept
FRESH = 120.0  # seconds for which what was measured is better than a prediction
UNHEARD = 16  # nodes that probe this one and are not known yet
NEAR = 16  # nodes that `near` tells
AHEAD = 5.0  # seconds: the step of the series that latencies are foretold by
MOVED = 0.1  # a coordinate is told again when it moved by so many usual round trips,
SETTLED = 15.0  # seconds after it was told last, at the earliest
CLOSE = 0.05, 2e-4  # passive times so near the median (a part, seconds) confirm it
PASSIVE = 0.5  # seconds between two passive times of one node that are looked at
DOUBTS, DOUBT_PAUSE = 8, 4.0  # doubts that may come at once; seconds for one more
EVIDENCE = 19  # probes that the loss effectively rests on: 2 / LOSS_SMOOTH - 1
ATTRIBUTE = "coordinate"  # of a node's record


class Reach(Protocol):
    """The tree of another node."""

    async def write(self, path: str, text: str) -> None: ...

    async def text(self, path: str) -> str: ...


@dataclass(slots=True)
class Way:
    """What is known of the way to one node.  Times are of the cloud's clock."""

    times: Estimator = field(default_factory=Estimator)
    series: Series | None = None  # of references only
    tried: float = -math.inf  # when a probe was answered or lost
    heard: float = -math.inf  # when a passive time came
    rate: Known | None = None  # bytes a second there
    rated: float = -math.inf  # when that was measured
    back: Known | None = None  # and from there, here
    back_at: float = -math.inf
    flow: Flow | None = None  # of what comes in bulk


class Network:
    """The costs of the ways from here to others.

    reach(node, seconds): the tree of another node, None where there is none.
    """

    def __init__(self, cloud: Cloud) -> None:
        name = cloud.machine.name
        self.cloud = cloud
        self.schedule = Schedule(name)
        self.position = Position(name)
        # The cluster of which a node is, by what it has proved where that is known here.
        self.proved: Callable[[str], str] = cloud.cluster_of
        self.references: dict[str, bool] = {}  # with whether they are of the own cluster
        self.wanted = Bell()  # rung when the schedule has more to do
        self.reach: Callable[[str, float], Reach] | None = None
        self.demands = Demands(self)
        self._ways: dict[str, Way] = {}
        self._unheard: set[str] = set()  # who probed this node and is not known
        self._placed = -math.inf  # when the own coordinate moved last
        self._told: Coordinate | None = None
        self._told_at = -math.inf
        self._doubts = float(DOUBTS)
        self._doubted = -math.inf

    # --- what is known --------------------------------------------------------------------

    def coordinate(self) -> Coordinate:
        """This node's own."""
        return self.position.coordinate

    def coordinate_of(self, node: str) -> Coordinate | None:
        """As that node told it; None where it told none, or nonsense."""
        if node == self.cloud.machine.name:
            return self.coordinate() if self._placed > -math.inf else None
        info = self.cloud.node(node)
        return None if info is None else _read(info.told.get(ATTRIBUTE, ""))

    def latency(self, node: str) -> Known | None:
        """Seconds to a node and back: measured if that is fresh, else the surer of both."""
        if node == self.cloud.machine.name:
            return SELF
        found = self.measured(node)
        known = None
        if found is not None:
            known = Known(found.value, found.age, "measured", found.error)
            if found.age <= FRESH or not self.cloud.alive(node):
                return known
        predicted = self._predicted(self.cloud.machine.name, node)
        if known is None or predicted is None:
            return known or predicted
        return known if known.error <= predicted.error else predicted

    def between(self, one: str, other: str) -> Known | None:
        """Seconds between any two and back: predicted, or as `latency` where one is this node."""
        name = self.cloud.machine.name
        if one == other:
            return SELF
        if name in (one, other):
            return self.latency(other if one == name else one)
        return self._predicted(one, other)

    def loss(self, node: str) -> Known | None:
        """Part of the probes that stayed without answer."""
        way, found = self._ways.get(node), self.measured(node)
        if way is None or found is None:
            return None
        # Agresti and Coull's: an error of nothing would be too sure after a few probes.
        count = min(found.samples, EVIDENCE) + 2
        part = (found.loss * (count - 2) + 1) / count
        error = math.sqrt(part * (1 - part) / count)
        return Known(found.loss, max(0.0, self.cloud.clock() - way.tried), "measured", error)

    def jitter(self, node: str) -> float | None:
        """Seconds by which one round trip differs from the next, on average."""
        found = self.measured(node)
        return None if found is None or found.samples < 2 else found.jitter

    def ahead(self, node: str, seconds: float) -> Forecast | None:
        """The latency to expect in so many seconds; None but for references."""
        way = self._ways.get(node)
        if way is None or way.series is None:
            return None
        return way.series.ahead(seconds, self.cloud.clock())

    def bandwidth(self, node: str) -> Known | None:
        """Bytes a second to a node; None until it was measured."""
        way = self._ways.get(node)
        if way is None or way.rate is None:
            return None
        return replace(way.rate, age=way.rate.age + max(0.0, self.cloud.clock() - way.rated))

    def back(self, node: str) -> Known | None:
        """Bytes a second from a node to here; None until it was measured."""
        way = self._ways.get(node)
        if way is None or way.back is None:
            return None
        return replace(way.back, age=way.back.age + max(0.0, self.cloud.clock() - way.back_at))

    def took_back(self, node: str, known: Known) -> None:
        """The bandwidth from a node was measured; its age counts from now."""
        way = self._way(node)
        way.back, way.back_at = known, self.cloud.clock()

    def carried(self, node: str, size: int) -> None:
        """So many bytes came from a node at once, of what it sends anyway.  Where more comes
        than was known to be possible, it is known now, and that it may be still more."""
        way, now = self._way(node), self.cloud.clock()
        way.flow = way.flow or Flow()
        rate = way.flow.took(size, now)
        if rate is None:
            return
        known = self.back(node)
        if known is None or rate > known.value + 2 * known.error:
            self.took_back(node, Known(rate, 0.0, "measured", rate / 2))

    def took_bandwidth(self, node: str, known: Known) -> None:
        """The bandwidth to a node was measured; its age counts from now."""
        way = self._way(node)
        way.rate, way.rated = known, self.cloud.clock()

    def near(self) -> list[tuple[str, float]]:
        """The nearest that were measured, and in how many seconds, best first."""
        alive = ((name, self.measured(name)) for name in self._ways if self.cloud.alive(name))
        times = ((name, found.value) for name, found in alive if found is not None)
        return heapq.nsmallest(NEAR, times, key=lambda pair: pair[1])

    def met(self, node: str) -> bool:
        """Whether a node was measured."""
        return node in self._ways

    def measured(self, node: str) -> Latency | None:
        way = self._ways.get(node)
        return None if way is None else way.times.latency(self.cloud.clock())

    def _predicted(self, one: str, other: str) -> Known | None:
        here, there = self.coordinate_of(one), self.coordinate_of(other)
        if here is None or there is None:
            return None
        seconds = here.distance(there)
        age = max(self._age(one), self._age(other))
        return Known(seconds, age, "predicted", seconds * math.hypot(here.error, there.error))

    def _age(self, node: str) -> float:
        """Seconds since a node's coordinate was heard of, or this one's moved."""
        if node == self.cloud.machine.name:
            return max(0.0, self.cloud.clock() - self._placed)
        return self.cloud.age_of(node)

    # --- what is measured ------------------------------------------------------------------

    def took(self, node: str, seconds: float, claim: Coordinate, why: str) -> None:
        """A probe came back, from a node that says it stands at `claim`.

        why: reference, explore or demand, as the schedule had it; answer, where the other
        one probed this node and the time is that of the answer to the answer.
        """
        now, way = self.cloud.clock(), self._way(node)
        if not way.times.measured(seconds, now):
            return
        way.tried = now
        self.schedule.answered(node)
        if way.times.doubtful:
            self._doubt(node, now)
        found = way.times.latency(now)
        if why == "explore" or found is None:
            return
        if node in self.references:
            way.series = way.series or Series(AHEAD)
            way.series.add(seconds, now)
        trusted = self.proved(node) == self.cloud.machine.cluster
        chosen = why == "reference"
        took = self.position.measured(node, found.value, claim, chosen=chosen, trusted=trusted)
        if took and chosen:
            self._placed = now
            self._tell(now)

    def missed(self, node: str) -> None:
        """A probe did not come back."""
        way = self._way(node)
        way.tried = self.cloud.clock()
        way.times.missed()
        self.schedule.missed(node)

    def passive(self, node: str, seconds: float) -> None:
        """A request that is answered at once, of those that nodes send each other anyway,
        had its answer.

        It holds up to the other one's load, so it only confirms what is known; where it
        does not, probes have the say.
        """
        found = self._seen(node, seconds)
        if found is None:
            return
        least, self._ways[node].heard = CLOSE[1], self.cloud.clock()
        if abs(seconds - found.value) > max(found.value / 2, 2 * least, 6 * found.error):
            self._doubt(node, self.cloud.clock())

    def confirm(self, node: str, seconds: float) -> None:
        """As `passive`, of what a node may take its time for: too long says nothing."""
        self._seen(node, seconds)

    def _seen(self, node: str, seconds: float) -> Latency | None:
        """Take a time that is like those known; what is known where it is not."""
        now = self.cloud.clock()
        way = self._ways.get(node)
        if way is None or now - way.heard < PASSIVE:
            return None
        found = way.times.latency(now)
        if found is None or not 0 < seconds <= LONGEST:
            return None
        part, least = CLOSE
        if abs(seconds - found.value) <= max(part * found.value, least, 2 * found.error):
            way.heard = now
            way.times.measured(seconds, now)
            return None
        return found

    def _doubt(self, node: str, now: float) -> None:
        """Have a way that may have changed probed soon; not too many at once."""
        self._doubts = min(DOUBTS, self._doubts + (now - self._doubted) / DOUBT_PAUSE)
        self._doubted = now
        if self._doubts >= 1:
            self._doubts -= 1
            self.schedule.doubt(node)
            self.wanted.ring()

    def _way(self, node: str) -> Way:
        """The way to a node, made where there is none; the farthest makes room for it."""
        found = self._ways.get(node)
        if found is None:
            if len(self._ways) >= KEPT:
                loose = [name for name in self._ways if name not in self.references]
                del self._ways[max(loose, key=self._value)]
            found = self._ways[node] = Way()
        return found

    def _value(self, node: str) -> float:
        found = self.measured(node)
        return math.inf if found is None else found.value

    def refer(self, references: dict[str, bool]) -> None:
        """These are the nodes by which this one finds its place from now on."""
        for node in self.references.keys() - references.keys():
            if node in self._ways:
                self._ways[node].series = None
        self.references = references
        self.schedule.keep(references)

    # --- what the nodes say to each other with probes ----------------------------------------

    def ping(self, why: str) -> bytes:
        """What a probe carries: whether it explores, and where this node stands."""
        return bytes([why == "explore"]) + self.coordinate().pack()

    def pong(self, ping: bytes) -> bytes:
        """The answer to a probe; CloudError("bad") where it is none."""
        coordinate.unpack(ping[1:])
        return self.coordinate().pack()

    def answered(self, node: str, ping: bytes, seconds: float) -> None:
        """The node that sent `ping` had the answer, `seconds` after it left, both ways."""
        if self.cloud.node(node) is None and len(self._unheard) < UNHEARD:
            self._unheard.add(node)
        self.took(node, seconds, coordinate.unpack(ping[1:]), "explore" if ping[0] else "answer")

    def unheard(self) -> list[str]:
        """The nodes that probed this one since the last call and are not known."""
        found, self._unheard = self._unheard, set()
        return sorted(found)

    def _tell(self, now: float) -> None:
        """Have the own coordinate told with this node's record, if it moved far: so the
        record goes out seldom, and others predict well enough by it."""
        here, told = self.coordinate(), self._told
        if told is not None:
            usual = median([ref.rtt for ref in self.position.references.values()])
            moved = likeness(here, told) > MOVED * usual or abs(here.error - told.error) > MOVED
            if now - self._told_at < SETTLED or not moved:
                return
        self._told, self._told_at = here, now
        self.cloud.machine.measured[ATTRIBUTE] = str(here)


@lru_cache(1 << 14)
def _read(text: str) -> Coordinate | None:
    """A coordinate that a node told; None where it is none, or says that it is no good."""
    try:
        claim = coordinate.parse(text)
    except CloudError:
        return None
    return claim if claim.error < WORST else None
