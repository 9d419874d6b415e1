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

    def drop(self, id: str, node: str = "") -> None:
        """Forget an object, or only if it went to that node."""
        found = self._all.get(id)
        if found is not None and node in ("", found[0]):
            del self._all[id]
            self._records.drop_moved(id)

    def get(self, id: str) -> str | None:
        self._forget(MANY)
        return self._all[id][0] if id in self._all else None

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
