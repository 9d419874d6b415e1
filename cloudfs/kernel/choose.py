"""A query on its way through zones: which of them it enters, and what each answers.  Pure.

A question is one line that every node can answer by itself:

    query [all] EXPR… [@NODE=COORDINATE…]

with the coordinates of the nodes that its times are of; `rtt` has become rtt(NODE) of the
node that asks.  A record is what a node tells of itself (cloud.py).  Zones are left out by
what in their digests does not move, so that an old digest leaves out nobody; with `all`
none is left out.  What is not left out by an attribute is cut to the best `count=`, in
every zone anew, so that of a large cloud only a few records come back.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import dealings
from cloudfs.kernel import coordinate, query
from cloudfs.kernel.aggregate import Digest
from cloudfs.kernel.coordinate import Coordinate
from cloudfs.kernel.nearest import MOST, likeness
from cloudfs.kernel.placement import score
from cloudfs.kernel.query import ORDERS, Expr

HERE = "query"  # the first word of a question
DOUBT, SLACK = 4.0, 0.02  # how many times shorter than predicted a way may be; and seconds
CANDIDATES = 2 * MOST  # of a zone, by likeness and by prediction, for a search by probes
TARGETS = 8  # coordinates that one question may carry
HOLDERS = 8  # of one cluster that are told for a user's shares: more than hold any
LINE = 3 * query.MAX_QUERY  # characters of a question
SHOWN = ("alive", "drained")  # states of nodes that a query finds unless it asks for a state

# What an attribute that moves is never more than.  What moves and is not here leaves out no
# zone: a digest may be minutes old.
CEILING = {
    "cpu.idle": "cpus",
    "cpu.unreserved": "cpus",
    "mem.free": "mem.total",
    "mem.unreserved": "mem.total",
}
MOVING = frozenset({"load", "disk.free", "age", "state", "drained"})

Has = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Question:
    """A query as other zones are asked it.  places: of the nodes that its times are of."""

    exprs: tuple[Expr, ...]
    places: Mapping[str, Coordinate] = field(default_factory=dict)
    every: bool = False  # whether no zone may be left out

    def __str__(self) -> str:
        words = [HERE, *(["all"] if self.every else []), *map(str, self.exprs)]
        words += [f"@{node}={place}" for node, place in self.places.items()]
        return " ".join(map(ndb.quote, words))


@lru_cache(64)
def parse(text: str) -> Question:
    """The inverse of str; CloudError where it is none."""
    if len(text) > LINE:
        raise CloudError("toobig", f"a question has at most {LINE} characters")
    _, *words = ndb.words(text)
    exprs: list[Expr] = []
    places: dict[str, Coordinate] = {}
    for word in words:
        if word.startswith("@"):
            node, _, place = word[1:].partition("=")
            places[node] = coordinate.parse(place)
        elif word != "all":
            exprs.append(query.parse(word))
    if len(exprs) > query.MAX_EXPRS or len(places) > TARGETS:
        raise CloudError("toobig", f"a question has at most {query.MAX_EXPRS} expressions")
    return Question(tuple(exprs), places, "all" in words)


def absolute(exprs: Iterable[Expr], here: str) -> tuple[Expr, ...]:
    """The same with rtt as rtt(here)."""
    return tuple(replace(e, attr=f"rtt({here})") if e.attr == "rtt" else e for e in exprs)


def targets(exprs: Iterable[Expr]) -> list[str]:
    """The nodes that times of these expressions are of, each once."""
    return list(dict.fromkeys(e.target for e in exprs if e.target))


def count_of(exprs: Iterable[Expr]) -> int | None:
    """How many are asked for, None for all."""
    return next((int(e.value) for e in exprs if e.op == "count"), None)


def near_of(exprs: Iterable[Expr]) -> str:
    """The node of near=, "" without one."""
    return next((e.value for e in exprs if e.op == "near"), "")


# --- which zones, which nodes ------------------------------------------------------------------


def may_match(digest: Digest, question: Question) -> bool:
    """Whether a node of the zone with this digest may meet the question; False is sure."""
    return question.every or all(_may(digest, e) for e in question.exprs)


def is_query(question: str) -> bool:
    """Whether a question between zones is a query."""
    return question.partition(" ")[0] == HERE


def may_answer(digest: Digest, text: str) -> bool:
    """Whether the zone with this digest is to be asked a question; a router's."""
    return not is_query(text) or may_match(digest, parse(text))


def join(text: str, records: list[str]) -> list[str]:
    """The records of several zones for a question, as far as they matter; a router's."""
    if text.startswith("holders "):
        return first_holders(text.partition(" ")[2], records)
    return select(text, records) if is_query(text) else records


def first_holders(user: str, records: list[str]) -> list[str]:
    """Of each cluster's nodes those that are chosen first to hold a user's shares."""
    told = {}
    for record in records:
        try:
            pairs = ndb.parse(record)
        except CloudError:
            continue
        told[pairs.get("name", "")] = pairs.get("cluster", "")
    kept: dict[str, int] = {}
    found = []
    for node in dealings.rank(user, list(told)):
        kept[told[node]] = kept.get(told[node], 0) + 1
        if kept[told[node]] <= HOLDERS:
            found.append(ndb.record({"name": node, "cluster": told[node]}))
    return found


def _may(digest: Digest, expr: Expr) -> bool:
    if not digest.nodes:
        return False
    if expr.op in ORDERS or expr.relative or expr.attr in MOVING:
        return True
    ceiling = CEILING.get(expr.attr)
    if ceiling is None:
        return digest.could_meet(expr)
    if expr.op in ("<", "<=", "!="):
        return True
    return digest.could_meet(Expr(ceiling, ">=" if expr.op == "=" else expr.op, expr.value))


def shown(exprs: Iterable[Expr], has: Has) -> bool:
    """Whether a node in its state is looked at: one that lives, or any if a state is asked."""
    return has.get("state", "alive") in SHOWN or any(e.attr == "state" for e in exprs)


def suits(exprs: Sequence[Expr], has: Has, relative: bool) -> bool:
    """Whether a node meets the conditions; without `relative` those that all can judge."""
    return shown(exprs, has) and all(
        query.meets(e, has) for e in exprs if relative or not e.relative
    )


def select(text: str, records: Iterable[str]) -> list[str]:
    """The records that answer a question, cut to what its count= needs: what a node says of
    its zone, and what a delegate passes on of several.  Raises CloudError if it is none."""
    question = parse(text)
    rows: list[tuple[str, dict[str, str], Coordinate | None]] = []
    for record in records:
        try:
            has = ndb.parse(record)
            if suits(question.exprs, {**has, "node": has["name"]}, relative=False):
                rows.append((record, has, _place(has)))
        except (CloudError, KeyError):
            continue  # another node's mistake is not our caller's
    rows = [row for row in rows if _in_reach(question, row[2])]
    most = count_of(question.exprs)
    if most is None or len(rows) <= most:
        return [record for record, _, _ in rows]
    return [rows[index][0] for index in sorted(_cut(question, rows, most))]


def _place(has: Mapping[str, str]) -> Coordinate | None:
    word = has.get("coordinate")
    try:
        return coordinate.parse(word) if word else None
    except CloudError:
        return None


def _in_reach(question: Question, place: Coordinate | None) -> bool:
    """Whether the conditions on times may hold, by coordinates that may be far off."""
    if place is None:
        return True
    for expr in question.exprs:
        target = question.places.get(expr.target)
        if target is None or expr.op not in ("<", "<=", "="):
            continue
        limit = query.number(expr.value) or 0.0
        if min(target.distance(place), likeness(target, place)) > DOUBT * limit + SLACK:
            return False
    return True


def _cut(
    question: Question, rows: Sequence[tuple[str, Has, Coordinate | None]], most: int
) -> set[int]:
    """The numbers of the rows that may be among the `most` best for the one that asks."""
    order = next((e for e in question.exprs if e.op in ("near", "sort")), None)
    every = range(len(rows))
    if order is not None and order.relative:
        target, keep = question.places.get(order.target), max(most, CANDIDATES)
        if target is None or order.value == "-" or order.attr == "age":
            return set(every)

        def by(measure: object, index: int) -> float:
            place = rows[index][2]
            return math.inf if place is None else measure(target, place)  # type: ignore[operator]

        like = heapq.nsmallest(keep, every, key=lambda index: by(likeness, index))
        near = heapq.nsmallest(keep, every, key=lambda index: by(Coordinate.distance, index))
        return {*like, *near}
    if any(e.relative and e.op not in ORDERS for e in question.exprs):
        return set(every)  # who meets those, only the one that asks can tell
    ranks = [rank(question.exprs, {**has, "node": has["name"]}) for _, has, _ in rows]
    return set(heapq.nsmallest(most, every, key=ranks.__getitem__))


def rank(exprs: Iterable[Expr], has: Has) -> tuple[object, ...]:
    """Where a node stands among those that meet a query, the best first: by sort= and near=
    in their order, else by how much of it is idle; then by name."""
    orders = [query.place(e, has) for e in exprs if e.op in ("sort", "near")]
    return orders, -round(score(has, False), 1), str(has.get("node", ""))
