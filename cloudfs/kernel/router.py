"""Questions across zones: up to the delegates of a zone, across to its sisters, and down.

A zone's two delegates also sit in the parent zone.  A question climbs from zone to zone
and at each level goes down into every other child, so that a cloud of three levels is
asked in at most four steps, all children at once.  A child is asked through one of its
delegates, and through the next where that does not answer; one whose digest shows that it
has nothing to say is left out.  What several children say is put together at every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Engine

log = logging.getLogger(__name__)

SHARE = 0.8  # of the time left that one step downwards gets
PART = "part"  # the last line of an answer where some zone did not answer; no record is one word
LEAST = 0.1  # seconds, below which nobody is asked any more


class Map(Protocol):
    """Where this node is in the tree of zones."""

    @property
    def leaf(self) -> str: ...

    def parent(self, zone: str) -> str | None:
        """The zone above, None for the root."""

    def children(self, zone: str) -> Mapping[str, Sequence[str]]:
        """Of a zone that this node is in: the zones below and the delegates of each."""

    def delegates(self, zone: str) -> Sequence[str]:
        """Of a zone that this node is in: its own delegates, the best first."""

    def narrow(self, zone: str, question: str) -> str:
        """What of a question another zone may have an answer to; "" for nothing."""


class Router:
    """Asks, and answers what others ask.

    `sessions`: the engine of every zone that this node is in.  `answer(question)`: the
    records of this node's own zone.  `join(question, records)`: those of several zones, as
    far as they matter.
    """

    def __init__(
        self,
        node: str,
        map: Map,
        sessions: Mapping[str, Engine],
        answer: Callable[[str], list[str]],
        join: Callable[[str, list[str]], list[str]] = lambda question, records: records,
    ) -> None:
        self.node = node
        self.map = map
        self.sessions = sessions
        self.answer = answer
        self.join = join

    def serve(self, zone: str, engine: Engine) -> None:
        """Answer in a zone that was entered: what comes from below goes up, what comes from
        above or beside goes down.  It ends with the engine."""
        engine.serve(f"up/{self.node}", partial(self._on_up, zone))
        engine.serve(f"down/*/{self.node}", self._on_down)

    async def gather(self, question: str, seconds: float) -> tuple[list[str], bool]:
        """The records that all other zones have for a question, and whether all answered."""
        return await self._up(self.map.leaf, question, seconds)

    async def _up(self, zone: str, question: str, seconds: float) -> tuple[list[str], bool]:
        above = self.map.parent(zone)
        if above is None:
            return [], True
        if above in self.sessions:
            return await self._across(above, zone, question, seconds)
        keys = [f"up/{name}" for name in self.map.delegates(zone) if name != self.node]
        return await self._first(zone, keys, question, seconds)

    async def _across(
        self, zone: str, skip: str, question: str, seconds: float
    ) -> tuple[list[str], bool]:
        """What the other children of a zone have, and all beyond it."""
        found: list[str] = []
        missed = False

        async def take(work: Callable[[], object]) -> None:
            nonlocal missed
            records, whole = await work()  # type: ignore[misc]
            found.extend(records)
            missed = missed or not whole

        async with trio.open_nursery() as nursery:
            for child, names in self.map.children(zone).items():
                asked = self.map.narrow(child, question) if child != skip else ""
                if asked:
                    keys = [f"down/{child}/{name}" for name in names]
                    step = seconds * SHARE
                    nursery.start_soon(take, partial(self._first, zone, keys, asked, step))
            nursery.start_soon(take, partial(self._up, zone, question, seconds * SHARE))
        return self.join(question, found), not missed

    async def _down(self, zone: str, question: str, seconds: float) -> tuple[list[str], bool]:
        """What a zone that this node is in has, and whether all below it answered."""
        if zone == self.map.leaf:
            return self.answer(question), True
        found: list[str] = []
        missed = False

        async def take(child: str, names: Sequence[str]) -> None:
            nonlocal missed
            if child == self.map.leaf or self.node in names:
                records, whole = await self._down(child, question, seconds)
            else:
                asked = self.map.narrow(child, question)
                if not asked:
                    return
                keys = [f"down/{child}/{name}" for name in names]
                records, whole = await self._first(zone, keys, asked, seconds * SHARE)
            found.extend(records)
            missed = missed or not whole

        async with trio.open_nursery() as nursery:
            for child, names in self.map.children(zone).items():
                nursery.start_soon(take, child, names)
        return self.join(question, found), not missed

    async def _first(
        self, zone: str, keys: Sequence[str], question: str, seconds: float
    ) -> tuple[list[str], bool]:
        """The answer of the first of the keys that gives one."""
        engine = self.sessions.get(zone)
        until = trio.current_time() + seconds
        for index, key in enumerate(keys):
            left = until - trio.current_time()
            if engine is None or left < LEAST:
                break
            left = max(LEAST, left / (len(keys) - index))
            payload = f"{left * SHARE:.3f} {question}".encode()
            try:
                answer = await engine.ask(key, payload, timeout=left, want=1)
            except CloudError as error:
                log.debug("zone %s: %s: %s", zone or "/", key, error)
                continue
            if answer.replies and not answer.failed:
                text = b"".join(reply.value for reply in answer.replies).decode(errors="replace")
                lines = [line for line in text.splitlines() if line]
                return [line for line in lines if line != PART], PART not in lines
        return [], False

    async def _on_up(self, zone: str, key: str, payload: bytes) -> list[tuple[str, bytes]]:
        seconds, question = _question(payload)
        return [(key, _reply(*await self._up(zone, question, seconds)))]

    async def _on_down(self, key: str, payload: bytes) -> list[tuple[str, bytes]]:
        seconds, question = _question(payload)
        zone = key.split("/")[1]
        if zone != self.map.leaf and zone not in self.sessions:
            return []  # this node is no delegate of it any more: the next is asked
        return [(key, _reply(*await self._down(zone, question, seconds)))]


def _reply(records: list[str], whole: bool) -> bytes:
    return "\n".join(records if whole else [*records, PART]).encode()


def _question(payload: bytes) -> tuple[float, str]:
    seconds, _, question = payload.decode().partition(" ")
    try:
        return min(float(seconds), 60.0), question
    except ValueError:
        raise CloudError("bad", "a question begins with its seconds") from None
