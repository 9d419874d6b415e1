"""Versions of one thing that its owner signs, kept in many places without a centre.  Pure.

Each names those that it follows by their hashes.  So an older one is known for what it is, and two
that follow the same one are a *fork*, of which both are kept until the owner makes one that follows
both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar

from cloudfs.errors import CloudError

BEFORE = 16  # that one names


class Version(Protocol):
    """version: from 1.  before: hashes of those it follows, the last one first."""

    @property
    def version(self) -> int: ...
    @property
    def before(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...


V = TypeVar("V", bound=Version)


class Signed:
    """A version as the line that its owner signs, and the signature."""

    __slots__ = ()
    sign: bytes

    def signed(self) -> str:
        """What is signed: the line without its last pair."""
        raise CloudError("bad", "nothing of this is signed")

    def text(self) -> str:
        """As it is stored: one line."""
        return f"{self.signed()} sign={self.sign.hex()}\n"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()


def after(*last: Version) -> tuple[int, tuple[str, ...]]:
    """Number and `before` of one that follows these: none, one, or the heads of a fork."""
    before = [one.digest for one in last]
    before += [name for one in last for name in one.before]
    return max((one.version for one in last), default=0) + 1, tuple(dict.fromkeys(before))[:BEFORE]


def heads(versions: Iterable[V]) -> list[V]:
    """Those that no other follows, the newest first: more than one is a fork.

    Where one is so much older that the newer does not name it any more, both are heads:
    nobody can tell, so the owner must.
    """
    all_ = {one.digest: one for one in versions}
    followed = {name for one in all_.values() for name in one.before}
    left = [one for name, one in all_.items() if name not in followed]
    return sorted(left, key=lambda one: (-one.version, one.digest))


def newest(versions: Iterable[V], seen: V | None = None) -> V:
    """The version that holds.

    seen: the last one that this reader has had.  CloudError: "absent" without any, "stale"
    where all are older than `seen`, "busy" where they have parted in two.
    """
    found = heads(versions)
    if not found:
        raise CloudError("absent", "there is no version of it")
    last = found[0]
    if seen is not None and last.digest != seen.digest and seen.digest not in last.before:
        if all(head.digest in seen.before for head in found):
            raise CloudError(
                "stale",
                f"version {last.version} was found, and {seen.version} has been here before",
                "those asked are behind or lie: try again, or others",
            )
        found = [last, seen]
    if len(found) > 1:
        names = " and ".join(f"{one.version} ({one.digest[:8]})" for one in found[:2])
        raise CloudError("busy", f"it has parted in two versions: {names}", "say which one holds")
    return last
