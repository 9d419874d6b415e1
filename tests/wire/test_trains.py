"""Trains of datagrams: what two honest nodes measure, and what a hostile one cannot do."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.bandwidth import CAR, CAR_ON_WIRE, LONGEST, MOST
from cloudfs.wire import trains
from cloudfs.wire.trains import KIND_GOT, KIND_SEND, Key, Trains

HOST = "127.0.0.1"


@asynccontextmanager
async def running(*all: Trains, whole: bool = False) -> AsyncIterator[None]:
    """Let them run.  whole: whether trains leave whole, which loopback never cuts up."""
    for one in all:
        one._cuts = whole
    async with trio.open_nursery() as nursery:
        for one in all:
            assert one.listen(HOST)
            await nursery.start(one.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger() -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((HOST, 0))
        yield sock


def session(node: Trains, name: str = "n2") -> tuple[Key, tuple[str, int]]:
    """A session that was handed over: its key and where it is."""
    pairs = ndb.parse(node.offer(name))
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


async def test_both_ways_are_measured_with_less_than_a_megabyte() -> None:
    one, other = Trains(), Trains()
    async with running(one, other):
        offered = other.offer("n1")
        found = await one.measure(offered, HOST)
        other.withdraw(offered)
        assert found.there is not None
        assert found.back is not None
        for rate in (found.there, found.back):
            assert 1e6 < rate.value < 1e11  # loopback has no rate of its own
            assert rate.error > 0
        assert found.sent < 1e6
        assert one.refused == other.refused == 0
        assert other._sessions == one._asking == {}


async def test_where_the_kernel_does_not_cut_they_go_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trains, "UDP_SEGMENT", 9999)
    one, other = Trains(), Trains()
    async with running(one, other, whole=True):
        found = await one.measure(other.offer("n1"), HOST)
        assert found.there is not None
        assert found.back is not None
        assert not one._cuts


async def test_a_train_that_comes_all_at_once_tells_no_rate() -> None:
    one, other = Trains(), Trains()
    async with running(one, other, whole=True):
        found = await one.measure(other.offer("n1"), HOST)
        assert (found.there, found.back) == (None, None)
        assert one._cuts


async def test_nothing_that_comes_through_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trains, "PATIENCE", 0.05)
    monkeypatch.setattr(trains, "KNOWN", 0.05)
    one, other = Trains(), Trains()
    async with running(one, other), stranger() as silent:
        pairs = ndb.parse(other.offer("n1"))
        pairs["port"] = str(silent.getsockname()[1])
        with pytest.raises(CloudError, match="no datagram came through") as caught:
            await one.measure(ndb.record(pairs), HOST)
        assert caught.value.kind == "unreachable"
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
    one = Trains()
    async with running(one):
        with pytest.raises(CloudError, match="no session") as caught:
            await one.measure(offered, HOST)
        assert caught.value.kind == "proto"


async def test_a_node_without_datagrams_offers_nothing() -> None:
    with pytest.raises(CloudError) as caught:
        Trains().offer("n1")
    assert caught.value.kind == "unsupported"


async def test_sessions_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Trains()
    async with running(node):
        node.offer("n1")
        with pytest.raises(CloudError, match="just now") as caught:
            node.offer("n1")
        assert caught.value.kind == "again"
        for n in range(trains.SESSIONS - 1):
            node.offer(f"other{n}")
        with pytest.raises(CloudError):
            node.offer("one more")
        node._sessions.clear()
        node.offer("one more")
        monkeypatch.setattr(trains, "EACH_MINUTE", trains.SESSIONS + 1)
        node._sessions.clear()
        with pytest.raises(CloudError):
            node.offer("too often in all")


async def test_trains_are_sent_only_to_who_had_an_answer_there() -> None:
    node = Trains()
    async with running(node), stranger() as one, stranger() as victim:
        key, at = session(node)
        # Without a cookie, and with a wrong one.
        await one.sendto(key.frame(KIND_SEND, 1, 0, 10, bytes(8)), at)
        assert await hears(one) == []
        await one.sendto(key.train(1, 1, b"12345678")[0], at)
        (answer,) = await hears(one)
        assert answer[0] == KIND_GOT
        assert len(answer) < CAR
        *_, proof, cookie = trains._GOT.unpack_from(answer, trains._HEAD.size)
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
        assert node.refused == 3


async def test_no_more_is_sent_than_a_measurement_needs() -> None:
    node = Trains()
    async with running(node), stranger() as one:
        key, at = session(node)
        await one.sendto(key.train(1, 1, bytes(8))[0], at)
        (answer,) = await hears(one)
        cookie = trains._GOT.unpack_from(answer, trains._HEAD.size)[3]
        for number in range(2, 40):
            await one.sendto(key.frame(KIND_SEND, number, 0, LONGEST, cookie), at)
        got = await hears(one)
        assert 0 < len(got) * CAR_ON_WIRE <= MOST + trains.PINGS * CAR_ON_WIRE
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
    node = Trains()
    async with running(node), stranger() as one:
        key, at = session(node)
        await one.sendto(spoil(key.train(1, 1, bytes(8))[0]), at)
        assert await hears(one) == []
        assert node.refused == 1
        # And after the session's end not even who has.
        car = key.train(1, 1, bytes(8))[0]
        await one.sendto(car, at)
        assert len(await hears(one)) == 1
        node._sessions.clear()
        await one.sendto(key.train(2, 1, bytes(8))[0], at)
        assert await hears(one) == []


async def test_a_train_that_lost_its_end_is_answered_without_proof() -> None:
    node = Trains()
    async with running(node), stranger() as one:
        key, at = session(node)
        for car in key.train(1, 20, b"12345678")[:12]:
            await one.sendto(car, at)
            await trio.sleep(0.001)
        (answer,) = await hears(one, 1.0)
        assert trains._HEAD.unpack_from(answer)[3] == 12
        cars, nanoseconds, proof, _ = trains._GOT.unpack_from(answer, trains._HEAD.size)
        assert 0 < cars < 12
        assert nanoseconds > 1e6
        assert proof == bytes(8)
        # What comes late, or again, changes nothing.
        await one.sendto(key.train(1, 20, bytes(8))[19], at)
        assert await hears(one) == []


class Liar(Trains):
    """Says that all came at once, and has it that way without the last car as well."""

    def _answer(self, session, arriving, address):  # type: ignore[no-untyped-def]
        if session.arriving is not arriving:
            return
        session.arriving, session.address, session.cookie = None, address, b"cookie78"
        data = trains._GOT.pack(arriving.length - 1, 5000, arriving.proof, session.cookie)
        frame = session.key.frame(KIND_GOT, arriving.number, arriving.length, arriving.length, data)
        self._send(frame, address)


class Slow(Trains):
    """Sends its trains over a slow link: each car so many seconds after the one before."""

    gap = 0.003

    def _send_all(self, cars, address):  # type: ignore[no-untyped-def]
        async def one_by_one() -> None:
            for car in cars:
                self._send(car, address)
                await trio.sleep(self.gap)

        assert self._nursery is not None
        self._nursery.start_soon(one_by_one)


async def test_what_a_node_claims_is_bounded_by_the_senders_clock() -> None:
    one, liar = Slow(), Liar()
    async with running(one, liar):
        found = await one.measure(liar.offer("n1"), HOST)
        true = CAR_ON_WIRE / Slow.gap
        assert found.there is not None
        assert 0.5 * true < found.there.value < 1.4 * true  # not 2,500 times as much
        assert found.there.error > 100 * true  # and it shows that it was cut


async def test_a_node_that_never_had_the_end_tells_nothing() -> None:
    class Guesser(Liar):
        def _answer(self, session, arriving, address):  # type: ignore[no-untyped-def]
            if arriving.length > 1:
                arriving.proof = b"guessed!"
            super()._answer(session, arriving, address)

    one, liar = Trains(), Guesser()
    async with running(one, liar):
        found = await one.measure(liar.offer("n1"), HOST)
        assert found.there is None
        assert found.back is not None
