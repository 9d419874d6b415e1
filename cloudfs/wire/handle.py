"""Open files of a far tree."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from cloudfs.tree.api import Handle, Wait
from cloudfs.wait import then
from cloudfs.wire.call import Call
from cloudfs.wire.far import Far, Turn
from cloudfs.wire.file import File, read_of

T = TypeVar("T")


class RemoteHandle(Handle):
    """An open file on the far side.

    head: its beginning, read when it was opened; a beginning shorter than what was asked
    for was also the end, which is told once.  limit: seconds for an operation.
    """

    __slots__ = ("_ended", "_far", "_file", "_head", "_limit", "_wrote")

    def __init__(self, far: Far, file: File, head: bytes | None, limit: float) -> None:
        self._far = far
        self._file = file
        self._head = head or b""
        self._ended = head is not None and len(head) < file.client.most
        self._limit = limit
        self._wrote = False

    def read(self, offset: int, count: int) -> bytes | Wait[bytes | memoryview]:
        if offset < len(self._head):
            return self._head[offset : offset + count]
        if self._ended and offset == len(self._head):
            self._ended = False
            return b""
        far = self._far
        turns = far.followers if self._limit == math.inf else far.turns
        ask = partial(self._read, offset, count)
        return Turn(turns, ask, partial(self._within, partial(self._file.read, offset, count)))

    def _read(self, offset: int, count: int) -> Wait[bytes | memoryview]:
        file, limit = self._file, self._limit
        count = min(count, file.iounit)
        if limit < math.inf:
            seconds, late = limit, partial(self._far.late, limit)
        else:
            seconds, late = file.client.deadline if file.deadline is None else file.deadline, None
        asking = file.client.asking((Call("Tread", file.fid, offset, count),), seconds, 0, late)
        read: Wait[bytes | memoryview] = then(asking, partial(read_of, count))
        return read

    def write(self, offset: int, data: bytes | memoryview) -> Wait[int]:
        self._wrote = True
        return Wait(partial(self._within, partial(self._write, offset, data)))

    async def _write(self, offset: int, data: bytes | memoryview) -> int:
        done = 0
        try:
            while done < len(data):
                count = await self._file.write(offset + done, data[done:])
                if count == 0:
                    break
                done += count
            return done
        finally:
            self._far.forget_found()

    async def _within(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work in the time that the file has, among others that are under way."""
        far, limit, file = self._far, self._limit, self._file
        if limit == math.inf:
            async with far.followers:
                return await work()
        with trio.move_on_after(limit):
            async with far.turns:
                file.client.expect()
                return await work()
        raise far.late(limit)

    def close(self) -> Wait[None] | None:
        """Only what was written to may still have something to say."""
        if self._wrote or not self._file.client.node:
            return Wait(partial(self._within, self._file.clunk))
        self._file.drop(self._limit == math.inf)
        return None
