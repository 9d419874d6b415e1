"""What `cloudfs 9p` does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cloudfs.errors import CloudError
from cloudfs.wire import tool
from cloudfs.wire.connect import connect
from tests.wire.serving import serving

DIALECTS = ["9P2000", "9P2000.u", "9P2000.L"]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("version", DIALECTS)
async def test_ls(version: str) -> None:
    async with serving() as here, connect(here.address, version=version) as client:
        for long in (True, False):
            found = await tool.ls(client, "/", long)
            assert [stat.name for stat in found] == sorted(here.root.children)
            assert [bool(stat.mode >> 31) for stat in found] == [
                bool(here.root.children[stat.name].mode >> 31) for stat in found
            ]
        sizes = {stat.name: stat.length for stat in await tool.ls(client, "/")}
        assert sizes["hello"] == 13
        assert [stat.name for stat in await tool.ls(client, "/dir/a")] == ["a"]
        assert len(await tool.ls(client, "many")) == 1000
        with pytest.raises(CloudError):
            await tool.ls(client, "nothing")


@pytest.mark.parametrize("version", DIALECTS)
async def test_cat_and_write(version: str) -> None:
    async with serving() as here, connect(here.address, version=version) as client:
        data = b"".join([bytes(part) async for part in tool.cat(client, "/big")])
        assert data == here.root.children["big"].data
        assert await tool.write(client, "/open/new", pieces(data[:200000], b"", b"end")) == 200003
        assert here.root.children["open"].children["new"].data == data[:200000] + b"end"
        assert await tool.write(client, "/open/new", pieces(b"short")) == 5
        assert here.root.children["open"].children["new"].data == b"short"
        assert await tool.write(client, "/ctl", pieces(b"ok\n")) == 3
        with pytest.raises(CloudError) as caught:
            await tool.write(client, "/ctl", pieces(b"nonsense\n"))
        assert caught.value.kind == "bad"
        for path in ("/hello/x", "/nothing/x", "/", "/dir"):
            with pytest.raises(CloudError):
                await tool.write(client, path, pieces(b"x"))


async def test_stat() -> None:
    async with serving() as here, connect(here.address) as client:
        assert (await tool.stat(client, "/hello")).length == 13
        assert (await tool.stat(client, "")).name == "/"
        assert (await tool.stat(client, ".follow/dir//a")).name == "a"


async def test_ls_when_files_go_meanwhile() -> None:
    async with serving() as here, connect(here.address) as client:
        walk = client.walk
        gone = set(here.root.children) - {"hello"}

        async def late(names: list[str], *more: object) -> object:
            if names and names[-1] in gone:
                raise CloudError("absent")
            return await walk(names)

        client.walk = late  # type: ignore[assignment, method-assign]
        found = {stat.name: stat for stat in await tool.ls(client, "/")}
        assert found["hello"].length == 13
        assert found["big"].length == 0
