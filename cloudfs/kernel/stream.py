"""The memory of an object that is sent to another node while it runs.

What runs it writes into a socket whose other end is here, and that node reads the files
`stream.0`, `stream.1`, … of the image that is on its way, several at once, each as often as it
takes: a piece is kept until a few later ones were made.

  piece    a byte, `+` or at the end `.`; the SHA-256 of what it holds; that, compressed
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Awaitable, Callable

import trio
import zstandard

from cloudfs.errors import CloudError

PIECE = 1 << 20  # bytes
AT_ONCE = 4  # pieces that are under way
KEPT = 16
SOON = 0.01  # seconds for a piece to become larger
ALIVE = 1.0  # seconds after which one that holds nothing tells that more will come
HASH = 32  # bytes
TRIES, PAUSE = 5, 0.5  # of a piece, and seconds between them
_NAME = re.compile(r"stream\.([0-9]{1,9})")
_LATER = frozenset({"timeout", "unreachable", "pipe", "again", "stale", "io"})


def number_of(name: str) -> int | None:
    """The number of a piece by its name; None for other names."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def pack(data: bytes, last: bool) -> bytes:
    """A piece as it travels.  Blocks."""
    packed = zstandard.ZstdCompressor(level=1).compress(data)
    return (b"." if last else b"+") + hashlib.sha256(data).digest() + packed


def unpack(piece: bytes) -> tuple[bytes, bool]:
    """What a piece holds, and whether it is the last.  Raises CloudError("proto").  Blocks."""
    try:
        rest = piece[1 + HASH :]
        if zstandard.frame_content_size(rest) > PIECE:  # which bounds nothing by itself
            raise CloudError("proto", "a piece of its memory is too long")
        data = zstandard.ZstdDecompressor().decompress(rest, max_output_size=PIECE)
    except zstandard.ZstdError as error:
        raise CloudError("proto", f"a piece of its memory: {error}") from None
    whole = piece[:1] in (b"+", b".") and hashlib.sha256(data).digest() == piece[1 : 1 + HASH]
    if not whole or len(data) > PIECE:
        raise CloudError("proto", "a piece of its memory is not what it was")
    return data, piece[:1] == b"."


class Stream:
    """One that is sent; ours: the end of a socket from which its memory comes."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._turn = trio.Lock()
        self._made: dict[int, bytes] = {}
        self._next = 0
        self._buffer = bytearray()
        self._over = False

    async def piece(self, number: int) -> bytes:
        """The piece of that number, once there is one.  Raises CloudError("absent")."""
        if number > self._next + 2 * AT_ONCE:
            raise CloudError("absent", f"piece {number} is far ahead")
        while True:
            if number in self._made:
                return self._made[number]
            if number < self._next:
                raise CloudError("absent", f"piece {number} is gone")
            async with self._turn:
                if number >= self._next:
                    await self._make()

    async def _make(self) -> None:
        if not self._over:
            await self._fill()
        data = bytes(self._buffer[:PIECE])
        last = self._over and len(self._buffer) <= PIECE
        made = await trio.to_thread.run_sync(pack, data, last)
        del self._buffer[:PIECE]
        self._made[self._next] = made
        self._made.pop(self._next - KEPT, None)
        self._next += 1

    async def _fill(self) -> None:
        wait = ALIVE
        while len(self._buffer) < PIECE:
            data = None
            with trio.move_on_after(wait):
                try:
                    data = await self._socket.recv(PIECE)
                except OSError:
                    data = b""
            if data is None:
                return
            if not data:
                self._over = True
                return
            self._buffer += data
            wait = SOON

    def close(self) -> None:
        """Nobody reads it any more."""
        self._socket.close()


async def fetch(
    get: Callable[[str], Awaitable[bytes]], feed: Callable[[bytes], Awaitable[None]]
) -> int:
    """Read all pieces, which `get` gives by name, and feed what they hold, in order; b"" at
    the end.  How many bytes.  Raises CloudError, alone or in a group."""

    async def one(number: int, to: trio.MemorySendChannel[tuple[bytes, bool]]) -> None:
        for attempt in range(TRIES):
            try:
                piece = await get(f"stream.{number}")
                break
            except CloudError as error:
                if error.kind not in _LATER or attempt + 1 == TRIES:
                    raise
            await trio.sleep(PAUSE)
        await to.send(await trio.to_thread.run_sync(unpack, piece))

    total, number = 0, 0
    ready: list[trio.MemoryReceiveChannel[tuple[bytes, bool]]] = []
    async with trio.open_nursery() as nursery:
        last = False
        while not last:
            while len(ready) < AT_ONCE:
                to, comes = trio.open_memory_channel[tuple[bytes, bool]](1)
                nursery.start_soon(one, number, to)
                ready.append(comes)
                number += 1
            data, last = await ready.pop(0).receive()
            total += len(data)
            if data:
                await feed(data)
        nursery.cancel_scope.cancel()
    await feed(b"")
    return total
