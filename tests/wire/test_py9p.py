"""py9p, from the wheel p9fs, as a client in all three dialects, and its fsspec filesystem."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from tests.synthetic import Dir
from tests.wire.serving import Serving, serving
from tests.wire.watched import Watched

p9fs = pytest.importorskip("p9fs", reason="p9fs is not installed; type: pip install p9fs")
py9p = pytest.importorskip("py9p.py9p")

DIALECTS = ["9P2000", "9P2000.u", "9P2000.L"]


@contextmanager
def client(here: Serving, version: str) -> Iterator[Any]:
    """A py9p client, which knows no way to close its connection."""
    with socket.create_connection(("127.0.0.1", here.tcp.port), timeout=10) as sock:
        credentials = py9p.Credentials(user="glenda")
        yield py9p.Client(sock, credentials, ver=py9p.Version.from_str(version))


@contextmanager
def filesystem(here: Serving, version: str) -> Iterator[Any]:
    made = p9fs.P9FileSystem(
        "127.0.0.1", here.tcp.port, "glenda", version=version, skip_instance_cache=True
    )
    try:
        yield made
    finally:
        gc.collect()  # its files close themselves only then
        made.client.fd.sock.close()


async def run(here: Serving, use: Callable[..., None], *args: Any) -> None:
    """Blocking code beside the server, with an end."""
    with trio.fail_after(20):
        await trio.to_thread.run_sync(use, here, *args, abandon_on_cancel=True)


@pytest.mark.parametrize("version", DIALECTS[:2])
async def test_the_client(version: str) -> None:
    def use(here: Serving) -> None:
        with client(here, version) as c:
            c.open("hello")
            assert c.read(100) == b"hello, world\n"
            c.close()
            (stat,) = c.stat("/dir/a")
            assert (stat.name, stat.length, stat.uid, stat.mode) == (b"a", 2, b"root", 0o644)
            c.create("open/new")
            assert c.write(b"some words") == 10
            c.close()
            c.open("open/new", 2)
            assert c.read(100) == b"some words"
            c.close()
            with pytest.raises(py9p.RpcError, match="file not found"):
                c.walk("nothing")
            with pytest.raises(py9p.RpcError, match="incomplete walk"):
                c.walk("dir/nothing")
            with pytest.raises(py9p.RpcError, match="Permission denied"):
                c.open("secret")
            c._walk(c.ROOT, c.F, ["dir"])
            c._open(c.F, 0)
            data = c._read(c.F, 0, 4000).data
            packed = py9p.Marshal9P(dotu=c.dotu)
            packed.setBuffer(data)
            packed.buf.seek(0)
            stats: list[Any] = []
            packed.decstat(stats)
            assert [stat.name for stat in stats] == [b"a", b"b"]

    async with serving() as here:
        await run(here, use)


async def test_the_client_in_the_linux_dialect() -> None:
    def use(here: Serving) -> None:
        with client(here, "9P2000.L") as c:
            c._walk(c.ROOT, 20, ["dir"])
            c._lopen(20, 0)
            assert [entry.name for entry in c._readdir(20, 0, 4000).stat] == ["a", "b"]
            assert c._getattr(20).qid.type % 256 == 0x80  # which it takes for a signed number
            with pytest.raises(py9p.RpcError, match="2"):
                c._walk(c.ROOT, 21, ["nothing"])

    async with serving() as here:
        await run(here, use)


@pytest.mark.parametrize("version", DIALECTS)
async def test_the_filesystem(version: str) -> None:
    def use(here: Serving) -> None:
        with filesystem(here, version) as fs:
            names = {entry["name"].strip("/") for entry in fs.ls("", detail=True)}
            assert names == set(here.root.children)
            assert [name.strip("/") for name in fs.ls("dir", detail=False)] == ["dir/a", "dir/b"]
            assert len(fs.ls("many", detail=False)) == 1000
            info = fs.info("hello")
            assert (info["type"], info["size"]) == ("file", 13)
            assert fs.exists("hello")
            assert not fs.exists("nothing")
            assert not fs.exists("dir/nothing")
            assert fs.isdir("dir")
            assert fs.isfile("dir/a")
            assert fs.cat("hello") == b"hello, world\n"
            assert fs.cat("big") == here.root.children["big"].data
            assert fs.cat_file("big", 1000, 1010) == here.root.children["big"].data[1000:1010]
            with fs.open("dir/a") as file:
                assert file.read() == b"A\n"
            assert fs.find("dir") == ["dir/a", "dir/b"]
            assert fs.glob("dir/*") == ["dir/a", "dir/b"]
            assert list(fs.walk("dir")) == [("dir", [], ["a", "b"])]
            fs.pipe("open/new", b"some words")
            assert fs.cat("open/new") == b"some words"
            fs.pipe("open/large", bytes(100_000))
            assert fs.info("open/large")["size"] == 100_000
            fs.cp_file("open/new", "open/copy")
            assert fs.cat("open/copy") == b"some words"
            fs.mkdir("open/sub", create_parents=False)
            assert fs.isdir("open/sub")

    async with serving() as here:
        await run(here, use)


@pytest.mark.parametrize("version", DIALECTS)
async def test_the_filesystem_removes(version: str) -> None:
    file = Watched()
    directory = Dir("sub", [], 0o777)
    removed: list[str] = []

    def use(here: Serving) -> None:
        with filesystem(here, version) as fs:
            fs.rm("watched")
            fs.rmdir("sub")

    async with serving(Dir("/", [file, directory], 0o777)) as here:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Dir, "remove", lambda self, at: removed.append(self.name))
            await run(here, use)
    assert file.removed == 1
    assert removed == ["sub"]


async def test_an_existing_file_is_written_in_the_linux_dialect() -> None:
    """Where a create opens what is there, fsspec's way of writing works on a ctl file."""

    def use(here: Serving) -> None:
        with filesystem(here, "9P2000.L") as fs:
            fs.pipe("ctl", b"ok\n")
            with pytest.raises(py9p.RpcError):
                fs.pipe("ctl", b"nonsense\n")

    async with serving() as here:
        await run(here, use)
