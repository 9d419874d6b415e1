"""The trees of other nodes, as the rest of the tree and the kernel see them.

What has the connections is wire/imports.py; nothing here knows of any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from cloudfs.tree.api import ORDWR, OREAD, OWRITE, PLAIN, Cues, Handle, Node, Ref, Who
from cloudfs.tree.space import Attach, Space
from cloudfs.wait import settle

PIECE = 1 << 20  # bytes read at a time


class Bulk(Protocol):
    """A way on which much can be read."""

    async def read(self, names: Iterator[str], take: Callable[[str, memoryview], None]) -> None:
        """Read files of its folder, several under way at a time.

        take: is given each as it comes, its name and what is in it, for as long as take
        runs; it is called in a thread, and so is names.  Raises CloudError, also what take
        raised; the way is of no use then.
        """


class Imports(Protocol):
    """Where the trees of other nodes come from."""

    def reach(self, node: str, path: tuple[str, ...] = ()) -> Node:
        """A file of a node's own tree, at once: nothing is asked of the node before it is
        used, and then it is asked as the user who uses it.  It is taken to be there, and
        its mode to allow anything.  For a node that is gone each use raises
        CloudError("unreachable")."""

    def bulk(
        self, node: str, user: str, folder: str, seconds: float
    ) -> AbstractAsyncContextManager[Bulk]:
        """A way on which that user reads many files of a folder of a node's own tree, all
        small enough for a frame of a MiB, beside what else is asked of it.  seconds: that
        the node may be silent.  Raises CloudError where there is no way."""


class Files:
    """Another node's own tree as one user, for code that wants whole files.

    limit: seconds for each step of an operation (open, read or write, close).  imports: of
    which root is one, for `bulk`.
    """

    def __init__(
        self,
        root: Node,
        who: Who,
        limit: float = PLAIN.max_time,
        imports: Imports | None = None,
    ) -> None:
        self._root, self._who, self._limit, self._imports = root, who, limit, imports
        self._at: Attach = Space(root).attach(who)
        self._cues: Cues = replace(PLAIN, max_time=limit)

    async def write(self, path: str, text: str) -> None:
        """Write a file by one open, one close and as few writes as there are frames.

        Nothing is ever sent twice.  Raises what that node said, as CloudError with its
        kind, why and fix; `timeout` or `unreachable` where it did not answer, and then
        nobody knows what it did.
        """
        data = text.encode()
        handle = await self._open(path, OWRITE)
        done = 0
        try:
            while done < len(data):
                done += await settle(handle.write(done, data[done:]))
        finally:
            await settle(handle.close())

    async def ask(self, path: str, text: str) -> str:
        """Write to a file that answers, and read the answer; raises as `write` does."""
        data = text.encode()
        handle = await self._open(path, ORDWR)
        done, said = 0, b""
        try:
            while done < len(data):
                done += await settle(handle.write(done, data[done:]))
            while True:
                more: bytes | memoryview = await settle(handle.read(len(said), PIECE))
                if not more:
                    break
                said += more
        finally:
            await settle(handle.close())
        return said.decode(errors="replace")

    async def text(self, path: str) -> str:
        """All of a file that is text."""
        return (await self.read(path)).decode(errors="replace")

    async def read(self, path: str) -> bytes:
        """All of a file."""
        handle = await self._open(path, OREAD)
        text = b""
        try:
            while True:
                data: bytes | memoryview = await settle(handle.read(len(text), PIECE))
                if not data:
                    return text
                text += data
        finally:
            await settle(handle.close())

    def bulk(self, folder: str) -> AbstractAsyncContextManager[Bulk]:
        """See Imports.bulk."""
        assert self._imports is not None
        return self._imports.bulk(self._root.name, self._who.user, folder, self._limit)

    async def _open(self, path: str, mode: int) -> Handle:
        names = [name for name in path.split("/") if name]
        root = self._at.root()
        _, ref, error = await settle(
            self._at.walk_all(Ref(root.node, root.path, self._cues), names)
        )
        if error is not None:
            raise error
        return await settle(self._at.open(ref, mode))
