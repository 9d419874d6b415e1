"""A far tree as nodes of ours: served again by a second server, it looks the same."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, ORDWR, OREAD, OTRUNC, OWRITE, Cues, Handle, Wait
from cloudfs.tree.space import Space
from cloudfs.wait import settle
from cloudfs.wire import remote
from cloudfs.wire.client import Client
from cloudfs.wire.connect import connect
from tests.synthetic import Dir, Leaf
from tests.wire.serving import Serving, serving
from tests.wire.talk import BOSS, GUEST
from tests.wire.watched import Watched

DIALECTS = ["9P2000", "9P2000.u", "9P2000.L"]


@asynccontextmanager
async def twice(
    version: str = "9P2000.L", root: Any = None
) -> AsyncIterator[tuple[Serving, Client]]:
    """(the far server, a client of the near one that passes on the far tree)"""
    async with serving(root) as far, connect(far.address, version=version) as client:
        async with serving(await remote.tree(client)) as near:
            async with connect(near.address, version=version) as there:
                yield far, there


@pytest.mark.parametrize("version", DIALECTS)
async def test_the_same_through_two(version: str) -> None:
    async with twice(version) as (far, client):
        async with await client.walk([]) as file:
            await file.open(OREAD)
            names = [name for name, _, _ in await file.entries()]
            assert names == list(far.root.children)
        async with await client.walk(["dir", "a"]) as file:
            await file.open(OREAD)
            assert await file.read(0, 10) == b"A\n"
            stat = await file.stat()
            assert (stat.name, stat.length, stat.uid, stat.mode) == ("a", 2, "root", 0o644)
        async with await client.walk(["open"]) as file:
            await file.create("new", 0o644, ORDWR)
            assert await file.write(0, b"x" * 200000) > 0
            assert await file.read(0, 3) == b"xxx"
            await file.wstat({"length": 1})
            assert far.root.children["open"].children["new"].data == b"x"
        async with await client.walk(["open"]) as file:
            await file.create("sub", DMDIR | 0o700, OREAD)
            assert far.root.children["open"].children["sub"].mode == DMDIR | 0o700
        async with await client.walk(["many"]) as file:
            await file.open(OREAD)
            assert len(await file.entries()) == 1000


async def test_a_large_file_comes_whole() -> None:
    async with twice() as (far, client), await client.walk(["big"]) as file:
        await file.open(OREAD)
        data = b""
        while more := await file.read(len(data), file.iounit):
            data += more
        assert data == far.root.children["big"].data


@pytest.mark.parametrize("path", [["nothing"], ["dir", "nothing"], ["hello", "x"]])
async def test_what_is_not_there(path: list[str]) -> None:
    async with twice() as (_, client):
        with pytest.raises(CloudError) as caught:
            await client.walk(path)
        assert caught.value.kind == ("notdir" if path[0] == "hello" else "absent")


async def test_a_read_that_is_flushed_here_is_flushed_there() -> None:
    async with twice() as (far, client):
        never = far.root.children["never"]
        file = await client.walk([".follow", "never"])
        await file.open(OREAD)
        file.deadline = math.inf
        with trio.move_on_after(0.1):
            await file.read(0, 10)
        await far.until(lambda: never.waiting == 0)
        never.feed(b"now")
        assert await file.read(0, 10) == b"now"
        await file.clunk()


async def test_cues_are_walked_on_the_far_side() -> None:
    class Told(Leaf):
        __slots__ = ()

        def open(self, mode: int, at: Any, cues: Cues) -> Handle | Wait[Handle]:
            self.data = f"{cues.follow} {cues.fresh} {cues.max_time}".encode()
            return super().open(mode, at, cues)

    async with twice(root=Dir("/", [Told("told")])) as (_, client):
        for path, told in (
            (["told"], b"False False 2.0"),
            ([".follow", "told"], b"True False 2.0"),
            ([".fresh", ".MaxTime=7.5", "told"], b"False True 7.5"),
        ):
            async with await client.walk(path) as file:
                await file.open(OREAD)
                assert await file.read(0, 100) == told


async def test_max_time_is_a_deadline_here_as_well() -> None:
    async with serving() as far, connect(far.address) as client:
        root = await remote.tree(client)
        at = Space(root).attach(BOSS)
        ref = await settle(at.find([".MaxTime=0.05", "never"]))
        handle = await settle(at.open(ref, OREAD))
        with pytest.raises(CloudError) as caught:
            await settle(handle.read(0, 1))
        assert caught.value.kind == "timeout"
        await settle(handle.close())


async def test_the_far_side_checks_permissions() -> None:
    async with serving() as far, connect(far.address) as client:
        root = await remote.tree(client)
        # This user may read nothing of root's here; that is not for us to say.
        at = Space(root).attach(GUEST)
        ref = await settle(at.find(["private", "inside"]))
        handle = await settle(at.open(ref, OREAD))
        assert await settle(handle.read(0, 10)) == b"in\n"
        await settle(handle.close())
    async with serving() as far, connect(str(far.tcp)) as client:
        at = Space(await remote.tree(client)).attach(BOSS)
        with pytest.raises(CloudError) as caught:
            await settle(at.open(await settle(at.find(["secret"])), OREAD))
        assert caught.value.kind == "denied"


async def test_removing_and_renaming() -> None:
    file = Watched()
    async with serving(Dir("/", [file], 0o777)) as far, connect(far.address) as client:
        at = Space(await remote.tree(client)).attach(BOSS)
        ref = await settle(at.find(["watched"]))
        await settle(at.wstat(ref, {"name": "other"}))
        assert file.name == "other"
        await settle(at.remove(ref))
        assert file.removed == 1


async def test_what_close_says_comes_through() -> None:
    file = Watched()
    file.raises["close"] = CloudError("bad", "the last line was nonsense")
    async with serving(Dir("/", [file])) as far, connect(far.address) as client:
        at = Space(await remote.tree(client)).attach(BOSS)
        handle = await settle(at.open(await settle(at.find(["watched"])), OWRITE | OTRUNC))
        assert await settle(handle.write(0, b"x")) == 1
        with pytest.raises(CloudError) as caught:
            await settle(handle.close())
        assert caught.value.kind == "bad"


async def test_a_far_server_that_is_gone() -> None:
    async with serving() as far, connect(far.address) as client:
        at = Space(await remote.tree(client)).attach(BOSS)
        ref = await settle(at.find(["hello"]))
        for connection in list(far.server.connections.values()):
            far.server.drop(connection, "for the test")
        for attempt in (at.stat(ref), at.open(ref, OREAD), at.walk(at.root(), "dir")):
            with trio.fail_after(5), pytest.raises(CloudError) as caught:
                await settle(attempt)
            assert caught.value.kind == "unreachable"


async def test_nothing_is_left_open_on_the_far_side() -> None:
    async with serving() as far, connect(far.address) as client:
        at = Space(await remote.tree(client)).attach(BOSS)
        for path in (["dir"], ["hello"], ["many"]):
            handle = await settle(at.open(await settle(at.find(path)), OREAD))
            await settle(handle.close())
        for path in (["secret"], ["nothing"]):
            with pytest.raises(CloudError):
                await settle(at.open(await settle(at.find(path)), 99))
        (connection,) = far.server.connections.values()
        await far.until(lambda: connection.session.fids.keys() == {0})
