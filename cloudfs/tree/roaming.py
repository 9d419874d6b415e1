"""Following an object from node to node: what `.follow` reads goes on where the object does.

The node that an object has left says where it went, and the same file is opened there.
Offsets are the object's, so what was read goes on with the next byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import moved
from cloudfs.tree.api import Cues, Handle, Node, Stat, Wait
from cloudfs.tree.space import Attach
from cloudfs.wait import settle, then

FILES = frozenset({"stdout", "stderr", "wait"})
AWAY = frozenset({"stale", "unreachable", "timeout", "pipe", "absent"})  # it may be elsewhere
PATIENCE, PAUSE = 20.0, 0.1  # seconds to hear where it is, and between two looks

Place = tuple[str, Callable[[str], Node]]  # a node's name, and a file of the object there


class Follow:
    """How the whole tree finds an object: `where(id)` is its place as far as is known,
    `at(node, id)` that at a node, `ask(id)` has other zones tell."""

    def __init__(
        self,
        where: Callable[[str], Place | None],
        at: Callable[[str, str], Place],
        ask: Callable[[str], Any],
    ) -> None:
        self.where = where
        self.at = at
        self.ask = ask


class RoamingDir(Node):
    """The directory of an object, of which the files that go on go on anywhere."""

    __slots__ = ("_follow", "_id", "_of", "_place")

    def __init__(self, of: Node, id: str, place: str, follow: Follow) -> None:
        self.name, self.mode, self.qid = of.name, of.mode, of.qid
        self.uid, self.gid = of.uid, of.gid
        self._of = of
        self._id = id
        self._place = place
        self._follow = follow

    def stat(self) -> Stat | Wait[Stat]:
        return self._of.stat()

    def ahead(self, names: Sequence[str], at: Attach, cues: Cues) -> Wait[None] | None:
        return self._of.ahead(names, at, cues)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return self._of.open(mode, at, cues)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        found = self._of.walk(name, at, cues)
        if name not in FILES or not cues.follow:
            return found
        return then(found, lambda node: RoamingFile(node, self._id, self._place, self._follow))


class RoamingFile(Node):
    __slots__ = ("_follow", "_id", "_of", "_place")

    def __init__(self, of: Node, id: str, place: str, follow: Follow) -> None:
        self.name, self.mode, self.qid = of.name, of.mode, of.qid
        self.uid, self.gid = of.uid, of.gid
        self._of = of
        self._id = id
        self._place = place
        self._follow = follow

    @property
    def remote(self) -> bool:
        return self._of.remote

    def stat(self) -> Stat | Wait[Stat]:
        return self._of.stat()

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        opened = self._of.open(mode, at, cues)
        return then(
            opened,
            lambda handle: _Handle(
                handle,
                self.name,
                self._id,
                self._place,
                self._follow,
                lambda node: node.open(mode, at, cues),
            ),
        )


class _Handle(Handle):
    __slots__ = ("_follow", "_handle", "_id", "_name", "_open", "_place")

    def __init__(
        self,
        handle: Handle,
        name: str,
        id: str,
        place: str,
        follow: Follow,
        open: Callable[[Node], Handle | Wait[Handle]],
    ) -> None:
        self._handle = handle
        self._name = name
        self._id = id
        self._place = place
        self._follow = follow
        self._open = open

    def read(self, offset: int, count: int) -> Any:
        result = self._handle.read(offset, count)
        return (
            Wait(partial(self._go_on, result, offset, count))
            if isinstance(result, Wait)
            else result
        )

    async def _go_on(self, result: Any, offset: int, count: int) -> Any:
        while True:
            try:
                return await settle(result)
            except CloudError as error:
                if error.kind not in AWAY:
                    raise
                await self._reopen(error)
            result = self._handle.read(offset, count)

    async def _reopen(self, error: CloudError) -> None:
        """Open it where the object is now; raises the error if that is not elsewhere."""
        told = moved.told_by(error)
        with trio.move_on_after(PATIENCE):
            while True:
                place = self._follow.at(told, self._id) if told else self._follow.where(self._id)
                if place is not None and place[0] != self._place:
                    try:
                        handle = await settle(self._open(place[1](self._name)))
                    except CloudError as again:
                        if again.kind not in AWAY:
                            raise
                        told = moved.told_by(again)
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
