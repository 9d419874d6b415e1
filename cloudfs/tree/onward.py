"""Following an object to the node that takes it.

Who follows a file of a new object opens it on the node that made it.  Where exec places the
object on another node, the open file goes on with the same file there, at the same offset,
as the same caller: its reader sees one file that goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cloudfs.tree.api import OWRITE, Cues, Handle, Node, Wait
from cloudfs.tree.files import Blocking, Log, Row, Stream
from cloudfs.tree.handles import Text
from cloudfs.tree.space import Attach
from cloudfs.wait import settle


class Onward(Row):
    """A row of an object's table, whose followers go where the object goes.

    there(subject, name): the file of that name on the node that took the object; None
    where none did.
    """

    def __init__(
        self, row: Blocking | Log | Stream, there: Callable[[Any, str], Node | None]
    ) -> None:
        super().__init__(row.name, row.mode, row.doc)
        self.row = row
        self.there = there

    def length(self, subject: Any) -> int:
        return self.row.length(subject)

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        handle = self.row.open(subject, mode, at, cues)
        if not cues.follow or mode & 3 == OWRITE or isinstance(handle, Text):
            return handle

        async def go() -> Handle | None:
            node = self.there(subject, self.name)
            if node is None:
                return None
            further: Handle = await settle(node.open(mode, at, cues))
            return further

        return _Going(handle, go)


class _Going(Handle):
    """An open file, and how to get the one to go on with at its end."""

    __slots__ = ("_go", "_gone", "_handle")

    def __init__(self, handle: Handle, go: Callable[[], Awaitable[Handle | None]]) -> None:
        self._handle = handle
        self._go = go
        self._gone = False

    def read(self, offset: int, count: int) -> bytes | memoryview | Wait[Any]:
        data = self._handle.read(offset, count)
        if self._gone or (data and not isinstance(data, Wait)):
            return data
        return Wait(partial(self._read, data, offset, count))

    async def _read(self, waiting: Any, offset: int, count: int) -> Any:
        before = self._handle
        data = await settle(waiting)
        if data or not count:
            return data
        if not self._gone:
            further = await self._go()
            if further is None:
                return data
            if self._gone:  # another read of this file was faster
                await settle(further.close())
            else:
                self._handle, self._gone = further, True
                await settle(before.close())
        return await settle(self._handle.read(offset, count))

    def close(self) -> Wait[None] | None:
        return self._handle.close()
