"""Drives the search of nearest.py for one query: who probes whom, how many at once, until when.

The target probes the candidates where it does so for others, else the candidates probe it.  Ten
probes are sent at most, whoever sends them.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.coordinate import LONGEST, NOWHERE
from cloudfs.kernel.nearest import MOST, Search
from cloudfs.kernel.network import Known, Network
from cloudfs.kernel.query import number

AT_ONCE = 4  # probes of one search that are under way
PROBE = 1.0  # seconds for one probe at most
NEAR = "net/near"  # of a node's own directory: whom it measured near itself
SAID = 8  # of those that one node says are near it


async def search(
    cloud: Cloud, network: Network, target: str, names: Iterable[str], seconds: float
) -> dict[str, Known | None]:
    """What probes found of the candidates that were probed; None where no answer came."""
    probes = _Probes(cloud, network, target)
    with trio.move_on_after(max(0.0, seconds)):
        await probes.run(names, seconds)
    return probes.found


class _Probes:
    """The probes of one search.  found: what came back."""

    def __init__(self, cloud: Cloud, network: Network, target: str) -> None:
        self.found: dict[str, Known | None] = {}
        self._here = cloud.machine.name
        self._network = network
        self._target = target
        self._sent = 0
        self._turned = False  # the target does not probe: the candidates do

    async def run(self, names: Iterable[str], seconds: float) -> None:
        network = self._network
        places = {name: network.coordinate_of(name) or NOWHERE for name in names}
        known = await self._measured_by(self._target, seconds / 3)
        place = network.coordinate_of(self._target) or NOWHERE
        search = Search(place, places, known)
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._work, search)

    async def _work(self, search: Search) -> None:
        while self._sent < MOST:
            name = search.next()
            if name is None:
                return
            self.found[name] = None
            known = await self._probe(name)
            if known is None:
                search.missed(name)
                continue
            self.found[name] = known
            heard = await self._measured_by(name, PROBE) if self._sent < MOST else {}
            search.answered(name, known.value, heard.items())

    async def _probe(self, name: str) -> Known | None:
        """How far a candidate is from the target; None where nobody could tell."""
        ways = [(self._target, name), (name, self._target)]
        if self._here in ways[0]:
            ways = [(self._here, self._target if name == self._here else name)]
        elif self._turned:
            ways = ways[1:]
        for source, node in ways:
            if self._sent >= MOST:
                return None
            self._sent += 1
            with trio.move_on_after(PROBE):
                try:
                    known = await self._network.probe_from(source, node, 1, PROBE)
                except CloudError:
                    continue
                self._turned = self._turned or source == name
                return known
        return None

    async def _measured_by(self, node: str, seconds: float) -> dict[str, float]:
        """Whom a node measured near itself, and how far it says they are: a hint only."""
        if node == self._here:
            return dict(self._network.near()[:SAID])
        if self._network.reach is None:
            return {}
        found: dict[str, float] = {}
        with trio.move_on_after(seconds):
            try:
                text = await self._network.reach(node, seconds).read(NEAR)
            except CloudError:
                return {}
            for line in text.splitlines()[:SAID]:
                name, _, time = line.partition(" ")
                value = number(time.strip())
                if value is not None and 0 < value <= LONGEST:
                    found[name] = value
        return found
