"""What a load or a latency will be in a moment, and how wrong that may be.  Pure.

Host load is strongly correlated in time, and plain autoregressive models of order 16 predict
it for the next 30 s as well as costlier ones (Dinda and O'Hallaron, Cluster Computing 3, 2000).
So: values at even steps, an AR model fitted to the last WINDOW of them by Levinson and Durbin's
recursion, predictions by running it on, the error from its innovations (the ψ weights).  Before
there are ENOUGH values, or where they hardly vary, exponential smoothing serves instead.

The error grows by what the forecasts of the past turned out to be off: a model that lies about
itself is found out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

ORDER = 16
WINDOW = 240  # values that the model is fitted to
ENOUGH = 3 * ORDER
REFIT = 16  # new values after which the model is fitted again
SMOOTH = 0.2  # what a new value counts in the exponential mean
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
        self._ratio = 1.0  # the variance found of one-step forecasts over that claimed

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
        value, spread = self._run(steps)
        return Forecast(value, math.sqrt(self._noise * max(1.0, self._ratio) * spread), "ar")

    def _push(self, value: float) -> None:
        off = value - self._mean
        self._square += SMOOTH * (off * off - self._square)
        self._mean += SMOOTH * off
        if self._terms:
            miss = value - self._run(1)[0]
            floor = max(self._noise, 1e-12 * (1 + self._centre * self._centre))
            self._ratio += 0.05 * (min(miss * miss / floor, 1e6) - self._ratio)
        self._values.append(value)
        self._fitted += 1
        if len(self._values) >= ENOUGH and (not self._terms or self._fitted >= REFIT):
            self._fit()

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
        size = len(self._terms)
        past = [value - self._centre for value in list(self._values)[-size:]][::-1]
        past += [0.0] * (size - len(past))
        weights = [1.0]  # ψ
        for _ in range(steps):
            past.insert(
                0, sum(term * value for term, value in zip(self._terms, past, strict=False))
            )
            weights.append(sum(t * w for t, w in zip(self._terms, reversed(weights), strict=False)))
        spread = sum(weight * weight for weight in weights[:steps])
        return self._centre + past[0], min(spread, HUGE)
