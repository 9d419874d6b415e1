"""What is known of the way to one peer, from times that were measured.  Pure.

The latency is the median of the last few times: a moving percentile filter (Ledlie, Gardner and
Seltzer, NSDI 2007), since a mean follows each spike of a busy host.  A median is late when the
way itself changes; so times far outside the spread of those before, AGREE of them in a row,
begin a new window: a *level shift*.  The first of them already makes the peer `doubtful`, and
the driver sends more probes to tell a spike from a shift.

The clock is the caller's: every time `now` is in seconds of any one clock that never goes back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from cloudfs.kernel.coordinate import LONGEST

WINDOW = 9  # times of which the median is taken
AGREE = 3  # times outside in a row that are a shift
OUTSIDE = 6.0  # spreads from the median that are outside
LEAST_SPREAD = 0.05, 2e-4  # what a spread is at least: a part of the median, seconds
DRIFT = 0.002  # what a second of age adds to the error, as a part of the latency
LOSS_SMOOTH = 0.1  # what one answer or miss counts in the loss
NORMAL = 1.4826  # a normal deviation over the median absolute one
MEDIAN_COST = 1.2533  # the deviation of a median over that of a mean


@dataclass(frozen=True, slots=True)
class Latency:
    """A value with all that a reader needs to trust it.  Seconds, but for loss and samples."""

    value: float  # round trip
    error: float  # one standard error of the value, grown with age
    jitter: float  # mean difference from one time to the next, RFC 3550's
    loss: float  # part of the probes that stayed without answer
    age: float  # since the last time was measured
    samples: int  # times of the present level


class Estimator:
    """Collects the times to one peer."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._outside: list[float] = []  # the last times in a row beyond one side
        self._jitter = 0.0
        self._last: float | None = None  # the last time, outside or not
        self._at = -math.inf  # when it came
        self._loss = 0.0
        self._tries = 0
        self._samples = 0
        self.refused = 0  # times that were no times

    @property
    def doubtful(self) -> bool:
        """The last times are so unlike those before that the way may have changed."""
        return bool(self._outside)

    def measured(self, rtt: float, now: float) -> bool:
        """A probe or a request was answered after `rtt` seconds.  False: that is no time."""
        if not (0 < rtt <= LONGEST and math.isfinite(now)):
            self.refused += 1
            return False
        now = max(now, self._at)
        self._try(0.0)
        if self._last is not None:
            # RFC 3550, 6.4.1; over the times one has, until there are sixteen.
            self._jitter += (abs(rtt - self._last) - self._jitter) / min(16, self._samples + 1)
        self._last, self._at = rtt, now
        self._take(rtt)
        return True

    def missed(self) -> None:
        """A probe stayed without answer."""
        self._try(1.0)

    def latency(self, now: float) -> Latency | None:
        """What is known now; None before the first time."""
        if not self._times:
            return None
        value = median(self._times)
        age = max(0.0, now - self._at)
        count = len(self._times)
        error = MEDIAN_COST * self._spread(value) / math.sqrt(count) + DRIFT * age * value
        if self._outside:
            error = max(error, abs(self._outside[-1] - value))
        return Latency(value, min(error, LONGEST), self._jitter, self._loss, age, self._samples)

    def _try(self, lost: float) -> None:
        self._tries += 1
        self._loss += (lost - self._loss) * max(LOSS_SMOOTH, 1 / self._tries)

    def _spread(self, middle: float) -> float:
        part, least = LEAST_SPREAD
        found = NORMAL * median(abs(time - middle) for time in self._times)
        return max(found, part * middle if len(self._times) < 3 else 0.0, least * part)

    def _take(self, rtt: float) -> None:
        """Into the window, or beside it as long as it may be a spike."""
        if self._times:
            middle = median(self._times)
            part, least = LEAST_SPREAD
            far = OUTSIDE * max(self._spread(middle), part * middle, least)
            if abs(rtt - middle) > far:
                same_side = not self._outside or (self._outside[-1] > middle) == (rtt > middle)
                self._outside = [*self._outside, rtt] if same_side else [rtt]
                if len(self._outside) < AGREE:
                    return
                self._times.clear()
                self._times.extend(self._outside)
                self._samples = AGREE
                self._outside = []
                return
        self._outside = []
        self._times.append(rtt)
        self._samples += 1
