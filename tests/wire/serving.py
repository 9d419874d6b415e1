"""A server on real sockets, and a client that sends what no good client would."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from cloudfs.tree.api import Node, Who
from cloudfs.tree.space import ErrLog, Space
from cloudfs.wire.address import Address
from cloudfs.wire.codec import codec
from cloudfs.wire.listen import listen
from cloudfs.wire.messages import NOFID, VERSIONS
from cloudfs.wire.server import Server
from tests.synthetic import tree


class Serving:
    """A running server over tests/synthetic.py's tree."""

    def __init__(self, root: Node | None, **more: Any) -> None:
        self.root: Any = root or tree()
        self.errors = ErrLog()
        self.spaces: list[Space] = []
        self.closed: list[Space] = []
        self.server = Server(self._space, closed=self.closed.append, **more)
        self.address = ""
        self.tcp = Address()

    def _space(self, who: Who) -> Space:
        self.spaces.append(Space(self.root, self.errors))
        return self.spaces[-1]

    async def until(self, ready: Any) -> None:
        """Until a condition holds."""
        with trio.fail_after(10):
            while not ready():
                await trio.sleep(0.005)


@asynccontextmanager
async def serving(root: Node | None = None, **more: Any) -> AsyncIterator[Serving]:
    """A server at a unix socket and at a TCP port, for as long as the block lasts."""
    here = Serving(root, **more)
    with tempfile.TemporaryDirectory() as folder:
        here.address = str(Path(folder) / "s")
        unix, tcp = listen(here.address), listen("127.0.0.1:0")
        here.tcp = tcp.address
        async with trio.open_nursery() as nursery:
            await nursery.start(here.server.serve, [unix, tcp])
            yield here
            nursery.cancel_scope.cancel()


class Raw:
    """A connection that sends bytes as they are."""

    def __init__(self, stream: trio.SocketStream, key: str) -> None:
        self.stream = stream
        self.codec = codec(key)
        self.data = b""

    def frame(self, name: str, *fields: Any, tag: int = 1) -> bytes:
        return self.codec.encode[name](tag, *fields)

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def reply(self) -> tuple[str, int, tuple[Any, ...]]:
        """The next reply; EOFError if the connection ended."""
        while len(self.data) < 4 or len(self.data) < int.from_bytes(self.data[:4], "little"):
            try:
                more = await self.stream.receive_some(1 << 20)
            except trio.BrokenResourceError:
                raise EOFError from None
            if not more:
                raise EOFError
            self.data += more
        size = int.from_bytes(self.data[:4], "little")
        frame, self.data = self.data[:size], self.data[size:]
        return self.codec.parse(frame)

    async def ask(self, name: str, *fields: Any, tag: int = 1) -> tuple[str, tuple[Any, ...]]:
        await self.send(self.frame(name, *fields, tag=tag))
        got, answered, values = await self.reply()
        assert answered == tag
        return got, values

    async def attach(self, msize: int = 65536) -> None:
        version = VERSIONS[self.codec.key]
        assert (await self.ask("Tversion", msize, version))[0] == "Rversion"
        number = () if self.codec.key == "9" else (0,)
        assert (await self.ask("Tattach", 0, NOFID, "x", "", *number))[0] == "Rattach"

    async def open(self, fid: int, *names: str) -> None:
        assert len((await self.ask("Twalk", 0, fid, list(names)))[1][0]) == len(names)
        assert (await self.ask("Tlopen", fid, 0))[0] == "Rlopen"


@asynccontextmanager
async def raw(here: Serving, key: str = "L", attach: bool = True) -> AsyncIterator[Raw]:
    async with await trio.open_unix_socket(here.address) as stream:
        client = Raw(stream, key)
        if attach:
            await client.attach()
        yield client
