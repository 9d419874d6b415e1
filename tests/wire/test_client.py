"""The client: all dialects, many requests at a time, cancellation, and servers that are
not what they should be."""

from __future__ import annotations

import math
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, OREAD, OTRUNC, OWRITE
from cloudfs.wire.client import Client
from cloudfs.wire.codec import codec
from cloudfs.wire.connect import connect
from cloudfs.wire.exchange import FIDS, TAGS
from cloudfs.wire.trace import Trace
from tests.synthetic import Dir
from tests.wire.serving import serving
from tests.wire.watched import Watched

VERSIONS = ["9P2000", "9P2000.u", "9P2000.L"]


async def idle(client: Client) -> None:
    """Until nothing of the client is in use any more."""
    with trio.fail_after(5):
        while len(client._tags) < TAGS or len(client._fids) < FIDS - 1:
            await trio.sleep(0.005)


@pytest.mark.parametrize("version", VERSIONS)
async def test_everyday_use(version: str) -> None:
    async with serving() as here, connect(here.address, version=version) as client:
        assert client.codec.version == version
        async with await client.walk(["dir", "a"]) as file:
            await file.open(OREAD)
            assert await file.read(0, 100) == b"A\n"
            stat = await file.stat()
            assert (stat.name, stat.length, stat.uid, stat.mode) == ("a", 2, "root", 0o644)
            assert stat.qid == file.qid[2]
        async with await client.walk(["many"]) as file:
            await file.open(OREAD)
            entries = await file.entries()
            assert [name for name, _, _ in entries] == [f"f{i:04}" for i in range(1000)]
        async with await client.walk(["open"]) as file:
            await file.create("new", 0o640, OWRITE)
            assert await file.write(0, b"some words") == 10
            await file.wstat({"length": 4})
            assert (await file.stat()).length == 4
        async with await client.walk(["open"]) as file:
            await file.create("sub", DMDIR | 0o755, OREAD)
            assert (await file.stat()).mode == DMDIR | 0o755
            assert await file.entries() == []
        async with await client.walk(["open", "new"]) as file:
            await file.open(OWRITE | OTRUNC)
            assert (await file.stat()).length == 0
        await idle(client)


@pytest.mark.parametrize("version", VERSIONS)
async def test_errors_keep_their_kind(version: str) -> None:
    async with serving() as here, connect(str(here.tcp), version=version) as client:
        for path, kind in (
            (["nothing"], "absent"),
            (["dir", "nothing"], "absent"),
            (["private", "inside"], "denied"),
        ):
            with pytest.raises(CloudError) as caught:
                await client.walk(path)
            assert caught.value.kind == kind
        async with await client.walk(["secret"]) as file:
            with pytest.raises(CloudError) as caught:
                await file.open(OREAD)
            assert caught.value.kind == "denied"
        with pytest.raises(CloudError) as caught:
            await (await client.walk(["hello"])).remove()
        assert caught.value.kind == "denied"
        await idle(client)


@pytest.mark.parametrize("version", VERSIONS)
async def test_changing_attributes(version: str) -> None:
    file = Watched()
    async with serving(Dir("/", [file], 0o777)) as here:
        async with connect(here.address, version=version) as client:
            async with await client.walk(["watched"]) as one:
                await one.wstat(
                    {"name": "renamed", **({} if version.endswith("L") else {"mode": 0o600})}
                )
                assert file.name == "renamed"
                await one.wstat({"uid": "root", "gid": "root", "mtime": 5.5, "atime": 1})
            await (await client.walk(["watched"])).remove()
            assert file.removed == 1
            await idle(client)


async def test_paths_of_any_length() -> None:
    leaf: Dir = Dir("d", [])
    for _ in range(40):
        leaf = Dir("d", [leaf])
    async with serving(leaf) as here, connect(here.address) as client:
        for depth in (0, 1, 15, 16, 17, 32, 40):
            async with await client.walk(["d"] * depth) as file:
                assert len(file.path) == depth
        for path in (["d"] * 41, ["d"] * 16 + ["x"], ["d"] * 33 + ["x", "d"], ["x"] + ["d"] * 20):
            with pytest.raises(CloudError):
                await client.walk(path)
        await idle(client)


async def test_an_attach_to_a_subtree() -> None:
    async with serving() as here:
        async with connect(here.address, aname="/dir") as client:
            assert (await (await client.walk(["a"])).stat()).length == 2
        with pytest.raises(CloudError, match="file not found"):
            async with connect(here.address, aname="/nothing"):
                pass


async def test_many_requests_at_a_time() -> None:
    async with serving() as here, connect(here.address) as client:

        async def one(index: int) -> None:
            async with await client.walk(["many", f"f{index:04}"]) as file:
                await file.open(OREAD)
                assert await file.read(0, 100) == b"%d\n" % index

        async with trio.open_nursery() as nursery:
            for index in range(1000):
                nursery.start_soon(one, index)
        await idle(client)


async def test_a_cancelled_request_is_flushed() -> None:
    trace = Trace()
    async with serving() as here, connect(here.address, trace=trace) as client:
        never = here.root.children["never"]
        async with await client.walk(["never"]) as file:
            await file.open(OREAD)
            file.deadline = math.inf
            feed = trace.subscribe()
            with trio.move_on_after(0.05):
                await file.read(0, 100)
            await idle_but(client, 1)
            assert [line.split()[2] for line in feed.take()] == ["Tread", "Tflush", "Rflush"]
            await here.until(lambda: never.waiting == 0)
            never.feed(b"now")
            assert await file.read(0, 100) == b"now"
        await idle(client)


async def idle_but(client: Client, fids: int) -> None:
    with trio.fail_after(5):
        while len(client._tags) < TAGS or len(client._fids) < FIDS - 1 - fids:
            await trio.sleep(0.005)


async def test_a_cancelled_walk_leaves_no_fid() -> None:
    async with serving() as here, connect(here.address) as client:
        for wait in (0.001, 0.005, 0.01, 0.015, 0.02):
            with trio.move_on_after(wait):
                (await client.walk(["slow", "x"])).drop()
        await idle(client)
        (connection,) = here.server.connections.values()
        await here.until(lambda: connection.session.fids.keys() == {0})


async def test_a_deadline() -> None:
    async with serving() as here, connect(here.address, deadline=0.1) as client:
        async with await client.walk(["never"]) as file:
            await file.open(OREAD)
            with pytest.raises(CloudError, match="did not answer Tread in time") as caught:
                await file.read(0, 1)
            assert caught.value.kind == "timeout"
        await idle(client)


async def test_more_requests_than_tags_wait_their_turn() -> None:
    async with serving() as here, connect(here.address) as client:
        never = here.root.children["never"]
        file = await client.walk(["never"])
        await file.open(OREAD)
        file.deadline = math.inf
        async with trio.open_nursery() as nursery:
            for _ in range(TAGS):
                nursery.start_soon(file.read, 0, 100)
            await here.until(lambda: never.waiting == TAGS)
            with pytest.raises(CloudError, match="in time"):
                await client.call("Tgetattr", 0, 0, deadline=0.05)
            nursery.cancel_scope.cancel()
        assert (await client.root.stat()).mode & DMDIR
        await file.clunk()
        await idle(client)


async def test_no_more_fids_than_there_are() -> None:
    async with serving() as here, connect(here.address) as client:
        files = [await client.walk([]) for _ in range(FIDS - 1)]
        with pytest.raises(CloudError) as caught:
            await client.walk([])
        assert caught.value.kind == "toomany"
        for file in files:
            file.drop()
        await idle(client)


async def test_a_server_that_ends() -> None:
    async with serving() as here, connect(here.address) as client:
        file = await client.walk(["never"])
        await file.open(OREAD)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(CloudError, match="closed the connection|broke") as caught:
                    await file.read(0, 1)
                assert caught.value.kind == "unreachable"

            nursery.start_soon(read)
            await here.until(lambda: here.root.children["never"].waiting)
            (connection,) = here.server.connections.values()
            here.server.drop(connection, "for the test")
        with pytest.raises(CloudError):
            await client.walk([])
        with pytest.raises(CloudError):
            await file.clunk()
        file.drop()


async def test_nobody_there() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for address in (f"{folder}/nothing", "tcp:127.0.0.1:1"):
            with pytest.raises(CloudError) as caught:
                async with connect(address):
                    pass
            assert caught.value.kind == "unreachable"
            assert caught.value.fix


async def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    async with serving() as here:
        with pytest.raises(KeyError):
            async with connect(here.address):
                raise KeyError("ours")


# --- servers that are not what they should be ------------------------------------------


@asynccontextmanager
async def pretending(act: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """The address of a server that does as it likes."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "s")
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(path)
        listener.listen(1)

        async def serve() -> None:
            while True:
                sock, _ = await listener.accept()
                async with trio.SocketStream(sock) as stream:
                    await act(stream)

        with listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                yield path
                nursery.cancel_scope.cancel()


def script(*replies: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A server that answers each request with the next of these bytes."""

    async def act(stream: trio.SocketStream) -> None:
        for reply in replies:
            await stream.receive_some(65536)
            await stream.send_all(reply)
        await stream.receive_some(65536)

    return act


L = codec("L").encode
NINE = codec("9").encode
AGREED = L["Rversion"](0xFFFF, 8192, "9P2000.L")
ATTACHED = L["Rattach"](0, (0x80, 0, 1))
NO = NINE["Rerror"](0xFFFF, "never heard of it")


@pytest.mark.parametrize(
    ("replies", "version"),
    [
        ([NINE["Rversion"](0xFFFF, 8192, "9P2000"), ATTACHED], "9P2000"),
        ([NINE["Rversion"](0xFFFF, 8192, "9P2000.u"), ATTACHED], "9P2000.u"),
        (
            [NINE["Rversion"](0xFFFF, 8192, "unknown")] * 2
            + [NINE["Rversion"](0xFFFF, 999, "9P2000"), ATTACHED],
            "9P2000",
        ),
        ([NO, NINE["Rversion"](0xFFFF, 8192, "9P2000.u"), ATTACHED], "9P2000.u"),
    ],
)
async def test_an_older_dialect_is_taken(replies: list[bytes], version: str) -> None:
    async with pretending(script(*replies)) as address, connect(address) as client:
        assert client.codec.version == version


@pytest.mark.parametrize(
    "replies",
    [
        [b"HTTP/1.1 400 Bad Request\r\n"],
        [b"\0" * 20],
        [L["Rversion"](0xFFFF, 1 << 30, "9P2000.L")],
        [L["Rversion"](0xFFFF, 0, "9P2000.L")],
        [L["Rversion"](5, 8192, "9P2000.L")],
        [NO, NO, NO],
        [AGREED, L["Rwalk"](0, [])],
        [AGREED, L["Rclunk"](0x8001)],
        [AGREED, L["Rflush"](0x8001)],
        [AGREED, (21).to_bytes(4, "little") + ATTACHED[4:] + b"\0"],
        [AGREED, b""],
    ],
)
async def test_what_is_no_9p_ends_in_an_error(replies: list[bytes]) -> None:
    with trio.fail_after(5):
        async with pretending(script(*replies)) as address:
            with pytest.raises(CloudError) as caught:
                async with connect(address, deadline=0.5):
                    pass
    assert caught.value.kind in ("proto", "unreachable", "timeout")


@pytest.mark.parametrize(
    "reply",
    [
        L["Rread"](0, b"more than was asked for"),
        L["Rreaddir"](0, b"nonsense"),
        L["Rgetattr"](0, 0, (0, 0, 0), *[0] * 18)[:-1],
    ],
)
async def test_answers_that_lie(reply: bytes) -> None:
    replies = [AGREED, ATTACHED, reply]
    async with pretending(script(*replies)) as address, connect(address, deadline=1) as client:
        client.root.iounit = 100
        with pytest.raises(CloudError):
            if reply[4] == 117:
                await client.root.read(0, 5)
            elif reply[4] == 41:
                await client.root.entries()
            else:
                await client.root.stat()


async def test_a_directory_without_end_is_left() -> None:
    from cloudfs.wire.codec import dirent_encoder

    entry = dirent_encoder()((0, 0, 1), 0, 8, "again")

    async def act(stream: trio.SocketStream) -> None:
        await script(AGREED, ATTACHED)(stream)
        while True:
            await stream.send_all(L["Rreaddir"](0, entry))
            if not await stream.receive_some(65536):
                return

    async with pretending(act) as address, connect(address, deadline=1) as client:
        client.root.iounit = 100
        with pytest.raises(CloudError, match="does not go on"):
            await client.root.entries()
