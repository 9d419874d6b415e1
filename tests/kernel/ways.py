"""A network whose ways take what a test says, with the face of kernel/network.py."""

from __future__ import annotations

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.coordinate import DIMS, Coordinate
from cloudfs.kernel.estimator import Latency
from cloudfs.kernel.figure import SELF, Known


def at(*place, height=0.0005):
    return Coordinate((*place, *(0.0,) * (DIMS - len(place))), height, 0.1)


class Ways:
    """cloud: of the node whose network it is.  places: node → coordinate.  true: (one, other)
    → seconds, where that is not what coordinates predict.  measured: those that this node has
    measured before.  silent: nodes that answer nothing; deaf: those that do not probe for
    others; tired: those that are asked for too many.  slow: seconds that a probe takes beside its round trip."""

    def __init__(self, cloud, places, true=None):
        self.cloud, self.places, self.true = cloud, places, true or {}
        self.here = cloud.machine.name
        self.measured = {}
        self.silent, self.deaf, self.tired = set(), set(), set()
        self.slow = 0.0
        self.probes = []  # (source, node)
        self.said = {}  # node → text of its net/near; (node, other) → of its net/other/latency
        self.reach = None
        self.demands = self

    def rtt(self, one, other):
        pair = self.true.get((one, other), self.true.get((other, one)))
        return self.places[one].distance(self.places[other]) if pair is None else pair

    def coordinate(self):
        return self.places[self.here]

    def coordinate_of(self, node):
        return self.places.get(node)

    def latency(self, node):
        if node == self.here:
            return SELF
        if node in self.measured:
            return Known(self.measured[node], 2.0, "measured", 0.0001)
        return self.predicted(self.here, node)

    def between(self, one, other):
        if one == other:
            return SELF
        if self.here in (one, other):
            return self.latency(other if one == self.here else one)
        return self.predicted(one, other)

    def predicted(self, one, other):
        if one not in self.places or other not in self.places:
            return None
        seconds = self.places[one].distance(self.places[other])
        return Known(seconds, 7.0, "predicted", seconds / 5)

    def near(self):
        return sorted(self.measured.items(), key=lambda pair: pair[1])

    async def probe(self, node, count, seconds):
        value = await self.sent(self.here, node, seconds)
        return Latency(value, 0.0001, 0.0, 0.0, 0.0, 1)

    async def probe_from(self, source, node, count, seconds):
        if source == self.here:
            found = await self.probe(node, count, seconds)
            return Known(found.value, found.age, "measured", found.error)
        if source in self.silent or source in self.deaf:
            self.probes.append((source, ""))
            raise CloudError("unreachable", f"{source} does not answer")
        if source in self.tired:
            raise CloudError("toomany", "too many probes wait already")
        return Known(await self.sent(source, node, seconds), 0.0, "measured", 0.0001)

    async def sent(self, source, node, seconds):
        self.probes.append((source, node))
        if node in self.silent:
            await trio.sleep(seconds)
            raise CloudError("timeout", f"{node} did not answer")
        await trio.sleep(self.rtt(source, node) + self.slow)
        return self.rtt(source, node)

    def tell(self):
        """From now on nodes tell whom they measured near, as `said` has it."""
        self.reach = lambda node, seconds: Said(self, node)


class Said:
    def __init__(self, ways, node):
        self.ways, self.node = ways, node

    async def text(self, path):
        key = self.node if path == "net/near" else (self.node, path.split("/")[1])
        await trio.lowlevel.checkpoint()
        if key not in self.ways.said:
            raise CloudError("absent", "no such file")
        return self.ways.said[key]
