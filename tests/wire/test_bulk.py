"""Many files of another node, read in a thread over a connection of its own."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import pieces
from cloudfs.wire import bulk, connection
from cloudfs.wire.bulk import Bulk
from cloudfs.wire.codec import codec
from cloudfs.wire.messages import NODES
from tests.synthetic import Dir, Leaf, Never
from tests.wire.nodes import two

FILES = {f"f{number}": bytes([number]) * (number * 9000) for number in range(40)}


def folder(*more: Leaf) -> Dir:
    return Dir("/", [Dir("a", [Dir("b", [*(Leaf(*one) for one in FILES.items()), *more])])])


async def test_files_come_whole(tmp_path: Path) -> None:
    found: dict[str, bytes] = {}
    async with two(tmp_path, folder()) as (_, pool):
        async with pool.bulk("far", "root", "a/b", 5.0) as way:
            await way.read(iter(FILES), lambda name, data: found.update({name: bytes(data)}))
            assert found == FILES
            found.clear()  # and over the same connection again
            await way.read(iter(["f3"]), lambda name, data: found.update({name: bytes(data)}))
            await way.read(iter([]), lambda name, data: found.clear())
    assert found == {"f3": FILES["f3"]}


def test_what_is_under_way_fits_what_a_node_keeps_for_one_that_is_slow() -> None:
    assert bulk.WINDOW * pieces.PIECE + 4096 < connection.MAX_QUEUE
    assert pieces.PIECE + 4096 < bulk.FRAME


def nothing(name: str, data: memoryview) -> None:
    pass


@pytest.mark.parametrize(
    ("path", "names", "kind"),
    [
        ("a/b", ["f1", "nothing"], "absent"),
        ("a/c", ["f1"], "absent"),
        ("a/b", ["secret"], "denied"),
        ("a/b", ["never"], "timeout"),
    ],
)
async def test_what_cannot_be_read(tmp_path: Path, path: str, names: list[str], kind: str) -> None:
    own = folder(Leaf("secret", b"x", 0o400), Never("never"))
    async with two(tmp_path, own) as (_, pool):
        async with pool.bulk("far", "nobody", path, 0.3) as way:
            with pytest.raises(CloudError) as caught:
                await way.read(iter(names), nothing)
    assert caught.value.kind == kind


async def test_what_take_raises_comes_out(tmp_path: Path) -> None:
    def full(name: str, data: memoryview) -> None:
        raise CloudError("full", "no space")

    async with two(tmp_path, folder()) as (_, pool), pool.bulk("far", "root", "a/b", 5.0) as way:
        with pytest.raises(CloudError, match="no space"):
            await way.read(iter(FILES), full)


async def test_no_way_to_one_that_is_not_there(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, pool):
        pool.gone = lambda node: "it is gone" if node == "far" else ""
        for node, why in (("far", "it is gone"), ("nowhere", "no address")):
            with pytest.raises(CloudError, match=why) as caught:
                async with pool.bulk(node, "root", "a", 5.0):
                    pass
            assert caught.value.kind == "unreachable"


async def test_who_is_cancelled_does_not_wait_for_the_other_side(tmp_path: Path) -> None:
    own = folder(never := Never("never"))
    before = threading.active_count()
    async with two(tmp_path, own) as (_, pool), pool.bulk("far", "root", "a/b", 600.0) as way:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(way.read, iter(["never"]), nothing)
            while not never.waiting:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught
    assert threading.active_count() <= before + 1  # trio keeps a thread for the next one


# --- peers that do not keep to the protocol ---------------------------------------------------

ENCODE = codec("u").encode
QID = (0x80, 0, 1)
HELLO = [
    ENCODE["Rversion"](0xFFFF, bulk.FRAME, NODES),
    ENCODE["Rattach"](0, QID),
    ENCODE["Rwalk"](0, [QID]),
]
WALKED, OPENED = ENCODE["Rwalk"](9, [QID]), ENCODE["Ropen"](10, QID, 0)


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ([], "unreachable"),
        ([ENCODE["Rversion"](0xFFFF, 8192, NODES)], "proto"),
        ([ENCODE["Rversion"](0xFFFF, bulk.FRAME, "9P2000")], "proto"),
        ([*HELLO[:2], ENCODE["Rwalk"](0, [])], "absent"),
        ([*HELLO, ENCODE["Ropen"](9, QID, 0)], "proto"),
        ([*HELLO, ENCODE["Rwalk"](13, [QID])], "proto"),
        ([*HELLO, WALKED, OPENED, b"\xff\xff\xff\x7f\x75\x0b\x00"], "proto"),
        ([*HELLO, WALKED, OPENED, b"\x06\0\0\0\x75\x0b\x00"], "proto"),
        ([*HELLO, WALKED, OPENED, b"\x0b\0\0\0\x75\x0b\x00\xff\xff\xff\xff"], "proto"),
        ([*HELLO, WALKED, OPENED, b"\x07\0\0\0\x75\x0b\x00"], "proto"),
        ([*HELLO, WALKED, OPENED, b"\x0f\0\0\0\x75\x0b\x00\4\0\0\0"], "unreachable"),
        ([*HELLO, ENCODE["Rerror"](9, "no\ntry this", 13)], "denied"),
        ([*HELLO, b"\x07\0\0\0\xfe\x09\x00"], "proto"),
    ],
)
async def test_a_peer_that_says_something_else(frames: list[bytes], kind: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"".join(frames))
    theirs.shutdown(socket.SHUT_WR)
    stream: Any = SimpleNamespace(socket=ours)
    way = Bulk(stream, "far", "root", ["a"], 5.0)
    try:
        with pytest.raises(CloudError) as caught:
            await way.read(iter(["f"]), nothing)
    finally:
        way.close()
        theirs.close()
    assert caught.value.kind == kind, caught.value
