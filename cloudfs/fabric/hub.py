"""What all engines have in common: everything but the carrying.

A `Carrier` brings samples and questions to the other members and says who they are; the
rest is here.  Published values live with their publisher.  Whoever subscribes listens
first and then fetches from each member what it has published so far; a member that comes
(back) is fetched from again, and all are asked in turn, with digests, whether something
was missed after all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import MAX_KEYS, Answer, Change, Closer, Handler, Sample, check_size
from cloudfs.fabric.carrier import Carrier
from cloudfs.fabric.fetch import Fetches
from cloudfs.fabric.keys import check_expr, check_key
from cloudfs.fabric.listen import Listener
from cloudfs.fabric.questions import Questions
from cloudfs.fabric.queue import Feed
from cloudfs.fabric.stamp import Clock, Stamp

TWICE = 4096  # told samples remembered, by which one that comes twice is known


class Hub:
    """An api.Engine over a carrier."""

    def __init__(self, node: str, zone: str, carrier: Carrier) -> None:
        self.node = node
        self.zone = zone
        self._carrier = carrier
        self._clock = Clock(node)
        self._mine: dict[str, Sample] = {}  # what this node publishes
        self._listeners: list[Listener] = []
        self._watchers: list[Feed[Change]] = []
        self._sessions: dict[str, set[str]] = {}  # of each member; a restart's two overlap
        self._told: OrderedDict[tuple[str, Stamp], None] = OrderedDict()
        self._fetches = Fetches(self._clock, self._mine, self._listeners)
        self._questions = Questions(node, zone, carrier, self.members, self._fetches.kept)
        # What the carrier brings of questions.
        self.asked = self._questions.asked
        self.answered = self._questions.answered
        self.finished = self._questions.finished

    def time(self, timed: Callable[[str, float], None]) -> None:
        """Tell that of each answer of a member, and of the seconds that it took, the time
        that the member's handler took included."""
        self._questions.timed = timed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery, self._carrier.connected(self):
            self._questions.nursery = nursery
            try:
                nursery.start_soon(self._fetches.run, self._questions)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._questions.nursery = None
                for node, sessions in list(self._sessions.items()):
                    for session in list(sessions):
                        self.left(node, session)

    def reopen(self, seeds: Sequence[str]) -> None:
        self._carrier.seek(seeds)

    def now(self) -> Stamp:
        return self._clock.now()

    # --- members ------------------------------------------------------------------------

    def members(self) -> frozenset[str]:
        return frozenset([self.node, *self._sessions])

    def watch(self) -> Feed[Change]:
        feed: Feed[Change] = Feed(self._watchers.remove)
        for node in sorted(self.members()):
            feed.keep(node, Change(node, joined=True))
        self._watchers.append(feed)
        return feed

    def joined(self, node: str, session: str) -> None:
        """The carrier sees a session of that node."""
        sessions = self._sessions.setdefault(node, set())
        new = not sessions
        sessions.add(session)
        self._fetches.plan(node)
        if new and node != self.node:
            self._changed(Change(node, joined=True))

    def left(self, node: str, session: str) -> None:
        """The carrier sees that session no more."""
        sessions = self._sessions.get(node, set())
        sessions.discard(session)
        if node in self._sessions and not sessions:
            del self._sessions[node]
            self._fetches.drop(node)
            if node != self.node:
                self._changed(Change(node, joined=False))

    def _changed(self, change: Change) -> None:
        for feed in self._watchers:
            feed.keep(change.node, change)
        self._questions.changed()

    # --- samples ------------------------------------------------------------------------

    def publish(self, key: str, value: bytes) -> None:
        check_key(key)
        check_size(value)
        if key not in self._mine and len(self._mine) >= MAX_KEYS:
            raise CloudError("toomany", f"a node publishes at most {MAX_KEYS} keys")
        sample = Sample(key, bytes(value), self._clock.now())
        self._mine[key] = sample
        self._put(sample)

    def withdraw(self, key: str) -> None:
        if self._mine.pop(key, None) is not None:
            self._put(Sample(key, b"", self._clock.now(), gone=True))

    def _put(self, sample: Sample) -> None:
        self.heard(self.node, sample, kept=True)
        self._carrier.put(sample, kept=True)

    def tell(self, key: str, value: bytes) -> None:
        check_key(key)
        check_size(value)
        sample = Sample(key, bytes(value), self._clock.now())
        self.heard(self.node, sample, kept=False)
        self._carrier.put(sample, kept=False)

    def subscribe(self, keyexpr: str, own: bool = False) -> Listener:
        expr = check_expr(keyexpr)
        if all(each.expr != expr for each in self._listeners):
            self._carrier.listen(expr)
        listener = Listener(expr, self._unsubscribe, own)
        self._listeners.append(listener)
        for sample in self._mine.values():
            listener.hear(self.node, sample)
        for node in self._sessions:
            self._fetches.plan(node)
        return listener

    def _unsubscribe(self, feed: Feed[Sample]) -> None:
        assert isinstance(feed, Listener)
        self._listeners.remove(feed)
        if all(each.expr != feed.expr for each in self._listeners):
            self._carrier.unlisten(feed.expr)

    def heard(self, origin: str, sample: Sample, kept: bool) -> None:
        """A sample put by that node; it may come more than once."""
        if sample.stamp.node != origin:
            return  # else it could outdate what another node tells
        self._clock.heard(sample.stamp)
        if kept:
            for listener in self._listeners:
                listener.hear(origin, sample)
            return
        mark = origin, sample.stamp
        if mark in self._told:
            return
        self._told[mark] = None
        if len(self._told) > TWICE:
            self._told.popitem(last=False)
        for listener in self._listeners:
            listener.told(sample)

    # --- questions ----------------------------------------------------------------------

    def serve(self, keyexpr: str, handler: Handler) -> Closer:
        return self._questions.serve(keyexpr, handler)

    async def ask(
        self,
        selector: str,
        payload: bytes = b"",
        *,
        timeout: float,
        want: int | frozenset[str] | None = None,
    ) -> Answer:
        return await self._questions.ask(selector, payload, timeout=timeout, want=want)
