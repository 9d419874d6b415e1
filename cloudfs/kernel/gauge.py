"""Measures bandwidth on demand, by trains in a session of the other node.

One measurement at a time, so that none disturbs another, and those of one node so far apart
that they take no more than a set share of the way (bandwidth.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.bandwidth import (
    CAR_ON_WIRE,
    SPAN,
    Measuring,
    Rate,
    Spread,
    bound,
    pause,
    spread,
)
from cloudfs.kernel.figure import Known
from cloudfs.kernel.network import Network

ALL = 20.0  # seconds for a measurement
PINGS = 3  # single cars, for the time there and back
PATIENCE = 0.8  # seconds for an answer, besides the ways there and back
UNKNOWN, KNOWN = 2.0, 4 * SPAN  # and besides what the train may take: the first, the others
MISSES = 3  # answers in a row that stay out: nothing comes through any more
WAITING = 8  # measurements that wait for others
KEPT = 4096  # nodes of which is kept when they may be measured again


class Session(Protocol):
    """What carries trains to and from another node."""

    async def send(self, length: int, seconds: float) -> tuple[float, Sequence[float], bool] | None:
        """Send a train.  After how long the answer came; when the other node says that the
        cars did; whether it proved that it had the last one.  None: no answer in time."""

    async def fetch(self, length: int, seconds: float) -> Sequence[float]:
        """Have a train sent here, of which the first car comes within so many seconds; when
        its cars came."""


class Rails(Protocol):
    """Where sessions come from."""

    def session(self, node: str) -> AbstractAsyncContextManager[Session]:
        """Open one.  Raises CloudError."""


class Gauge:
    """What a network measures bandwidth with."""

    def __init__(self, network: Network, rails: Rails) -> None:
        self._network = network
        self._rails = rails
        self._turn = trio.Lock()
        self._next: dict[str, float] = {}  # node → when it may be measured again

    async def measure(self, node: str) -> Known:
        """The way to a node; what that from it carries is told the network.  Raises
        CloudError."""
        if self._turn.statistics().tasks_waiting >= WAITING:
            raise CloudError("toomany", f"{WAITING} measurements wait already", "try again later")
        async with self._turn:
            now = trio.current_time()
            self._next = {name: at for name, at in self._next.items() if at > now}
            if node in self._next:
                seconds = math.ceil(self._next[node] - now)
                why = f"the way to {node} was measured just now, which has taken its share of it"
                raise CloudError("again", why, f"try again in {seconds} s")
            with trio.move_on_after(ALL):
                return await self._measure(node, now)
            raise CloudError("timeout", f"measuring the way to {node} took more than {ALL:g} s")

    async def _measure(self, node: str, now: float) -> Known:
        there, back = Measuring(), Measuring()
        claim = None
        try:
            async with self._rails.session(node) as session:
                shortest = await _ping(node, session)
                claim = await _there(session, there, shortest)
                await _back(session, back, shortest)
        finally:
            rates = [way.rate() for way in (there, back)]
            slowest = min((rate.value for rate in rates if rate is not None), default=0.0)
            sent = there.sent + back.sent
            if slowest > 0 and len(self._next) < KEPT:
                self._next[node] = now + pause(sent, slowest)
        found = back.rate()
        if found is not None:
            self._network.took_back(node, Known(found.value, 0.0, "measured", found.error))
        if claim is None:
            raise CloudError(
                "nodata",
                f"the trains to {node} tell no rate: they were lost, or came all at once",
                "see what the way loses: cat /cloud/net/NODE/loss",
            )
        return Known(claim.value, 0.0, "measured", claim.error)


async def _ping(node: str, session: Session) -> float:
    """The seconds that a single car and its answer take."""
    times: list[float] = []
    for _ in range(PINGS):
        found = await session.send(1, PATIENCE + (3 * min(times) if times else KNOWN))
        if found is not None and found[2] and found[0] > 0:
            times.append(found[0])
    if not times:
        why = f"no datagram came through to {node} and back"
        raise CloudError("unreachable", why, "have UDP between nodes let through")
    return min(times)


async def _there(session: Session, way: Measuring, shortest: float) -> Rate | None:
    """Send trains; what the other node says of them, as far as the own clock allows."""
    seen: list[Spread] = []
    misses = 0
    while misses < MISSES and (length := way.next()):
        takes = KNOWN if way.trains else UNKNOWN
        found = await session.send(length, PATIENCE + 2 * shortest + takes)
        misses = misses + 1 if found is None else 0
        seconds, stamps, proved = found or (0.0, (), False)
        # What lost its end bears no proof, and so no figure.
        way.took(spread(stamps) if proved else None, length, len(stamps))
        if proved:
            seen.append(Spread((length - 1) * CAR_ON_WIRE, seconds))
    rate = way.rate()
    return None if rate is None else bound(rate, seen, shortest)


async def _back(session: Session, way: Measuring, shortest: float) -> None:
    """Have trains sent here."""
    misses = 0
    while misses < MISSES and (length := way.next()):
        stamps = await session.fetch(length, PATIENCE + 2 * shortest)
        misses = 0 if stamps else misses + 1
        way.took(spread(stamps), length, len(stamps))
