"""The embedded engine: nodes of one process on one bus, no socket.

A machine alone runs on it; tests put many nodes on one bus and cut links between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Answer, Change, Closer, Handler, Sample
from cloudfs.fabric.asking import Asking
from cloudfs.fabric.hub import Hub
from cloudfs.fabric.keys import meets
from cloudfs.fabric.roll import Roll
from cloudfs.fabric.stamp import Stamp
from cloudfs.fabric.subscription import Subscription


class Bus:
    """Joins the engines of a process.  `cut(a, b)`: b hears nothing of a any more."""

    def __init__(self) -> None:
        self.engines: list[LocalEngine] = []
        self._cuts: set[tuple[str, str]] = set()

    def cut(self, a: str, b: str) -> None:
        self._cuts.add((a, b))
        self._changed()

    def heal(self) -> None:
        """All links work again."""
        self._cuts.clear()
        self._changed()

    def hears(self, a: LocalEngine, b: LocalEngine) -> bool:
        """Whether what a says comes to b."""
        return a.zone == b.zone and a is not b and (a.node, b.node) not in self._cuts

    def join(self, engine: LocalEngine) -> None:
        self.engines.append(engine)
        self._changed()

    def leave(self, engine: LocalEngine) -> None:
        self.engines.remove(engine)
        self._changed()

    def _changed(self) -> None:
        for one in self.engines:
            one.see([other for other in self.engines if self.hears(other, one)])


class LocalEngine:
    """A node's session in a zone of a bus; see fabric/api.py."""

    def __init__(self, node: str, zone: str, bus: Bus) -> None:
        self.node = node
        self.zone = zone
        self._bus = bus
        self._hub = Hub(node)
        self._roll = Roll(node)
        self._served: list[tuple[str, Handler]] = []

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self._bus.join(self)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._bus.leave(self)
            self._hub.close()
            self._roll.close()

    def reopen(self, seeds: Sequence[str]) -> None:
        """Everybody on the bus is called anyway."""

    def now(self) -> Stamp:
        return self._hub.clock.now()

    def members(self) -> frozenset[str]:
        return self._roll.members()

    def watch(self) -> Subscription[Change]:
        return self._roll.watch()

    def see(self, others: list[LocalEngine]) -> None:
        """Those that it hears now."""
        before = self._roll.members()
        self._roll.set(other.node for other in others)
        for other in others:
            if other.node not in before:
                self._hub.fetched(other.node, other._hub.everything())

    def publish(self, key: str, value: bytes) -> Stamp:
        stamp, data = self._hub.publish(key, value)
        self._send(data)
        return stamp

    def withdraw(self, key: str) -> None:
        data = self._hub.withdraw(key)
        if data is not None:
            self._send(data)

    def tell(self, key: str, value: bytes) -> None:
        self._send(self._hub.tell(key, value))

    def _send(self, data: bytes) -> None:
        for other in self._bus.engines:
            if self._bus.hears(self, other):
                other._hub.heard(data)

    def subscribe(self, keyexpr: str) -> Subscription[Sample]:
        return self._hub.subscribe(keyexpr)

    def serve(self, keyexpr: str, handler: Handler) -> Closer:
        row = keyexpr, handler
        self._served.append(row)
        return partial(_remove, self._served, row)

    async def ask(
        self,
        selector: str,
        payload: bytes = b"",
        *,
        timeout: float,
        want: int | frozenset[str] | None = None,
    ) -> Answer:
        wanted = self.members() - {self.node} if want is None else want
        asking = Asking(wanted)
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for other in list(self._bus.engines):
                    if not self._bus.hears(self, other):
                        continue
                    for keyexpr, handler in list(other._served):
                        if meets(keyexpr, selector):
                            work = partial(self._answer, other, handler, selector, payload)
                            nursery.start_soon(work, asking)
                await asking.enough.wait()
                nursery.cancel_scope.cancel()
        return asking.answer()

    async def _answer(
        self, other: LocalEngine, handler: Handler, key: str, payload: bytes, asking: Asking
    ) -> None:
        try:
            pairs = await handler(key, payload)
        except (CloudError, ValueError):
            return
        if self._bus.hears(other, self):
            asking.take(other.node, pairs)


def _remove(rows: list[tuple[str, Handler]], row: tuple[str, Handler]) -> None:
    if row in rows:
        rows.remove(row)
