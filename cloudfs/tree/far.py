"""Directories of other nodes: what is known of them here, and the rest as it is there.

`/cloud/nodes/NAME` and `/cloud/proc/ID` of another node are imported when somebody walks
into them.  Their `status` is a file of this node: it is asked for over there, and while
nobody answers it is what was heard last.  Either carries its age in seconds, as no status
of this node's own does.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.kernel.moved import told_by
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, OREAD, PLAIN, Cues, DirHandle, Entries, Handle, Node, Stat, Wait
from cloudfs.tree.handles import Text
from cloudfs.tree.imports import Imports
from cloudfs.tree.space import Attach
from cloudfs.wait import settle, then

ASK = 0.5  # seconds for a status of which something is known here
QUIET = 3.0  # seconds for which a node that did not answer one is not asked for another
SILENT = frozenset({"unreachable", "timeout"})  # errors that tell nothing of the file itself
MAX_STATUS = 8192  # bytes


class Silence:
    """The nodes that did not answer of late: many statuses of one cost no more than one."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def holds(self, node: str) -> bool:
        return time.monotonic() < self._until.get(node, 0.0)

    def heard(self, node: str) -> None:
        self._until.pop(node, None)

    def missed(self, node: str) -> None:
        self._until[node] = time.monotonic() + QUIET


class Far(Node):
    """A directory of another node.

    path: where it is in that node's own tree.  known(): the text of its status as it is
    known here.  renew(seconds): have others tell what they know of it.
    """

    __slots__ = ("_imports", "_known", "_node", "_path", "_renew", "_silence")

    def __init__(
        self,
        name: str,
        qid: int,
        uid: str,
        imports: Imports,
        silence: Silence,
        node: str,
        path: tuple[str, ...],
        known: Callable[[], str],
        renew: Callable[[float], Awaitable[object]],
    ) -> None:
        self.name, self.mode, self.qid = name, 0o555 | DMDIR, qid
        self.uid = self.gid = uid
        self._imports = imports
        self._silence = silence
        self._node = node
        self._path = path
        self._known = known
        self._renew = renew

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, time.time(), self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        if name == "status":
            return Status(self)
        return self._there().walk(name, at, cues)

    def ahead(self, names: Sequence[str], at: Attach, cues: Cues) -> Wait[None] | None:
        return self._there().ahead(names, at, cues)

    def open(self, mode: int, at: Attach, cues: Cues) -> Wait[Handle]:
        return Wait(partial(self._open, mode, at, cues))

    async def _open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        try:
            handle = await settle(self._there().open(mode, at, cues))
        except CloudError as error:
            if error.kind not in SILENT or cues.fresh:
                raise
            return DirHandle(Entries({"status": Status(self)}))
        assert isinstance(handle, DirHandle)
        nodes = dict(handle.entries.nodes)
        if "status" in nodes:
            nodes["status"] = Status(self)
        return DirHandle(Entries(nodes))

    def went(self, node: str, text: str = "") -> None:
        """It is said to be on that node now; text: its status there, once that is known."""

    def read(self, status: str) -> None:
        """What its node says of it."""

    def ended(self) -> None:
        """Its node says that there is no such thing."""

    def _there(self, *more: str) -> Node:
        """The directory itself, or a file in it, on its node."""
        return self._imports.reach(self._node, (*self._path, *more))


class Status(Node):
    """The status of something on another node: from there, else as it is known here."""

    __slots__ = ("_of",)

    def __init__(self, of: Far) -> None:
        self.name, self.mode, self.qid = "status", 0o444, of.qid + 1
        self.uid = self.gid = of.uid
        self._of = of

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, time.time(), self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        of = self._of
        known = "" if cues.fresh or mode & 3 != OREAD else of._known()
        if known and of._silence.holds(of._node):
            return Wait(self._heard)
        if known and cues.max_time == PLAIN.max_time:
            cues = replace(cues, max_time=ASK)
        handle = of._there("status").open(mode, at, cues)
        if mode & 3 != OREAD:
            return handle
        return then(then(handle, self._read), _same, partial(self._missed, known, at, cues))

    def _read(self, handle: Handle) -> Handle | Wait[Handle]:
        read = handle.read(0, MAX_STATUS)
        return then(read, partial(self._close, handle), partial(self._not_read, handle))

    def _close(self, handle: Handle, data: Any) -> Handle | Wait[Handle]:
        return then(handle.close(), partial(self._text, data))

    def _not_read(self, handle: Handle, error: CloudError) -> Handle | Wait[Handle]:
        handle.close()  # what it may have left to do is not waited for
        raise error

    def _text(self, data: Any, _: None) -> Handle:
        self._of._silence.heard(self._of._node)
        text = bytes(data).decode(errors="replace").rstrip()
        self._of.read(text)
        return _new(text)

    def _missed(self, known: str, at: Attach, cues: Cues, error: CloudError) -> Wait[Handle]:
        """What is known here, where its node did not answer; or what the node says to which
        it went."""
        node = told_by(error)
        if node and node != self._of._node:
            return Wait(partial(self._gone_on, node, at, cues))
        if error.kind == "absent":
            self._of.ended()
        if error.kind not in SILENT or not known:
            raise error
        self._of._silence.missed(self._of._node)
        return Wait(self._heard)

    async def _gone_on(self, node: str, at: Attach, cues: Cues) -> Handle:
        there = self._of._imports.reach(node, (*self._of._path, "status"))
        handle = await settle(there.open(OREAD, at, cues))
        data = bytes(await settle(handle.read(0, MAX_STATUS)))
        handle.close()  # what it may have left to do is not waited for
        text = data.decode(errors="replace").rstrip()
        self._of._silence.heard(node)
        self._of.went(node, text)
        return _new(text)

    async def _heard(self) -> Handle:
        """What is known here and what others say that they know."""
        await self._of._renew(ASK)
        return Text(self._of._known())


def _new(status: str) -> Handle:
    return Text(f"{status} age=0\n")


def _same(handle: Handle) -> Handle:
    return handle


def number(*path: str) -> int:
    """The qid number of a far directory."""
    return numbers.named("far", *path)
