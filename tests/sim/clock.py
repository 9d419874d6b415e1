"""Virtual time: what is due happens in order, and nothing waits."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """The time, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._count), do))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, do = heapq.heappop(self._heap)
            do()
        self.now = end

    def until(self, what: Callable[[], bool], most: float, step: float = 0.5) -> float:
        """Let time pass until something is so; the seconds it took, or AssertionError."""
        begin = self.now
        while not what():
            assert self.now - begin < most, f"not so within {most} s: {what.__name__}"
            self.run(step)
        return self.now - begin
