"""Probes and measurements that somebody asked for and waits for.

What they find goes to the Network as every other time does; here is only who waits, and
until when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.catalog import usable
from cloudfs.kernel.estimator import Latency
from cloudfs.kernel.figure import Known, read_known

if TYPE_CHECKING:
    from cloudfs.kernel.network import Network


@dataclass(slots=True, eq=False)
class Demand:
    """Probes that somebody waits for."""

    left: int
    answered: int = 0
    error: CloudError | None = None
    over: trio.Event = field(default_factory=trio.Event)


class Demands:
    """Who waits on one node.

    measure_bandwidth(node): measures the way to a node, None where nothing can.
    """

    def __init__(self, network: Network) -> None:
        self.measure_bandwidth: Callable[[str], Awaitable[Known]] | None = None
        self._network = network
        self._cloud = network.cloud
        self._waiting: dict[str, list[Demand]] = {}

    async def probe(self, node: str, count: int, seconds: float) -> Latency:
        """Probe a node `count` times and tell what is known then; probes that nobody
        answered are an error only where that is all of them.  Raises CloudError:
        absent, unreachable, timeout, bad, toomany.
        """
        await self._find(node, seconds)
        demand = Demand(count)
        self._network.schedule.demand(node, count)
        waiting = self._waiting.setdefault(node, [])
        waiting.append(demand)
        self._network.wanted.ring()
        try:
            with trio.move_on_after(seconds):
                await demand.over.wait()
        finally:
            waiting.remove(demand)
            if not waiting:
                self._waiting.pop(node, None)
        found = self._network.measured(node)
        if found is not None and demand.answered:
            return found
        raise demand.error or CloudError(
            "timeout", f"node {node} answered no probe in {seconds:g} s", "see: cloudfs nodes"
        )

    def probed(self, node: str, error: CloudError | None = None) -> None:
        """One probe on demand is over; error: why it had no answer."""
        for demand in self._waiting.get(node, []):
            if demand.left > 0:
                demand.left -= 1
                demand.answered += error is None
                demand.error = error or demand.error
                if demand.left == 0:
                    demand.over.set()
                return

    async def probe_from(self, source: str, node: str, count: int, seconds: float) -> Known:
        """Have another node probe one, and tell what it says.  Raises what it says."""
        if source == self._cloud.machine.name:
            found = await self.probe(node, count, seconds)
            return Known(found.value, found.age, "measured", found.error)
        await self._find(source, seconds)
        if self._network.reach is None:
            raise CloudError("unreachable", f"node {source} cannot be reached from here")
        if node == source or not usable(node):
            raise CloudError("bad", f"node {source} cannot probe {ndb.quote(node[:64])}")
        there = self._network.reach(source, seconds)
        with trio.move_on_after(seconds):
            await there.write("net/ctl", f"probe {ndb.quote(node)} count={count}\n")
            return read_known(await there.text(f"net/{node}/latency"), source)
        raise CloudError("timeout", f"node {source} did not probe {node} in {seconds:g} s")

    async def bandwidth_of(self, node: str) -> Known:
        """Measure the bandwidth to a node.  Raises CloudError."""
        await self._find(node, 2.0)
        if self.measure_bandwidth is None:
            raise CloudError("unsupported", "this node has no means to measure bandwidth")
        known = await self.measure_bandwidth(node)
        self._network.took_bandwidth(node, known)
        return known

    async def _find(self, node: str, seconds: float) -> None:
        """Raise unless the node is known, here or to another zone, and may be reached."""
        cloud = self._cloud
        if node == cloud.machine.name:
            raise CloudError("bad", f"{node} is this node: there is no way to measure")
        if cloud.node(node) is None and usable(node):
            await cloud.refresh(f"node {node}", seconds)
        info = cloud.node(node)
        if info is None:
            raise unknown(node)
        if not cloud.alive(node):
            raise CloudError(
                "unreachable",
                f"node {node} is {info.state}: nothing was heard of it for"
                f" {cloud.age_of(node):.0f} s",
                "see: cloudfs nodes",
            )


def unknown(node: str) -> CloudError:
    """The error for a node that nobody knows."""
    return CloudError("absent", f"there is no node {node[:64]!r}", "see: ls /cloud/nodes")
