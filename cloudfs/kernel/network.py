"""What the network costs, as this node knows it: measured where it was, else predicted.

    measure.py ──times──▶ Network ──figures──▶ tree/net.py, queries, placing
    telling.py ◀─own coordinate─┘ ▲
    cloud.py ──others' coordinates┘

State grows with the nodes that were measured, at most KEPT, never with the cloud.  Every time
is in seconds, of the cloud's clock; every figure carries its age, how it was got and its error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.coordinate import Coordinate
from cloudfs.kernel.estimator import Latency


@dataclass(frozen=True, slots=True)
class Known:
    """A figure with all that its reader needs to trust it."""

    value: float  # seconds, bytes a second or a fraction
    age: float  # seconds since what it rests on was measured
    how: str  # measured or predicted
    error: float  # one standard error, in the value's unit


class Network:
    """The costs of the ways from here to others.

    measure_bandwidth(node): measures the way there and back, None where nothing can.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.measure_bandwidth: Callable[[str], Awaitable[Known]] | None = None

    def coordinate(self) -> Coordinate:
        """This node's own."""
        raise NotImplementedError

    def coordinate_of(self, node: str) -> Coordinate | None:
        """As that node told it; None where it told none, or nonsense."""
        raise NotImplementedError

    def latency(self, node: str) -> Known | None:
        """Seconds to a node and back: measured if that is fresh, else predicted."""
        raise NotImplementedError

    def between(self, one: str, other: str) -> Known | None:
        """Seconds between any two and back: predicted, or as `latency` where one is this node."""
        raise NotImplementedError

    def loss(self, node: str) -> Known | None:
        """Part of the probes that stayed without answer."""
        raise NotImplementedError

    def jitter(self, node: str) -> float | None:
        """Seconds by which one round trip differs from the next, on average."""
        raise NotImplementedError

    def bandwidth(self, node: str) -> Known | None:
        """Bytes a second to a node; None until it was measured."""
        raise NotImplementedError

    def took_bandwidth(self, node: str, known: Known) -> None:
        """The bandwidth to a node was measured; its age counts from now."""
        raise NotImplementedError

    def near(self) -> list[tuple[str, float]]:
        """The nearest that were measured, and in how many seconds, best first."""
        raise NotImplementedError

    async def probe(self, node: str, count: int, seconds: float) -> Latency:
        """Probe a node `count` times and tell what is known then.  Raises CloudError:
        absent, unreachable, timeout, bad, toomany."""
        raise NotImplementedError

    async def probe_from(self, source: str, node: str, count: int, seconds: float) -> Known:
        """Have another node probe one, and tell what it says.  Raises what it says."""
        raise NotImplementedError
