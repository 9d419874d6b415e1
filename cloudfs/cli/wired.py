"""The tree over a 9P socket, for commands that do one thing after the other.

The connection lives in a thread of its own that runs trio; the threads of a command
call into it, each waiting for its own answer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

import trio

from cloudfs.cli.files import Files
from cloudfs.errors import CloudError
from cloudfs.tree.api import ORDWR, OREAD
from cloudfs.wire import tool
from cloudfs.wire.client import Client
from cloudfs.wire.connect import connect
from cloudfs.wire.file import File

PATIENCE = 60.0  # seconds that a verb may take: to join a cloud, or to be placed in one

P = ParamSpec("P")
T = TypeVar("T")


class Wired(Files):
    """One connection, which is one session: what `clone` gave stays until it is closed."""

    def __init__(self, address: str) -> None:
        self._close = trio.Event()
        started: SimpleQueue[tuple[trio.lowlevel.TrioToken, Client] | BaseException] = SimpleQueue()

        async def serve() -> None:
            async with connect(address) as client:
                started.put((trio.lowlevel.current_trio_token(), client))
                await self._close.wait()

        def run() -> None:
            try:
                trio.run(serve)
            except BaseException as error:
                started.put(error)

        threading.Thread(target=run, daemon=True).start()
        found = started.get()
        if isinstance(found, BaseException):
            raise found
        self._token, self._client = found

    def stream(self, path: str, offset: int = 0) -> Iterator[bytes]:
        since = time.time()
        try:
            yield from self._chunks(path, offset)
        except CloudError as error:
            raise self.explain(error, path, since) from None

    def plain(self, path: str) -> Iterator[str]:
        return (chunk.decode(errors="replace") for chunk in self._chunks(path, 0))

    def _chunks(self, path: str, offset: int) -> Iterator[bytes]:
        file = self._do(self._open, path)
        try:
            while data := self._do(self._read, file, offset):
                yield data
                offset += len(data)
        finally:
            self._do(self._drop, file)

    async def _open(self, path: str) -> File:
        names = tool.names(path)
        file = await self._client.walk(names)
        try:
            await file.open(OREAD)
        except BaseException:
            file.drop()
            raise
        file.deadline = math.inf if ".follow" in names else None
        return file

    async def _read(self, file: File, offset: int) -> bytes:
        return bytes(await file.read(offset, file.iounit))

    async def _drop(self, file: File) -> None:
        file.drop()

    def put(self, path: str, data: bytes) -> None:
        since = time.time()

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        async def write() -> None:
            await tool.write(self._client, path, pieces(), PATIENCE)

        try:
            self._do(write)
        except CloudError as error:
            raise self.explain(error, path, since) from None

    def ask(self, path: str, request: str) -> str:
        since = time.time()

        async def ask() -> bytes:
            data, said = request.encode(), b""
            async with await self._client.walk(tool.names(path)) as file:
                await file.open(ORDWR)
                file.deadline = PATIENCE
                done = 0
                while done < len(data):
                    done += await file.write(done, data[done : done + file.iounit])
                while more := bytes(await file.read(len(said), file.iounit)):
                    said += more
            return said

        try:
            return self._do(ask).decode(errors="replace")
        except CloudError as error:
            raise self.explain(error, path, since) from None

    def list(self, path: str) -> list[str]:
        async def names() -> list[str]:
            return [stat.name for stat in await tool.ls(self._client, path, long=False)]

        return self._do(names)

    def close(self) -> None:
        trio.from_thread.run_sync(self._close.set, trio_token=self._token)

    def _do(self, work: Callable[P, Awaitable[T]], *args: P.args, **_: P.kwargs) -> T:
        return trio.from_thread.run(work, *args, trio_token=self._token)
