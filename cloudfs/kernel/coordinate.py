"""Network coordinates: the round-trip time to every node, from few measured ones.  Pure.

A node's coordinate is a place in a Euclidean space of DIMS dimensions and a height, all in
seconds; the time between two nodes is the distance of their places plus both heights:

    rtt(i, j)  ≈  |x_i - x_j| + h_i + h_j

The model is Vivaldi's (Dabek, Cox, Kaashoek and Morris, SIGCOMM 2004): the height is the access
link.  How a node finds its own coordinate is not.  Vivaldi moves a bit along the one spring it
has just measured; here the node keeps what it measured to its references and takes a damped
Gauss-Newton step on all of them at once, as NPS (Ng and Zhang, USENIX 2004) solves for a place
among landmarks, but without landmarks.  It needs no more messages and far fewer rounds.

What each term of a step is for:

- *Weights* 1/(rtt·|residual|) make it minimise the sum of absolute relative errors (iteratively
  reweighted least squares), which outliers, detours and liars move little.  While the node's own
  error is large they are softened towards plain least squares, which unfolds the space faster.
- *Confidence*: a reference counts by the error it claims (Vivaldi's adaptive timestep), but for
  no more than the node's own, and less as what it told ages: the faster, the larger the own error,
  since then all are still on their way.
- *Gravity* towards the origin (Ledlie, Gardner and Seltzer, NSDI 2007) worth a hundredth of all
  references: it stops drift, and keeps dimensions flat that the measurements do not need.
- *Adjustment terms* (Lee et al., INFOCOM 2006) are not kept apart: the height is solved for
  together with the place and takes them in.

Defence.  Only times that this node measured itself come in.  What is not finite or not in range
is refused; a step has a longest length; a reference whose residual is far beyond that of the
*trusted* ones (nodes of the own cluster, by certificate; without three of them, of all), as the
surveyors of Kaafar et al. (SIGCOMM 2007) have it, is *doubted*: its pull falls with the fourth
power of the residual (the weight of Geman and McClure, 1987), and it counts as little in the
node's own error, so that liars cannot keep a node believing that it knows nothing; nobody counts
more by claiming no error; uninvited references never displace chosen ones.
"""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass
from operator import sub
from statistics import median

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.solve import solve

DIMS = 6
FARTHEST = 5.0  # seconds: no place is farther from the origin along an axis, no height higher
LONGEST = 10.0  # seconds: no round trip that is taken for a measurement is longer
LOWEST = 1e-5  # seconds: no height is less
CHOSEN = 16  # references that this node chose to probe
UNINVITED = 16  # references that chose this node

STEP = 0.4  # part of the Gauss-Newton step that is taken
GRAVITY = 0.01  # what the origin weighs, in all references together
DAMPING = 0.2  # Levenberg's: added to the diagonal, in mean diagonal elements
SOFT = 6.0  # by how much the own error softens weights
FLAT = 0.05  # the part of that below which a residual counts as none
EXACT = 0.12  # the same, as a part of the time measured
CONFIDENT = 0.1  # claimed errors count as at least this
AGEING = 1.7  # how fast what was heard ages while the own error is large
SUSPECT = 3.5  # times the usual residual, of trusted references where there are: beyond it is doubt
HARMLESS = 0.1  # times the usual time: residuals up to SUSPECT of these are never doubted
TRUSTED = 3  # references of the own cluster that it takes to doubt others by them
WORST = 1.0  # the relative error of a node that knows nothing
SMOOTH = 0.3  # what one step's error counts in the node's own
PACKED = struct.Struct(f"<{DIMS + 2}f")  # place, height, error: what a probe carries
START = 5e-4  # seconds: how far from the origin the first place is
TINY = 1e-5  # seconds: keeps directions finite between nodes at one place


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Where a node stands.  place: DIMS numbers, seconds; height: seconds; error: the relative
    error to expect of times to it, 0 to WORST."""

    place: tuple[float, ...]
    height: float
    error: float

    def distance(self, other: Coordinate) -> float:
        """Seconds of a round trip between the two: symmetric, finite, at least two heights."""
        return math.dist(self.place, other.place) + (self.height + other.height)

    def pack(self) -> bytes:
        """As a probe carries it."""
        return PACKED.pack(*self.place, self.height, self.error)

    def __str__(self) -> str:
        """As one record, to the microsecond."""
        place = ",".join(f"{x:.6f}" for x in self.place)
        return f"place={place} height={self.height:.6f} error={self.error:.3f}"


NOWHERE = Coordinate((0.0,) * DIMS, LOWEST, WORST)


def sound(claim: Coordinate) -> bool:
    """Whether a coordinate is one that an honest node could have: finite, in range."""
    return (
        len(claim.place) == DIMS
        and all(-FARTHEST <= x <= FARTHEST for x in claim.place)
        and 0 <= claim.height <= FARTHEST
        and 0 <= claim.error <= WORST
    )


def parse(text: str) -> Coordinate:
    """A coordinate from its record; CloudError("bad") where it is none or not sound."""
    try:
        pairs = dict(word.split("=", 1) for word in ndb.words(text[:1024]))
        place = tuple(float(x) for x in pairs["place"].split(","))
        claim = Coordinate(place, float(pairs["height"]), float(pairs["error"]))
    except (KeyError, ValueError):
        claim = None
    if claim is None or not sound(claim):
        raise CloudError("bad", f"{text[:80]!r} is no coordinate", f"give {DIMS} places in seconds")
    return claim


def unpack(data: bytes) -> Coordinate:
    """The inverse of `pack`; CloudError("bad") where it is none or not sound."""
    numbers = PACKED.unpack(data) if len(data) == PACKED.size else (math.nan,) * (DIMS + 2)
    claim = Coordinate(numbers[:DIMS], numbers[DIMS], numbers[DIMS + 1])
    if not sound(claim):
        raise CloudError("bad", "a probe's coordinate is out of range", "")
    return claim


@dataclass(slots=True)
class Reference:
    """A node that this one has measured, and where it said it stood."""

    rtt: float  # seconds
    claim: Coordinate
    chosen: bool
    trusted: bool
    turn: int  # of the last word from it


class Position:
    """A node's own coordinate, found from what it measures.

    seed: of the first place, so that equal nodes do not stand on one spot for ever.
    """

    def __init__(self, seed: int | str) -> None:
        dice = random.Random(f"coordinate {seed}")  # noqa: S311 - no secret
        self._place = [dice.gauss(0, START) for _ in range(DIMS)]
        self._height = 0.001
        self._error = WORST
        self._turn = 0
        self.references: dict[str, Reference] = {}  # by node; the longest unheard first
        self.refused = 0  # measurements and claims that were out of range

    @property
    def coordinate(self) -> Coordinate:
        return Coordinate(tuple(self._place), self._height, self._error)

    def measured(
        self, node: str, rtt: float, claim: Coordinate, *, chosen: bool, trusted: bool = False
    ) -> bool:
        """This node took `rtt` seconds to `node` and back, which says that it stands at `claim`.

        rtt: filtered (estimator.Latency); chosen: this node sent the probe, and moves now;
        else it answered one and took the time of the answer's answer.  False: refused.
        """
        if not (0 < rtt <= LONGEST and sound(claim)):
            self.refused += 1
            return False
        old = self.references.pop(node, None)
        chosen = chosen or (old is not None and old.chosen)
        self.references[node] = Reference(rtt, claim, chosen, trusted, self._turn)
        if old is None or old.chosen != chosen:
            self._make_room(chosen)
        if chosen:
            self._move()
        return True

    def heard(self, node: str, claim: Coordinate) -> bool:
        """A reference says where it stands now, with no new measurement.  False: not used."""
        reference = self.references.get(node)
        if reference is None:
            return False
        if not sound(claim):
            self.refused += 1
            return False
        reference.claim, reference.turn = claim, self._turn
        return True

    def forget(self, node: str) -> None:
        """The node has gone, or is a reference no more."""
        self.references.pop(node, None)

    def to(self, other: Coordinate) -> tuple[float, float]:
        """Seconds to a coordinate, and by how many seconds that is expected to be off."""
        seconds = self.coordinate.distance(other)
        return seconds, seconds * math.hypot(self._error, other.error)

    def _make_room(self, chosen: bool) -> None:
        """Drop the longest unheard of one kind when there are too many of it."""
        kind = [name for name, ref in self.references.items() if ref.chosen == chosen]
        if len(kind) > (CHOSEN if chosen else UNINVITED):
            del self.references[kind[0]]

    def _move(self) -> None:
        """One damped Gauss-Newton step on all references."""
        self._turn += 1
        place, height, references = self._place, self._height, self.references.values()
        typical = median([ref.rtt for ref in references])
        rows: list[tuple[list[float], float, float]] = []  # direction, residual, rtt
        off: list[float] = []  # relative errors
        for ref in references:
            diff = list(map(sub, place, ref.claim.place))
            length = math.hypot(TINY, *diff)
            residual = ref.rtt - length - height - ref.claim.height
            rows.append(([x / length for x in diff] + [1.0], residual, ref.rtt))
            off.append(abs(residual) / ref.rtt)
        doubt = self._doubt([abs(residual) for _, residual, _ in rows], typical)
        trust = [1 / (1 + (residual / doubt) ** 2) for _, residual, _ in rows]
        mean = sum(t * min(part, WORST) for t, part in zip(trust, off, strict=True)) / sum(trust)
        soft = SOFT * mean * typical
        ageing = AGEING * mean
        weights = [
            math.exp(ageing * (ref.turn - self._turn + 1))
            * (part * part)
            / (
                (rtt + soft)
                * max(abs(residual), EXACT * rtt + FLAT * soft)
                * (max(ref.claim.error, mean) + CONFIDENT)
            )
            for ref, part, (_, residual, rtt) in zip(references, trust, rows, strict=True)
        ]
        self._step(rows, weights, typical)
        self._error += (mean - self._error) * (SMOOTH if self._turn > 1 else 1)

    def _doubt(self, off: list[float], typical: float) -> float:
        """The residual, in seconds, beyond which a reference is doubted."""
        references = self.references.values()
        good = [part for part, ref in zip(off, references, strict=True) if ref.trusted]
        return SUSPECT * max(median(good if len(good) >= TRUSTED else off), HARMLESS * typical)

    def _step(
        self, rows: list[tuple[list[float], float, float]], weights: list[float], typical: float
    ) -> None:
        size = DIMS + 1
        matrix = [[0.0] * size for _ in range(size)]  # lower triangle
        right = [0.0] * size
        for (row, residual, _), weight in zip(rows, weights, strict=True):
            for i, x in enumerate(row):
                share, line = weight * x, matrix[i]
                right[i] += share * residual
                for j in range(i + 1):
                    line[j] += share * row[j]
        pull = GRAVITY * sum(weights)
        damping = DAMPING * sum(matrix[i][i] for i in range(size)) / size
        for i in range(size):
            matrix[i][i] += damping + (pull if i < DIMS else 0.0)
        for i, x in enumerate(self._place):
            right[i] -= pull * x
        step = solve(matrix, right)
        length = STEP * math.hypot(*step)
        scale = STEP * min(1.0, typical / length) if length > 0 else 0.0
        self._place = [
            min(FARTHEST, max(-FARTHEST, x + scale * move))
            for x, move in zip(self._place, step, strict=False)
        ]
        self._height = min(FARTHEST, max(LOWEST, self._height + scale * step[DIMS]))
