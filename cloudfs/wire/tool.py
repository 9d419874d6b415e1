"""What `cloudfs 9p ls|cat|write|stat ADDR PATH` does, as plain functions."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import OREAD, OTRUNC, OWRITE, Stat
from cloudfs.wire.client import Client
from cloudfs.wire.file import File

_AT_ONCE = 32  # files asked about at a time


def names(path: str) -> list[str]:
    """The elements of a path, cues among them."""
    return [name for name in path.split("/") if name]


async def stat(client: Client, path: str) -> Stat:
    """The attributes of a file."""
    async with await client.walk(names(path)) as file:
        return await file.stat()


async def ls(client: Client, path: str, long: bool = True) -> list[Stat]:
    """The files of a directory by name, or the one file.

    long: with all attributes; without, a dialect that lists names only (9P2000.L) leaves
    mode but for its directory bit, length, times and owners empty.
    """
    here = names(path)
    async with await client.walk(here) as file:
        if not file.qid[0] & 0x80:
            return [await file.stat()]
        await file.open(OREAD)
        entries = await file.entries()
    found: dict[str, Stat] = {}
    gate = trio.Semaphore(_AT_ONCE)

    async def ask(name: str) -> None:
        async with gate:
            try:
                found[name] = await stat(client, "/".join([*here, name]))
            except CloudError as error:
                if error.kind in ("unreachable", "timeout"):
                    raise
                # It went while we looked, or is not ours to see: listed as what is known.

    for name, qid, known in entries:
        found[name] = known or Stat(name, qid[2], (qid[0] & 0x80) << 24, 0, 0.0, "", "")
    if long:
        async with trio.open_nursery() as nursery:
            for name, _, known in entries:
                if known is None:
                    nursery.start_soon(ask, name)
    return sorted(found.values(), key=lambda each: each.name)


async def cat(client: Client, path: str) -> AsyncIterator[bytes | memoryview]:
    """The content of a file piece by piece; under .follow as it comes, without end."""
    here = names(path)
    async with await client.walk(here) as file:
        await file.open(OREAD)
        if ".follow" in here:
            file.deadline = float("inf")
        offset = 0
        while data := await file.read(offset, file.iounit):
            yield data
            offset += len(data)


async def write(
    client: Client, path: str, content: AsyncIterable[bytes], deadline: float | None = None
) -> int:
    """Write content to a file from its beginning on, which is made if it is not there;
    the number of bytes.  The last word of the server on it is heard too.  deadline: seconds
    that one write may take, None for the client's own."""
    here = names(path)
    async with await _to_write(client, here) as file:
        file.deadline = deadline
        offset = 0
        async for piece in content:
            done = 0
            while done < len(piece):
                count = await file.write(offset, piece[done:])
                if not count:
                    raise CloudError("io", "the server takes no more")
                done += count
                offset += count
    return offset


async def _to_write(client: Client, here: list[str]) -> File:
    try:
        file = await client.walk(here)
    except CloudError as error:
        if error.kind != "absent" or not here:
            raise
        file = await client.walk(here[:-1])
        opening = file.create(here[-1], 0o666, OWRITE)
    else:
        opening = file.open(OWRITE | OTRUNC)
    try:
        await opening
    except BaseException:
        file.drop()
        raise
    return file
