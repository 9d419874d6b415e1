"""One question under way: whom it still waits for, and when it has enough."""

from __future__ import annotations

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Answer, Reply
from cloudfs.fabric.packet import text, unpack

# The first part of what a member answers.
OK, NONE, FAILED = b"ok", b"none", b"failed"


class Asking:
    """No clock and no I/O.

    targets: the nodes that are to answer.  count: how many that serve it are enough, None
    for all targets.  open: numbers of the carrier's questions that may bring answers yet.
    """

    __slots__ = ("_failed", "_parts", "count", "open", "targets")

    def __init__(self, targets: frozenset[str], count: int | None) -> None:
        self.targets = targets
        self.count = count
        self.open: set[int] = set()
        self._parts: dict[str, list[bytes] | None] = {}  # by node; None: serves it not
        self._failed: dict[str, str] = {}

    def heard(self, node: str, data: bytes) -> None:
        """A member's answer; the first of each counts."""
        if node in self._parts or node in self._failed:
            return
        try:
            kind, *rest = unpack(data)
            if kind == OK:
                self._parts[node] = rest
            elif kind == NONE:
                self._parts[node] = None
            else:
                self._failed[node] = " ".join(text(part) for part in rest)
        except (CloudError, ValueError) as error:
            self._failed[node] = f"answered with what cannot be read: {error}"

    def missing(self, members: frozenset[str]) -> frozenset[str]:
        """Who is there and has not answered."""
        return (self.targets & members) - self._parts.keys() - self._failed.keys()

    def done(self, members: frozenset[str]) -> bool:
        """Whether more would change nothing, or cannot come."""
        if self.count is not None and self._served() >= self.count:
            return True
        silent = self.targets - self._parts.keys() - self._failed.keys()
        return not silent or (not self.open and not silent & members)

    def _served(self) -> int:
        return sum(parts is not None for parts in self._parts.values())

    @property
    def whole(self) -> bool:
        if self.count is not None:
            return self._served() >= self.count
        return self.targets <= self._parts.keys()

    def parts(self, node: str) -> list[bytes] | None:
        """What that node answered, None if it did not or could not."""
        return self._parts.get(node)

    def answer(self) -> Answer:
        replies = [
            Reply(key.decode(errors="replace"), value, node)
            for node, parts in self._parts.items()
            if parts
            for key, value in zip(parts[::2], parts[1::2], strict=False)
        ]
        return Answer(replies, self.whole, frozenset(self._parts), dict(self._failed))
