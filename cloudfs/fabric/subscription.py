"""What waits for a subscriber: the newest of each key, and what was told once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

import trio

T = TypeVar("T")
MOST_TOLD = 4096  # of those things that are told once


class Subscription(Generic[T]):
    """An async iterator that ends when it is closed.

    Of values that a node keeps up, only the newest of each key waits, so a slow reader
    misses none that still holds.  Of what is told once the oldest go when too many wait;
    `lost` counts them.
    """

    def __init__(self, closed: Callable[[Subscription[T]], None] = lambda one: None) -> None:
        self._newest: dict[object, T] = {}
        self._told: deque[T] = deque()
        self._closed = closed
        self._open = True
        self._wake = trio.Event()
        self.lost = 0

    def put(self, item: T, key: object = None) -> None:
        """Add an item: the newest of its key, or without a key one that is told once."""
        if not self._open:
            return
        if key is not None:
            self._newest.pop(key, None)  # it goes to the end: what came last is read last
            self._newest[key] = item
        else:
            if len(self._told) >= MOST_TOLD:
                self._told.popleft()
                self.lost += 1
            self._told.append(item)
        self._wake.set()

    def __aiter__(self) -> Subscription[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            if self._newest:
                return self._newest.pop(next(iter(self._newest)))
            if self._told:
                return self._told.popleft()
            if not self._open:
                raise StopAsyncIteration
            self._wake = trio.Event()
            await self._wake.wait()

    def close(self) -> None:
        """End it: what waits is still read."""
        if self._open:
            self._open = False
            self._closed(self)
            self._wake.set()

    def __enter__(self) -> Subscription[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
