"""Requests that wait for another node without a task each, from a client's request to the
other node and back: answered, flushed, late, and lost with their connection at either end."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import OREAD
from cloudfs.tree.space import Space
from cloudfs.wait import Soon, settle
from cloudfs.wire.call import Call, Deadlines
from cloudfs.wire.client import Client
from cloudfs.wire.connect import connect
from cloudfs.wire.exchange import TAGS
from cloudfs.wire.file import File
from tests.synthetic import Dir
from tests.wire.nodes import FarNode, keys, pooled
from tests.wire.serving import Serving, serving
from tests.wire.talk import BOSS


@dataclass
class Near:
    """A node near, whose client we are, and one far, over an import that is up."""

    far: FarNode
    near: Serving
    client: Client
    link: Client  # of near with far
    root: int  # the link's fid of far's own tree
    scope: trio.CancelScope  # of far

    @property
    def never(self) -> Any:
        return self.far.own.children["never"]

    async def open(self, *path: str) -> File:
        file = await self.client.walk([*path[:-1], "nodes", "far", path[-1]])
        await file.open(OREAD)
        return file

    async def settled(self) -> None:
        """Until nothing is under way between the two, on either side."""
        self.near.root.children["nodes"].children["far"]._far.tidy(math.inf)  # read ahead
        self.link.flush()
        await self.near.until(lambda: self.link.busy == 1)
        (connection,) = self.far.server.connections.values()
        await self.near.until(lambda: len(connection.session.fids) == 1)
        assert not connection.session.jobs
        assert len(self.link._tags) == TAGS
        assert not self.link.deadlines._all


@pytest.fixture(params=["watched", "by a task"])
async def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Near]:
    async with _nodes(tmp_path, request.param == "watched") as found:
        yield found


@asynccontextmanager
async def _nodes(folder: Path, watched: bool) -> AsyncIterator[Near]:
    files = keys(folder, "near", "far")
    async with trio.open_nursery() as nursery:
        far, scope = FarNode(files["far"]), trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                async with far.running():
                    task_status.started()
                    await trio.sleep_forever()

        await nursery.start(run)
        async with pooled(files["near"], {"far": far.address}) as pool:
            root = Dir("/", [Dir("nodes", [pool.reach("far")])])
            async with serving(root) as near, connect(near.address) as client:
                if watched:
                    pool.watcher = near.server
                (await client.walk(["nodes", "far", "hello"])).drop()
                link = pool._peers["far"].link
                assert link is not None
                yield Near(far, near, client, link.client, link.roots["root"].fid, scope)
        nursery.cancel_scope.cancel()


async def test_no_task_for_each(nodes: Near) -> None:
    """Neither for those that wait long nor, once the import is there, for any other."""
    file = await nodes.open(".follow", "never")
    file.deadline = math.inf
    tasks = nodes.near.server._nursery.child_tasks  # type: ignore[union-attr]
    before = len(tasks)
    got: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def reads() -> None:
            got.append(bytes(await file.read(0, 10)))

        for _ in range(50):
            nursery.start_soon(reads)
        await nodes.near.until(lambda: nodes.never.waiting == 50)
        assert len(nodes.near.server.jobs._begun) == 50
        assert len(tasks) == before
        async with await nodes.client.walk(["nodes", "far", "hello"]) as other:
            await other.open(OREAD)  # in the middle of it
            assert await other.read(0, 100) == b"hello, world\n"
        nodes.never.feed(b"now")
    assert got == [b"now"] * 50
    assert not nodes.near.server.jobs._begun
    await file.clunk()
    await nodes.settled()


async def test_a_flush(nodes: Near) -> None:
    file = await nodes.open(".follow", "never")
    file.deadline = math.inf
    for _ in range(3):
        with trio.move_on_after(0.05):
            await file.read(0, 10)
        await nodes.near.until(
            lambda: nodes.never.waiting == 0 and not nodes.near.server.jobs._begun
        )
    await file.clunk()
    await nodes.settled()


async def test_a_clunk_ends_what_waits_on_its_fid(nodes: Near) -> None:
    file = await nodes.open(".follow", "never")
    file.deadline = math.inf
    async with trio.open_nursery() as nursery:

        async def reads() -> None:
            with pytest.raises(CloudError) as caught:
                await file.read(0, 10)
            assert caught.value.kind == "interrupted"

        nursery.start_soon(reads)
        await nodes.near.until(lambda: nodes.never.waiting == 1)
        await file.clunk()
    await nodes.near.until(lambda: nodes.never.waiting == 0)
    await nodes.settled()


async def test_a_deadline_and_an_answer_that_comes_late(nodes: Near) -> None:
    for _ in range(3):  # whose beginning is read ahead, or with the open
        with pytest.raises(CloudError) as caught:
            await nodes.open(".MaxTime=0.1", "never")
        assert caught.value.kind == "timeout"
    (_, why) = nodes.near.errors.of("root")[-1]
    assert "node far did not answer within 0.1 s" in why
    nodes.never.feed(b"late")  # whose reads were flushed, or cross with that
    file = await nodes.open(".MaxTime=1", "never")
    assert await file.read(0, 10) == b"late"
    await file.clunk()
    await nodes.settled()


async def test_an_answer_that_crosses_its_flush(nodes: Near) -> None:
    """What it made is let go of."""
    for wait in (0.0002, 0.0005, 0.001, 0.002, 0.004):
        async with await nodes.client.walk(["nodes", "far", "hello"]) as file:
            with trio.move_on_after(wait):
                await file.open(OREAD)
    await nodes.near.until(lambda: not nodes.near.server.jobs._begun)
    await nodes.settled()


async def test_a_client_that_is_gone(nodes: Near) -> None:
    async with connect(nodes.near.address) as other:
        file = await other.walk([".follow", "nodes", "far", "never"])
        await file.open(OREAD)
        file.deadline = math.inf
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(file.read, 0, 10)
            await nodes.near.until(lambda: nodes.never.waiting == 10)
            nursery.cancel_scope.cancel()
            await other.pipe.stream.aclose()
    await nodes.near.until(lambda: nodes.never.waiting == 0)
    assert not nodes.near.server.jobs._begun
    await nodes.settled()


async def test_a_node_that_is_gone(nodes: Near) -> None:
    file = await nodes.open(".follow", "never")
    file.deadline = math.inf
    errors: list[str] = []
    async with trio.open_nursery() as nursery:

        async def reads() -> None:
            with pytest.raises(CloudError) as caught:
                await file.read(0, 10)
            errors.append(caught.value.kind)

        for _ in range(10):
            nursery.start_soon(reads)
        await nodes.near.until(lambda: nodes.never.waiting == 10)
        nodes.scope.cancel()
    assert len(errors) == 10
    assert set(errors) <= {"unreachable", "interrupted"}  # or it said so in its end
    assert not nodes.near.server.jobs._begun
    await nodes.near.until(lambda: not nodes.near.server._watched)
    with pytest.raises(CloudError) as caught:
        await nodes.open("hello")
    assert caught.value.kind in ("unreachable", "timeout", "absent")


async def test_code_that_awaits(nodes: Near) -> None:
    pool_node = nodes.near.root.children["nodes"].children["far"]
    at = Space(pool_node).attach(BOSS)
    ref = await settle(at.find(["hello"]))
    await settle((await settle(at.open(ref, OREAD))).close())  # it may have been read ahead
    wait = at.open(ref, OREAD)
    assert isinstance(wait, Soon)
    handle = await wait.run()
    assert await settle(handle.read(0, 5)) == b"hello"
    await settle(handle.close())
    never = await settle(at.find([".follow", "never"]))
    handle = await settle(at.open(never, OREAD))
    with trio.move_on_after(0.05) as scope:
        await settle(handle.read(0, 1))
    assert scope.cancelled_caught
    await nodes.near.until(lambda: nodes.never.waiting == 0)
    await settle(handle.close())
    await nodes.settled()


async def test_those_for_whom_there_are_no_tags_are_next(
    nodes: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they came; who gives up in the queue leaves nothing."""
    link = nodes.link
    kept, link._tags = link._tags, []
    order: list[int] = []

    async def ask(number: int) -> None:
        with trio.move_on_after(0.05 if number == 1 else 5):
            await link.asking((Call("Tstat", nodes.root),), math.inf).run()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(ask, number)
            await nodes.near.until(lambda: len(link._queue) == number + 1)  # noqa: B023
        await nodes.near.until(lambda: len(link._queue) == 3)
        link._tags.append(kept.pop())
        link._next()
    assert order == [0, 2, 3]
    link._tags += kept
    await nodes.settled()


async def test_deadlines_in_any_order(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[tuple[str, float]] = []

    class Late:
        def __init__(self, name: str) -> None:
            self.name = name

        def too_late(self) -> None:
            deadlines.drop(self)  # type: ignore[arg-type]
            ended.append((self.name, trio.current_time()))

    deadlines, begun = Deadlines(), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        dropped = Late("dropped")
        for name, after in (("b", 2.0), ("a", 1.0), ("c", 60.0)):
            deadlines.add(Late(name), begun + after)  # type: ignore[arg-type]
        deadlines.add(dropped, begun + 1.5)  # type: ignore[arg-type]
        deadlines.drop(dropped)  # type: ignore[arg-type]
        await trio.sleep(30)
        deadlines.add(Late("d"), begun + 31)  # type: ignore[arg-type]
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert ended == [
        (name, pytest.approx(begun + t)) for name, t in zip("abdc", (1, 2, 31, 60), strict=True)
    ]
