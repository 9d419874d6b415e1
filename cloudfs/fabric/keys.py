"""Keys and key expressions, in the grammar that zenoh has."""

from __future__ import annotations

from functools import lru_cache

from cloudfs.errors import CloudError

_WILD = frozenset("*$#?")


def check_key(key: str) -> str:
    """The same key; CloudError("bad") where it is none."""
    words = key.split("/")
    if len(key) > 255 or not all(words) or set(key) & _WILD or not key.isprintable():
        raise CloudError("bad", f"{key[:80]!r} is no key")
    return key


@lru_cache(4096)
def meets(one: str, two: str) -> bool:
    """Whether some key matches both expressions; a key is an expression without stars."""
    return _meets(one.split("/"), two.split("/"))


def _meets(one: list[str], two: list[str]) -> bool:
    if not one or not two:
        return all(word == "**" for word in one or two)
    if one[0] == "**":
        return _meets(one[1:], two) or _meets(one, two[1:])
    if two[0] == "**":
        return _meets(one, two[1:]) or _meets(one[1:], two)
    same = one[0] == two[0] or "*" in (one[0], two[0])
    return same and _meets(one[1:], two[1:])
