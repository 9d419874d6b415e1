"""Finds the nodes that a query asks for, best first, with what the answer rests on.

    own zone: what its nodes told last ─┐
    other zones: asked (choose.py)     ─┼─▶ conditions ─▶ times ─▶ order ─▶ Answer
    coordinates, own measurements      ─┘                  ▲
                                    near=: few probes (nearest.py), from the target
                                           where it answers, else from the candidates

Nothing takes longer than the seconds that its caller gives.  What was found a moment ago is
given again, and those who ask the same at once share one answer.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import choose, nearby, query
from cloudfs.kernel.choose import Question
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.figure import Known
from cloudfs.kernel.network import Network
from cloudfs.kernel.query import ORDERS, Expr

PATIENCE = 0.6  # part of the time left in which other zones are to answer
GATHERED, SEARCHED = 1.0, 5.0  # seconds for which an answer is given again, one with probes
KEPT = 256  # answers
REMEMBERED = 60.0  # seconds for which what a probe told is better than a prediction
SPARE = 0.1  # part of the seconds that is left when probes must be over
OLD = 30.0  # seconds after which a target's coordinate is asked for again
# Attributes of a record that are none of the node's for a query.
HIDDEN = frozenset({"name", "id", "boot", "addr", "rev", "zone", "version", "coordinate"})


@dataclass(slots=True)
class Found:
    """A node that meets a query.  age: seconds since it told its attributes.  times: of each
    rtt attribute that the query names.  probed: yes, no, or silent where no answer came."""

    node: str
    has: dict[str, object]
    age: float
    times: dict[str, Known] = field(default_factory=dict)
    probed: str = "no"


@dataclass(slots=True)
class Answer:
    """Those that meet a query, the best first.  whole: whether every zone answered."""

    exprs: tuple[Expr, ...]
    found: list[Found]
    whole: bool = True

    def lines(self) -> list[str]:
        """A record for each node: node=, the time that was asked for as rtt= how= error=,
        age= of that, whether it was probed for it, other times, the attributes that the query
        names, and told=, the seconds since it told them; without times that is age=."""
        near = choose.near_of(self.exprs)
        asked = sorted({e.attr for e in self.exprs if not e.relative and e.op != "count"})
        lines = [ndb.record(self._pairs(found, near, asked)) for found in self.found]
        if not self.whole:
            lines.append(ndb.record({"whole": "no", "why": "not every zone answered in time"}))
        return lines

    @staticmethod
    def _pairs(found: Found, near: str, asked: Sequence[str]) -> dict[str, object]:
        pairs: dict[str, object] = {"node": found.node}
        times = dict(found.times)
        first = times.pop(f"rtt({near})", None) or times.pop(next(iter(times), ""), None)
        if first is not None:
            pairs |= {"rtt": first.value, "how": first.how, "error": first.error}
            pairs["age"] = round(first.age, 1)
        if near:
            pairs["probed"] = found.probed
        pairs |= {attr: known.value for attr, known in times.items()}
        pairs |= {attr: found.has.get(attr, "") for attr in asked}
        return pairs | {"age" if first is None else "told": round(found.age, 1)}


class Finder:
    """Answers queries for one node."""

    def __init__(self, cloud: Cloud, network: Network) -> None:
        self.cloud = cloud
        self.network = network
        self._answers: dict[object, tuple[float, Any]] = {}  # key → when, what
        self._running: dict[object, trio.Event] = {}
        self._probed: dict[tuple[str, str], tuple[float, Known]] = {}  # when, what came back

    # --- what is asked -------------------------------------------------------------------

    def parse(self, texts: Sequence[str]) -> tuple[Expr, ...]:
        """The expressions of a query, checked by what nodes are known to have."""
        told = set(self.cloud.machine.attributes())
        for info in self.cloud.nodes.values():
            if info.near:
                told.update(info.told)
        return query.parse_all(texts, told - HIDDEN)

    def at_once(self, exprs: tuple[Expr, ...]) -> Answer | None:
        """The answer where it needs nobody else: no other zone and no probe; else None."""
        if choose.near_of(exprs) or not self.cloud.alone():
            return None
        for target in choose.targets(exprs):
            self._check_alive(target, exprs)
        return self._order(exprs, self._measured(exprs, self._near_rows(exprs)), True)

    def holds(self, exprs: tuple[Expr, ...], node: str) -> bool:
        """Whether a node that is known meets the conditions, by what is known now; how many
        are asked for and in which order plays no part."""
        info = self.cloud.node(node)
        if node == self.cloud.machine.name:
            row = self._own_row()
        elif info is not None:
            row = self._row(info)
        else:
            return False
        return bool(self._meet(exprs, self._measured(exprs, [row])))

    async def find(self, exprs: tuple[Expr, ...], seconds: float, *, fresh: bool = False) -> Answer:
        """The nodes that meet all expressions.

        fresh: leave out no zone, and refuse an answer that is not whole.  Raises CloudError:
        absent or unreachable where a time is to be of a node that is not there, timeout.
        """
        found = self.at_once(exprs)
        if found is not None:
            return found
        keep = SEARCHED if choose.near_of(exprs) else GATHERED
        key = (*map(str, exprs), fresh)

        async def work() -> Answer:
            return await self._find(exprs, seconds, fresh)

        answer: Answer = await self._shared(key, keep, seconds, work)
        return answer

    async def measure(
        self, exprs: Sequence[Expr], nodes: dict[str, dict[str, object]], seconds: float
    ) -> None:
        """Add to the attributes of nodes the times that expressions name; near= is decided
        by probes.  For placing objects: a target that is not there leaves its times out."""
        exprs = tuple(exprs)
        rows = [
            Found(name, has, query.number(has.get("age")) or 0.0) for name, has in nodes.items()
        ]
        rows = self._measured(exprs, rows)
        target = choose.near_of(exprs)
        if target and self._alive(target):
            await self._search(target, [row for row in rows if row.node != target], seconds)

    # --- gathering -----------------------------------------------------------------------

    async def _find(self, exprs: tuple[Expr, ...], seconds: float, fresh: bool) -> Answer:
        until = trio.current_time() + seconds
        for target in choose.targets(exprs):
            await self._look_for(target, exprs, seconds * PATIENCE)
        left = (until - trio.current_time()) * PATIENCE
        rows, whole = await self._gather(exprs, left, fresh)
        target = choose.near_of(exprs)
        rows = self._meet(_before_probes(exprs), self._measured(exprs, rows))
        if target:
            rows = [row for row in rows if row.node != target]
            await self._search(target, rows, until - trio.current_time() - SPARE * seconds)
        return self._order(exprs, rows, whole)

    async def _gather(
        self, exprs: tuple[Expr, ...], seconds: float, fresh: bool
    ) -> tuple[list[Found], bool]:
        """The nodes of the own zone, and those of others that may meet a query."""
        cloud = self.cloud
        records: list[str] = []
        whole = True
        if cloud.ask is not None:
            records, whole = await cloud.ask(str(self._question(exprs, fresh)), seconds)
        if not whole and fresh:
            raise CloudError("timeout", "not every zone answered", "ask again without .fresh")
        names: set[str] = set()
        for record in records:
            try:
                cloud.take(record)
                names.add(ndb.parse(record)["name"])
            except (CloudError, KeyError, ValueError):
                continue  # another node's mistake is not our caller's
        infos = (i for i in cloud.nodes.values() if not i.near and (i.name in names or not whole))
        rows = [self._row(info) for info in infos]
        return [*self._near_rows(exprs), *(r for r in rows if choose.shown(exprs, r.has))], whole

    def _question(self, exprs: tuple[Expr, ...], every: bool) -> Question:
        exprs = choose.absolute(_before_probes(exprs), self.cloud.machine.name)
        places = {target: self.network.coordinate_of(target) for target in choose.targets(exprs)}
        few = list(places.items())[: choose.TARGETS]
        return Question(exprs, {name: place for name, place in few if place is not None}, every)

    def _near_rows(self, exprs: tuple[Expr, ...]) -> list[Found]:
        infos = [info for info in self.cloud.nodes.values() if info.near]
        rows = [self._own_row(), *map(self._row, infos)]
        return [row for row in rows if choose.shown(exprs, row.has)]

    def _own_row(self) -> Found:
        return Found(self.cloud.machine.name, self.cloud.machine.attributes() | {"age": 0.0}, 0.0)

    def _row(self, info: NodeInfo) -> Found:
        age = self.cloud.age_of(info.name)
        own = {"node": info.name, "cluster": info.cluster, "state": info.state, "age": age}
        return Found(info.name, {**info.told, **own}, age)

    def _measured(self, exprs: Iterable[Expr], rows: list[Found]) -> list[Found]:
        """The rows with the times that expressions name, as far as these are known."""
        for attr in dict.fromkeys(e.attr for e in exprs if e.attr == "rtt" or e.target):
            target = attr[4:-1] or self.cloud.machine.name
            for row in rows:
                known = self._between(target, row.node)
                if known is not None:
                    row.times[attr] = known
                    row.has[attr] = known.value
        return rows

    def _between(self, one: str, other: str) -> Known | None:
        """As the network has it, or as a probe for a query told a moment ago."""
        known = self.network.between(one, other)
        if known is not None and known.how == "measured":
            return known
        return self._remembered(one, other) or known

    def _remembered(self, one: str, other: str) -> Known | None:
        at, probed = self._probed.get((one, other), (-math.inf, None))
        age = trio.current_time() - at
        return None if probed is None or age > REMEMBERED else replace(probed, age=probed.age + age)

    def _meet(self, exprs: tuple[Expr, ...], rows: list[Found]) -> list[Found]:
        return [row for row in rows if choose.suits(exprs, row.has, relative=True)]

    def _order(self, exprs: tuple[Expr, ...], rows: list[Found], whole: bool) -> Answer:
        """Those that meet, the best first.  By near= nobody for whom a time is only predicted
        stands before the nearer half of those that were probed."""
        rows = self._meet(exprs, rows)
        attr = f"rtt({choose.near_of(exprs)})"
        probed = [row.times[attr].value for row in rows if row.probed == "yes"]
        least = median_low(probed) if probed else 0.0

        def key(row: Found) -> tuple[object, ...]:
            known = row.times.get(attr)
            if known is None or known.how == "measured":
                return (*choose.rank(exprs, row.has), 0)
            has = row.has | {attr: max(known.value, least)}
            orders, *rest = choose.rank(exprs, has)
            return orders, math.inf, *rest

        rows.sort(key=key)
        return Answer(exprs, rows[: choose.count_of(exprs)], whole)

    # --- the node that times are of ---------------------------------------------------------

    async def _look_for(self, target: str, exprs: Iterable[Expr], seconds: float) -> None:
        cloud = self.cloud
        if target == cloud.machine.name:
            return
        info = cloud.node(target)
        if info is None or (not info.near and cloud.age_of(target) > OLD):
            await cloud.refresh(f"node {target}", seconds)
        self._check_alive(target, exprs)

    def _alive(self, target: str) -> bool:
        return target == self.cloud.machine.name or self.cloud.alive(target)

    def _check_alive(self, target: str, exprs: Iterable[Expr]) -> None:
        if self._alive(target):
            return
        expr = next(str(e) for e in exprs if e.target == target)
        info = self.cloud.node(target)
        if info is None:
            raise CloudError("absent", f"{expr}: there is no node {target}", "see: ls /cloud/nodes")
        age = self.cloud.age_of(target)
        raise CloudError(
            "unreachable",
            f"{expr}: node {target} is {info.state}, nothing was heard of it for {age:.0f} s",
            "take a node that lives: ls /cloud/nodes",
        )

    async def _search(self, target: str, rows: list[Found], seconds: float) -> None:
        """Have the nearest found by probes, and put what they measured into the rows."""

        def recent(name: str) -> Known | None:
            known = self._remembered(target, name)
            return known if known is not None and known.age <= SEARCHED else None

        names = [row.node for row in rows]
        found = await nearby.search(self.cloud, self.network, target, names, seconds, recent)
        for row in rows:
            if row.node not in found:
                continue
            known = found[row.node]
            row.probed = "silent" if known is None else "yes"
            if known is not None:
                self._remember((target, row.node), known)
                row.times[f"rtt({target})"] = known
                row.has[f"rtt({target})"] = known.value

    def _remember(self, way: tuple[str, str], known: Known) -> None:
        self._probed.pop(way, None)
        while len(self._probed) >= 4 * KEPT:
            del self._probed[next(iter(self._probed))]
        self._probed[way] = trio.current_time() - known.age, replace(known, age=0.0)

    # --- once for many -----------------------------------------------------------------------

    async def _shared(
        self, key: object, keep: float, seconds: float, work: Callable[[], Awaitable[Any]]
    ) -> Any:
        """What work gives, or gave to somebody a moment ago, or gives to somebody now."""
        with trio.move_on_after(seconds):
            while True:
                at, kept = self._answers.get(key, (-math.inf, None))
                if trio.current_time() - at < keep:
                    return kept
                if key not in self._running:
                    break
                await self._running[key].wait()
            done = self._running[key] = trio.Event()
            try:
                made = await work()
                while len(self._answers) >= KEPT:
                    del self._answers[next(iter(self._answers))]
                self._answers.pop(key, None)
                self._answers[key] = trio.current_time(), made
                return made
            finally:
                del self._running[key]
                done.set()
        raise CloudError("timeout", f"no answer within {seconds:g} s", "give it more: .MaxTime=5")


def _before_probes(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Without the conditions on times that near= will have measured."""
    target = choose.near_of(exprs)
    return tuple(e for e in exprs if not target or e.target != target or e.op in ORDERS)
