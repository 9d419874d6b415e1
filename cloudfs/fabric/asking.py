"""A question under way: the answers so far, and whether they are enough."""

from __future__ import annotations

import trio

from cloudfs.fabric.api import Answer, Reply
from cloudfs.fabric.keys import check_key


class Asking:
    """want: so many nodes, or these nodes."""

    def __init__(self, want: int | frozenset[str]) -> None:
        self.want = want
        self.replies: list[Reply] = []
        self.nodes: set[str] = set()
        self.enough = trio.Event()
        self._check()

    def take(self, node: str, pairs: list[tuple[str, bytes]]) -> None:
        """A node's answer; a second one of it is a duplicate."""
        if node not in self.nodes:
            self.nodes.add(node)
            self.replies += [Reply(check_key(key), value, node) for key, value in pairs]
            self._check()

    def _check(self) -> None:
        if self.whole():
            self.enough.set()

    def whole(self) -> bool:
        if isinstance(self.want, int):
            return len(self.nodes) >= self.want
        return self.want <= self.nodes

    def answer(self) -> Answer:
        return Answer(self.replies, self.whole())
