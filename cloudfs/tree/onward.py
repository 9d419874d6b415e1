"""Following an object from node to node: what `.follow` reads goes on where the object does.

At the end of a file, the node that an object has left says where it went: that is what a row
under `Onward` does.  The node of whoever reads opens the same file there, and so on, as often
as the object goes on: `Roaming`.  So nothing passes through a node that an object has left,
which may be gone meanwhile.  Offsets of output are the object's: what was read goes on with
the next byte.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import moved
from cloudfs.kernel.object import Object
from cloudfs.tree.api import OREAD, Cues, Handle, Node, Stat, Wait
from cloudfs.tree.files import Blocking, Log, Row, Stream
from cloudfs.tree.handles import Text
from cloudfs.tree.space import Attach
from cloudfs.wait import settle, then

FILES = frozenset({"stdout", "stderr", "wait", "note", "events"})
AWAY = frozenset({"stale", "unreachable", "timeout", "pipe", "absent"})  # it may be elsewhere
PATIENCE, PAUSE = 10.0, 0.1  # seconds to hear where it is, and between two looks


# --- on the node that it has left -----------------------------------------------------------


class Onward(Row):
    """A row of an object's table, at whose end its followers are told where the object went:
    went(object) is the node that took it, None if none did."""

    def __init__(self, row: Blocking | Log | Stream, went: Callable[[Object], str | None]) -> None:
        super().__init__(row.name, row.mode, row.doc)
        self.row = row
        self.went = went

    def length(self, subject: Any) -> int:
        return self.row.length(subject)

    def open(self, subject: Object, mode: int, at: Attach, cues: Cues) -> Handle:
        handle = self.row.open(subject, mode, at, cues)
        if not cues.follow or mode & 3 != OREAD or isinstance(handle, Text):
            return handle
        return _Left(handle, subject, self.went)


class _Left(Handle):
    """An open file whose end may not be the object's."""

    __slots__ = ("_handle", "_made", "_went")

    def __init__(self, handle: Handle, made: Object, went: Callable[[Object], str | None]) -> None:
        self._handle = handle
        self._made = made
        self._went = went

    def read(self, offset: int, count: int) -> Any:
        return then(self._handle.read(offset, count), partial(self._check, count))

    def _check(self, count: int, data: Any) -> Any:
        node = self._went(self._made) if count and not data else None
        if node:
            raise moved.stale(self._made.id, node)
        return data

    def close(self) -> Wait[None] | None:
        return self._handle.close()


# --- on the node of whoever reads -------------------------------------------------------------

Place = tuple[str, Callable[[str], Node]]  # a node's name, and a file of the object there


class Follow:
    """How the whole tree finds an object.

    where(id): its place as far as is known.  at(node, id): that at a node.  ask(id): have
    others tell what they know.
    """

    def __init__(
        self,
        where: Callable[[str], Place | None],
        at: Callable[[str, str], Place],
        ask: Callable[[str], Awaitable[object]],
    ) -> None:
        self.where = where
        self.at = at
        self.ask = ask

    def object(self, of: Node, id: str, place: str) -> Node:
        """The directory of an object at a node, whose files go on wherever it goes."""

        def file(name: str, found: Node) -> Node:
            return _File(found, id, place, self) if name in FILES else found

        return _Dir(of, file)

    def node(self, of: Node, name: str) -> Node:
        """The directory of a node, with such objects in its proc."""

        def inside(child: str, found: Node) -> Node:
            if child != "proc":
                return found
            return _Dir(found, lambda id, made: self.object(made, id, name))

        return _Dir(of, inside)


class _Over(Node):
    """A node that is another in all but what its classes change."""

    __slots__ = ("_of",)

    def __init__(self, of: Node) -> None:
        self.name, self.mode, self.qid = of.name, of.mode, of.qid
        self.uid, self.gid = of.uid, of.gid
        self._of = of

    @property
    def remote(self) -> bool:
        return self._of.remote

    def stat(self) -> Stat | Wait[Stat]:
        return self._of.stat()

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return self._of.open(mode, at, cues)

    def wstat(self, changes: dict[str, Any], at: Attach) -> Wait[None] | None:
        return self._of.wstat(changes, at)


class _Dir(_Over):
    """A directory of which what is found under a name becomes inside(name, found)."""

    __slots__ = ("_inside",)

    def __init__(self, of: Node, inside: Callable[[str, Node], Node]) -> None:
        super().__init__(of)
        self._inside = inside

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        return then(self._of.walk(name, at, cues), partial(self._inside, name))

    def ahead(self, names: Sequence[str], at: Attach, cues: Cues) -> Wait[None] | None:
        return self._of.ahead(names, at, cues)


class _File(_Over):
    """A file of an object at a node."""

    __slots__ = ("_follow", "_id", "_place")

    def __init__(self, of: Node, id: str, place: str, follow: Follow) -> None:
        super().__init__(of)
        self._id = id
        self._place = place
        self._follow = follow

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        opened = self._of.open(mode, at, cues)
        if mode & 3 != OREAD:
            return opened
        return then(opened, partial(self._opened, mode, at, cues))

    def _opened(self, mode: int, at: Attach, cues: Cues, handle: Handle) -> Handle:
        # Who looks wants what is there, or to hear in time that it cannot be had.
        if not cues.follow or isinstance(handle, Text):  # all of it is there
            return handle
        file = partial(_open, self.name, mode, at, cues)
        return Roaming(handle, file, self._id, self._place, self._follow)


def _open(
    name: str, mode: int, at: Attach, cues: Cues, file: Callable[[str], Node]
) -> Handle | Wait[Handle]:
    return file(name).open(mode, at, cues)


class Roaming(Handle):
    """An open file of an object, wherever that is."""

    __slots__ = ("_follow", "_handle", "_id", "_open", "_opening", "_place")

    def __init__(
        self,
        handle: Handle,
        open: Callable[[Callable[[str], Node]], Handle | Wait[Handle]],
        id: str,
        place: str,
        follow: Follow,
    ) -> None:
        self._handle = handle
        self._open = open
        self._id = id
        self._place = place
        self._follow = follow
        self._opening = trio.Lock()  # reads may come at once, and it is opened once

    def read(self, offset: int, count: int) -> Any:
        data = self._handle.read(offset, count)
        if not isinstance(data, Wait):
            return data
        return Wait(partial(self._go_on, self._handle, data, offset, count))

    async def _go_on(self, handle: Handle, data: Any, offset: int, count: int) -> Any:
        while True:
            try:
                return await settle(data)
            except CloudError as error:
                if error.kind not in AWAY:
                    raise
                async with self._opening:
                    if self._handle is handle:
                        await self._reopen(error)
            handle = self._handle
            data = handle.read(offset, count)

    async def _reopen(self, error: CloudError) -> None:
        """Open it where the object is now; raises the last error if that cannot be."""
        told = moved.told_by(error)
        with trio.move_on_after(PATIENCE):
            while True:
                place = self._follow.at(told, self._id) if told else self._follow.where(self._id)
                told = ""
                if place is not None and place[0] != self._place:
                    try:
                        handle = await settle(self._open(place[1]))
                    except CloudError as again:
                        if again.kind not in AWAY:
                            raise
                        error, told = again, moved.told_by(again)
                    else:
                        old, self._handle, self._place = self._handle, handle, place[0]
                        await _close(old)
                        return
                await trio.sleep(PAUSE)
                await self._follow.ask(self._id)
        raise error

    def close(self) -> Wait[None] | None:
        return self._handle.close()


async def _close(handle: Handle) -> None:
    """Let go of a file whose node may be gone."""
    with trio.move_on_after(PAUSE):
        try:
            await settle(handle.close())
        except CloudError:
            return
