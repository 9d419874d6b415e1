"""Hybrid logical stamps: a wall clock that never goes back and is ahead of all it heard.

Kulkarni et al., Logical Physical Clocks (2014).  Stamps of one node are strictly ordered,
a stamp given after another was heard is greater, and as long as the nodes' clocks are right
a stamp also says when.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import total_ordering

from cloudfs.errors import CloudError

# A clock that is further ahead than this is wrong: its stamps still order its own records
# but pull nobody else's clock along.
MAX_AHEAD = 3600 * 10**9  # ns
_TEXT = re.compile(r"([0-9]{1,20})\.([0-9]{1,10})@([^\s@]{0,64})", re.ASCII)


@total_ordering
class Stamp:
    """A moment at a node.

    time: ns since 1970.  counter: orders stamps of one time.  node: orders the rest, so
    that two nodes' stamps are never equal.
    """

    __slots__ = ("counter", "node", "time")

    def __init__(self, time: int, counter: int, node: str) -> None:
        self.time = time
        self.counter = counter
        self.node = node

    @property
    def seconds(self) -> float:
        """Seconds since 1970."""
        return self.time / 1e9

    def after(self, other: Stamp | None) -> Stamp:
        """This one, or the least of its node that is above the other."""
        if other is None or self > other:
            return self
        return Stamp(other.time, other.counter + 1, self.node)

    def _key(self) -> tuple[int, int, str]:
        return self.time, self.counter, self.node

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamp) and self._key() == other._key()

    def __lt__(self, other: Stamp) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        return f"{self.time}.{self.counter}@{self.node}"

    def __repr__(self) -> str:
        return f"<stamp {self}>"

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """The stamp that `str` wrote; raises CloudError("bad") for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise CloudError("bad", f"{text[:80]!r} is no stamp", "write it as TIME.COUNTER@NODE")
        return cls(int(match[1]), int(match[2]), match[3])


class Clock:
    """Gives one node's stamps.  wall: ns since 1970."""

    __slots__ = ("_counter", "_time", "_wall", "node")

    def __init__(self, node: str, wall: Callable[[], int] = time.time_ns) -> None:
        self.node = node
        self._wall = wall
        self._time = 0
        self._counter = 0

    def now(self) -> Stamp:
        """A stamp above all that were given or heard."""
        wall = self._wall()
        if wall > self._time:
            self._time, self._counter = wall, 0
        else:
            self._counter += 1
        return Stamp(self._time, self._counter, self.node)

    def heard(self, stamp: Stamp) -> None:
        """Go on from another node's stamp."""
        here = self._time, self._counter
        if here < (stamp.time, stamp.counter) and stamp.time <= self._wall() + MAX_AHEAD:
            self._time, self._counter = stamp.time, stamp.counter
