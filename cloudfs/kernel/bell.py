"""Waking those who wait: a bell that any number of tasks hear, and a log they follow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from cloudfs import ndb


class Bell:
    """`ring` wakes all who wait at that moment; nothing is kept for those who come later."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: trio.Event | None = None

    def ring(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()


class Log:
    """The last `keep` lines of something, each with a number that only grows.  Lines of it
    are put into the log `whole` too, of which it is a part."""

    __slots__ = ("_bell", "_clock", "_lines", "count", "whole")

    def __init__(
        self, keep: int, clock: Callable[[], float] = time.time, whole: Log | None = None
    ) -> None:
        self.whole = whole
        self._lines: deque[str] = deque(maxlen=keep)
        self._bell = Bell()
        self._clock = clock
        self.count = 0  # lines ever added

    def add(self, event: str, **pairs: object) -> None:
        """Add the record `time= event= …`."""
        self.put(ndb.record([("time", round(self._clock(), 3)), ("event", event), *pairs.items()]))

    def put(self, line: str) -> None:
        """Add a record that was made elsewhere."""
        self._lines.append(line)
        self.count += 1
        self._bell.ring()
        if self.whole is not None:
            self.whole.put(line)

    def since(self, number: int) -> tuple[str, int]:
        """The text of the lines from that number on as far as they are kept, and the
        number to ask from next time."""
        first = self.count - len(self._lines)
        lines = list(self._lines)[max(0, number - first) :]
        return "".join(f"{line}\n" for line in lines), self.count

    async def more(self, number: int) -> None:
        """Wait until there is a line of that number."""
        while self.count <= number:
            await self._bell.wait()


async def first(*waits: Callable[[], Awaitable[None]]) -> None:
    """Wait until one of them is done; the others are cancelled."""
    async with trio.open_nursery() as nursery:

        async def race(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(race, wait)
