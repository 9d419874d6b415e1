"""The query language: which nodes will do, and which is best.  Pure.

    expression = attribute op value          cpu.idle>=2  arch=x86_64  label.gpu=a100
               | "sort=" attribute           the smallest first
    op         = "=" "!=" "<" "<=" ">" ">="

An attribute is a dotted name.  Values compare as numbers where both sides are numbers
in base units (4e9), else as text, and text only with = and !=.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudfs.errors import CloudError

OPS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
MAX_EXPR = 256  # bytes of one expression
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_FORM = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)(<=|>=|!=|<|>|=)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expr:
    """One condition, or with op "sort" an order."""

    attr: str
    op: str
    value: str

    def __str__(self) -> str:
        return f"sort={self.attr}" if self.op == "sort" else f"{self.attr}{self.op}{self.value}"


def number(text: object) -> float | None:
    """The finite number that a text is, else None.  Python itself would take more:
    1_000, and digits of other scripts."""
    word = str(text)
    value = float(word) if _NUMBER.fullmatch(word) else math.inf
    return value if math.isfinite(value) else None


def parse(text: str) -> Expr:
    """One expression; CloudError("bad") says what is wrong with it."""
    if len(text) > MAX_EXPR:
        raise CloudError("toobig", f"an expression has at most {MAX_EXPR} characters")
    match = _FORM.fullmatch(text)
    if match is None:
        raise CloudError("bad", f"{text!r} is no expression", "write it as arch=x86_64 or cpus>=2")
    attr, op, value = match.groups()
    if attr == "sort":
        if op != "=":
            raise CloudError("bad", f"{text!r}: sort takes =", "write it as sort=load")
        return Expr(value, "sort", "")
    if op not in ("=", "!=") and number(value) is None:
        fix = "make each expression a word" if " " in value else "write base units, as in 4e9"
        raise CloudError("bad", f"{text!r}: {op} compares numbers", fix)
    return Expr(attr, op, value)


def meets(expr: Expr, node: Mapping[str, object]) -> bool:
    """Whether a node with these attributes satisfies the expression; one that does not
    have the attribute does not."""
    if expr.op == "sort":
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
