"""The query language: which nodes will do, and which is best.  Pure.

    expression = attribute op value          cpu.idle>=2  arch=x86_64  label.gpu=a100
               | "rtt(" node ")" op seconds  rtt(paris-3)<0.02; rtt<0.02 from the node that asks
               | "sort=" ["-"] attribute     the smallest first, with - the greatest
               | "near=" node                the nearest to that node first
               | "count=" number             only so many, the best
    op         = "=" "!=" "<" "<=" ">" ">="

An attribute is a dotted name.  Values compare as numbers where both sides are numbers
in base units (4e9), else as text, and text only with = and !=.  `parse` reads one
expression, `check` says whether several make sense together.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.kernel.zones import LABEL

OPS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
ORDERS = frozenset({"sort", "near", "count"})  # ops that are no conditions
MAX_EXPR = 256  # characters of one expression
MAX_QUERY = 4096  # of all of a query, one between two
MAX_EXPRS = 32  # expressions of a query
MAX_COUNT = 10_000

# What every node tells: attribute → its unit, "" of a text.  Labels stand beside as label.NAME.
ATTRIBUTES = {
    "node": "",
    "cluster": "",
    "state": "",
    "arch": "",
    "cpus": "cores",
    "load": "processes",
    "cpu.idle": "cores",
    "cpu.unreserved": "cores",
    "mem.total": "bytes",
    "mem.free": "bytes",
    "mem.unreserved": "bytes",
    "disk.free": "bytes",
    "price": "a core-hour",
    "age": "seconds",
    "rtt": "seconds",
}
# A unit that people write → what a number of it is in base units.
_UNITS = {
    **{"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0},
    **{"%": 0.01, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "b": 1.0},
    **{"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12},
    **{"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40},
}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_UNIT = re.compile(rf"({_NUMBER.pattern})\s*([a-zµ%]+)(/s)?", re.IGNORECASE)
_FORM = re.compile(
    r"([A-Za-z][A-Za-z0-9_.-]*(?:\([^()]*\))?)(<=|>=|!=|<|>|=)(.+)",
    re.DOTALL,
)
_NODE = re.compile(LABEL)
_ATTR = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Expr:
    """One condition, or an order: op "sort" (value "-": the greatest first), "near" (attr is
    rtt(NODE), value NODE) or "count"."""

    attr: str
    op: str
    value: str

    def __str__(self) -> str:
        if self.op == "sort":
            return f"sort={self.value}{self.attr}"
        if self.op in ORDERS:
            return f"{self.op}={self.value}"
        return f"{self.attr}{self.op}{self.value}"

    @property
    def relative(self) -> bool:
        """Whether only the node that asks can tell the attribute."""
        return self.attr in ("age", "rtt") or self.target != ""

    @property
    def target(self) -> str:
        """The node of rtt(NODE) and near=NODE, else ""."""
        return self.attr[4:-1] if self.attr.startswith("rtt(") else ""


def number(text: object) -> float | None:
    """The finite number that a text is, else None.  Python itself would take more:
    1_000, and digits of other scripts."""
    word = str(text)
    value = float(word) if _NUMBER.fullmatch(word) else math.inf
    return value if math.isfinite(value) else None


def seconds(text: str) -> float | None:
    """The time that a text is, as 90, 10min, 12h or 7d, else None."""
    match = _UNIT.fullmatch(text)
    if match is None:
        return number(text)
    unit, value = match[4].lower(), number(match[1])
    known = unit in ("s", "ms", "us", "ns", "min", "h", "d") and not match[5]
    return None if value is None or not known else value * _UNITS[unit]


def parse(text: str) -> Expr:
    """One expression; CloudError("bad") says what is wrong with it."""
    if len(text) > MAX_EXPR:
        raise CloudError("toobig", f"an expression has at most {MAX_EXPR} characters")
    match = _FORM.fullmatch(text)
    if match is None:
        raise CloudError("bad", f"{text!r} is no expression", "write it as arch=x86_64 or cpus>=2")
    attr, op, value = match.groups()
    if value[0] in "=<>!":
        known = "operators are = != < <= > >="
        raise CloudError("bad", f"{text!r}: {op + value!r} is no operator", known)
    if attr in _ORDER:
        if op != "=":
            example = _ORDER[attr][1]
            raise CloudError("bad", f"{text!r}: {attr} takes =", f"write it as {example}")
        return _ORDER[attr][0](text, value)
    _check_attr(text, attr)
    if op not in ("=", "!=") and number(value) is None:
        why = f"{text!r}: {op} compares numbers in base units"
        plain = "make each expression a word" if " " in value else "write them plainly, as in 4e9"
        raise CloudError("bad", why, _base(attr, op, value) or plain)
    return Expr(attr, op, value)


def _sort(text: str, value: str) -> Expr:
    attr = value.removeprefix("-")
    _check_attr(text, attr)
    return Expr(attr, "sort", "-" if value.startswith("-") else "")


def _near(text: str, value: str) -> Expr:
    _check_node(text, value)
    return Expr(f"rtt({value})", "near", value)


def _count(text: str, value: str) -> Expr:
    if not re.fullmatch("[1-9][0-9]{0,4}", value) or int(value) > MAX_COUNT:
        raise CloudError("bad", f"{text!r}: wants a whole number", f"from 1 to {MAX_COUNT}")
    return Expr("count", "count", value)


# An order's word → what reads it, and how it is written.
_ORDER: dict[str, tuple[Callable[[str, str], Expr], str]] = {
    "sort": (_sort, "sort=load"),
    "near": (_near, "near=NODE"),
    "count": (_count, "count=3"),
}


def _check_attr(text: str, attr: str) -> None:
    """That a word can be an attribute."""
    name, bracket, node = attr.partition("(")
    if not bracket and _ATTR.fullmatch(attr):
        return
    if name != "rtt" or not node.endswith(")"):
        raise CloudError("bad", f"{text!r}: {attr!r} is no attribute", "write it as rtt(NODE)")
    _check_node(text, node[:-1])


def _check_node(text: str, name: str) -> None:
    if not _NODE.fullmatch(name):
        raise CloudError("bad", f"{text!r}: {name!r} is no node's name", "see: ls /cloud/nodes")


def _base(attr: str, op: str, value: str) -> str:
    """How a number with a unit is written in base units, "" if it is none."""
    match = _UNIT.fullmatch(value)
    factor = _UNITS.get(match[4].lower().replace("µ", "u")) if match else None
    if match is None or factor is None:
        return ""
    if unit_of(attr) == "seconds" and match[4] == "m":
        factor = 60.0
    base = f"{float(match[1]) * factor:g}".replace("e+0", "e").replace("e+", "e")
    return f"write: {attr}{op}{base.replace('e-0', 'e-')}"


def unit_of(attr: str) -> str | None:
    """An attribute's unit, "" of a text; None where it may be either."""
    return "seconds" if attr.startswith("rtt(") else ATTRIBUTES.get(attr)


def meets(expr: Expr, node: Mapping[str, object]) -> bool:
    """Whether a node with these attributes satisfies the expression; one that does not
    have the attribute does not."""
    if expr.op in ORDERS:
        return True
    have = node.get(expr.attr)
    if have is None:
        return False
    left, right = number(have), number(expr.value)
    if left is not None and right is not None:
        return OPS[expr.op](left, right)
    return expr.op in ("=", "!=") and OPS[expr.op](str(have), expr.value)


def unmet(exprs: Iterable[Expr], node: Mapping[str, object]) -> list[str]:
    """What of the expressions a node does not satisfy, each with what it has instead."""
    return [
        f"{expr} (it has {node.get(expr.attr, 'no such attribute')})"
        for expr in exprs
        if not meets(expr, node)
    ]


def place(expr: Expr, node: Mapping[str, object]) -> tuple[int, float, tuple[int, ...]]:
    """Where a node stands by sort= or near=: numbers, then texts, then those without."""
    found = node.get(expr.attr)
    if found is None:
        return 2, 0.0, ()
    down = expr.value == "-"
    value = number(found)
    if value is not None:
        return 0, -value if down else value, ()
    letters = [ord(letter) for letter in str(found)]
    # Turned round, a text stands before its own beginning.
    return 1, 0.0, (*(-letter for letter in letters), 1) if down else tuple(letters)


# --- several together --------------------------------------------------------------------------


def parse_all(texts: Sequence[str], told: Collection[str] = ()) -> tuple[Expr, ...]:
    """The expressions of one query, checked.  told: attributes that some node has, beside
    those that all have.  CloudError("bad", "toobig") says what is wrong."""
    if len(texts) > MAX_EXPRS or sum(map(len, texts)) + len(texts) > MAX_QUERY:
        raise CloudError(
            "toobig", f"a query has at most {MAX_EXPRS} expressions and {MAX_QUERY} characters"
        )
    found = tuple(map(parse, texts))
    check(found, told)
    return found


def check(exprs: Sequence[Expr], told: Collection[str] = ()) -> None:
    """Raises CloudError("bad") for an attribute that no node has, a value that it cannot
    have, and expressions that no node can satisfy together."""
    for expr in exprs:
        if expr.op != "count":
            _check_known(expr, told)
    for op in ("near", "count"):
        several = sorted({str(expr) for expr in exprs if expr.op == op})
        if len(several) > 1:
            raise CloudError("bad", f"{' and '.join(several)}: only one {op}= can be", "leave one")
    against = contradiction(exprs)
    if against is not None:
        one, other = against
        raise CloudError("bad", f"no node can have both {one} and {other}", "leave one out")


def _check_known(expr: Expr, told: Collection[str]) -> None:
    attr = expr.attr
    unit = unit_of(attr)
    if unit is None:
        if attr in told or (attr.startswith("label.") and len(attr) > 6):
            return
        known = [*ATTRIBUTES, *(name for name in told if name not in ATTRIBUTES)]
        close = difflib.get_close_matches(attr, known, 3, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}."
        label = f"label.{'NAME' if attr.startswith('label.') else attr}"
        raise CloudError(
            "bad", f"{expr}: no node has an attribute {attr}", f"{hint} A label is {label}"
        )
    if expr.op in ORDERS:
        return
    if unit and number(expr.value) is None:
        fix = _base(attr, expr.op, expr.value) or f"write a number, as in {attr}{expr.op}2"
        raise CloudError("bad", f"{expr}: {attr} is a number ({unit})", fix)
    if not unit and expr.op not in ("=", "!="):
        raise CloudError("bad", f"{expr}: {attr} is a text", f"compare it with = or !=: {attr}=…")


def contradiction(exprs: Iterable[Expr]) -> tuple[Expr, Expr] | None:
    """Two of the expressions that no value satisfies both, None if there are none."""
    by_attr: dict[str, list[Expr]] = {}
    for expr in exprs:
        if expr.op not in ORDERS:
            by_attr.setdefault(expr.attr, []).append(expr)
    for several in by_attr.values():
        for index, one in enumerate(several):
            for other in several[index + 1 :]:
                if not _together(one, other):
                    return one, other
    return None


def _together(one: Expr, other: Expr) -> bool:
    """Whether some value satisfies both."""
    if one.op == "!=" and other.op == "!=":
        return True
    a, b = number(one.value), number(other.value)
    if "=" in (one.op, other.op):
        if other.op == "=":
            one, other = other, one
        return meets(other, {other.attr: one.value})
    if a is None or b is None or "!=" in (one.op, other.op):
        return True  # numbers are dense: what a range holds is more than what != takes away
    if one.op[0] == other.op[0]:
        return True
    low, high = (a, b) if one.op[0] == ">" else (b, a)
    both_closed = one.op[1:] == other.op[1:] == "="
    return low < high or (low == high and both_closed)
