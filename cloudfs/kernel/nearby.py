"""Drives the search of nearest.py for one query: who probes whom, how many at once, until when.

The target probes the candidates where it does so for others, else the candidates probe it.  Ten
probes are sent at most, whoever sends them, and none to whom one was sent a moment ago.  A node
that has sent so many that it sends no more may still tell what it measured of late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.coordinate import LONGEST, NOWHERE
from cloudfs.kernel.figure import Known, read_known
from cloudfs.kernel.nearest import MOST, Search
from cloudfs.kernel.network import Network
from cloudfs.kernel.query import number

AT_ONCE = 4  # probes of one search that are under way
PROBE = 1.0  # seconds for one probe at most
NEAR = "net/near"  # of a node's own directory: whom it measured near itself
LATE = 30.0  # seconds after which what a node measured is no answer
SAID = 8  # of those that one node says are near it


async def search(
    cloud: Cloud,
    network: Network,
    target: str,
    names: Iterable[str],
    seconds: float,
    recent: Callable[[str], Known | None] = lambda name: None,
) -> dict[str, Known | None]:
    """What probes found of the candidates that were probed; None where no answer came.

    recent(name): what a probe of that candidate told a moment ago.
    """
    probes = _Probes(cloud, network, target, recent)
    with trio.move_on_after(max(0.0, seconds)):
        await probes.run(names, seconds)
    return probes.found


class _Probes:
    """The probes of one search.  found: what came back."""

    def __init__(
        self,
        cloud: Cloud,
        network: Network,
        target: str,
        recent: Callable[[str], Known | None],
    ) -> None:
        self.found: dict[str, Known | None] = {}
        self._here = cloud.machine.name
        self._network = network
        self._target = target
        self._recent = recent
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
            known = self._recent(name) or await self._probe(name)
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
                    known = await self._network.demands.probe_from(source, node, 1, PROBE)
                except CloudError as error:
                    if error.kind != "toomany":
                        continue
                    late = await self._of_late(source, node)
                    if late is None:
                        continue
                    known = late
                self._turned = self._turned or source == name
                return known
        return None

    async def _of_late(self, source: str, node: str) -> Known | None:
        """What a node measured of late, which sends no more probes for others now."""
        if source == self._here:
            known = self._network.latency(node)
        elif self._network.reach is None:
            return None
        else:
            try:
                text = await self._network.reach(source, PROBE).text(f"net/{node}/latency")
                known = read_known(text, source)
            except CloudError:
                return None
        fresh = known is not None and known.how == "measured" and known.age <= LATE
        return known if fresh else None

    async def _measured_by(self, node: str, seconds: float) -> dict[str, float]:
        """Whom a node measured near itself, and how far it says they are: a hint only."""
        if node == self._here:
            return dict(self._network.near()[:SAID])
        if self._network.reach is None:
            return {}
        found: dict[str, float] = {}
        with trio.move_on_after(seconds):
            try:
                text = await self._network.reach(node, seconds).text(NEAR)
            except CloudError:
                return {}
            for line in text.splitlines()[:SAID]:
                name, _, time = line.partition(" ")
                value = number(time.strip())
                if value is not None and 0 < value <= LONGEST:
                    found[name] = value
        return found
