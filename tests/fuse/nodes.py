"""Two nodes, each a process: one serves the synthetic tree as its own directory, the other
mounts a tree in which that is nodes/far.

    python -m tests.fuse.nodes far STATE PORT
    python -m tests.fuse.nodes near STATE PORT DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from cloudfs.factotum.nodekeys import files_in
from cloudfs.fuse.mount import mount
from cloudfs.tree.idmap import who_of
from cloudfs.tree.root import TABLE
from cloudfs.tree.space import Space
from cloudfs.tree.table import TableDir
from cloudfs.wire.imports import Pool
from cloudfs.wire.server import Server
from tests.synthetic import Dir
from tests.wire.nodes import FarNode


async def far(state: str, port: str) -> None:
    node = FarNode(files_in(Path(state) / "far"))
    node.port = int(port)
    async with node.running():
        await trio.sleep_forever()


async def near(state: str, port: str, directory: str) -> None:
    pool = Pool(files_in(Path(state) / "near"), lambda node: f"127.0.0.1:{port}")
    nodes = Dir("nodes", [pool.reach("far")])
    rows = [row for row in TABLE if row.name == "err"]
    space = Space(TableDir("/", rows, None, 1 << 60, "root", lambda: 0.0, [nodes]))
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        server = Server(lambda who: space)
        await nursery.start(server.serve, [])
        pool.watcher = server  # as in the daemon
        await mount(space, directory, who_of=lambda uid, gid, pid: who_of(uid, {0}))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run({"far": far, "near": near}[sys.argv[1]], *sys.argv[2:])
