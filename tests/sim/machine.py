"""The machines of a simulated cloud, and their engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cloudfs.kernel.beats import Changed
from cloudfs.kernel.membership import Member

if TYPE_CHECKING:
    from tests.sim.net import Net

RETRY = 1.0  # seconds between two tries to connect


class Session:
    """One engine: a node's membership of one zone."""

    def __init__(self, node: Node, zone: str) -> None:
        self.node = node
        self.zone = zone
        self.seeds: tuple[str, ...] = ()
        self.lost: dict[str, float] = {}  # names tried again, until when
        self.peers: dict[str, Session] = {}  # connected, by name
        self.kept: dict[str, tuple[bytes, object]] = {}
        self.open = True
        self.tried = -RETRY


class Node:
    """One machine: its core, its engines, and whether it runs."""

    def __init__(
        self, net: Net, name: str, cluster: str, seeds: Iterable[str], key: str, ahead: float
    ) -> None:
        self.net = net
        self.name = name
        self.place = f"{name}@{key}" if key else name
        self.ahead = ahead  # what its clocks show beyond the net's
        self.member = Member(
            name, cluster, f"{key or name:0<32}", net.boot(ahead), f"{self.place}:5640", seeds
        )
        self.sessions: dict[str, Session] = {}
        self.up = True
        self.stopped = False
        self.inbox: dict[tuple[str, str], tuple[bytes | None, object]] = {}
        self.sent = self.received = self.messages = self.heard = 0
        self.events: list[tuple[float, Changed]] = []

    @property
    def now(self) -> float:
        return self.net.now + self.ahead
