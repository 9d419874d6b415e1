"""Memory on its way, in numbered pieces: what is read is what was written, whatever fails."""

from __future__ import annotations

import random
import socket

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import stream
from cloudfs.kernel.stream import PIECE, Stream, fetch

LONG = random.Random(1).randbytes(3 * PIECE + 12345)


class Way:
    """A stream, what was read of it, and how reading fails: by the number of the attempt."""

    def __init__(self, fails: dict[int, str] | None = None) -> None:
        ours, theirs = socket.socketpair()
        self.stream = Stream(ours)
        self.theirs = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.found = bytearray()
        self.ended = 0
        self.asked = 0
        self.fails = fails or {}

    async def write(self, data: bytes) -> None:
        await self.theirs.send_all(data)
        await self.theirs.aclose()

    async def get(self, name: str) -> bytes:
        self.asked += 1
        kind = self.fails.get(self.asked)
        number = stream.number_of(name)
        assert number is not None
        piece = await self.stream.piece(number)
        if kind == "spoilt":
            return piece[:40] + bytes([piece[40] ^ 1]) + piece[41:]
        if kind:
            raise CloudError(kind, "on the way")  # it was made, and did not come
        return piece

    async def feed(self, data: bytes) -> None:
        self.found += data
        self.ended += not data

    async def run(self, data: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.write, data)
            assert await fetch(self.get, self.feed) == len(data)
        assert bytes(self.found) == data
        assert self.ended == 1
        self.stream.close()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, len(LONG)])
async def test_all_comes_in_order(size):
    await Way().run(LONG[:size])


async def test_a_piece_that_does_not_come_is_asked_for_again(autojump_clock):
    way = Way({1: "timeout", 2: "unreachable", 5: "pipe"})
    await way.run(LONG)
    assert way.asked > 4


@pytest.mark.parametrize("kind", ["spoilt", "absent", "denied"])
async def test_what_is_wrong_ends_it(kind):
    way = Way({2: kind})
    with pytest.raises((CloudError, ExceptionGroup)):
        await way.run(LONG)
    assert not way.ended
    way.stream.close()


async def test_a_writer_that_pauses_is_waited_for(autojump_clock):
    way = Way()

    async def slowly() -> None:
        for number in range(3):
            await trio.sleep(10)
            await way.theirs.send_all(b"%d" % number)
        await way.theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slowly)
        await fetch(way.get, way.feed)
    assert way.found == b"012"
    assert way.ended == 1
    way.stream.close()


async def test_a_piece_tells_in_time_that_more_will_come(autojump_clock):
    way = Way()
    assert stream.unpack(await way.stream.piece(0)) == (b"", False)
    assert trio.current_time() < 10  # which is when a request is given up
    await way.theirs.aclose()
    way.stream.close()


async def test_pieces_far_ahead_and_gone():
    way = Way()
    with pytest.raises(CloudError, match="far ahead"):
        await way.stream.piece(1000)
    await way.theirs.aclose()
    for number in range(stream.KEPT + 2):
        assert stream.unpack(await way.stream.piece(number)) == (b"", True)
    with pytest.raises(CloudError, match="is gone"):
        await way.stream.piece(0)
    way.stream.close()


@pytest.mark.parametrize("piece", [b"", b"+", b"x" * 80, stream.pack(b"abc", True)[1:]])
def test_what_is_no_piece(piece):
    with pytest.raises(CloudError) as error:
        stream.unpack(piece)
    assert error.value.kind == "proto"


def test_a_piece_cannot_unpack_to_more_than_one():
    with pytest.raises(CloudError):
        stream.unpack(stream.pack(bytes(PIECE * 64), False))


def test_names():
    assert stream.number_of("stream.17") == 17
    for name in ("stream.", "stream.-1", "stream.1x", "piece.0.1.ram", "stream.9999999999"):
        assert stream.number_of(name) is None
