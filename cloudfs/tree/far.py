"""Directories of other nodes: what is known of them here, and the rest as it is there.

`/cloud/nodes/NAME` and `/cloud/proc/ID` of another node are imported when somebody walks
into them.  Their `status` is a file of this node: it is asked for over there, and while
nobody answers it is what was heard last, with its age.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, OREAD, Cues, DirHandle, Entries, Handle, Node, Stat, Wait, Who
from cloudfs.tree.handles import Text
from cloudfs.tree.space import Attach
from cloudfs.wait import settle

SILENT = frozenset({"unreachable", "timeout"})  # errors that tell nothing of the file itself
MAX_STATUS = 8192  # bytes

# reach(node, who, path, seconds): the file at a path in a node's own tree, for that user.
# It may not have been looked at yet.  Raises CloudError "unreachable" or "timeout".
Reach = Callable[[str, Who, tuple[str, ...], float], Awaitable[Node]]


class Far(Node):
    """A directory of another node.

    path: where it is in that node's own tree.  known(): the text of its status as it is
    known here.
    """

    __slots__ = ("_known", "_node", "_path", "_reach")

    def __init__(
        self,
        name: str,
        qid: int,
        uid: str,
        reach: Reach,
        node: str,
        path: tuple[str, ...],
        known: Callable[[], str],
    ) -> None:
        self.name, self.mode, self.qid = name, 0o555 | DMDIR, qid
        self.uid = self.gid = uid
        self._reach = reach
        self._node = node
        self._path = path
        self._known = known

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, time.time(), self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        if name == "status":
            return Status(self)
        return Wait(partial(self._walk, name, at, cues))

    async def _walk(self, name: str, at: Attach, cues: Cues) -> Node:
        return await settle((await self._there(at, cues)).walk(name, at, cues))

    def open(self, mode: int, at: Attach, cues: Cues) -> Wait[Handle]:
        return Wait(partial(self._open, mode, at, cues))

    async def _open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        try:
            handle = await settle((await self._there(at, cues)).open(mode, at, cues))
        except CloudError as error:
            if error.kind not in SILENT or cues.fresh:
                raise
            return DirHandle(Entries({"status": Status(self)}))
        assert isinstance(handle, DirHandle)
        nodes = dict(handle.entries.nodes)
        if "status" in nodes:
            nodes["status"] = Status(self)
        return DirHandle(Entries(nodes))

    def _there(self, at: Attach, cues: Cues, *more: str) -> Awaitable[Node]:
        """The directory itself, or a file in it, on its node."""
        return self._reach(self._node, at.who, (*self._path, *more), cues.max_time)


class Status(Node):
    """The status of something on another node: from there, else as it is known here."""

    __slots__ = ("_of",)

    def __init__(self, of: Far) -> None:
        self.name, self.mode, self.qid = "status", 0o444, of.qid + 1
        self.uid = self.gid = of.uid
        self._of = of

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, time.time(), self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Wait[Handle]:
        return Wait(partial(self._open, mode, at, cues))

    async def _open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        try:
            file = await self._of._there(at, cues, "status")
            handle = await settle(file.open(mode, at, cues))
            if mode & 3 != OREAD:
                return handle
            data: Any = await settle(handle.read(0, MAX_STATUS))
            await settle(handle.close())
            return Text(bytes(data).decode(errors="replace"))
        except CloudError as error:
            known = self._of._known()
            if error.kind not in SILENT or cues.fresh or not known:
                raise
            return Text(known)


def number(*path: str) -> int:
    """The qid number of a far directory."""
    return numbers.named("far", *path)
