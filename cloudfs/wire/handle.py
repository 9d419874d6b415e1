"""Open files of a far tree."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import Handle, Wait, Who
from cloudfs.wait import Done, then
from cloudfs.wire.call import Asking, Call
from cloudfs.wire.far import Far, Turn
from cloudfs.wire.file import File, read_of
from cloudfs.wire.messages import MAX_WALK

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


class Opening(Asking[Handle]):
    """Open a file of a node's tree for reading and read its beginning: one request.

    names: from the root of the tree as who sees it.  otherwise(look): the same as a
    coroutine, for where there is no connection yet, no turn is free or there are too many
    names, and without looking for what wants to be asked for, as a directory does.
    """

    __slots__ = ("_far", "_file", "_names", "_otherwise", "_who")

    def __init__(
        self,
        far: Far,
        who: Who,
        names: tuple[str, ...],
        limit: float,
        otherwise: Callable[[bool], Awaitable[Handle]],
    ) -> None:
        self._far = far
        self._who = who
        self._names = names
        self._otherwise = otherwise
        self.seconds = limit
        self.spare, self.left, self.whole = 0, 1, False

    def start(self, done: Done) -> None:
        far = self._far
        root = far.known(self._who)
        if root is None or len(self._names) > MAX_WALK or not far.turns.take():
            done(Wait(partial(self._otherwise, True)), None)
            return
        self.client = client = root.client
        try:
            fid, again = client.spare_fid()
        except CloudError as error:
            far.turns.give()
            done(None, error)
            return
        self._file = File(client, fid, root.qid, root.path)
        fields = root.fid, fid, client.most, self._names
        self.calls = (Call("Tlook", *fields, makes=fid, again=again),)
        self.done = done
        client.begin(self)

    def stop(self) -> None:
        self._far.turns.give()
        super().stop()

    def end(self, result: Any, error: Exception | None = None) -> None:
        self._far.turns.give()
        if error is None:
            ((qid, data),) = result
            self._file.opened(qid, 0)
            self._file.deadline = math.inf
            result = RemoteHandle(self._far, self._file, bytes(data), self.seconds)
        elif isinstance(error, CloudError) and error.kind == "again":
            result, error = Wait(partial(self._otherwise, False)), None
        super().end(result, error)

    def late(self) -> CloudError:
        return self._far.late(self.seconds)
