"""Keys and key expressions as Zenoh has them, checked before they reach it.

A key is one or more chunks with "/" between.  In an expression the chunk "*" stands for
any one chunk and "**" for any number of them, none included.
"""

from __future__ import annotations

from functools import lru_cache

from cloudfs.errors import CloudError

MAX_KEY = 1024  # bytes
_WILD = ("*", "**")
_RESERVED = frozenset("*$?#\0")


def check_key(key: str) -> str:
    """The key itself; raises CloudError("bad") if it is none."""
    return _checked(key, ())


def check_expr(expr: str) -> str:
    """The expression in its one canonical form: "**" before "*" is turned around, and
    repeated "**" are one.  Raises CloudError("bad")."""
    _checked(expr, _WILD)
    chunks: list[str] = []
    for chunk in expr.split("/"):
        if chunk == "**" and chunks[-1:] == ["**"]:
            continue
        chunks.append(chunk)
        if chunks[-2:] == ["**", "*"]:
            chunks[-2:] = ["*", "**"]
    # Turned around, a "**" may again stand beside another.
    joined = "/".join(chunks)
    return joined if joined == expr else check_expr(joined)


def _checked(text: str, wild: tuple[str, ...]) -> str:
    for chunk in text.split("/"):
        if chunk in wild:
            continue
        if not chunk or chunk[0] == "@" or not _RESERVED.isdisjoint(chunk):
            what = "expression" if wild else "key"
            raise CloudError("bad", f"{text[:80]!r} is no {what}", "chunks without *$?# and @")
    if len(text.encode(errors="replace")) > MAX_KEY:
        raise CloudError("toolong", f"a key has at most {MAX_KEY} bytes")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CloudError("bad", f"{text[:80]!r} is not UTF-8") from None
    return text


@lru_cache(maxsize=4096)
def _split(expr: str) -> tuple[str, ...]:
    return tuple(expr.split("/"))


def intersects(one: str, two: str) -> bool:
    """Whether some key is in both expressions; for a key and an expression: is it in it."""
    if one == two:
        return True
    a, b = _split(one), _split(two)
    if "**" not in a and "**" not in b:
        return len(a) == len(b) and all(map(_meet, a, b))
    # row[j]: whether a[:i] and b[:j] have a key in common
    row = [True]
    for chunk in b:
        row.append(row[-1] and chunk == "**")
    for x in a:
        new = [row[0] and x == "**"]
        for j, y in enumerate(b, 1):
            if "**" in (x, y):  # it stands for nothing, or takes the other one's chunk too
                new.append(row[j] or new[j - 1])
            else:
                new.append(row[j - 1] and _meet(x, y))
        row = new
    return row[-1]


def _meet(x: str, y: str) -> bool:
    return x in (y, "*") or y == "*"
