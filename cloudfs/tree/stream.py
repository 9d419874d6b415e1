"""A piece of the memory of an object that is sent while it runs (kernel/stream.py), as a file
of its image: walked to, never listed, there for as long as it is sent."""

from __future__ import annotations

from functools import partial
from typing import Any

from cloudfs.kernel.object import Object
from cloudfs.kernel.stream import Stream
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Stat, Wait
from cloudfs.tree.space import Attach


class StreamFile(Node):
    """One piece."""

    __slots__ = ("_made", "_number", "_stream")

    def __init__(self, made: Object, stream: Stream, name: str, number: int) -> None:
        self.name, self.mode = name, 0o440
        self.qid = numbers.named("checkpoint", made.id, name)
        self.uid = self.gid = made.user
        self._made, self._stream, self._number = made, stream, number

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, self._made.changed, self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return _Opened(self._stream, self._number)


class _Opened(Handle):
    """Made by the first read, which waits for it."""

    __slots__ = ("_data", "_number", "_stream")

    def __init__(self, stream: Stream, number: int) -> None:
        self._stream, self._number = stream, number
        self._data: memoryview | None = None

    def read(self, offset: int, count: int) -> Any:
        if self._data is None:
            return Wait(partial(self._make, offset, count))
        return self._data[offset : offset + count]

    async def _make(self, offset: int, count: int) -> Any:
        self._data = memoryview(await self._stream.piece(self._number))
        return self._data[offset : offset + count]
