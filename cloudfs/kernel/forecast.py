"""What a load or a latency will be in a moment, and how wrong that may be.  Pure.

Host load is strongly correlated in time, and plain autoregressive models of order 16 predict
it for the next 30 s as well as costlier ones (Dinda and O'Hallaron, Cluster Computing 3, 2000).
So: values at even steps, an AR model fitted to the last WINDOW of them by Levinson and Durbin's
recursion, predictions by running it on, the error from its innovations (the ψ weights).  Before
there are ENOUGH values, or where they hardly vary, exponential smoothing serves instead.

The forecasts of the past are kept until their truth is known, for a few distances ahead.  The
error grows by what they turned out to be off; and where the last value would have done better, as
for a walk that never comes back to a mean, it is the answer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from operator import mul

ORDER = 16
WINDOW = 240  # values that the model is fitted to
ENOUGH = 3 * ORDER
REFIT = 16  # new values after which the model is fitted again
SMOOTH = 0.2  # what a new value counts in the exponential mean
HORIZONS = 1, 8, 32  # steps ahead at which forecasts are held against the truth
TRACK = 0.04  # what one of these counts
TRACKED = 16  # of them are needed before they are believed
WORSE = 1.25  # times the last value's mean square: beyond it the model has no say
FARTHEST = 120  # steps ahead; beyond it the answer is that for FARTHEST
HUGE = 1e18  # values beyond it are refused, so that squares stay finite


@dataclass(frozen=True, slots=True)
class Forecast:
    """value: what to expect; error: one standard deviation; how: ar, smooth or last."""

    value: float
    error: float
    how: str


def levinson(correlation: Sequence[float]) -> tuple[list[float], float]:
    """The AR coefficients for lags 1…p from autocovariances at lags 0…p, and the variance of
    what they leave unexplained.  Stops early where nothing is left to explain."""
    left = correlation[0]
    terms: list[float] = []
    for lag in range(1, len(correlation)):
        if left <= 1e-12 * correlation[0]:
            break
        sum_ = sum(term * correlation[lag - i] for i, term in enumerate(terms, 1))
        mirror = (correlation[lag] - sum_) / left
        terms = [term - mirror * back for term, back in zip(terms, reversed(terms), strict=True)]
        terms.append(mirror)
        left *= 1 - mirror * mirror
    return terms, max(left, 0.0)


@dataclass(slots=True)
class Record:
    """How forecasts of one distance came true."""

    due: deque[tuple[float, float, float]]  # AR's value, its variance, the last value; oldest first
    ratio: float = 1.0  # the variance found of AR's forecasts over that claimed
    ar: float = 0.0  # mean square of what AR was off
    last: float = 0.0  # the same of the last value
    count: int = 0

    def true(self, truth: float) -> None:
        """The oldest forecast came true, or not."""
        value, variance, last = self.due.popleft()
        self.count += 1
        part = max(TRACK, 1 / self.count)
        miss = min((truth - value) ** 2, HUGE)
        self.ar += part * (miss - self.ar)
        self.last += part * (min((truth - last) ** 2, HUGE) - self.last)
        self.ratio += TRACK * (min(miss / variance, 1e6) - self.ratio)


class Series:
    """One quantity over time.

    step: seconds from one value to the next.  Values may come at any time: the last one of a
    step counts, and steps without one repeat the value before.
    """

    def __init__(self, step: float = 1.0) -> None:
        if not 0 < step < math.inf:
            raise ValueError(f"a step of {step} s")
        self.step = step
        self.refused = 0
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._slot: int | None = None  # of the last value
        self._mean = 0.0  # exponential
        self._square = 0.0  # exponential, of the smoothed forecast's error
        self._terms: list[float] = []
        self._centre = 0.0  # the mean that the model is about
        self._noise = 0.0  # variance of its innovations
        self._fitted = 0  # values since the model was fitted
        self._records = {steps: Record(deque()) for steps in HORIZONS}

    def add(self, value: float, now: float) -> bool:
        """A value measured at `now` (seconds).  False: it is no number, or from the past."""
        if not (abs(value) <= HUGE and abs(now) <= HUGE):
            self.refused += 1
            return False
        slot = math.floor(now / self.step)
        if self._slot is None:
            self._mean = value
        elif slot < self._slot:
            self.refused += 1
            return False
        elif slot == self._slot:
            self._values[-1] = value
            return True
        else:
            last = self._values[-1]
            if slot - self._slot > WINDOW:  # a gap in which all that was known has passed
                self._values.clear()
                self._terms = []
            for _ in range(min(slot - self._slot - 1, WINDOW)):
                self._push(last)
        self._slot = slot
        self._push(value)
        return True

    def ahead(self, seconds: float, now: float | None = None) -> Forecast | None:
        """What to expect `seconds` after `now` (without it: after the last value)."""
        if self._slot is None or not 0 <= seconds <= HUGE:
            return None
        since = 0.0 if now is None else max(0.0, now - self._slot * self.step)
        steps = max(1, min(FARTHEST, round((seconds + since) / self.step)))
        if not self._terms:
            deviation = math.sqrt(self._square)
            if len(self._values) < 3:
                return Forecast(self._values[-1], abs(self._values[-1]), "last")
            # A random walk's error grows with the root of time: the careful guess.
            return Forecast(self._mean, deviation * math.sqrt(steps), "smooth")
        at = min(HORIZONS, key=lambda horizon: abs(math.log(horizon / steps)))
        record = self._records[at]
        if record.count >= max(TRACKED, 2 * at) and record.ar > WORSE * record.last:
            return Forecast(self._values[-1], math.sqrt(record.last * max(1.0, steps / at)), "last")
        value, spread = self._run(steps)
        # No farther one is surer than a nearer one.
        worst = max(near.ratio for ahead, near in self._records.items() if ahead <= at)
        variance = max(self._noise * max(1.0, worst) * spread, record.ar)
        return Forecast(value, math.sqrt(variance), "ar")

    def _push(self, value: float) -> None:
        off = value - self._mean
        self._square += SMOOTH * (off * off - self._square)
        self._mean += SMOOTH * off
        for steps, record in self._records.items():
            if len(record.due) == steps:
                record.true(value)
        self._values.append(value)
        self._fitted += 1
        if len(self._values) >= ENOUGH and (not self._terms or self._fitted >= REFIT):
            self._fit()
        self._promise()

    def _promise(self) -> None:
        """Note what would be forecast now, to be held against the truth."""
        if not self._terms:
            for record in self._records.values():
                record.due.clear()
            return
        floor = max(self._noise, 1e-12 * (1 + self._centre * self._centre))
        for steps, (value, spread) in self._runs(HORIZONS).items():
            self._records[steps].due.append((value, floor * spread, self._values[-1]))

    def _fit(self) -> None:
        values = list(self._values)
        count = len(values)
        self._centre = sum(values) / count
        off = [value - self._centre for value in values]
        products = [
            sum(a * b for a, b in zip(off, islice(off, lag, None), strict=False)) / count
            for lag in range(ORDER + 1)
        ]
        self._fitted = 0
        if products[0] <= 1e-18 * (1 + self._centre * self._centre):
            self._terms = []
            return
        self._terms, noise = levinson(products)
        # Unbiased for the parameters that were fitted.
        self._noise = noise * count / max(1, count - len(self._terms) - 1)

    def _run(self, steps: int) -> tuple[float, float]:
        """The value after so many steps, and Σψ²: its variance in innovations."""
        return self._runs((steps,))[steps]

    def _runs(self, horizons: Sequence[int]) -> dict[int, tuple[float, float]]:
        """The same for each of several distances, the nearest first."""
        past = deque(value - self._centre for value in reversed(self._values))
        weights, spread, found = deque([1.0], ORDER), 0.0, {}  # ψ, the newest first
        for step in range(1, horizons[-1] + 1):
            spread += weights[0] * weights[0]
            past.appendleft(sum(map(mul, self._terms, past)))
            weights.appendleft(sum(map(mul, self._terms, weights)))
            if step in horizons:
                found[step] = self._centre + past[0], min(spread, HUGE)
        return found
