"""Directories that were bound to one place."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from cloudfs.errors import CloudError
from cloudfs.tree.api import Cues, DirHandle, Entries, Handle, Node, R, Stat, W, Wait, X
from cloudfs.tree.permission import allowed
from cloudfs.wait import then

if TYPE_CHECKING:
    from cloudfs.tree.space import Attach


class Union(Node):
    """Several directories at one place: the first that has a name wins (bind(1))."""

    __slots__ = ("branches",)

    def __init__(self, branches: Iterable[tuple[Node, bool]]) -> None:
        self.branches = tuple(branches)  # (directory, whether it takes creates)
        first = self.branches[0][0]
        self.name, self.mode, self.qid = first.name, first.mode, first.qid
        self.uid, self.gid = first.uid, first.gid

    @property
    def remote(self) -> bool:
        return self.branches[0][0].remote

    def stat(self) -> Stat | Wait[Stat]:
        return self.branches[0][0].stat()

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        return self._walk(0, name, at, cues)

    def _walk(self, index: int, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        while True:
            node = self.branches[index][0]
            index += 1
            try:
                if not allowed(at.who, node, X, at.space.groups_of):
                    raise CloudError("denied")
                found = node.walk(name, at, cues)
            except CloudError:
                if index == len(self.branches):
                    raise
                continue
            if isinstance(found, Wait) and index < len(self.branches):
                return then(found, _same, partial(self._next, index, name, at, cues))
            return found

    def _next(
        self, index: int, name: str, at: Attach, cues: Cues, error: CloudError
    ) -> Node | Wait[Node]:
        return self._walk(index, name, at, cues)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        nodes: dict[str, Node] = {}

        def add(index: int, handle: Handle) -> Handle | Wait[Handle]:
            assert isinstance(handle, DirHandle)
            for name, node in handle.entries.nodes.items():
                nodes.setdefault(name, node)
            handle.close()
            return go(index + 1)

        def go(index: int) -> Handle | Wait[Handle]:
            while index < len(self.branches):
                node = self.branches[index][0]
                if allowed(at.who, node, R, at.space.groups_of):
                    return then(node.open(mode, at, cues), partial(add, index))
                index += 1
            return DirHandle(Entries(nodes))

        return go(0)

    def create(
        self, name: str, perm: int, mode: int, at: Attach, cues: Cues
    ) -> tuple[Node, Handle] | Wait[tuple[Node, Handle]]:
        for node, creates in self.branches:
            if creates:
                if not allowed(at.who, node, W | X, at.space.groups_of):
                    raise CloudError("denied", f"{at.who.user} may not make files in it")
                return node.create(name, perm, mode, at, cues)
        raise CloudError("refused", "no part of this union takes new files", "bind one with -c")


def _same(node: Node) -> Node:
    return node
