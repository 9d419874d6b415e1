"""What a zone knows of the nodes below it, in a few kilobytes however many there are.  Pure.

A digest counts nodes by state and holds, of every number, its count, least, greatest, sum
and a histogram; of every text, how often each value occurs; of the names, a Bloom filter.
Digests merge in any order and grouping to the same (van Renesse's Astrolabe), so two
delegates that publish the same zone do no harm.  That is why sums are whole numbers of
millionths, and why what does not fit is chosen by the alphabet and not by frequency.

As text a digest is ndb records, and reads back to the same:

    nodes=25 leaves=1 cut=
    state=alive count=25
    number=load count=25 min=0.02 max=7.5 sum=31.25 hist=-5:3,0:20,3:2
    text=arch count=25
    text=arch value=x86_64 count=25
    names=eNpjYGBg…
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import bloom
from cloudfs.kernel.query import OPS, Expr, number

V = TypeVar("V")

MILLION = 10**6
LARGEST = 1e18  # a number beyond is none to us
NUMBERS = 32  # numbers, and texts, of one digest: the first by the alphabet
VALUES = 16  # values of one text, likewise
LONGEST = 64  # characters of a value that is kept
LOWEST, HIGHEST = -20, 60  # exponents of 2 of the histogram's outermost buckets
ZERO = LOWEST - 1  # the bucket of 0; a negative number is in bucket 2 * ZERO - that of its size
# What names one node says nothing about many.
OWN = frozenset({"name", "node", "id", "addr", "boot", "state", "zone", "cluster", "coordinate"})


def bucket(value: float) -> int:
    """The histogram's bucket: b holds the numbers from 2**(b-1) to below 2**b."""
    if value == 0:
        return ZERO
    power = min(HIGHEST, max(LOWEST, math.frexp(abs(value))[1]))
    return power if value > 0 else 2 * ZERO - power


def edge(index: int) -> float:
    """The greatest number of a bucket, as good as the histogram knows it."""
    if index == ZERO:
        return 0.0
    return 2.0**index if index > ZERO else -(2.0 ** (2 * ZERO - index - 1))


@dataclass(slots=True)
class Number:
    """One attribute that is a number, over many nodes; least, most and total in millionths."""

    count: int
    least: int
    most: int
    total: int
    histogram: dict[int, int]

    @property
    def min(self) -> float:
        return self.least / MILLION

    @property
    def max(self) -> float:
        return self.most / MILLION

    @property
    def mean(self) -> float:
        return self.total / MILLION / self.count

    def quantile(self, share: float) -> float:
        """The number that this share of nodes does not exceed, to a factor of 2."""
        left = share * self.count
        for index in sorted(self.histogram):
            left -= self.histogram[index]
            if left <= 0:
                return min(self.max, max(self.min, edge(index)))
        return self.max

    def merge(self, other: Number) -> Number:
        histogram = dict(self.histogram)
        for index, count in other.histogram.items():
            histogram[index] = histogram.get(index, 0) + count
        return Number(
            self.count + other.count,
            min(self.least, other.least),
            max(self.most, other.most),
            self.total + other.total,
            histogram,
        )


@dataclass(slots=True)
class Text:
    """One attribute that is text: of how many nodes, and of how many each value kept."""

    count: int
    values: dict[str, int]

    @property
    def others(self) -> int:
        """Nodes whose value is not among those kept."""
        return self.count - sum(self.values.values())

    def merge(self, other: Text) -> Text:
        values = dict(self.values)
        for value, count in other.values.items():
            values[value] = values.get(value, 0) + count
        return Text(self.count + other.count, dict(_first(values, VALUES)))


@dataclass(slots=True)
class Digest:
    """A zone's nodes, summed up; `Digest()` is that of no node."""

    nodes: int = 0
    leaves: int = 0  # leaf zones in it
    cut: bool = False  # whether attributes were left out
    states: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, Number] = field(default_factory=dict)
    texts: dict[str, Text] = field(default_factory=dict)
    names: int = 0  # a filter of bloom.py

    def merge(self, other: Digest) -> Digest:
        """Both together."""
        states = dict(self.states)
        for state, count in other.states.items():
            states[state] = states.get(state, 0) + count
        numbers, texts = dict(self.numbers), dict(self.texts)
        for name, stat in other.numbers.items():
            numbers[name] = numbers[name].merge(stat) if name in numbers else stat
        for name, text in other.texts.items():
            texts[name] = texts[name].merge(text) if name in texts else text
        return Digest(
            self.nodes + other.nodes,
            self.leaves + other.leaves,
            self.cut or other.cut or len(numbers) > NUMBERS or len(texts) > NUMBERS,
            states,
            dict(_first(numbers, NUMBERS)),
            dict(_first(texts, NUMBERS)),
            bloom.join(self.names, other.names),
        )

    def could_meet(self, expr: Expr) -> bool:
        """Whether a node of this zone may satisfy the expression; False is sure, as far as
        the digest is fresh.  Queries go down only where this holds."""
        if expr.op == "sort" or not self.nodes:
            return bool(self.nodes)
        if expr.attr in ("node", "name") and expr.op == "=":
            return bloom.holds(self.names, expr.value)
        if expr.attr in OWN:
            return True
        stat, text = self.numbers.get(expr.attr), self.texts.get(expr.attr)
        if stat and _some_number(stat, expr):
            return True
        if text and expr.op in ("=", "!="):
            meets = OPS[expr.op]
            if text.others or any(meets(value, expr.value) for value in text.values):
                return True
        return self.cut

    def text(self) -> str:
        """The digest as ndb records, one a line."""
        lines = [f"nodes={self.nodes} leaves={self.leaves} cut={'yes' if self.cut else ''}"]
        lines += [f"state={state} count={self.states[state]}" for state in sorted(self.states)]
        for name, stat in sorted(self.numbers.items()):
            hist = ",".join(f"{at}:{count}" for at, count in sorted(stat.histogram.items()))
            low, high, total = (_show(n) for n in (stat.least, stat.most, stat.total))
            lines.append(
                f"number={ndb.quote(name)} count={stat.count} min={low} max={high} "
                f"sum={total} hist={hist}"
            )
        for name, text in sorted(self.texts.items()):
            lines.append(f"text={ndb.quote(name)} count={text.count}")
            for value, count in sorted(text.values.items()):
                lines.append(ndb.record({"text": name, "value": value, "count": count}))
        lines.append(f"names={bloom.text(self.names)}")
        return "\n".join(lines) + "\n"


def parse(text: str) -> Digest:
    """The inverse of `Digest.text`; lines of other kinds are passed over.  CloudError("bad")
    where it is none, or larger than ours can be."""
    found = Digest()
    try:
        for line in text.splitlines():
            read = _READ.get(line.partition("=")[0])
            if read is not None:
                read(found, ndb.parse(line))
    except (KeyError, ValueError) as failure:
        raise CloudError("bad", f"no digest of a zone: {failure}") from None
    kept = max((len(text.values) for text in found.texts.values()), default=0)
    if max(len(found.numbers), len(found.texts)) > NUMBERS or kept > VALUES:
        raise CloudError("toobig", f"a digest has at most {NUMBERS} attributes")
    return found


def of(records: Iterable[tuple[str, Mapping[str, str]]]) -> Digest:
    """The digest of one leaf: of each node at home there its state and its record."""
    found = Digest(leaves=1)
    for state, attrs in records:
        numbers: dict[str, Number] = {}
        texts: dict[str, Text] = {}
        for name, word in attrs.items():
            if name in OWN or not word:
                continue
            value = number(word)
            if value is None:
                texts[name] = Text(1, {word: 1} if len(word) <= LONGEST else {})
            elif abs(value) <= LARGEST:
                top, under = value.as_integer_ratio()
                low, high = top * MILLION // under, -(-top * MILLION // under)
                numbers[name] = Number(1, low, high, (low + high) // 2, {bucket(value): 1})
        one = Digest(1, 0, False, {state: 1}, numbers, texts, bloom.of([attrs["name"]]))
        found = found.merge(one)
    return found


def merge(digests: Iterable[Digest]) -> Digest:
    """All of them together."""
    return functools.reduce(Digest.merge, digests, Digest())


def _some_number(stat: Number, expr: Expr) -> bool:
    """Whether a number between the least and the most may satisfy the expression."""
    limit = number(expr.value)
    if limit is None:
        return expr.op == "!="
    if expr.op == "=":
        return stat.min <= limit <= stat.max
    if expr.op == "!=":
        return not stat.min == limit == stat.max
    return any(OPS[expr.op](end, limit) for end in (stat.min, stat.max))


def _first(table: Mapping[str, V], most: int) -> Iterator[tuple[str, V]]:
    """The first entries by the alphabet.  What a merge leaves out, no later one would have
    kept, so the order of merges does not matter."""
    names = sorted(table)[:most] if len(table) > most else table
    return ((name, table[name]) for name in names)


def _show(millionths: int) -> str:
    whole, part = divmod(abs(millionths), MILLION)
    return f"{'-' if millionths < 0 else ''}{whole}.{part:06}".rstrip("0").rstrip(".")


def _millionths(word: str) -> int:
    sign = -1 if word.startswith("-") else 1
    whole, _, part = word.lstrip("-").partition(".")
    return sign * (int(whole) * MILLION + int(part.ljust(6, "0")[:6] or 0))


def _read_head(found: Digest, pairs: dict[str, str]) -> None:
    found.nodes, found.leaves = int(pairs["nodes"]), int(pairs["leaves"])
    found.cut = bool(pairs["cut"])


def _read_state(found: Digest, pairs: dict[str, str]) -> None:
    found.states[pairs["state"]] = int(pairs["count"])


def _read_number(found: Digest, pairs: dict[str, str]) -> None:
    halves = (entry.rpartition(":") for entry in pairs["hist"].split(","))
    histogram = {int(at): int(many) for at, _, many in halves}
    low, high, total = (_millionths(pairs[name]) for name in ("min", "max", "sum"))
    if (count := int(pairs["count"])) < 1:
        raise ValueError("a number that no node has")
    found.numbers[pairs["number"]] = Number(count, low, high, total, histogram)


def _read_text(found: Digest, pairs: dict[str, str]) -> None:
    text = found.texts.setdefault(pairs["text"], Text(0, {}))
    if "value" in pairs:
        text.values[pairs["value"]] = int(pairs["count"])
    else:
        text.count = int(pairs["count"])


def _read_names(found: Digest, pairs: dict[str, str]) -> None:
    found.names = bloom.parse(pairs["names"])


# The first attribute of a line: what it says.
_READ: dict[str, Callable[[Digest, dict[str, str]], None]] = {
    "nodes": _read_head,
    "state": _read_state,
    "number": _read_number,
    "text": _read_text,
    "names": _read_names,
}
