"""This node: what it is, what it is called, what it costs, and how busy it is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import ceilings
from cloudfs.kernel.balance import Policy
from cloudfs.kernel.bell import Log
from cloudfs.kernel.ceilings import Most
from cloudfs.kernel.forecast import Series
from cloudfs.kernel.records import Records
from cloudfs.kernel.reserve import Reserve, amount
from cloudfs.node.metrics import Metrics
from cloudfs.wait import Wait

if TYPE_CHECKING:
    from cloudfs.kernel.object import Object
    from cloudfs.kernel.runs import Runs

MAX_LABELS = 64
LOAD_STEP = 2.0  # seconds between two values of the load that it is foretold by
START_SMOOTH = 0.2  # what one more start counts in the time that starts take


class Party(Protocol):
    """What joins this node to others."""

    def join(self, seeds: list[str]) -> Wait[None]:
        """Join the cloud of the nodes at these addresses; the Wait ends once that is so."""

    def leave(self) -> Wait[None]:
        """Leave it; the Wait ends once the others were told."""

    def init(self, cloud: str, cluster: str) -> Wait[None]:
        """Begin a cloud or, with its root.key at hand, a cluster of it."""

    def join_by(self, file: str) -> Wait[None]:
        """Join the cloud of a join file, of which this is the text."""

    def invite(self, life: float, uses: int) -> str:
        """A new join file, good for so many seconds and nodes."""

    def revoke(self, node: str, cluster: str) -> None:
        """Take that node's place in the cloud away; cluster: "" for this node's own."""

    def greeting(self) -> str:
        """What this node says to who asks for a certificate; see factotum/enrol.py."""

    def enrol(self, strange: bool, question: str) -> str | Wait[str]:
        """The answer to who asks for one.  strange: they proved nothing."""

    def certificate(self) -> dict[str, object]:
        """What this node's own certificate says."""

    def revoked(self) -> list[dict[str, object]]:
        """The nodes that are known to have lost their place."""

    def introduce(self, cluster: str, name: str) -> str | Wait[str]:
        """Where another node belongs; see kernel/introduce.py."""


class Machine:
    """One node's own attributes; labels, price, drained and most outlive the daemon."""

    def __init__(
        self, name: str, cluster: str, owner: str, metrics: Metrics, records: Records, events: Log
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.owner = owner
        self.metrics = metrics
        self.events = events
        self.started = self.changed = time.time()
        self.addresses: list[str] = []  # where it serves 9P
        self.public = ""  # HOST:PORT where other nodes find it
        self.party: Party | None = None
        self.recover: Callable[[str], Awaitable[None]] | None = None  # see kernel/failover.py
        self.outside = ""  # why it is not in its cloud
        self._records = records
        self.labels: dict[str, str] = records.get("labels", {})
        self.price: float = records.get("price", 0.0)  # of a core-hour
        self.drained: str = records.get("drained", "")  # why it takes no new objects
        self.most: Most = ceilings.make(records.get("most", {}))
        offer = amount(metrics.cpus, metrics.mem()["total"])
        self.reserve = Reserve(offer)  # what its objects hold
        self.measured: dict[str, object] = {}  # more attributes: coordinate, start.RUNTIME
        self.load = Series(LOAD_STEP)
        self.runs: Runs | None = None  # what is done to all its objects at once
        self.bill: Callable[[Object], str] = lambda made: ""  # see factotum/bills.py
        self.balance = Policy(**records.get("balance", {}))

    def set_price(self, price: float) -> None:
        """What a core-hour costs, a finite number from 0."""
        if not 0 <= price < 1e12:
            raise CloudError("bad", f"price {price:g}: wants a number from 0")
        self.price = price
        self._keep("price", price)

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Change labels; an empty value takes one away."""
        new = {name: text for name, text in (self.labels | dict(labels)).items() if text}
        if len(new) > MAX_LABELS:
            raise CloudError("toomany", f"a node has at most {MAX_LABELS} labels")
        self.labels = new
        self._keep("labels", new)

    def most_for(self, user: str) -> Most:
        """What an object of a user may have here: the node's owner is not bounded."""
        return Most() if user == self.owner else self.most

    def set_most(self, most: Most) -> None:
        """From now on; what runs keeps what it has."""
        self.most = most
        self._keep("most", most.pairs(), ndb.record(most.pairs()))

    def drain(self, why: str) -> None:
        """Take no new objects from now on; those that are here stay."""
        self.drained = why
        self._keep("drained", why)

    def undrain(self) -> None:
        """Take new objects again."""
        self.drain("")

    def set_balance(self, policy: Policy) -> None:
        """When objects leave this node by themselves."""
        self.balance = policy
        self._records.set("balance", asdict(policy))
        self.changed = time.time()
        self.events.add("balance", what="set", why=str(policy))

    def watch(self, now: float) -> None:
        """Note the load, so that `load.ahead` can foretell it; call it every second or so."""
        self.load.add(self.metrics.load()[0], now)

    def took_start(self, runtime: str, seconds: float) -> None:
        """An object of this runtime was started, which took so long."""
        before = self.measured.get(f"start.{runtime}")
        old = float(str(before)) if before is not None else seconds
        found = old + START_SMOOTH * (seconds - old)
        self.measured[f"start.{runtime}"] = float(f"{found:.3g}")

    def _keep(self, name: str, value: Any, shown: str = "") -> None:
        self._records.set(name, value)
        self.changed = time.time()
        self.events.add(name, node=self.name, value=shown or value)

    def attributes(self) -> dict[str, object]:
        """All that a query may ask of a node, flat: state (alive, drained), arch, cpus,
        load, cpu.idle and cpu.unreserved (cores), mem.free and mem.unreserved (bytes),
        disk.free (bytes), price, cluster, node, coordinate, start.RUNTIME (seconds to
        start an object, once one was started), label.NAME …"""
        free = self.reserve.free
        found: dict[str, object] = {
            "node": self.name,
            "cluster": self.cluster,
            "state": "drained" if self.drained else "alive",
            "price": self.price,
            **self.metrics.attributes(),
            "cpu.unreserved": free.cores,
            "mem.unreserved": free.mem,
            **self.measured,
        }
        if self.drained:
            found["drained"] = self.drained
        found.update((f"label.{name}", value) for name, value in self.labels.items())
        return found
