"""Probes between nodes: within the connection and as datagrams, and who may not send any."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.api import ORDWR, Node, Who
from cloudfs.tree.probe import NUMBER, Probe
from cloudfs.tree.table import File, TableDir
from cloudfs.wait import settle
from cloudfs.wire import datagrams
from cloudfs.wire.datagrams import ANSWER, PING, PONG, Asking, Datagrams, Key
from cloudfs.wire.echo import Echo
from cloudfs.wire.imports import Pool
from tests.synthetic import Dir
from tests.wire.nodes import FarNode, attach, read, two
from tests.wire.talk import BOSS


class Far:
    """What answers probes, and how often it had a time of its own."""

    def __init__(self) -> None:
        self.times: list[tuple[str, bytes, float]] = []

    def pong(self, ping: bytes) -> bytes:
        if ping == b"nonsense":
            raise CloudError("bad", "that is no ping")
        return b"pong of " + ping

    def answered(self, node: str, ping: bytes, seconds: float) -> None:
        self.times.append((node, ping, seconds))


def tree_of(answering: Far, offers: Datagrams | None) -> Node:
    file = File(Probe(answering, offers), None, 8, "root", lambda: 0.0)
    return Dir("node", [TableDir("net", (), None, 7, "root", lambda: 0.0, hidden=[file])])


class Pair:
    """A node far that is probed, and a node near that does it."""

    def __init__(self, far: FarNode, pool: Pool, there: Datagrams, here: Datagrams) -> None:
        self.far, self.pool, self.there, self.here = far, pool, there, here
        self.answering: Any = there._answering
        self.echo = Echo("near", pool, here)

    @property
    def line(self) -> Any:
        return self.echo._lines["far"]


@asynccontextmanager
async def pair(folder: Path, udp: bool = True) -> AsyncIterator[Pair]:
    there, here = Datagrams(Far()), Datagrams(Far())
    if udp:
        assert there.listen("127.0.0.1", 0)
        assert here.listen("127.0.0.1", 0)
    async with two(folder, tree_of(there._answering, there)) as (far, pool):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.run)
            nursery.start_soon(here.run)
            yield Pair(far, pool, there, here)
            nursery.cancel_scope.cancel()


async def until(true: Any) -> None:
    with trio.fail_after(5):
        while not true():
            await trio.sleep(0.01)


async def test_within_the_connection(tmp_path: Path) -> None:
    async with pair(tmp_path, udp=False) as made:
        for number in range(3):
            seconds, pong = await made.echo.ping("far", b"%d" % number)
            assert 0 < seconds < 1
            assert pong == b"pong of %d" % number
        assert made.line.asking is None
        await until(lambda: len(made.answering.times) == 3)
        node, ping, seconds = made.answering.times[0]
        assert (node, ping) == ("near", b"0")
        assert 0 < seconds < 1
        assert made.pool.states() == {"far": "up"}


async def test_many_at_a_time(tmp_path: Path) -> None:
    async with pair(tmp_path, udp=False) as made:
        found = []

        async def ping(number: int) -> None:
            found.append((await made.echo.ping("far", b"%d" % number))[1])

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ping, number)
        assert sorted(found) == [b"pong of %d" % number for number in range(8)]
        assert len(made.echo._lines) == 1


async def test_datagrams_take_over_once_they_come_through(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        assert not made.echo._lines
        await made.echo.ping("far", b"a")
        await until(lambda: made.line.proved)
        before = made.line._number
        seconds, pong = await made.echo.ping("far", b"b")
        assert pong == b"pong of b"
        assert 0 < seconds < 1
        assert made.line._number == before  # nothing went through the connection
        await until(lambda: ("near", b"b") in [found[:2] for found in made.answering.times])
        assert made.there.refused == made.here.refused == 0


async def test_datagrams_that_are_lost_are_losses_and_later_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudfs.wire.echo.WAIT", 0.2)
    async with pair(tmp_path) as made:
        await made.echo.ping("far", b"a")
        await until(lambda: made.line.proved)
        monkeypatch.setattr(made.here, "send", lambda frame, address: None)  # a firewall
        for _ in range(3):
            with pytest.raises(CloudError) as failed:
                await made.echo.ping("far", b"b")
            assert failed.value.kind == "timeout"
        assert (await made.echo.ping("far", b"c"))[1] == b"pong of c"
        assert not made.line.proved


async def test_a_key_holds_as_long_as_its_file_is_open(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        await made.echo.ping("far", b"a")
        assert len(made.there._offers) == 1
        made.echo._close("far", made.line)
        await until(lambda: not made.there._offers)
        assert not made.here._asking


async def test_files_of_nodes_that_are_no_references_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudfs.wire.echo.IDLE", 0.0)
    async with pair(tmp_path) as made:
        made.echo.keep({"far"})
        await made.echo.ping("far", b"a")
        assert made.echo._lines
        made.echo.keep(set())
        assert not made.echo._lines


async def test_requests_that_go_anyway_are_timed(tmp_path: Path) -> None:
    async with pair(tmp_path, udp=False) as made:
        times: list[tuple[str, float]] = []
        made.pool.timed = lambda node, seconds: times.append((node, seconds))
        assert b"help" not in await read(attach(made.pool), "net/help")
        assert times
        assert all(node == "far" and 0 < seconds < 1 for node, seconds in times)


async def test_a_lost_connection_is_made_anew(tmp_path: Path) -> None:
    async with pair(tmp_path, udp=False) as made:
        await made.echo.ping("far", b"a")
        for connection in list(made.far.server.connections.values()):
            made.far.server.drop(connection, "the test says so")
        pongs = []
        with trio.fail_after(5):
            while not pongs:
                with contextlib.suppress(CloudError):
                    pongs.append((await made.echo.ping("far", b"b"))[1])
        assert pongs == [b"pong of b"]


@pytest.mark.parametrize(
    "who", [BOSS, BOSS.by("near"), Who("node near", None), Who("node far", None, node="near")]
)
async def test_only_nodes_may_open_the_file(who: Who) -> None:
    made: Any = Probe(Far(), None)
    with pytest.raises(CloudError) as failed:
        made.open(None, ORDWR, attach_as(who), None)
    assert failed.value.kind == "denied"
    assert made.open(None, ORDWR, attach_as(Who("node near", None, node="near")), None)


async def test_a_user_of_another_node_gets_no_key(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        at = attach(made.pool)
        with pytest.raises(CloudError) as failed:
            await settle(at.open(await settle(at.find(["net", "probe"])), ORDWR))
        assert failed.value.kind == "denied"
        assert not made.there._offers


def attach_as(who: Who) -> Any:
    class At:
        pass

    at: Any = At()
    at.who = who
    return at


async def test_nonsense_within_the_connection(tmp_path: Path) -> None:
    async with pair(tmp_path, udp=False) as made:
        at = attach(made.pool, Who("node near", None))
        handle = await settle(at.open(await settle(at.find(["net", "probe"])), ORDWR))
        for bad in (b"1234567", b"\0" * NUMBER + b"nonsense"):
            with pytest.raises(CloudError):
                await settle(handle.write(0, bad))
        await settle(handle.write(0, b"\0" * NUMBER))  # an answer to no pong
        assert made.answering.times == []
        await settle(handle.close())


def sealed(offered: str) -> Key:
    pairs = ndb.parse(offered)
    return Key(
        bytes.fromhex(pairs["id"]),
        datagrams.ChaCha20Poly1305(bytes.fromhex(pairs["key"])),
    )


class Wire:
    """A node that takes datagrams, without a network."""

    def __init__(self) -> None:
        self.far = Far()
        self.made = Datagrams(self.far)
        assert self.made.listen("127.0.0.1", 0)
        self.sent: list[bytes] = []
        self.made.send = lambda frame, address: self.sent.append(frame)  # type: ignore[method-assign]
        self.key = sealed(self.made.offer("near"))

    def take(self, frame: bytes) -> bool:
        return self.made._take(frame, 1e9, ("127.0.0.1", 1))

    def close(self) -> None:
        assert self.made._socket is not None
        self.made._socket.close()


@pytest.fixture
def wire() -> Any:
    made = Wire()
    yield made
    made.close()


def test_nothing_is_taken_twice_or_out_of_turn(wire: Wire) -> None:
    ping, answer = wire.key.seal(PING, 7, b"x"), wire.key.seal(ANSWER, 7, b"")
    assert not wire.take(answer)  # to a pong that was not sent
    assert wire.take(ping)
    assert not wire.take(ping)
    assert not wire.take(wire.key.seal(PING, 6, b"x"))
    assert wire.take(answer)
    assert not wire.take(answer)
    assert len(wire.sent) == len(wire.far.times) == 1
    assert len(wire.sent[0]) <= len(ping) + len(b"pong of ")


def test_what_is_not_sealed_with_the_key_has_no_reply(wire: Wire) -> None:
    other = Key(wire.key.id, datagrams.ChaCha20Poly1305(os.urandom(32)))
    good = wire.key.seal(PING, 1, b"x")
    assert not wire.take(other.seal(PING, 1, b"x"))
    assert not wire.take(wire.key.seal(PING, 1, b"nonsense"))
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 1
        assert not wire.take(bytes(changed))
    assert wire.sent == []
    assert wire.take(good)


@given(st.binary(max_size=datagrams.MOST))
def test_any_bytes(data: bytes) -> None:
    made = Wire()
    try:
        assert not made.take(data)
        assert not made.take(bytes([PING]) + made.key.id + data)
    finally:
        made.close()


def test_floods_are_not_answered(wire: Wire) -> None:
    taken = sum(wire.take(wire.key.seal(PING, n, b"x")) for n in range(1, 200))
    assert datagrams.BURST <= taken <= 2 * datagrams.BURST


def test_keys_are_bounded(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "OFFERS", 3)
    kept = [wire.made.offer("near") for _ in range(5)]
    assert len(wire.made._offers) == 3
    wire.made.withdraw(kept[0])
    wire.made.withdraw(kept[4])
    assert len(wire.made._offers) == 2


def test_a_pong_counts_once_and_from_where_it_was_asked_for(wire: Wire) -> None:
    asking = wire.made.ask("port=9 id=0011223344556677 key=" + "ab" * 32, "127.0.0.1")
    assert isinstance(asking, Asking)
    asking.waiting[1] = 1e9 - 0.5, trio.Event()
    pong = asking.key.seal(PONG, 1, b"here")
    assert not wire.take(pong)  # from port 1
    assert wire.made._take(pong, 1e9, ("127.0.0.1", 9))
    assert not wire.made._take(pong, 1e9 + 1, ("127.0.0.1", 9))
    assert asking.answers[1] == (0.5, b"here")
    assert not wire.made._take(asking.key.seal(PONG, 2, b"here"), 1e9, ("127.0.0.1", 9))


@pytest.mark.parametrize(
    "offered",
    ["", "x", "port=1", "port=0 id=0011223344556677 key=" + "ab" * 32,
     "port=9 id=00 key=" + "ab" * 32, "port=9 id=0011223344556677 key=ab", "port='"],
)  # fmt: skip
def test_offers_that_are_none(wire: Wire, offered: str) -> None:
    assert wire.made.ask(offered, "127.0.0.1") is None


def test_a_port_that_is_taken_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        made = Datagrams(Far())
        assert not made.listen("127.0.0.1", sock.getsockname()[1])
    assert made.offer("near") == ""
    assert "no datagrams" in caplog.text
