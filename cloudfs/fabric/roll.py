"""Who is seen in a zone: what an engine calls, and what its `watch` gives.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cloudfs.fabric.api import Change
from cloudfs.fabric.subscription import Subscription


class Roll:
    """The nodes that one node sees, itself always among them."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._there: frozenset[str] = frozenset()
        self._watches: list[Subscription[Change]] = []

    def members(self) -> frozenset[str]:
        return self._there | {self._node}

    def set(self, others: Iterable[str]) -> None:
        """Those are there now, and no others."""
        there = frozenset(others) - {self._node}
        before, self._there = self._there, there
        for node in sorted(there ^ before):
            for watch in self._watches:
                watch.put(Change(node, node in there), node)

    def watch(self) -> Subscription[Change]:
        made: Subscription[Change] = Subscription(self._watches.remove)
        self._watches.append(made)
        for node in sorted(self._there):
            made.put(Change(node, True), node)
        return made

    def close(self) -> None:
        for watch in list(self._watches):
            watch.close()
