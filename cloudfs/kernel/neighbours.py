"""Runs a node's part in its cloud: the core's actions on engines, and back.

    engines ──heard, hint──▶ Member (membership.py) ──actions──▶ engines, 9P to a seed
                                   │
                                   ▼
                     Cloud: nodes and where objects are; Router: questions across zones

What a node runs is told and heard by dwelling.py, an object a key; events it tells, and the
first delegate of a zone passes them between the zones.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, Protocol

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.api import Engine, Sample
from cloudfs.kernel import bloom, choose, claims, zones
from cloudfs.kernel.beats import TICK, Action, Ask, Changed, Enter, Exit, Publish, Withdraw
from cloudfs.kernel.bell import Log
from cloudfs.kernel.claims import Claim
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.dwelling import Dwelling
from cloudfs.kernel.membership import Member
from cloudfs.kernel.reports import LIFE
from cloudfs.kernel.router import Router
from cloudfs.kernel.spread import Spread
from cloudfs.wait import Wait

log = logging.getLogger(__name__)

MEASURE = 2.0  # seconds between two looks at the own attributes
PAUSE = 5.0  # seconds before an engine that cannot open is tried again
HEARD = 4096  # events remembered, so that none is told twice
# First words of the core's keys.
CORE = frozenset({"beat", "node", "zone", "zone-news", "up", "rival"})
RIVALS, ANSWER = 20.0, 1.0  # seconds between two looks for rivals; for other zones to answer
ROOT = "-root-"  # the root zone's id, which is empty, as the last word of a key


class Making(Protocol):
    """Makes an engine of a zone that calls these endpoints."""

    def __call__(self, zone: str, seeds: Sequence[str]) -> Engine: ...


class Neighbours:
    """One node among others, from `run` until it is cancelled.

    make_engine: see `Making`.  ask_seed(address, text): what a node at HOST:PORT answers to
    "CLUSTER NAME", "" if it does not.  events: of the whole cloud.
    """

    def __init__(
        self,
        cloud: Cloud,
        core: Member,
        make_engine: Making,
        ask_seed: Callable[[str, str], Awaitable[str]],
        events: Log,
    ) -> None:
        self.cloud = cloud
        self.core = core
        self.sessions: dict[str, Engine] = {}
        self.router = Router(cloud.machine.name, self, self.sessions, cloud.answer, choose.join)
        self.dwelling = Dwelling(cloud, core, self.sessions, self._spawn)
        self.spread = Spread(cloud.machine.name, cloud.people, self.sessions)
        self.why = ""  # why this node is not in its cloud, or ""
        self.failed: CloudError | None = None  # what the last that was asked for a place said
        # Words that nodes tell each other of the whole cloud, by the first word of their keys:
        # takes one, and says whether it is new.  They are passed to all zones.
        self.heard_word: dict[str, Callable[[bytes], bool]] = {}
        self._now = cloud.clock
        self._make_engine = make_engine
        self._ask_seed = ask_seed
        self._events = events
        self._scopes: dict[str, trio.CancelScope] = {}
        self._words: dict[tuple[str, str], dict[str, bytes]] = {}  # published, by zone and kind
        self._heard: OrderedDict[str, None] = OrderedDict()
        self._told = cloud.machine.events.count  # own events that were told
        self._measured = -MEASURE
        self._changed_at = 0.0  # when somebody last changed what was measured then
        self._looked = -RIVALS
        self._nursery: trio.Nursery | None = None

    # --- the map that the router goes by ------------------------------------------------------

    @property
    def leaf(self) -> str:
        return self.core.leaf or ""

    def parent(self, zone: str) -> str | None:
        return self.core.above(zone)

    def children(self, zone: str) -> Mapping[str, Sequence[str]]:
        roster = self.core.rosters.get(zone)
        found: dict[str, list[str]] = {}
        if roster is None:
            return found
        for peer in roster.live():
            if peer.leaf != zone:
                child = zones.child(zone, peer.leaf, peer.stand)
                found.setdefault(child, []).append(peer.name)
        if self.leaf != zone:
            child = zones.child(zone, self.leaf, self.core.stand)
            found.setdefault(child, []).append(self.core.name)
        for child, report in self.core.reports.children(roster, self._now()).items():
            if report.digest.nodes:  # one that was there a moment ago misses in an answer
                found.setdefault(child, [])
        return {child: zones.rank(child, names) for child, names in found.items()}

    def delegates(self, zone: str) -> Sequence[str]:
        return self.core.delegates(zone)

    def narrow(self, zone: str, question: str) -> str:
        kind, _, rest = question.partition(" ")
        report = self.core.digest(zone, self._now())
        if report is None or self._now() - report.at > LIFE:
            return question
        if kind == "names":
            names = [name for name in rest.split() if bloom.holds(report.digest.names, name)]
            return f"names {' '.join(names)}" if names else ""
        return question if choose.may_answer(report.digest, question) else ""

    def alone(self) -> bool:
        """Whether the own zone is the whole cloud."""
        nodes = self.core.count(zones.ROOT, self._now())
        return nodes is None or nodes <= len(self.core.homes(self.leaf))

    # --- life -----------------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; then this node says nothing more, and is gone for the
        others.  `leave` first tells them that it goes."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._measure()
                self._perform(self.core.tick(self._now()))
                nursery.start_soon(self.spread.run)
                task_status.started()
                while self.core.phase != "left" or self.core.rosters:
                    await trio.sleep(TICK)
                    self._tick()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.cloud.ask = self.cloud.claim = None
            self.cloud.machine.outside = ""
            for name in list(self.cloud.nodes):
                self.cloud.forget(name)

    def leave(self) -> None:
        """Tell the others that this node leaves; `run` ends when that is said."""
        self._perform(self.core.leave(self._now()))

    def _tick(self) -> None:
        now = self._now()
        machine = self.cloud.machine
        if now - self._measured >= MEASURE or machine.changed != self._changed_at:
            self._measure()
        self._perform(self.core.tick(now))
        self._look_round(now)
        self.cloud.ask = None if self.alone() else self.router.gather
        self.cloud.claim = self.core.claim
        machine.outside = "" if self.core.phase != "asking" else self.core.why or self.why
        if now - self._looked >= RIVALS and self.cloud.ask and self._first(self.leaf):
            self._looked = now
            self._spawn(self._look_for_rivals)
        self._tell_events()

    def _measure(self) -> None:
        """Tell the core what this node is and has."""
        machine = self.cloud.machine
        self._measured, self._changed_at = self._now(), machine.changed
        self._perform(self.core.set_record(machine.attributes(), self._measured))

    def _look_round(self, now: float) -> None:
        """Tell the cloud of the members of the own leaf."""
        there = set()
        before = {info.name for info in self.cloud.nodes.values() if info.near}
        for known in self.core.members(now):
            there.add(known.name)
            if known.state in claims.LIVE:
                self.dwelling.back(known.name)
            record = known.record
            if known.name != self.core.name and record:
                info = NodeInfo(
                    known.name,
                    record.get("cluster", ""),
                    known.state,
                    record.get("addr", ""),
                    now - known.age,
                    True,
                    record,
                )
                self.cloud.hear(info)
        self.cloud.keep(there)
        self.dwelling.forget(before - there)

    # --- names that are taken --------------------------------------------------------------------

    def introduction(self, cluster: str, name: str) -> str | Wait[str]:
        """The answer to a node that asks where it belongs (kernel/introduce.py).  Where it is
        told to enter, other zones are asked first whether one of them has its name."""
        text = self.core.introduction(cluster, name, self._now())
        lines = text.splitlines()
        enters = any(line.startswith("enter=") for line in lines)
        if self.cloud.ask is None or not enters or any(x.startswith("taken=") for x in lines):
            return text

        async def ask() -> str:
            records, _ = await self.router.gather(f"names {ndb.quote(name)}", ANSWER)
            for other, claim in claims.living(records):
                if other == name:
                    return f"{text}{claims.line(name, claim)}\n"
            return text

        return Wait(ask)

    async def _look_for_rivals(self) -> None:
        """Ask other zones for the names of this one, as its first delegate; tell those of
        their rivals that must give way.  Two may be there after the cloud was cut in two."""
        mine = {}
        for known in self.core.members(self._now()):
            claim = claims.of(known.record)
            if known.state in claims.LIVE and claim is not None:
                mine[known.name] = claim
        records, _ = await self.router.gather(f"names {' '.join(mine)}", ANSWER)
        for name, other in claims.living(records):
            if name in mine and other.over(mine[name]):
                self._tell_of_rival(name, other)

    def _tell_of_rival(self, name: str, other: Claim) -> None:
        value = claims.line(name, other).encode()
        leaf = self.leaf
        if name == self.core.name:
            self._perform(self.core.heard(leaf, f"rival/{name}", value, None, self._now()))
        elif leaf in self.sessions:
            self.sessions[leaf].tell(f"rival/{name}", value)

    # --- what the core wants done ------------------------------------------------------------

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Enter(zone, seeds):
                    self._enter(zone, seeds)
                case Exit(zone):
                    self._exit(zone)
                case Publish(zone, key, value):
                    if zone in self.sessions:
                        self.sessions[zone].publish(_full(key), value)
                case Withdraw(zone, key):
                    if zone in self.sessions:
                        self.sessions[zone].withdraw(_full(key))
                case Ask(address):
                    self._spawn(partial(self._ask, address))
                case Changed(node, old, new, why):
                    self._changed(node, old, new, why)
        self.dwelling.step()

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work)

    def _enter(self, zone: str, seeds: Sequence[str]) -> None:
        if zone in self.sessions:
            self.sessions[zone].reopen(seeds)
            return
        engine = self.sessions[zone] = self._make_engine(zone, seeds)
        scope = self._scopes[zone] = trio.CancelScope()
        self.router.serve(zone, engine)
        self.spread.enter(zone, engine)
        self._spawn(partial(self._serve, zone, engine, scope))

    def _exit(self, zone: str) -> None:
        self.sessions.pop(zone)
        self._words = {key: told for key, told in self._words.items() if key[0] != zone}
        self._scopes.pop(zone).cancel()

    async def _serve(self, zone: str, engine: Engine, scope: trio.CancelScope) -> None:
        """One zone's engine, until the zone is left."""
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, zone, engine)
                nursery.start_soon(self._watch, zone, engine)
                while True:
                    try:
                        await engine.run()
                    except CloudError as error:
                        self.why = str(error)
                        log.error("zone %s: %s", zone or "/", error)
                        await trio.sleep(PAUSE)

    async def _ask(self, address: str) -> None:
        try:
            text = await self._ask_seed(address, f"{self.core.cluster} {self.core.name}")
            self.why, self.failed = "", None
        except CloudError as error:
            text, self.why, self.failed = "", str(error), error
            log.info("asked %s: %s", address, error)
        self._perform(self.core.introduced(text, self._now()))

    def _changed(self, node: str, old: str, new: str, why: str) -> None:
        self.cloud.machine.events.add("node", node=node, state=new, was=old, why=why)
        if node == self.core.name and new == "refused":
            self.why = why

    # --- what engines bring --------------------------------------------------------------------

    async def _hear(self, zone: str, engine: Engine) -> None:
        with engine.subscribe("**") as samples:
            async for sample in samples:
                kind, _, rest = sample.key.partition("/")
                if sample.stamp.node == self.core.name and kind != "beat":
                    continue  # this node's own word; its beats may be a rival's
                if kind in CORE:
                    value = None if sample.gone else sample.value
                    now = self._now()
                    key = _short(sample.key)
                    self._perform(self.core.heard(zone, key, value, sample.stamp, now))
                elif kind in self.heard_word:
                    self._hear_word(kind, rest, sample)
                elif kind == "event":
                    self._hear_event(zone, rest, sample.value)
                elif kind == "people":
                    self.spread.heard(zone, sample.value)

    async def _watch(self, zone: str, engine: Engine) -> None:
        with engine.watch() as changes:
            async for change in changes:
                if change.node == self.core.name:
                    continue
                self.spread.hint(zone, change)
                now = self._now()
                self._perform(self.core.hint(zone, change.node, change.joined, now))

    # --- words for the whole cloud ---------------------------------------------------------------

    def tell(self, kind: str, name: str, value: bytes) -> None:
        """Tell all zones that this node is in, at once."""
        for engine in self.sessions.values():
            engine.tell(f"{kind}/{name}", value)

    def keep_telling(self, kind: str, words: Mapping[str, bytes], own: Set[str]) -> None:
        """Have who comes later hear them too: in each zone its first delegate does that.  own:
        those that come from this node, which tells them itself as well."""
        for zone, engine in self.sessions.items():
            told = self._words.setdefault((zone, kind), {})
            first = self._first(zone)
            wanted = {name: value for name, value in words.items() if first or name in own}
            for name in told.keys() - wanted.keys():
                engine.withdraw(f"{kind}/{name}")
                del told[name]
            for name, value in wanted.items():
                if told.get(name) != value:
                    engine.publish(f"{kind}/{name}", value)
                    told[name] = value

    def _hear_word(self, kind: str, name: str, sample: Sample) -> None:
        try:
            new = not sample.gone and self.heard_word[kind](sample.value)
        except CloudError as error:
            log.info("%s told of %s/%s: %s", sample.stamp.node, kind, name[:64], error)
            return
        if new:
            self.tell(kind, name, sample.value)

    # --- events --------------------------------------------------------------------------------

    def _tell_events(self) -> None:
        """Tell the zone of what happened here since the last time."""
        text, count = self.cloud.machine.events.since(self._told)
        first = count - text.count("\n")
        self._told = count
        for number, line in enumerate(text.splitlines(), first):
            name = f"{self.core.name}/{self.core.boot:x}-{number}"
            self._new(name)
            leaf = self.core.leaf
            if leaf is not None and leaf in self.sessions:
                self.sessions[leaf].tell(f"event/{name}", line.encode())
                self._pass_on(leaf, None, name, line.encode())

    def _hear_event(self, zone: str, name: str, value: bytes) -> None:
        if not self._new(name):
            return
        try:
            self._events.put(f"{ndb.text_line(value)} from={name.partition('/')[0]}")
        except CloudError:
            return
        self._pass_on(zone, None, name, value)

    def _new(self, name: str) -> bool:
        """Whether an event is heard of for the first time."""
        if name in self._heard:
            return False
        self._heard[name] = None
        if len(self._heard) > HEARD:
            self._heard.popitem(last=False)
        return True

    def _pass_on(self, zone: str, came: str | None, name: str, value: bytes) -> None:
        """Tell an event that is known in a zone in the zones above and below it, where this
        node is the first delegate of the lower of the two."""
        for other, engine in self.sessions.items():
            lower = other if self.core.above(other) == zone else zone
            joined = self.core.above(lower) == (zone if lower == other else other)
            if other != came and joined and self._first(lower):
                engine.tell(f"event/{name}", value)
                self._pass_on(other, zone, name, value)

    def _first(self, zone: str) -> bool:
        return next(iter(self.core.delegates(zone)), "") == self.core.name


def _full(key: str) -> str:
    return key + ROOT if key.endswith("/") else key


def _short(key: str) -> str:
    return key.removesuffix(ROOT)
