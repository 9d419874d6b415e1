"""How often a secstore answers for a user, so that guessing is slow and the owner gets in.  Pure.

A bound on attempts alone would let anyone lock a user out by using them up.  So those who ask are
told apart by what they prove, and each has its own *bucket* (a token bucket, Turner 1986):

- a **device** that logged in before proves so with a key of its own; no stranger drains it;
- **strangers** have a bucket for each node they ask from, and one for them all together: that one
  bounds guessing, and drained by an attacker it keeps only new devices of the user waiting;
- the **recovery code** asks for no evaluation, so nothing of this concerns it.

The clock is the caller's, in seconds that never go back.
"""

from __future__ import annotations

from dataclasses import dataclass

DEVICE = 10.0, 1 / 30  # attempts at once, and a second
SOURCE = 5.0, 1 / 300
STRANGERS = 20.0, 1 / 120  # 740 guesses a day of one user's password, from everywhere
KEPT = 4096  # buckets that are not full
FULL_UP = 60.0  # seconds to wait where there are more


@dataclass(slots=True)
class Bucket:
    burst: float
    rate: float  # a second
    level: float
    at: float

    def fill(self, now: float) -> None:
        """What came in since the last time."""
        self.level = min(self.burst, self.level + max(0.0, now - self.at) * self.rate)
        self.at = max(now, self.at)


class Guesses:
    """The attempts that one secstore has seen."""

    def __init__(self, kept: int = KEPT) -> None:
        self._buckets: dict[tuple[str, ...], Bucket] = {}
        self._kept = kept

    def wait(self, user: str, source: str, now: float, device: str = "") -> float:
        """Take an attempt; 0.0, or the seconds until there is one, and then none is taken.

        source: the node that asks, by its certificate.  device: its key, where it was proved.
        """
        names = self._names(user, source, device)
        missing = [name for name in names if name not in self._buckets]
        if missing and len(self._buckets) + len(missing) > self._kept:
            self._forget_full(now)
            if len(self._buckets) + len(missing) > self._kept:
                return FULL_UP  # else flooding with names would empty the bucket that counts
        found = []
        for name, (burst, rate) in names.items():
            bucket = self._buckets.setdefault(name, Bucket(burst, rate, burst, now))
            bucket.fill(now)
            found.append(bucket)
        late = max((1 - bucket.level) / bucket.rate for bucket in found)
        if late > 0:
            return late
        for bucket in found:
            bucket.level -= 1
        return 0.0

    def right(self, user: str, source: str, device: str = "") -> None:
        """Who asked turned out to be the user: give back what it took."""
        for name in self._names(user, source, device):
            bucket = self._buckets.get(name)
            if bucket is not None:
                bucket.level = min(bucket.burst, bucket.level + 1)

    def _names(
        self, user: str, source: str, device: str
    ) -> dict[tuple[str, ...], tuple[float, float]]:
        if device:
            return {("device", user, device): DEVICE}
        return {("source", user, source): SOURCE, ("strangers", user): STRANGERS}

    def _forget_full(self, now: float) -> None:
        for name, bucket in list(self._buckets.items()):
            bucket.fill(now)
            if bucket.level >= bucket.burst:
                del self._buckets[name]
