"""Trains of datagrams: what two honest nodes measure, and what a hostile one cannot do."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.train import CAR, LONGEST
from cloudfs.wire import datagrams, trains
from cloudfs.wire.datagrams import Datagrams
from cloudfs.wire.imports import Pool
from cloudfs.wire.trains import KIND_CAR, KIND_GOT, KIND_SEND, Key, Trains

HOST = "127.0.0.1"


def node() -> Trains:
    return Trains("n1", Pool(None, lambda name: None), Datagrams(Nobody()))


def told(answer: bytes) -> tuple[bytes, bytes, tuple[int, ...]]:
    """Proof, cookie and stamps of an answer to a train."""
    *_, count, _ = trains._HEAD.unpack_from(answer)
    text = answer[trains._HEAD.size : -8]
    return text[:8], text[8:16], struct.unpack(f">{count}I", text[16:])


class Nobody:
    """Answers no probes."""

    def pong(self, ping: bytes) -> bytes:
        raise CloudError("bad", "no pings here")

    def answered(self, node: str, ping: bytes, seconds: float) -> None:
        raise AssertionError


@asynccontextmanager
async def running(*all: Trains, whole: bool = False) -> AsyncIterator[None]:
    """Let them run.  whole: whether trains leave whole, which loopback never cuts up."""
    async with trio.open_nursery() as nursery:
        for one in all:
            one._datagrams._cuts = whole
            assert one._datagrams.listen(HOST, 0)
            nursery.start_soon(one._datagrams.run)
            await nursery.start(one.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger() -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((HOST, 0))
        yield sock


def session(here: Trains, name: str = "n2") -> tuple[Key, tuple[str, int]]:
    """A session that was handed over: its key and where it is."""
    pairs = ndb.parse(here.offer(name))
    key = Key(bytes.fromhex(pairs["id"]), bytes.fromhex(pairs["key"]))
    return key, (HOST, int(pairs["port"]))


async def hears(sock: trio.socket.SocketType, seconds: float = 0.3) -> list[bytes]:
    """All that comes until nothing does for so long."""
    found = []
    while True:
        with trio.move_on_after(seconds) as waited:
            found.append(await sock.recv(2000))
        if waited.cancelled_caught:
            return found


async def test_a_train_goes_there_and_another_back() -> None:
    one, other = node(), node()
    async with running(one, other):
        offered = other.offer("n1")
        with one.asking(offered, HOST) as asking:
            for length in (1, 8, LONGEST):
                found = await asking.send(length, 5)
                assert found is not None
                seconds, stamps, proved = found
                assert proved
                assert len(stamps) == length
                assert stamps == sorted(stamps)
                assert stamps[0] == 0
                assert 0 < stamps[-1] + 1e-9 <= seconds
                back = await asking.fetch(length, 5)
                assert len(back) == length
                assert back == sorted(back)
        other.withdraw(offered)
        assert one._datagrams.refused == other._datagrams.refused == 0
        assert other._sessions == one._asking == {}


async def test_where_the_kernel_does_not_cut_they_go_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datagrams, "UDP_SEGMENT", 9999)
    one, other = node(), node()
    async with running(one, other, whole=True):
        with one.asking(other.offer("n1"), HOST) as asking:
            found = await asking.send(LONGEST, 5)
            assert found is not None
            assert len(found[1]) == LONGEST
            assert not one._datagrams._cuts


async def test_the_kernel_cuts_a_train_that_leaves_whole() -> None:
    one, other = node(), node()
    async with running(one, other, whole=True):
        with one.asking(other.offer("n1"), HOST) as asking:
            found = await asking.send(LONGEST, 5)
            assert found is not None
            assert len(found[1]) == LONGEST
            assert found[2]
            assert one._datagrams._cuts


async def test_without_an_answer_there_is_none() -> None:
    one, other = node(), node()
    async with running(one, other), stranger() as silent:
        pairs = ndb.parse(other.offer("n1"))
        pairs["port"] = str(silent.getsockname()[1])
        with one.asking(ndb.record(pairs), HOST) as asking:
            assert await asking.send(4, 0.1) is None
            assert await asking.fetch(4, 0.1) == []
        assert one._asking == {}


@pytest.mark.parametrize(
    "offered",
    [
        "",
        "x",
        "port=1",
        "port=0 id=0011223344556677 key=00",
        "port=70000 id=x key=y",
        "port=-1 id= key=",
    ],
)
async def test_an_offer_that_is_none_is_refused(offered: str) -> None:
    one = node()
    async with running(one):
        with pytest.raises(CloudError, match="no session") as caught, one.asking(offered, HOST):
            pass
        assert caught.value.kind == "proto"


async def test_a_node_without_datagrams_offers_nothing() -> None:
    with pytest.raises(CloudError) as caught:
        node().offer("n1")
    assert caught.value.kind == "unsupported"


async def test_sessions_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    here = node()
    async with running(here):
        here.offer("n1")
        with pytest.raises(CloudError, match="just now") as caught:
            here.offer("n1")
        assert caught.value.kind == "again"
        for n in range(trains.SESSIONS - 1):
            here.offer(f"other{n}")
        with pytest.raises(CloudError):
            here.offer("one more")
        here._sessions.clear()
        here.offer("one more")
        monkeypatch.setattr(trains, "EACH_MINUTE", trains.SESSIONS + 1)
        here._sessions.clear()
        with pytest.raises(CloudError):
            here.offer("too often in all")


async def test_trains_are_sent_only_to_who_had_an_answer_there() -> None:
    here = node()
    async with running(here), stranger() as one, stranger() as victim:
        key, at = session(here)
        # Without a cookie, and with a wrong one.
        await one.sendto(key.frame(KIND_SEND, 1, 0, 10, bytes(8)), at)
        assert await hears(one) == []
        await one.sendto(key.train(1, 1, b"12345678")[0], at)
        (answer,) = await hears(one)
        assert answer[0] == KIND_GOT
        assert len(answer) < CAR
        proof, cookie = told(answer)[:2]
        assert proof == b"12345678"
        # The cookie is of no use from elsewhere, which is as good as a forged address.
        await victim.sendto(key.frame(KIND_SEND, 2, 0, 10, cookie), at)
        assert await hears(victim) == []
        await one.sendto(key.frame(KIND_SEND, 2, 0, 10, cookie), at)
        cars = await hears(one)
        assert [len(car) for car in cars] == [CAR] * 10
        # Nor can the same be asked for twice.
        await one.sendto(key.frame(KIND_SEND, 2, 0, 10, cookie), at)
        assert await hears(one) == []
        assert here._datagrams.refused == 3


async def test_no_more_is_sent_than_a_measurement_needs() -> None:
    here = node()
    async with running(here), stranger() as one:
        key, at = session(here)
        await one.sendto(key.train(1, 1, bytes(8))[0], at)
        (answer,) = await hears(one)
        cookie = told(answer)[1]
        for number in range(2, 40):
            await one.sendto(key.frame(KIND_SEND, number, 0, LONGEST, cookie), at)
        got = await hears(one)
        assert 0 < len(got) <= trains.ROOM
        await one.sendto(key.frame(KIND_SEND, 99, 0, LONGEST + 1, cookie), at)
        assert await hears(one) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda car: car[:20],
        lambda car: b"",
        lambda car: bytes(CAR),
        lambda car: car[:25] + bytes([car[25] ^ 1]) + car[26:],  # the tag's
        lambda car: car[:12] + b"\xff\xff" + car[14:],  # the length's
        lambda car: bytes([77]) + car[1:],
    ],
)
async def test_who_has_no_key_gets_no_answer(spoil: Callable[[bytes], bytes]) -> None:
    here = node()
    async with running(here), stranger() as one:
        key, at = session(here)
        await one.sendto(spoil(key.train(1, 1, bytes(8))[0]), at)
        assert await hears(one) == []
        assert here._datagrams.refused == 1
        # And after the session's end not even who has.
        car = key.train(1, 1, bytes(8))[0]
        await one.sendto(car, at)
        assert len(await hears(one)) == 1
        here._sessions.clear()
        await one.sendto(key.train(2, 1, bytes(8))[0], at)
        assert await hears(one) == []


async def test_a_train_that_lost_its_end_is_answered_without_proof() -> None:
    here = node()
    async with running(here), stranger() as one:
        key, at = session(here)
        for car in key.train(1, 20, b"12345678")[:12]:
            await one.sendto(car, at)
            await trio.sleep(0.001)
        (answer,) = await hears(one, 1.0)
        proof, _, stamps = told(answer)
        assert len(stamps) == 12
        assert stamps[-1] * trains.TICK > 0.01
        assert proof == bytes(8)
        # What comes late, or again, changes nothing.
        await one.sendto(key.train(1, 20, bytes(8))[19], at)
        assert await hears(one) == []


async def test_a_car_beyond_the_end_of_its_train_is_refused() -> None:
    here = node()
    async with running(here), stranger() as one:
        key, at = session(here)
        for number, length in ((5, 5), (9, 5), (0, 0), (0, LONGEST + 1)):
            await one.sendto(key.frame(KIND_CAR, 1, number, length, bytes(8)), at)
        assert await hears(one, 2 * trains.QUIET) == []
        assert here._datagrams.refused == 4
        await one.sendto(key.train(1, 1, bytes(8))[0], at)
        assert len(await hears(one)) == 1
