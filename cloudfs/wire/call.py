"""Requests of a client that are under way, and how long they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from cloudfs.errors import CloudError
from cloudfs.wait import Done, Soon
from cloudfs.wire.messages import MESSAGES

if TYPE_CHECKING:
    from cloudfs.wire.exchange import Exchange

T = TypeVar("T")
Answers = list[tuple[Any, ...]]  # the fields of each
REPLY = {row.name: "R" + row.name[1:] for row in MESSAGES if row.name[0] == "T"}


class Call:
    """A request: a T-message and its fields, and what becomes of a fid by it.

    makes: a number from `new_fid`, which is free again unless the server made the fid (by
    a walk: took all `steps`).  again: whether that is the number of another one until then.
    takes: one that is free again once the server has answered.  sent: when the first of
    those that go together went; 0 for the others.
    """

    __slots__ = (
        "again",
        "asking",
        "fields",
        "makes",
        "name",
        "reply",
        "sent",
        "steps",
        "tag",
        "takes",
        "took",
    )

    def __init__(
        self,
        name: str,
        *fields: Any,
        makes: int | None = None,
        steps: int = 0,
        takes: int | None = None,
        again: bool = False,
    ) -> None:
        self.name = name
        self.fields = fields
        self.makes = makes
        self.steps = steps
        self.takes = takes
        self.again = again
        self.tag = -1
        self.asking: Asking[Any] | None = None  # what it is a part of
        self.reply: tuple[str, tuple[Any, ...]] | None = None
        self.sent = self.took = 0.0

    def made(self) -> bool:
        """Whether the server has made the fid."""
        reply = self.reply
        if self.makes is None or reply is None or reply[0] != REPLY[self.name]:
            return False
        return self.name != "Twalk" or len(reply[1][0]) == self.steps


class Asking(Soon[T]):
    """Requests that go out together; Exchange.asking makes it and says what comes of it."""

    __slots__ = ("_late", "calls", "client", "done", "left", "seconds", "spare", "whole")

    def __init__(
        self,
        client: Exchange,
        calls: Sequence[Call],
        seconds: float,
        spare: int,
        late: Callable[[], CloudError] | None,
        whole: bool,
    ) -> None:
        self.client = client
        self.calls = calls
        self.seconds = seconds
        self.spare = spare
        self._late = late
        self.whole = whole  # whether a walk must have taken all its steps
        self.left = len(calls)  # replies to come
        self.done: Done | None = None  # None once it has ended

    def start(self, done: Done) -> None:
        self.done = done
        self.client.begin(self)

    def stop(self) -> None:
        self.done = None
        self.client.give_up(self)

    def end(self, result: Any, error: Exception | None = None) -> None:
        """To be called by the client: what came of it."""
        done, self.done = self.done, None
        if done is not None:
            done(result, error)

    def too_late(self) -> None:
        self.client.give_up(self)
        self.end(None, self.late())

    def late(self) -> CloudError:
        """The error for what was not answered in time."""
        if self._late is not None:
            return self._late()
        name = self.client.name
        return CloudError("timeout", f"{name} did not answer {self.calls[0].name} in time")


class Deadlines:
    """Ends what was asked and not answered in time.

    One task for all.  Mostly what began first has to end first, so the task is woken for
    what begins only if it has nothing to wait for.
    """

    def __init__(self) -> None:
        self._all: dict[Asking[Any], float] = {}
        self._next = math.inf
        self._sooner = trio.Event()

    def add(self, asking: Asking[Any], until: float) -> None:
        """until: on trio's clock."""
        self._all[asking] = until
        if until < self._next:
            self._next = until
            self._sooner.set()

    def drop(self, asking: Asking[Any]) -> None:
        self._all.pop(asking, None)

    async def run(self) -> None:
        while True:
            with trio.move_on_at(self._next):
                await self._sooner.wait()
            self._sooner = trio.Event()
            now = trio.current_time()
            for asking in [asking for asking, until in self._all.items() if until <= now]:
                if asking in self._all:
                    asking.too_late()
            self._next = min(self._all.values(), default=math.inf)
