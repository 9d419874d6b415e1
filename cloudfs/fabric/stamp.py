"""Hybrid logical stamps: close to the clock, and ordered even where clocks are not.

After Kulkarni and others, "Logical Physical Clocks" (2014): a stamp is the time, or the
greatest time heard of where that is later, and a counter for stamps of one time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cloudfs.errors import CloudError

AHEAD = 3600 * 10**9  # nanoseconds that a heard stamp may lie ahead and still count


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """time: nanoseconds since 1970; count: of the stamps of one time; node: who made it."""

    time: int
    count: int
    node: str

    def __str__(self) -> str:
        return f"{self.time:x}.{self.count:x}@{self.node}"

    @property
    def seconds(self) -> float:
        return self.time / 1e9


def parse(text: str) -> Stamp:
    """The inverse of str(stamp); CloudError("bad")."""
    head, at, node = text.partition("@")
    hours, dot, count = head.partition(".")
    try:
        if at and dot:
            return Stamp(int(hours, 16), int(count, 16), node)
    except ValueError:
        pass
    raise CloudError("bad", f"{text[:80]!r} is no stamp")


class Clock:
    """Makes a node's stamps: each is greater than all that it made or `saw` before."""

    __slots__ = ("_count", "_last", "_wall", "node")

    def __init__(self, node: str, wall: Callable[[], int] = time.time_ns) -> None:
        self.node = node
        self._wall = wall
        self._last = 0
        self._count = 0

    def now(self) -> Stamp:
        wall = self._wall()
        if wall > self._last:
            self._last, self._count = wall, 0
        else:
            self._count += 1
        return Stamp(self._last, self._count, self.node)

    def saw(self, stamp: Stamp) -> None:
        """Another node's stamp was heard.  One from far ahead is a broken clock's, which
        must not become everybody's."""
        if self._last < stamp.time <= self._wall() + AHEAD:
            self._last, self._count = stamp.time, stamp.count
        elif stamp.time == self._last:
            self._count = max(self._count, stamp.count)
