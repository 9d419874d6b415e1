"""The cloud as this node knows it: its nodes, where objects are, and whom to ask.

Of the nodes of its own zone a node hears by itself; what lies beyond is asked for when
somebody looks, through the zones' delegates (kernel/router.py), and kept with its age.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import aggregate, choose, claims
from cloudfs.kernel.aggregate import Digest
from cloudfs.kernel.catalog import Catalog, Seen, summary, usable
from cloudfs.kernel.claims import LIVE, Claim
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.people import People
from cloudfs.kernel.records import Records
from cloudfs.kernel.roster import GONE

STALE = 1.0  # seconds for which what was asked of other zones is not asked again
SOME = 1  # nodes that a zone's delegate tells beside itself, of `some`
FORGET = 86400.0  # seconds after which a node that nobody hears of is forgotten

Ask = Callable[[str, float], Awaitable[tuple[list[str], bool]]]


@dataclass(slots=True)
class NodeInfo:
    """Another node, as it was heard of last.  heard: when, on the cloud's clock.
    told: its record's attributes as text.  near: whether it is of this node's own zone."""

    name: str
    cluster: str
    state: str
    addr: str
    heard: float
    near: bool = True
    told: dict[str, str] = field(default_factory=dict)


class Cloud:
    """This node's knowledge of the others.

    `ask(question, seconds)` gathers records from beyond this node's zone, and whether all
    zones answered; None while the zone is the whole cloud.
    """

    def __init__(
        self,
        machine: Machine,
        objects: Objects,
        clock: Callable[[], float] = time.monotonic,
        people: People | None = None,
    ) -> None:
        self.clock = clock
        self.people = people or People(lambda: None, Records(":memory:"))
        self.machine = machine
        self.objects = objects
        self.nodes: dict[str, NodeInfo] = {}
        self.catalog = Catalog(objects, self.cluster_of, self._is_gone, self._is_near)
        self.version = 0  # grows when a node comes, goes or changes its state
        self.ask: Ask | None = None
        self.claim: Claim | None = None  # of this node to its name, where there are others
        self.changed_node: Callable[[str], None] = lambda node: None  # told what came or went
        # Nodes of this zone that are chosen first to hold a user's shares, with clusters.
        self.holders: Callable[[str], Iterable[tuple[str, str]]] = lambda user: ()
        self._asked: dict[str, float] = {}  # question → when

    # --- nodes --------------------------------------------------------------------------

    def cluster_of(self, node: str) -> str:
        if node == self.machine.name:
            return self.machine.cluster
        found = self.nodes.get(node)
        return found.cluster if found else ""

    def _is_gone(self, node: str) -> bool:
        found = self.nodes.get(node)
        return found is not None and found.state == "gone"

    def _is_near(self, node: str) -> bool:
        found = self.nodes.get(node)
        return found is not None and found.near and found.state in LIVE

    def node(self, name: str) -> NodeInfo | None:
        return self.nodes.get(name)

    def address_of(self, name: str) -> str | None:
        """HOST:PORT where a node serves 9P, None if nobody knows."""
        found = self.nodes.get(name)
        return found.addr or None if found else None

    def alive(self, name: str) -> bool:
        """Whether it makes sense to ask a node anything."""
        found = self.nodes.get(name)
        return found is not None and found.state in LIVE

    def age_of(self, name: str) -> float:
        """Seconds since a node was heard of, inf for one that never was."""
        found = self.nodes.get(name)
        return max(0.0, self.clock() - found.heard) if found else float("inf")

    def hear(self, info: NodeInfo) -> None:
        """A node's record or state has come."""
        if info.name == self.machine.name or not usable(info.name):
            return
        old = self.nodes.get(info.name)
        if old is not None and self._stays(old, info):
            return
        if old is not None and old.near and not info.near:
            self.catalog.node_is(info.name, "left")  # what it told itself ended with that
        self.nodes[info.name] = info
        what = info.state, info.cluster, info.near
        if old is None or (old.state, old.cluster, old.near) != what:
            self.version += 1
            self.catalog.node_is(info.name, info.state)
        if old is None or (old.state, old.addr) != (info.state, info.addr):
            self.changed_node(info.name)

    def _stays(self, old: NodeInfo, new: NodeInfo) -> bool:
        """Whether what is known of a name holds against what another zone, or one's own,
        tells of it: the name may have moved to another cluster, or be claimed by two."""
        lives = old.state in LIVE and self.age_of(old.name) < GONE
        if old.near:
            return not new.near and (lives or new.state not in LIVE)
        if new.near or not lives:
            return lives and new.state not in LIVE
        one, two = claims.of(old.told), claims.of(new.told)
        if one is None or two is None or one == two:
            return False
        return new.state not in LIVE or one.over(two)

    def forget(self, name: str) -> None:
        """A node that left, or that nobody heard of for long."""
        if self.nodes.pop(name, None) is not None:
            self.version += 1
            self.catalog.node_is(name, "left")

    def keep(self, near: set[str]) -> None:
        """The nodes of the own zone are these: forget those that were and are no more, and
        those elsewhere of which nobody told for long."""
        for name, info in list(self.nodes.items()):
            if (info.near and name not in near) or self.age_of(name) > FORGET:
                self.forget(name)

    def clusters(self) -> dict[str, list[str]]:
        """The names of the nodes of each cluster, this one's first."""
        found: dict[str, list[str]] = {self.machine.cluster: [self.machine.name]}
        for info in self.nodes.values():
            found.setdefault(info.cluster, []).append(info.name)
        return found

    def attributes(self) -> dict[str, dict[str, object]]:
        """What placement goes by: the attributes of every node that may take objects, with
        age= in seconds; this node's are of now."""
        found: dict[str, dict[str, object]] = {self.machine.name: {**self.machine.attributes()}}
        found[self.machine.name]["age"] = 0.0
        for info in self.nodes.values():
            if info.state in ("alive", "drained"):
                found[info.name] = {
                    **info.told,
                    "cluster": info.cluster,
                    "age": self.age_of(info.name),
                }
        return found

    def alone(self) -> bool:
        """Whether there is nobody to ask and nothing that asking could change."""
        return self.ask is None and all(info.near for info in self.nodes.values())

    # --- questions of other zones ----------------------------------------------------------

    def answer(self, question: str) -> list[str]:
        """The records that this node has for a question that another zone asks: of its own
        zone, itself included.

        Questions: nodes, some, node NAME, names NAME…, objects, object ID, digest CLUSTER,
        holders USER (secstore.py), query (choose.py).  The answer to `some` is a few nodes,
        others each time; that to `objects` begins with the nodes of which it has all.
        """
        kind, _, name = question.partition(" ")
        if kind == "nodes":
            return [self._told_of_self(), *map(self._told_of, self._near())]
        if kind == "some":
            near = [info for info in self._near() if info.state == "alive"]
            picked = random.sample(near, min(SOME, len(near)))
            return [self._told_of_self(), *map(self._told_of, picked)]
        if kind == "node":
            if name == self.machine.name:
                return [self._told_of_self()]
            return [self._told_of(info) for info in self._near() if info.name == name]
        if kind == "names":
            names = set(name.split())
            own = [self._told_of_self()] if self.machine.name in names else []
            return own + [self._told_of(info) for info in self._near() if info.name in names]
        if kind == "objects":
            of = [self.machine.name, *(info.name for info in self._near() if info.state in LIVE)]
            return [ndb.record({"of": " ".join(of)}), *(self._told(made) for made in self._all())]
        if kind == "object":
            found: Object | Seen | None = self.objects.all.get(name) or self.catalog.find(name)
            return [self._told(found)] if found is not None else []
        if kind == "digest":
            return self.digest().text().splitlines() if name == self.machine.cluster else []
        if kind == "holders":
            return [ndb.record({"name": n, "cluster": c}) for n, c in self.holders(name)]
        if kind == choose.HERE:
            return choose.select(
                question, [self._told_of_self(), *map(self._told_of, self._near())]
            )
        raise CloudError("bad", f"no question {kind!r}")

    def take(self, record: str) -> dict[str, str]:
        """A record that answers a question; its attributes.  Raises CloudError, KeyError or
        ValueError where it is none."""
        pairs = ndb.parse(record)
        age = float(pairs.pop("age", "0"))
        if "addr" in pairs:
            self._take_node(pairs, age)
        elif "of" not in pairs:  # which only says whose objects the others are
            self.catalog.put(pairs["node"], record)
        return pairs

    def _take_node(self, pairs: dict[str, str], age: float) -> None:
        name, heard = pairs["name"], self.clock() - age
        told = NodeInfo(name, pairs["cluster"], pairs["state"], pairs["addr"], heard, False, pairs)
        self.hear(told)

    async def refresh(self, question: str, seconds: float) -> bool:
        """Ask beyond this zone; whether everybody answered.  What was asked a moment ago is
        not asked again."""
        now = self.clock()
        if now - self._asked.get(question, -STALE) < STALE:
            return True
        if len(self._asked) > 1024:
            self._asked = {q: t for q, t in self._asked.items() if now - t < STALE}
        self._asked[question] = now
        before = self.catalog.hearsay() if question == "objects" else []
        # Where no other zone is left, there still may be nodes that one of them told of.
        records, whole = await self.ask(question, seconds) if self.ask else ([], True)
        told: list[dict[str, str]] = []
        for record in records:
            try:
                told.append(self.take(record))
            except (CloudError, KeyError, ValueError):
                continue  # another node's mistake is not our caller's
        self._denied(before, told)
        kind, _, name = question.partition(" ")
        if kind in ("nodes", "node"):
            self._silent([name] if name else list(self.nodes))
        return whole

    def _denied(self, before: Iterable[Seen], told: Iterable[dict[str, str]]) -> None:
        """Forget the objects that were known of nodes of which all was told now, without them."""
        of = {name for pairs in told for name in pairs.get("of", "").split()}
        there = {(pairs.get("node"), pairs.get("id")) for pairs in told}
        for found in before:
            if found.node in of and (found.node, found.id) not in there:
                self.catalog.deny(found.node, found.id)

    def _silent(self, names: list[str]) -> None:
        """Take for dead those nodes of other zones of which nobody has told for so long as
        it takes a zone to do that: whoever knew of them is dead or cut off as well."""
        for name in names:
            info = self.nodes.get(name)
            lives = info is not None and not info.near and info.state not in ("gone", "left")
            if info is not None and lives and self.age_of(name) >= GONE:
                self.hear(replace(info, state="gone"))

    def digest(self) -> Digest:
        """What the nodes of the own zone that live have in sum."""
        own = {name: ndb.show(value) for name, value in self.machine.attributes().items()}
        rows = [(own.get("state", "alive"), {**own, "name": self.machine.name})]
        rows += [
            (info.state, {**info.told, "name": info.name})
            for info in self._near()
            if info.state not in ("gone", "left")
        ]
        return aggregate.of(rows)

    async def digest_of(self, cluster: str, seconds: float) -> tuple[Digest, bool]:
        """What a cluster's nodes have in sum, and whether all of its zones told."""
        found = [self.digest()] if cluster == self.machine.cluster else []
        whole = True
        if self.ask is not None:
            lines, whole = await self.ask(f"digest {cluster}", seconds)
            part: list[str] = []
            for line in [*lines, "nodes="]:  # each zone's digest begins with its nodes
                if line.startswith("nodes=") and part:
                    found.append(aggregate.parse("\n".join(part)))
                    part = []
                part.append(line)
        return aggregate.merge(found), whole

    def _near(self) -> Iterable[NodeInfo]:
        return (info for info in self.nodes.values() if info.near)

    def _all(self) -> Iterable[Object | Seen]:
        yield from (made for made in self.objects.all.values() if made.state != "new")
        near = {info.name for info in self._near()}
        yield from (seen for seen in self.catalog.others() if seen.node in near)

    def _told(self, found: Object | Seen) -> str:
        if isinstance(found, Object):
            return f"{summary(found)} node={self.machine.name} age=0"
        labels = {f"label.{name}": value for name, value in found.labels.items()}
        return ndb.record({**found.told, **labels, "node": found.node, "age": 0})

    def _told_of_self(self) -> str:
        machine = self.machine
        pairs = {**machine.attributes(), "name": machine.name, "age": 0.0}
        if self.claim is not None:
            pairs |= {"id": self.claim.id, "boot": self.claim.boot}
        return ndb.record({**pairs, "cluster": machine.cluster, "addr": machine.public})

    def _told_of(self, info: NodeInfo) -> str:
        pairs: dict[str, object] = {**info.told, "name": info.name, "state": info.state}
        age = round(self.age_of(info.name), 3)
        return ndb.record({**pairs, "cluster": info.cluster, "addr": info.addr, "age": age})
