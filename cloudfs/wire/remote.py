"""A 9P server's tree as nodes of ours, so that it can be mounted, bound and passed on.

A node is a path on the far side; each operation walks there afresh, so nothing is kept
open for a node that nobody uses.  Cues are walked on the far side in front of the path:
what blocks and how long it may take is decided where the file is.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from cloudfs.tree.api import (
    DMDIR,
    PLAIN,
    Cues,
    DirHandle,
    Entries,
    Handle,
    Node,
    Stat,
    Wait,
)
from cloudfs.tree.space import Attach
from cloudfs.wire.client import Client
from cloudfs.wire.codec import Qid
from cloudfs.wire.file import File


class RemoteNode(Node):
    """The file at a path of a client's tree."""

    __slots__ = ("_client", "_names")

    def __init__(self, client: Client, names: tuple[str, ...], stat: Stat) -> None:
        self._client = client
        self._names = names
        self.name = names[-1] if names else "/"
        self.mode, self.qid, self.uid, self.gid = stat.mode, stat.qid, stat.uid, stat.gid

    @property
    def remote(self) -> bool:
        return True

    def stat(self) -> Wait[Stat]:
        return Wait(self._stat_it)

    async def _stat_it(self) -> Stat:
        async with await self._reach(PLAIN) as file:
            stat = await file.stat()
        self.mode, self.uid, self.gid = stat.mode, stat.uid, stat.gid
        return stat

    def walk(self, name: str, at: Attach, cues: Cues) -> Wait[Node]:
        return Wait(partial(self._walk, name, cues))

    async def _walk(self, name: str, cues: Cues) -> Node:
        async with await self._reach(cues, name) as file:
            return RemoteNode(self._client, (*self._names, name), await file.stat())

    def open(self, mode: int, at: Attach, cues: Cues) -> Wait[Handle]:
        return Wait(partial(self._open, mode, cues))

    async def _open(self, mode: int, cues: Cues) -> Handle:
        file = await self._reach(cues)
        try:
            await file.open(mode)
            return await self._handle(file, cues)
        except BaseException:
            file.drop()
            raise

    async def _handle(self, file: File, cues: Cues) -> Handle:
        if not file.qid[0] & 0x80:
            if cues.follow:
                file.deadline = math.inf
            return RemoteHandle(file)
        names = self._names
        nodes: dict[str, Node] = {
            name: RemoteNode(self._client, (*names, name), stat or _guess(name, qid))
            for name, qid, stat in await file.entries()
        }
        file.drop()
        return DirHandle(Entries(nodes))

    def create(
        self, name: str, perm: int, mode: int, at: Attach, cues: Cues
    ) -> Wait[tuple[Node, Handle]]:
        return Wait(partial(self._create, name, perm, mode, cues))

    async def _create(self, name: str, perm: int, mode: int, cues: Cues) -> tuple[Node, Handle]:
        file = await self._reach(cues)
        try:
            await file.create(name, perm, mode)
            node = RemoteNode(self._client, (*self._names, name), await file.stat())
            return node, await node._handle(file, cues)
        except BaseException:
            file.drop()
            raise

    def remove(self, at: Attach) -> Wait[None]:
        return Wait(self._remove)

    async def _remove(self) -> None:
        await (await self._reach(PLAIN)).remove()

    def wstat(self, changes: dict[str, Any], at: Attach) -> Wait[None]:
        return Wait(partial(self._wstat, changes))

    async def _wstat(self, changes: dict[str, Any]) -> None:
        async with await self._reach(PLAIN) as file:
            await file.wstat(changes)

    async def _reach(self, cues: Cues, *more: str) -> File:
        """The file on the far side, each operation on which has the cues' time."""
        limit = None if cues.max_time == PLAIN.max_time else cues.max_time
        file = await self._client.walk([*_words(cues), *self._names, *more], deadline=limit)
        file.deadline = limit
        return file


class RemoteHandle(Handle):
    """An open file on the far side."""

    __slots__ = ("_file",)

    def __init__(self, file: File) -> None:
        self._file = file

    def read(self, offset: int, count: int) -> Wait[bytes | memoryview]:
        return Wait(partial(self._file.read, offset, count))

    def write(self, offset: int, data: bytes | memoryview) -> Wait[int]:
        return Wait(partial(self._write, offset, data))

    async def _write(self, offset: int, data: bytes | memoryview) -> int:
        done = 0
        while done < len(data):
            count = await self._file.write(offset + done, data[done:])
            if count == 0:
                break
            done += count
        return done

    def close(self) -> Wait[None]:
        return Wait(self._file.clunk)


async def tree(client: Client) -> RemoteNode:
    """The node of a client's root."""
    return RemoteNode(client, (), await client.root.stat())


def _words(cues: Cues) -> list[str]:
    """The path elements that ask the far side for the same."""
    words = []
    if cues.follow:
        words.append(".follow")
    if cues.fresh:
        words.append(".fresh")
    if cues.max_time != PLAIN.max_time:
        words.append(f".MaxTime={cues.max_time:g}")
    return words


def _guess(name: str, qid: Qid) -> Stat:
    """What a directory entry of 9P2000.L tells; the far side checks permissions anyway."""
    mode = DMDIR | 0o555 if qid[0] & 0x80 else 0o444
    return Stat(name, qid[2], mode, 0, 0.0, "none", "none")
