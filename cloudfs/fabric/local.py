"""The engine within one process: no socket, no thread.

One engine alone on its bus is a node's default; several are several nodes, for tests,
whose links can be cut.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Sample
from cloudfs.fabric.hub import Hub
from cloudfs.fabric.keys import intersects


class Bus:
    """What joins the engines of a process, zone by zone."""

    def __init__(self) -> None:
        self._carriers: dict[tuple[str, str], _Bused] = {}  # by zone and node
        self._cuts: set[frozenset[str]] = set()
        self._sessions = 0

    def cut(self, one: str, two: str) -> None:
        """Neither of the two nodes hears the other from now on."""
        if self.linked(one, two):
            self._cuts.add(frozenset((one, two)))
            for here, there in self._pairs(one, two):
                here.lose(there)
                there.lose(here)

    def heal(self, one: str, two: str) -> None:
        if not self.linked(one, two):
            self._cuts.discard(frozenset((one, two)))
            for here, there in self._pairs(one, two):
                here.find(there)
                there.find(here)

    def linked(self, one: str, two: str) -> bool:
        return frozenset((one, two)) not in self._cuts

    def enter(self, carrier: _Bused) -> None:
        """Raises CloudError("busy") if a node of that name is in that zone."""
        hub = carrier.hub
        if (hub.zone, hub.node) in self._carriers:
            raise CloudError("busy", f"{hub.node} is in zone {hub.zone!r} already")
        self._sessions += 1
        carrier.session = str(self._sessions)
        self._carriers[hub.zone, hub.node] = carrier
        for other in self.others(carrier):
            other.find(carrier)
            carrier.find(other)

    def leave(self, carrier: _Bused) -> None:
        for other in self.others(carrier):
            other.lose(carrier)
            carrier.lose(other)
        del self._carriers[carrier.hub.zone, carrier.hub.node]

    def others(self, carrier: _Bused) -> list[_Bused]:
        """Those that it has a link to."""
        return [
            other
            for (zone, node), other in self._carriers.items()
            if zone == carrier.hub.zone
            and other is not carrier
            and self.linked(node, carrier.hub.node)
        ]

    def _pairs(self, one: str, two: str) -> list[tuple[_Bused, _Bused]]:
        return [
            (here, self._carriers[zone, two])
            for (zone, node), here in self._carriers.items()
            if node == one and (zone, two) in self._carriers
        ]


class _Bused:
    """hub.Carrier on a bus."""

    hub: Hub

    def __init__(self, bus: Bus) -> None:
        self.session = ""
        self._bus = bus
        self._exprs: set[str] = set()
        self._open: dict[int, set[str]] = {}  # question: who may answer it yet

    @asynccontextmanager
    async def connected(self, hub: Hub) -> AsyncIterator[None]:
        self._bus.enter(self)
        try:
            yield
        finally:
            self._bus.leave(self)

    def find(self, other: _Bused) -> None:
        self.hub.joined(other.hub.node, other.session)

    def lose(self, other: _Bused) -> None:
        self.hub.left(other.hub.node, other.session)
        for number in list(self._open):
            self._over(number, other.hub.node)

    def put(self, sample: Sample, kept: bool) -> None:
        for other in self._bus.others(self) if self.session else ():
            if any(intersects(expr, sample.key) for expr in other._exprs):
                other.hub.heard(self.hub.node, sample, kept)

    def listen(self, expr: str) -> None:
        self._exprs.add(expr)

    def unlisten(self, expr: str) -> None:
        self._exprs.discard(expr)

    def question(self, number: int, node: str, data: bytes, timeout: float) -> None:
        asked = [each for each in self._bus.others(self) if node in ("*", each.hub.node)]
        self._open[number] = {each.hub.node for each in asked}
        for other in asked:
            other.hub.asked(data, partial(self._answered, number, other))
        self._over(number, "")

    def _answered(self, number: int, other: _Bused, data: bytes | None) -> None:
        linked = self._bus.linked(self.hub.node, other.hub.node)
        if number in self._open and linked and data is not None:
            self.hub.answered(number, other.hub.node, data)
        self._over(number, other.hub.node)

    def _over(self, number: int, node: str) -> None:
        """That node answers the question no more."""
        waiting = self._open.get(number)
        if waiting is None:
            return
        waiting.discard(node)
        if not waiting:
            del self._open[number]
            self.hub.finished(number)


class LocalEngine(Hub):
    """A node's engine in a zone of the bus."""

    def __init__(self, node: str, zone: str, bus: Bus) -> None:
        carrier = _Bused(bus)
        super().__init__(node, zone, carrier)
        carrier.hub = self
