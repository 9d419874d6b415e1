"""Queues that are bounded without losing what counts."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

import trio

T = TypeVar("T")

TOLD = 1024  # things said once that wait in a queue


class Queue(Generic[T]):
    """What waits to be taken, oldest first.

    `keep` replaces what waits under the same name, so that there is at most one thing a
    name; of what is `add`ed at most `most` wait: the oldest goes, and is counted in `lost`.
    Not safe for threads.
    """

    __slots__ = ("_added", "_count", "_items", "lost", "most")

    def __init__(self, most: int = TOLD) -> None:
        self.most = most
        self.lost = 0
        self._items: OrderedDict[object, T] = OrderedDict()
        self._added: deque[int] = deque()  # names of what was added, oldest first
        self._count = 0

    def __len__(self) -> int:
        return len(self._items)

    def keep(self, name: str | tuple[str, ...], item: T) -> None:
        self._items[name] = item

    def add(self, item: T) -> None:
        while self._added and self._added[0] not in self._items:
            self._added.popleft()
        if len(self._added) >= self.most:
            del self._items[self._added.popleft()]
            self.lost += 1
        self._count += 1
        self._added.append(self._count)
        self._items[self._count] = item

    def take(self) -> T:
        """The oldest; raises KeyError if there is none."""
        name, item = self._items.popitem(last=False)
        if self._added and self._added[0] == name:
            self._added.popleft()
        return item

    def clear(self) -> list[T]:
        """All that waits."""
        items = list(self._items.values())
        self._items.clear()
        self._added.clear()
        return items


class Feed(Generic[T]):
    """A queue that one task iterates: api.Subscription."""

    def __init__(self, closed: Callable[[Feed[T]], None], most: int = TOLD) -> None:
        self._queue: Queue[T] = Queue(most)
        self._closed = closed
        self._over = False
        self._wake = trio.Event()

    @property
    def lost(self) -> int:
        return self._queue.lost

    def keep(self, name: str, item: T) -> None:
        self._queue.keep(name, item)
        self._wake.set()

    def add(self, item: T) -> None:
        self._queue.add(item)
        self._wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def drain(self) -> list[T]:
        """All that waits, at once."""
        return self._queue.clear()

    def close(self) -> None:
        if not self._over:
            self._over = True
            self._queue.clear()
            self._wake.set()
            self._closed(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._queue:
            await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._over:
                raise StopAsyncIteration
            self._wake = trio.Event()
            await self._wake.wait()
        return self._queue.take()
