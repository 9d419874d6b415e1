"""Where objects went that other nodes took, for a while; it outlives the daemon."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.object import Object
from cloudfs.kernel.records import Records

REMEMBER = 3600.0  # seconds
MANY = 16384  # objects


class Moved:
    """Where objects went, the oldest forgotten first."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._all: dict[str, tuple[str, float, tuple[str, ...]]] = {}

    def load(self) -> None:
        """What an earlier daemon remembered, for the rest of its time."""
        now, wall = trio.current_time(), time.time()
        for id, (node, until, *key) in list(self._records.all_moved()):
            left = min(until - wall, REMEMBER)  # the clock may have been set back
            if left > 0:
                self._all[id] = node, now + left, tuple(key)
            else:
                self._records.drop_moved(id)

    def add(self, made: Object, node: str) -> None:
        self.drop(made.id)
        self._forget(MANY - 1)
        key = group(made)
        self._all[made.id] = node, trio.current_time() + REMEMBER, key
        self._records.put_moved(made.id, [node, time.time() + REMEMBER, *key])

    def drop(self, id: str) -> None:
        if self._all.pop(id, None) is not None:
            self._records.drop_moved(id)

    def left(self, id: str, node: str, there: str) -> None:
        """A node has it no more to which it went: it is `there`, or "", where it was wiped or
        nobody told yet where it is.  Then that node is asked still, which knows, but whatever
        spreads need not keep away from it."""
        found = self._all.get(id)
        if found is None or found[0] != node:
            return
        _, until, key = found
        kept = (there, until, key) if there else (node, until, key[:1])
        self._all[id] = kept
        wall = time.time() + until - trio.current_time()
        self._records.put_moved(id, [kept[0], wall, *kept[2]])

    def get(self, id: str) -> str | None:
        self._forget(MANY)
        return self._all[id][0] if id in self._all else None

    def sent(self, id: str) -> tuple[str, str]:
        """The node that took one of which nothing was heard since, and whose it is; or "", ""."""
        self._forget(MANY)
        node, _, key = self._all.get(id, ("", 0.0, ()))
        return (node, key[0]) if len(key) > 1 else ("", "")

    def of_group(self, key: tuple[str, ...]) -> Iterator[str]:
        """The nodes of those that spread alike, one for each object."""
        self._forget(MANY)
        return (node for node, _, its in self._all.values() if its == key)

    def _forget(self, most: int) -> None:
        while self._all:
            id, (_, until, _) = next(iter(self._all.items()))
            if until > trio.current_time() and len(self._all) <= most:
                return
            self.drop(id)


def stale(id: str, node: str, fix: str = "open it again") -> CloudError:
    """The error for one that has gone to another node."""
    return CloudError("stale", f"object {id} is on node {node} now", fix)


def told_by(error: CloudError) -> str:
    """The node that such an error names; "" for other errors."""
    match = re.search(r"is on node ([A-Za-z0-9][A-Za-z0-9_.-]{0,63}) now", error.why)
    return match[1] if match and error.kind == "stale" else ""


def group(made: Object) -> tuple[str, ...]:
    """Objects that `spread` keeps apart have the same."""
    return made.user, made.app, made.spread
