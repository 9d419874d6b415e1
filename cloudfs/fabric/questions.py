"""Scatter and gather: questions to the members, and answers to theirs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric import asking
from cloudfs.fabric.api import Answer, Closer, Handler, check_size
from cloudfs.fabric.asking import Asking
from cloudfs.fabric.carrier import Carrier
from cloudfs.fabric.keys import check_expr, intersects
from cloudfs.fabric.packet import pack, text, unpack

RETRY = (0.1, 5.0)  # seconds until what brought no answer is asked again: first, and at most
HANDLING = 256  # questions of others under way
_ASK, _KEPT = b"ask", b"kept"

_log = logging.getLogger(__name__)


class _Call:
    """An asking and the task that waits for it.  bell: rings when something came.  asked:
    when that was last done."""

    __slots__ = ("asked", "asking", "bell", "numbers")

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.bell = trio.Event()
        self.asked = 0.0
        self.numbers: list[int] = []

    async def settled(self, members: Callable[[], frozenset[str]]) -> None:
        """Wait until it is done or nothing more can come."""
        while self.asking.open and not self.asking.done(members()):
            await self.bell.wait()
            self.bell = trio.Event()


class _Close:
    """api.Closer over a function."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


class Questions:
    """Of one engine.  kept: answers another engine's question for what is published here.

    nursery: where handlers run; None while the engine does not.  timed: told of a member's
    answer and of the seconds that it took.
    """

    def __init__(
        self,
        node: str,
        zone: str,
        carrier: Carrier,
        members: Callable[[], frozenset[str]],
        kept: Callable[[list[bytes]], bytes],
    ) -> None:
        self.nursery: trio.Nursery | None = None
        self.timed: Callable[[str, float], None] = lambda node, seconds: None
        self._node = node
        self._zone = zone
        self._carrier = carrier
        self._members = members
        self._kept = kept
        self._handlers: dict[object, tuple[str, Handler]] = {}
        self._handling = 0
        self._calls: dict[int, _Call] = {}  # by number of a question
        self._numbers = 0

    def changed(self) -> None:
        """Members came or went."""
        for call in self._calls.values():
            call.bell.set()

    def serve(self, keyexpr: str, handler: Handler) -> Closer:
        mark = object()
        self._handlers[mark] = check_expr(keyexpr), handler

        def close() -> None:
            self._handlers.pop(mark, None)

        return _Close(close)

    async def ask(
        self,
        selector: str,
        payload: bytes = b"",
        *,
        timeout: float,
        want: int | frozenset[str] | None = None,
    ) -> Answer:
        question = pack(_ASK, check_expr(selector), check_size(payload))
        if isinstance(want, frozenset):
            targets, count = want, None
        else:
            targets, count = self._members(), want
        return (await self.gather(question, targets, count, timeout)).answer()

    async def kept_by(
        self, node: str, wanted: list[bytes | str], timeout: float
    ) -> list[bytes] | None:
        """What that node's engine answers to a question for what is published there.  For
        our own name that of another engine which claims it too."""
        question = pack(_KEPT, *wanted)
        found = await self.gather(question, frozenset([node]), None, timeout, here=False)
        return found.parts(node)

    async def gather(
        self,
        data: bytes,
        targets: frozenset[str],
        count: int | None,
        timeout: float,
        here: bool = True,
    ) -> Asking:
        """here: this engine is asked too if it is a target."""
        if self.nursery is None:
            raise CloudError("unreachable", f"the engine of zone {self._zone!r} does not run")
        call = _Call(Asking(targets, count))
        mine = targets & {self._node} if here else frozenset()
        others = targets - mine
        asked = ["*"] if others and targets == self._members() else sorted(others)
        pause, most = RETRY
        ends = trio.current_time() + timeout
        try:
            with trio.move_on_at(ends):
                if mine:
                    self.asked(data, partial(self._answered_here, self._number(call)))
                while True:
                    call.asked = trio.current_time()
                    for node in asked:
                        self._carrier.question(
                            self._number(call), node, data, ends - trio.current_time()
                        )
                    await call.settled(self._members)
                    if call.asking.done(self._members()):
                        break
                    await trio.sleep(pause)
                    pause = min(2 * pause, most)
                    asked = sorted(call.asking.missing(self._members()) - mine)
        finally:
            for number in call.numbers:
                self._calls.pop(number, None)
        return call.asking

    def _number(self, call: _Call) -> int:
        """A number for one question of a call."""
        self._numbers += 1
        self._calls[self._numbers] = call
        call.numbers.append(self._numbers)
        call.asking.open.add(self._numbers)
        return self._numbers

    # --- what the carrier brings ----------------------------------------------------------

    def answered(self, number: int, node: str, data: bytes) -> None:
        """A member's answer to that question, which may be over."""
        call = self._calls.get(number)
        if call is not None:
            self.timed(node, trio.current_time() - call.asked)
            call.asking.heard(node, data)
            call.bell.set()

    def finished(self, number: int) -> None:
        """No more answers to that question can come."""
        call = self._calls.get(number)
        if call is not None:
            call.asking.open.discard(number)
            call.bell.set()

    def _answered_here(self, number: int, data: bytes | None) -> None:
        if data is not None:
            self.answered(number, self._node, data)
        self.finished(number)

    def asked(self, data: bytes, answer: Callable[[bytes | None], None]) -> None:
        """A member's question; `answer` is called once, with None if there is none."""
        try:
            kind, *rest = unpack(data)
            if kind == _KEPT and len(rest) % 2 == 0:
                answer(self._kept(rest))
                return
            selector, payload = check_expr(text(rest[0])), rest[1]
        except (CloudError, ValueError, IndexError):
            answer(pack(asking.FAILED, "a question that cannot be read"))
            return
        handlers = [one for expr, one in self._handlers.values() if intersects(expr, selector)]
        if not handlers or self.nursery is None:
            answer(pack(asking.NONE))
        elif self._handling >= HANDLING:
            answer(pack(asking.FAILED, "too many questions at a time"))
        else:
            self._handling += 1
            self.nursery.start_soon(self._handle, handlers, selector, payload, answer)

    async def _handle(
        self,
        handlers: list[Handler],
        selector: str,
        payload: bytes,
        answer: Callable[[bytes | None], None],
    ) -> None:
        said: bytes | None = None
        try:
            parts: list[bytes | str] = [asking.OK]
            for handler in handlers:
                for key, value in await handler(selector, payload):
                    parts += [key, value]
            said = pack(*parts)
        except CloudError as error:
            said = pack(asking.FAILED, str(error))
        except Exception:
            # Another node's question must not end this one.
            _log.exception("a handler of %s failed", selector)
            said = pack(asking.FAILED, "an error in what serves this")
        finally:
            self._handling -= 1
            answer(said)
