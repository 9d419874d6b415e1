"""A node for the bench `remote`, in a process of its own.

python -m tests.bench.nodes far  STATE PORT        its own directory in TLS
python -m tests.bench.nodes near STATE PORT SOCKET the same files at a unix socket, its
                                                   own and those of the node at PORT
python -m tests.bench.nodes relay PORT TO SECONDS  what comes at PORT goes on to TO that
                                                   much later, each way
"""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from pathlib import Path

import trio

from cloudfs.factotum.nodekeys import files_in
from cloudfs.tree.api import Node
from cloudfs.tree.idmap import far_user, user_of
from cloudfs.tree.space import Space
from cloudfs.wire.imports import Pool
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server
from tests.bench.peers import STATUS, STATUS_PATH
from tests.clouds import TestCloud
from tests.synthetic import Dir, Leaf

BULK = 16 << 20  # bytes of the large file


def own() -> list[Node]:
    """What a node's own directory holds here."""
    _, id, name = STATUS_PATH.split("/")
    objects: list[Node] = [Dir(id, [Leaf(name, STATUS)])]
    return [Dir("proc", objects), Leaf("big", bytes(BULK))]


def make_keys(state: Path) -> None:
    """The keys of both nodes, in STATE/far and STATE/near."""
    cloud = TestCloud(state)
    for name in ("far", "near"):
        cloud.files(name)


async def far(state: str, port: str) -> None:
    root = Dir("/", own())
    server = Server(
        lambda who: Space(Dir("/", [])),
        node_space=lambda who: Space(root),
        far_user=partial(far_user, owner=user_of(0)),
    )
    files = files_in(Path(state) / "far")
    await server.serve([listen(f"tls:127.0.0.1:{port}", files)])


async def near(state: str, port: str, socket: str) -> None:
    files = files_in(Path(state) / "near")
    pool = Pool(files, lambda node: f"127.0.0.1:{port}")
    root = Dir("/", [*own(), Dir("nodes", [pool.reach("far")])])
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        pool.watcher = server = Server(lambda who: Space(root))
        await server.serve([listen(socket)])


async def relay(port: str, to: str, seconds: str) -> None:
    delay = float(seconds)

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        queue: deque[tuple[float, bytes]] = deque()
        came = trio.Event()

        async def send() -> None:
            nonlocal came
            while True:
                await came.wait()
                came = trio.Event()
                while queue:
                    when, data = queue.popleft()
                    await trio.sleep_until(when)
                    await sink.send_all(data)
                    if not data:
                        await sink.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while data := await source.receive_some(1 << 18):
                queue.append((trio.current_time() + delay, bytes(data)))
                came.set()
            nursery.cancel_scope.cancel()

    async def passed(client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", int(to))
            for each in (client, server):
                each.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            async with client, server, trio.open_nursery() as nursery:

                async def one(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                    await pump(source, sink)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(one, client, server)
                nursery.start_soon(one, server, client)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one of the two left

    await trio.serve_tcp(passed, int(port), host="127.0.0.1")


if __name__ == "__main__":
    trio.run({"far": far, "near": near, "relay": relay}[sys.argv[1]], *sys.argv[2:])
