"""Fetching what members have published before we listened, or while we could not hear.

Each member is asked when it comes, when something new is subscribed to, and from time to
time: for each expression with a digest of what was heard from it, so that where nothing
was missed little is sent.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric import asking
from cloudfs.fabric.api import Sample
from cloudfs.fabric.keys import check_expr, intersects
from cloudfs.fabric.listen import Listener, digest
from cloudfs.fabric.packet import pack, pack_samples, text, unpack, unpack_samples
from cloudfs.fabric.questions import RETRY, Questions
from cloudfs.fabric.stamp import Clock, Stamp

REPAIR = 30.0  # seconds in which every member is asked once whether something was missed
FETCH = 3.0  # seconds a member has to answer that

_log = logging.getLogger(__name__)


class Fetches:
    """Of one engine.  mine: what it publishes; listeners: its subscriptions."""

    def __init__(
        self, clock: Clock, mine: Mapping[str, Sample], listeners: Sequence[Listener]
    ) -> None:
        self._clock = clock
        self._mine = mine
        self._listeners = listeners
        self._due: dict[str, float] = {}  # by member, trio time
        self._pause: dict[str, float] = {}  # seconds, by member that did not answer
        self._running: set[str] = set()
        self._soon = trio.Event()

    def plan(self, node: str, seconds: float = 0.0) -> None:
        """Fetch from that member, that many seconds from now or earlier if so planned."""
        at = trio.current_time() + seconds
        self._due[node] = min(at, self._due.get(node, at))
        self._soon.set()

    def drop(self, node: str) -> None:
        """It has left."""
        self._due.pop(node, None)
        self._pause.pop(node, None)

    async def run(self, questions: Questions) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._soon = trio.Event()
                now = trio.current_time()
                waiting = self._due.keys() - self._running
                for node in [node for node in waiting if self._due[node] <= now]:
                    del self._due[node]
                    self._running.add(node)
                    nursery.start_soon(self._fetch, questions, node)
                soonest = min(
                    (at for node, at in self._due.items() if node not in self._running),
                    default=now + REPAIR,
                )
                with trio.move_on_after(soonest - now):
                    await self._soon.wait()

    async def _fetch(self, questions: Questions, node: str) -> None:
        """Fetch once, and plan the next time."""
        found = False
        self._pause.setdefault(node, RETRY[0])
        try:
            found = await self._fetched(questions, node)
        finally:
            self._running.discard(node)
            self._soon.set()
        if node not in self._pause:  # it left meanwhile
            return
        if found:
            del self._pause[node]
            self.plan(node, REPAIR * random.uniform(0.75, 1.25))  # noqa: S311
        else:
            self.plan(node, self._pause[node])
            self._pause[node] = min(2 * self._pause[node], RETRY[1])

    async def _fetched(self, questions: Questions, node: str) -> bool:
        """Ask for what differs from what was heard; whether an answer came."""
        listeners = list(self._listeners)
        now = self._clock.now()
        wanted: list[bytes | str] = []
        for each in listeners:
            each.forget(now)
            wanted += [each.expr, each.digest(node)]
        if not wanted:
            return True
        try:
            parts = await questions.kept_by(node, wanted, FETCH)
        except CloudError:  # the engine stops
            return False
        try:
            if not parts:
                return False
            at, *differs = [text(part) for part in unpack(parts[0])]
            samples, stamp = unpack_samples(parts[1:]), Stamp.parse(at)
            samples = [one for one in samples if one.stamp.node == node]
        except CloudError as error:
            _log.warning("%s answered with what cannot be read: %s", node, error)
            return False
        self._clock.heard(stamp)
        for each in listeners:
            if each.expr in differs:
                matching = [one for one in samples if intersects(each.expr, one.key)]
                if node != self._clock.node:
                    each.all_of(node, matching, stamp)
                    continue
                # Another node has our name: what it does not publish, we may.
                for sample in matching:
                    each.hear(node, sample)
        return True

    def kept(self, wanted: list[bytes]) -> bytes:
        """The answer to that: the expressions under which something differs, and all of it."""
        differs: list[str] = []
        samples: dict[str, Sample] = {}
        for part, theirs in zip(wanted[::2], wanted[1::2], strict=True):
            expr = check_expr(text(part))
            found = [each for each in self._mine.values() if intersects(expr, each.key)]
            if digest((each.key, each.stamp) for each in found) != theirs:
                differs.append(expr)
                samples.update((each.key, each) for each in found)
        head = pack(str(self._clock.now()), *differs)
        return pack(asking.OK, head, *pack_samples(samples.values()))
