"""A cloud of nodes that measure each other in virtual time, with the real cores.

Each node has a `Position`, a `Schedule` and an `Estimator` a reference.  In a round each sends one
probe: ping, pong and the pong's answer, so that both ends time a round trip of their own, and each
message carries the sender's coordinate.  A node knows the others' coordinates only from probes; for
exploring and searching it has besides a directory that is a few rounds old, as node records are.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

from cloudfs.kernel import coordinate, nearest
from cloudfs.kernel.coordinate import Coordinate, Position
from cloudfs.kernel.estimator import Estimator
from cloudfs.kernel.probing import Schedule
from tests.sim.topologies import Topology

ROUND = 2.0  # seconds of virtual time: longer than any jittered period, so one probe each
NEAR = 16  # measured near nodes that a node keeps
STALE = 10  # rounds after which the directory is made anew
SAMPLE = 512  # nodes of the directory that a node looks at when it explores

# A liar: (its node, whom it talks to, the dice) → what it claims, and by how many seconds it delays.
Lie = Callable[["Node", "Node", random.Random], tuple[Coordinate, float]]


@dataclass
class Node:
    name: int
    position: Position
    schedule: Schedule
    estimators: dict[int, Estimator] = field(default_factory=dict)
    near: dict[int, float] = field(default_factory=dict)  # seconds, measured
    met: set[int] = field(default_factory=set)  # explored or being so
    lie: Lie | None = None

    def tells(self) -> Iterator[tuple[str, float]]:
        """What it measured: those near it, then its references."""
        yield from ((str(other), seconds) for other, seconds in self.near.items())
        yield from ((name, ref.rtt) for name, ref in self.position.references.items())

    def know(self, other: int, rtt: float) -> None:
        self.near[other] = rtt
        self.met.add(other)
        if len(self.near) > NEAR:
            del self.near[max(self.near, key=self.near.__getitem__)]


class Cloud:
    """neighbours: references of each node, at random, as the field's papers have it.
    both: the pong is answered; explore: from this round on; liars: a part of all nodes."""

    def __init__(
        self,
        net: Topology,
        seed: int,
        *,
        neighbours: int = 16,
        both: bool = True,
        explore: int | None = None,
        liars: float = 0.0,
        lie: Lie | None = None,
    ) -> None:
        self.net, self.both, self.explore = net, both, explore
        self.dice = dice = random.Random(seed)
        self.now, self.rounds = 0.0, 0
        self.nodes = [
            Node(i, Position(f"{seed}.{i}"), Schedule(f"{seed}.{i}")) for i in range(net.size)
        ]
        for node in dice.sample(self.nodes, int(liars * net.size)):
            node.lie = lie
        for node in self.nodes:
            picked = dice.sample(range(net.size), neighbours + 1)
            chosen = [other for other in picked if other != node.name][:neighbours]
            node.schedule.keep(map(str, chosen))
            node.met.update(chosen)
        self.honest = [node for node in self.nodes if node.lie is None]
        self.directory: list[Coordinate] = []

    def round(self) -> None:
        """One probe of each node."""
        self.now += ROUND
        if self.rounds % STALE == 0:
            self.directory = [node.position.coordinate for node in self.nodes]
        for node in self.dice.sample(self.nodes, len(self.nodes)):
            if (
                self.explore is not None
                and self.rounds >= self.explore
                and not node.schedule.exploring
            ):
                node.schedule.explore(map(str, self.strangers(node)))
            probe = node.schedule.next(self.now)
            if probe is not None:
                self.probe(node, self.nodes[int(probe.peer)], probe.why)
        self.rounds += 1

    def probe(self, node: Node, other: Node, why: str) -> None:
        mine, delay = self.says(node, other)
        theirs, late = self.says(other, node)
        way = self.net.rtt(node.name, other.name)
        self.take(node, other.name, way + late, theirs, why)
        node.schedule.answered(str(other.name))
        if self.both:
            self.take(other, node.name, way + delay, mine, "" if why == "reference" else why)

    def says(self, node: Node, other: Node) -> tuple[Coordinate, float]:
        """What a node claims towards another, and how many seconds it delays."""
        if node.lie is None:
            return node.position.coordinate, 0.0
        return node.lie(node, other, self.dice)

    def take(self, node: Node, other: int, rtt: float, claim: Coordinate, why: str) -> None:
        node.know(other, rtt)
        if why == "explore":
            return
        estimator = node.estimators.setdefault(other, Estimator())
        estimator.measured(rtt, self.now)
        latency = estimator.latency(self.now)
        if latency is not None:
            node.position.measured(str(other), latency.value, claim, chosen=why == "reference")

    def strangers(self, node: Node) -> list[int]:
        """Whom to explore: near ones of near ones, then those that look alike."""
        own = node.position.coordinate
        heard = {
            other
            for near in nsmallest(4, node.near, key=node.near.__getitem__)
            for other in nsmallest(4, self.nodes[near].near, key=self.nodes[near].near.__getitem__)
        }
        size = len(self.nodes)
        seen = range(size) if size <= SAMPLE else self.dice.sample(range(size), SAMPLE)
        alike = nsmallest(
            4,
            (i for i in seen if i not in node.met and i != node.name),
            key=lambda i: nearest.likeness(own, self.directory[i]),
        )
        first = [i for i in heard if i not in node.met and i != node.name]
        return list(dict.fromkeys([*first[:2], *alike]))

    def errors(self, pairs: int = 200_000) -> tuple[float, float]:
        """Median and 90th percentile of the relative error over pairs of honest nodes: all
        pairs, or as many at random."""
        found, names = [], [node.name for node in self.honest]
        at = {node.name: node.position.coordinate for node in self.honest}
        if len(names) * (len(names) - 1) // 2 <= pairs:
            chosen = ((i, j) for k, i in enumerate(names) for j in names[:k])
        else:
            chosen = (tuple(self.dice.sample(names, 2)) for _ in range(pairs))  # type: ignore[misc]
        for i, j in chosen:
            true = self.net.rtt(i, j)
            found.append(abs(at[i].distance(at[j]) - true) / true)
        return statistics.median(found), quantile(found, 0.9)

    def searches(self, queries: int, known: bool, most: int = nearest.MOST) -> list[float]:
        """How many times farther than the truly nearest node those were that were found.

        known: with what nodes measured before, and tell; else by coordinates and probes alone.
        most: 0 takes what coordinates predict, unprobed.
        """
        ratios = []
        at = {str(node.name): node.position.coordinate for node in self.nodes}
        for target in self.dice.sample(self.nodes, min(queries, len(self.nodes))):
            others = {name: place for name, place in at.items() if name != str(target.name)}
            before = {str(name): time for name, time in target.near.items()} if known else {}
            search = nearest.Search(at[str(target.name)], others, before, most)
            for name, ref in target.position.references.items() if known else ():
                search.told(ref.rtt, self.nodes[int(name)].tells())
            while (name := search.next()) is not None:
                rtt = self.net.rtt(target.name, int(name))
                search.answered(name, rtt, self.nodes[int(name)].tells() if known else ())
            found = self.net.rtt(target.name, int(search.found().node))
            best = min(self.net.rtt(target.name, int(name)) for name in others)
            ratios.append(found / best)
        return ratios


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def _moved(spot: Coordinate, by: Sequence[float]) -> Coordinate:
    """Another place, in range, and sure of it."""
    place = (x + d for x, d in zip(spot.place, by, strict=True))
    far = coordinate.FARTHEST
    return Coordinate(tuple(min(far, max(-far, x)) for x in place), spot.height, 0.0)


def _way(node: Node, length: float) -> list[float]:
    """A direction that is this node's own for good, so many seconds long."""
    dice = random.Random(node.name)
    by = [dice.gauss(0, 1) for _ in range(coordinate.DIMS)]
    return [x * length / math.hypot(*by) for x in by]


ALONG = (1.0,) + (0.0,) * (coordinate.DIMS - 1)


def scatter(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """Anywhere, another place each time, sure of itself, and late."""
    place = tuple(dice.uniform(-0.5, 0.5) for _ in range(coordinate.DIMS))
    return Coordinate(place, dice.uniform(0, 0.1), 0.0), dice.uniform(0, 0.5)


def collude(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """All liars claim one far spot, and delay as long as it takes to seem to be there."""
    return Coordinate((0.4,) + (0.0,) * (coordinate.DIMS - 1), 0.001, 0.0), 0.3


def creep(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """A little farther each time: the frog in slowly heated water (Chan-Tin et al., 2011)."""
    shift = 0.002 * node.position._turn
    return _moved(node.position.coordinate, [shift * x for x in ALONG]), 0.0


def shift(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """All of them 30 ms from where they are, to one side: too little to be seen."""
    return _moved(node.position.coordinate, [0.03 * x for x in ALONG]), 0.0


def drag(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """The right place, and each answer 100 ms late."""
    return _moved(node.position.coordinate, _way(node, 0.0)), 0.1


def far(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """Each at a spot of its own, three seconds out, without any error."""
    return _moved(Coordinate((0.0,) * coordinate.DIMS, 0.001, 0.0), _way(node, 3.0)), 0.0


def swing(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """Now at the right place, now 100 ms beside it."""
    return _moved(node.position.coordinate, _way(node, dice.choice((0.0, 0.1)))), 0.0


def repulse(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """Just beside whom it talks to, on the side of the origin, and late: pushes each one out."""
    spot = other.position.coordinate
    length = math.hypot(*spot.place) + coordinate.TINY
    by = [-0.02 * x / length for x in spot.place]
    return _moved(Coordinate(spot.place, coordinate.LOWEST, 0.0), by), 0.15


def tower(node: Node, other: Node, dice: random.Random) -> tuple[Coordinate, float]:
    """The right place under a height of 100 ms, and half of that late."""
    return Coordinate(node.position.coordinate.place, 0.1, 0.0), 0.05


LIES: dict[str, Lie] = {
    lie.__name__: lie for lie in (scatter, collude, creep, shift, drag, far, swing, repulse, tower)
}
