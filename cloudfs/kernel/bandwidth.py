"""How much a way carries, from short trains of datagrams.  Pure.

Cars that leave as one burst queue before the narrowest link of the way and come out of it one
after another, each as long after the one before as that link needs for it: the *dispersion* of
the train (Jacobson 1988; Carter and Crovella 1996) tells the rate, whatever the round trip is.
Pairs of packets would do in theory; in practice a train of some dozen is what stamps that come
in clumps (interrupts that are put together, busy hosts) leave readable, and the median of
several what other traffic does (Dovrolis, Ramanathan and Moore 2004).

Trains are as long as the link takes them in SPAN, so a slow link is held up no longer than a
fast one; all of a measurement stays below MOST bytes a way, and measurements of one way are so
far apart that they take no more than SHARE of it.

What the other end says of trains that went there is its claim.  It bears one figure that it
cannot know before the last car came, so its answer cannot be early; hence the sender's own clock
bounds what it may claim (`bound`), but for SLACK that a busy node needs to answer.  So of a way
on which a train takes less than that, some 80 Mbit/s, any claim is believed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

CAR = 1232  # bytes of data in a datagram of a train: what goes everywhere in one piece
CAR_ON_WIRE = CAR + 28  # with what IPv4 and UDP add
MOST = 400_000  # bytes on the wire that one measurement sends one way
FIRST = 8  # cars of the first train, when nothing is known of the link
LEAST = 4  # cars that tell anything
LONGEST = 50  # cars: what goes into one send, and small buffers hold
SPAN = 0.1  # seconds that a train may take
TRAINS = 8  # in a measurement, at most
ENOUGH = 3  # trains that make a figure
SHARE = 0.05  # part of a link that measuring it may take
SLACK = 0.006  # seconds that a busy node may need to answer
CLUMP = 0.25  # of the mean gap: cars that come closer came together
STAMP = 1e-5  # seconds by which a stamp may be wrong, at best
WAKING = 8  # one car in so many is the first, while a host that slept wakes up
STRETCH = 1.0  # seconds of bulk that tell a rate
STALL = 0.5  # seconds without any that end a stretch
BULK = 256 << 10  # bytes of a stretch at least
FASTEST = 1e11  # bytes a second, beyond which no figure is believed
NORMAL = 1.4826  # a normal deviation over the median absolute one
MEDIAN_COST = 1.2533  # the deviation of a median over that of a mean


@dataclass(frozen=True, slots=True)
class Rate:
    """bytes/s and one standard error of it."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A train as it came: `size` bytes in `seconds`, after its first clump of cars."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.size / self.seconds


def spread(stamps: Sequence[float], size: int = CAR_ON_WIRE) -> Spread | None:
    """Of a train whose cars, `size` bytes each, came at these times in seconds, in order.

    A clump is stamped when its last car is there.  So those of the first clump tell nothing
    but when the rest began; and the very first find hosts asleep.  None where too little came,
    or all at once.
    """
    if len(stamps) < LEAST or any(a > b for a, b in itertools.pairwise(stamps)):
        return None
    whole = stamps[-1] - stamps[0]
    close = CLUMP * whole / (len(stamps) - 1)
    start = len(stamps) // WAKING
    while start < len(stamps) - 1 and stamps[start + 1] - stamps[start] < close:
        start += 1
    return believed((len(stamps) - 1 - start) * size, stamps[-1] - stamps[start])


def believed(size: int, seconds: float) -> Spread | None:
    """These figures, if they can be any."""
    if size <= 0 or not 0 < seconds < math.inf or size / seconds > FASTEST:
        return None
    return Spread(size, seconds)


@dataclass(slots=True)
class Measuring:
    """One measurement of one way: which train to send next, and what comes of them."""

    trains: list[Spread] = field(default_factory=list)
    sent: int = 0  # bytes on the wire
    _scout: Spread | None = None  # the first train, which only tells how long the next may be
    _tries: int = 0
    _most: int = LONGEST  # cars that the buffers of this way seem to hold

    def next(self) -> int:
        """How many cars the next train has; 0 if it is enough."""
        length = min(FIRST, self._most)
        if self._scout is not None:
            rate = median(one.rate for one in self.trains or [self._scout])
            length = min(self._most, max(int(rate * SPAN / CAR_ON_WIRE), LEAST))
        length = min(length, (MOST - self.sent) // CAR_ON_WIRE)
        if self._tries >= TRAINS or length < LEAST:
            return 0
        self._tries += 1
        self.sent += length * CAR_ON_WIRE
        return length

    def took(self, train: Spread | None, length: int, came: int) -> None:
        """Of a train of that length so many cars came, spread so.  One that lost its end to
        a short buffer tells the rate as well, but the next ones are shorter."""
        if came < length * 3 // 4:
            self._most = max(LEAST, min(self._most, length // 2))
        if train is not None and self._scout is None:
            self._scout = train
        elif train is not None:
            self.trains.append(train)

    def rate(self) -> Rate | None:
        """What came of it; None if that is nothing."""
        return estimate(self.trains or [one for one in [self._scout] if one is not None])


def estimate(trains: Sequence[Spread]) -> Rate | None:
    """The median of trains.  Its error is what they differ by, and at least what stamps can be
    wrong by; with fewer trains than ENOUGH it is half of the value."""
    if not trains:
        return None
    rates = [one.rate for one in trains]
    value = median(rates)
    least = value * 2 * STAMP / median(one.seconds for one in trains)
    if len(trains) < ENOUGH:
        return Rate(value, max(value / 2, least))
    deviation = NORMAL * median(abs(rate - value) for rate in rates)
    return Rate(value, max(MEDIAN_COST * deviation / math.sqrt(len(rates)), least))


def bound(claim: Rate, trains: Sequence[Spread], shortest: float) -> Rate:
    """What may be believed of a claim.

    trains: with the seconds from the sending of each to the answer, by the sender's clock;
    shortest: the same for single cars, at their quickest.  Of several trains, short ones left
    out, the quickest answer counts.  What is beyond is cut off and goes into the error.
    """
    longest = max((train.size for train in trains), default=0)
    # A node may say that it loses the ends of long trains, until they are so short that SLACK
    # hides all of them; then it has to live with a low figure.
    least = SLACK if longest < LONGEST // 2 * CAR_ON_WIRE else 0.0
    most = 0.0
    for train in trains:
        if 2 * train.size >= longest:
            passing = max(train.seconds - shortest - SLACK, least)
            most = max(most, train.size / passing if passing > 0 else math.inf)
    if claim.value <= most:
        return claim
    return Rate(most, max(claim.error, (claim.value - most) / 2))


class Flow:
    """What comes from a node in bulk anyway: nothing is sent to know it, but all it tells is
    that the way carries as much at least.

    Rates are those of whole stretches, so that what had waited in the kernel's buffers while
    this node was busy counts little.
    """

    def __init__(self) -> None:
        self._start = self._last = -math.inf
        self._size = 0

    def took(self, size: int, now: float) -> float | None:
        """So many bytes came; bytes/s, where a stretch is full with them."""
        if now - self._last > STALL:
            self._start, self._size = now, 0  # these began to come one does not know when
        else:
            self._size += size
        self._last = now
        seconds = now - self._start
        if seconds < STRETCH:
            return None
        rate = self._size / seconds if self._size >= BULK else None
        self._start, self._size = now, 0
        return rate


def pause(sent: int, rate: float) -> float:
    """Seconds from the beginning of a measurement that sent so many bytes over a link of that
    rate to that of the next."""
    return sent / (SHARE * rate)
