"""What one subscription has heard: the latest of each key, and nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from cloudfs.fabric.api import MAX_KEYS, Sample
from cloudfs.fabric.keys import intersects
from cloudfs.fabric.queue import Feed
from cloudfs.fabric.stamp import Stamp

GONE_KEPT = 120 * 10**9  # ns that a withdrawn key is remembered, lest an older value come back
MOST = 4 * MAX_KEYS  # keys heard by one subscription
DIGEST = 8  # bytes


def digest(pairs: Iterable[tuple[str, Stamp]]) -> bytes:
    """The same for the same keys and stamps, in whatever order: `DIGEST` bytes."""
    mixed = hashlib.blake2b(digest_size=DIGEST)
    for key, stamp in sorted(pairs):
        mixed.update(f"{key} {stamp}\n".encode())
    return mixed.digest()


class Listener(Feed[Sample]):
    """A subscription: the samples that match, each key's latest once.  own: of keys
    KIND/NODE/… only what that node says, and that one is gone also where it was not heard here,
    but in another zone."""

    def __init__(
        self, expr: str, closed: Callable[[Feed[Sample]], None], own: bool = False
    ) -> None:
        super().__init__(closed)
        self.expr = expr
        self.own = own
        # key: (publisher, stamp of the latest, whether that is "gone")
        self._have: dict[str, tuple[str, Stamp, bool]] = {}

    def hear(self, origin: str, sample: Sample) -> None:
        """A published value, or its end, from that node."""
        if not intersects(self.expr, sample.key):
            return
        if self.own and sample.key.split("/", 2)[1:2] != [origin]:
            return  # nor may it outdate what that node says
        have = self._have.get(sample.key)
        if have is None:
            if len(self._have) >= MOST:
                self._queue.lost += 1
                return
        elif sample.stamp <= have[1]:
            return
        self._have[sample.key] = origin, sample.stamp, sample.gone
        if have is None and sample.gone and not self.own:
            return  # nobody has seen what is gone; only older values must not come after it
        self.keep(sample.key, sample)

    def told(self, sample: Sample) -> None:
        """Something said once."""
        if intersects(self.expr, sample.key):
            self.add(sample)

    def digest(self, origin: str) -> bytes:
        """Of what that node publishes, as far as it was heard."""
        return digest(
            (key, stamp)
            for key, (node, stamp, gone) in self._have.items()
            if node == origin and not gone
        )

    def all_of(self, origin: str, samples: list[Sample], at: Stamp) -> None:
        """That node publishes just this at that moment: hear it, and the end of the rest."""
        for sample in samples:
            self.hear(origin, sample)
        there = {sample.key for sample in samples}
        ended = [
            key
            for key, (node, stamp, gone) in self._have.items()
            if node == origin and not gone and key not in there and stamp < at
        ]
        for key in ended:
            self.hear(origin, Sample(key, b"", at, gone=True))

    def forget(self, now: Stamp) -> None:
        """Let go of keys that were withdrawn long ago."""
        old = now.time - GONE_KEPT
        for key in [k for k, (_, at, gone) in self._have.items() if gone and at.time < old]:
            del self._have[key]
