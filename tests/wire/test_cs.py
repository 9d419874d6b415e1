"""A question and its answer on one fid, and queries as directories, over 9P."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudfs.errors import CloudError
from cloudfs.kernel.bell import Log
from cloudfs.tree.build import build
from cloudfs.tree.space import ErrLog
from cloudfs.wire.trace import Trace
from tests.kernel.test_finder import World
from tests.wire.serving import Serving, serving
from tests.wire.test_py9p import DIALECTS, client, py9p, run


class Nowhere:
    """Imports of a node that knows no others."""

    def reach(self, node: str, path: tuple[str, ...] = ()) -> Any:
        raise CloudError("unreachable", f"{node} is far")


@pytest.fixture
def root(tmp_path: Path) -> Any:
    world = World(tmp_path)  # type: ignore[no-untyped-call]
    trees = build(
        world.cloud, Log(9), ErrLog(), Trace(), Nowhere(), lambda made: {}, world.ways, None
    )
    return trees.root


@pytest.mark.parametrize("version", DIALECTS[:2])
async def test_a_conversation(root: Any, version: str) -> None:
    def use(here: Serving) -> None:
        with client(here, version) as c:
            c.open("net/cs", 2)
            for _ in range(2):
                c.write(b"query cpus>=1 sort=load\n")
                assert c.read(4096).startswith(b"node=n1 cpus=")
                assert c.read(4096) == b""
            with pytest.raises(py9p.RpcError, match="Invalid argument"):
                c.write(b"query cpus>=4GB")
            c.open("query/cpus>=1/mem.free>1/n1/status")
            assert c.read(4096).startswith(b"name=n1 ")
            c.close()
            c.open("query/cpus>=1/.answer")
            assert c.read(4096).startswith(b"node=n1 ")
            c.close()

    async with serving(root) as here:
        await run(here, use)


async def test_a_conversation_in_the_linux_dialect(root: Any) -> None:
    def use(here: Serving) -> None:
        with client(here, "9P2000.L") as c:
            c._walk(c.ROOT, 20, ["net", "cs"])
            c._lopen(20, 2)  # O_RDWR
            question = b"query cpus>=1"
            c._write(20, 0, question)
            assert c._read(20, len(question), 4096).data.startswith(b"node=n1 cpus=")
            c._walk(c.ROOT, 21, ["query", "cpus>=1"])
            c._lopen(21, 0)
            assert [entry.name for entry in c._readdir(21, 0, 4000).stat] == ["n1"]

    async with serving(root) as here:
        await run(here, use)
