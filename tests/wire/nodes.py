"""Nodes of a cloud in one process: each a server in TLS and a pool of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cloudfs.factotum.nodekeys import KeyFiles
from cloudfs.tree.api import Node, Who
from cloudfs.tree.idmap import far_user
from cloudfs.tree.space import Attach, ErrLog, Space
from cloudfs.wait import settle
from cloudfs.wire.imports import Pool
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server
from tests.clouds import TestCloud
from tests.synthetic import Dir, tree
from tests.wire.talk import BOSS


def keys(folder: Path, *names: str) -> dict[str, KeyFiles]:
    """The key files of nodes of one cloud, made in the folder."""
    cloud = TestCloud(folder)
    return {name: cloud.files(name) for name in names}


class FarNode:
    """A node that runs: its own directory is tests/synthetic.py's tree."""

    def __init__(self, files: KeyFiles, own: Node | None = None, **more: Any) -> None:
        self.own: Any = own or tree()
        self.errors = ErrLog()
        self.files = files
        self.closed: list[Space] = []
        self.server = Server(
            lambda who: Space(Dir("/", [Dir("nodes", [])]), self.errors),
            node_space=lambda who: Space(self.own, self.errors),
            far_user=partial(far_user, owner="root"),
            closed=self.closed.append,
            **more,
        )
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FarNode]:
        listener = listen(f"tls:127.0.0.1:{self.port}", self.files)
        self.port = listener.address.port
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.serve, [listener])
            yield self
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def pooled(
    files: KeyFiles,
    addresses: dict[str, str],
    gone: Callable[[str], str] = lambda node: "",
    **more: Any,
) -> AsyncIterator[Pool]:
    async with trio.open_nursery() as nursery:
        pool = Pool(files, addresses.get, gone, **more)
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two(
    folder: Path, own: Node | None = None, **more: Any
) -> AsyncIterator[tuple[FarNode, Pool]]:
    """(node far, the pool of node near)"""
    files = keys(folder, "near", "far")
    async with FarNode(files["far"], own).running() as far:
        async with pooled(files["near"], {"far": far.address}, **more) as pool:
            yield far, pool


def attach(pool: Pool, who: Who = BOSS, node: str = "far") -> Attach:
    """The node's directory as who sees it."""
    return Space(pool.reach(node)).attach(who)


async def read(at: Attach, path: str, count: int = 1 << 16) -> bytes:
    """The first read of a file."""
    ref = await settle(at.find([name for name in path.split("/") if name]))
    handle = await settle(at.open(ref, 0))
    try:
        return bytes(await settle(handle.read(0, count)))
    finally:
        await settle(handle.close())
