"""Measures the network: sends the probes that the schedule says, and tells what came of them.

    Schedule ──whom──▶ Measure ──ping──▶ Carrier (wire/echo.py) ──▶ the other node
                          │  ◀──pong, seconds──┘
                          ▼
                       Network

References are chosen anew when nodes come or go.  Now and then a few nodes that seem near, and
were never measured, are explored: each costs a handshake, so seldom.
"""

from __future__ import annotations

import heapq
import logging
import random
from collections.abc import Collection
from typing import Any, Protocol

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import coordinate
from cloudfs.kernel.catalog import usable
from cloudfs.kernel.coordinate import Coordinate
from cloudfs.kernel.nearest import likeness
from cloudfs.kernel.network import Network
from cloudfs.kernel.probing import Probe, references

LOOK = 1.0  # seconds between two looks at whether nodes came or went
REFRESH = 60.0  # seconds after which references are chosen anew for what was measured since
UNDER_WAY = 32  # probes at once
PING = 5.0  # seconds for a probe, a new connection included
EXPLORE = 30.0, 600.0  # seconds from the start, and from one time to the next
FEW = 4  # strangers, and near ones of near ones, that are explored at a time
ASK = 4  # of the nearest, that are asked whom they have near
BEYOND = 5.0  # seconds between two looks at whom of other zones this node should know
FAR = 3600.0  # seconds after which other zones are asked anew for a few of their nodes
SAMPLE = 512  # nodes that are looked at for likeness
HEARD = 16  # near ones that one node may name

log = logging.getLogger(__name__)


class Carrier(Protocol):
    """What carries probes to other nodes."""

    async def ping(self, node: str, data: bytes) -> tuple[float, bytes]:
        """Seconds to a node and back, and what it answered.  Raises CloudError."""

    def keep(self, nodes: Collection[str]) -> None:
        """Connections to others than these are not worth keeping."""


class Measure:
    """The driver of one node; `run` goes on until it is cancelled."""

    def __init__(self, network: Network, carrier: Carrier) -> None:
        self.network = network
        self.carrier = carrier
        self._cloud = network.cloud
        self._version = -1  # of the cloud, at which the references were chosen
        self._chosen = 0.0  # when that was
        self._under_way = 0
        self._dice = random.Random(f"measure {network.cloud.machine.name}")  # noqa: S311

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Measure until cancelled."""
        schedule, clock = self.network.schedule, self._cloud.clock
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._explore)
            nursery.start_soon(self._look_beyond)
            task_status.started()
            while True:
                now = clock()
                self._cloud.machine.watch(now)
                self._refer(now)
                probe = schedule.next(now) if self._under_way < UNDER_WAY else None
                if probe is not None:
                    self._under_way += 1
                    nursery.start_soon(self._probe, probe)
                due = schedule.due(clock())
                pause = LOOK if due is None else min(LOOK, max(due, 0.01))
                with trio.move_on_after(pause):
                    await self.network.wanted.wait()
                    await trio.sleep(schedule.due(clock()) or 0.0)

    def _refer(self, now: float) -> None:
        """Choose the references anew where that is due."""
        cloud, network = self._cloud, self.network
        if self._version == cloud.version and now - self._chosen < REFRESH:
            return
        self._version, self._chosen = cloud.version, now
        there = ((i.name, i.cluster) for i in cloud.nodes.values() if cloud.alive(i.name))
        near = [name for name, _ in network.near()]
        chosen = references(cloud.machine.name, there, cloud.machine.cluster, near)
        network.refer(chosen)
        for node in list(network.position.references):
            if not cloud.alive(node):
                network.position.forget(node)
        self.carrier.keep(chosen)

    async def _probe(self, probe: Probe) -> None:
        network, node = self.network, probe.peer
        error = CloudError("timeout", f"node {node} did not answer within {PING:g} s")
        try:
            with trio.move_on_after(PING):
                seconds, pong = await self.carrier.ping(node, network.ping(probe.why))
                network.took(node, seconds, coordinate.unpack(pong), probe.why)
                network.demands.probed(node)
                return
        except CloudError as reason:
            error = reason
        except Exception as fault:
            log.exception("probing %s", node)
            error = CloudError("io", f"probing {node}: {fault!r}")
        finally:
            self._under_way -= 1
        info = self._cloud.node(node)
        if info is not None:
            network.missed(node)
        network.demands.probed(node, error)
        if info is not None and not info.near:
            await self._cloud.refresh(f"node {node}", PING)  # it may have gone, unheard of here

    async def _look_beyond(self) -> None:
        """Know a few nodes of every other zone, since some references should be far, and
        those that probe this one."""
        cloud, some = self._cloud, 0.0
        while True:
            await trio.sleep(BEYOND * self._dice.uniform(0.5, 1.0))
            for node in self.network.unheard():
                await cloud.refresh(f"node {node}", PING)
            if not cloud.alone() and cloud.clock() >= some:
                await cloud.refresh("some", PING)
                far = any(not info.near for info in cloud.nodes.values())
                some = cloud.clock() + (FAR if far else 2 * BEYOND) * self._dice.uniform(0.5, 1)

    # --- strangers ----------------------------------------------------------------------------

    async def _explore(self) -> None:
        """Have those probed that may be near and were never measured."""
        first, again = EXPLORE
        await trio.sleep(first * self._dice.uniform(0.75, 1.25))
        while True:
            if not self.network.schedule.exploring:
                strangers = await self._strangers()
                if strangers:
                    self.network.schedule.explore(strangers)
                    self.network.wanted.ring()
            await trio.sleep(again * self._dice.uniform(0.75, 1.25))

    async def _strangers(self) -> list[str]:
        """Near ones of near ones first, as in Meridian's rings, then those alike."""
        network, cloud = self.network, self._cloud
        unmet = [name for name in cloud.nodes if cloud.alive(name) and not network.met(name)]
        if not unmet:
            return []
        heard: dict[str, float] = {}
        for near, seconds in network.near()[:ASK]:
            for name, more in await self._near_of(near):
                if not network.met(name) and cloud.alive(name):
                    heard[name] = min(seconds + more, heard.get(name, coordinate.LONGEST))
        first = heapq.nsmallest(FEW, heard, key=heard.__getitem__)
        here = network.coordinate()
        seen = unmet if len(unmet) <= SAMPLE else self._dice.sample(unmet, SAMPLE)
        places: dict[str, Coordinate] = {}
        for name in seen:
            place = network.coordinate_of(name)
            if place is not None:
                places[name] = place
        alike = heapq.nsmallest(FEW, places, key=lambda name: likeness(here, places[name]))
        return list(dict.fromkeys([*first, *alike]))

    async def _near_of(self, node: str) -> list[tuple[str, float]]:
        """Whom a node has measured to be near; nothing where it does not say."""
        if self.network.reach is None:
            return []
        try:
            text = await self.network.reach(node, PING).text("net/near")
            return near_of(text)
        except CloudError:
            return []


def near_of(text: str) -> list[tuple[str, float]]:
    """The table `net/near` of a node: (node, seconds), as far as it can be one.  Raises
    CloudError where it is none."""
    found = []
    for line in text[: 256 * HEARD].splitlines()[:HEARD]:
        try:
            name, seconds, *_ = ndb.words(line)
            value = float(seconds)
        except ValueError:
            raise CloudError("proto", f"{line[:80]!r} is no line of a table") from None
        if usable(name) and 0 < value <= coordinate.LONGEST:
            found.append((name, value))
    return found
