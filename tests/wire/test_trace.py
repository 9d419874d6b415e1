"""Messages as lines."""

from __future__ import annotations

import pytest
import trio

from cloudfs.wire.codec import codec
from cloudfs.wire.trace import KEEP, MAX_FEEDS, Trace

L = codec("L")


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (L.encode["Tread"](3, 5, 0, 8192), "Tread tag 3 fid 5 offset 0 count 8192"),
        (L.encode["Rread"](3, b"secret"), "Rread tag 3 count 6"),
        (L.encode["Twrite"](3, 5, 9, b"secret"), "Twrite tag 3 fid 5 offset 9 count 6"),
        (L.encode["Twalk"](1, 0, 1, ["a b", ""]), "Twalk tag 1 fid 0 newfid 1 wname 2 'a b' ''"),
        (L.encode["Twalk"](1, 0, 1, ["a\nb"]), r"Twalk tag 1 fid 0 newfid 1 wname 1 a\nb"),
        (L.encode["Rwalk"](1, [(0x80, 2, 255)]), "Rwalk tag 1 wqid 1 (ff 2 d)"),
        (
            L.encode["Tattach"](1, 0, 0xFFFFFFFF, "u", "", 0),
            "Tattach tag 1 fid 0 afid nofid uname u aname '' n_uname 0",
        ),
        (L.encode["Rlerror"](1, 2), "Rlerror tag 1 ecode 2"),
        (b"\x07\0\0\0\xff\1\0", "7 bytes that are no message: 9P2000.L has no message number 255"),
    ],
)
def test_lines(frame: bytes, line: str) -> None:
    trace = Trace()
    feed = trace.subscribe()
    trace.frame("9", "<-", L, frame)
    assert feed.take() == [f"9 <- {line}"]


def test_nothing_is_done_for_nobody() -> None:
    trace = Trace()
    assert not trace.on
    one, two = trace.subscribe(), trace.subscribe()
    assert trace.on
    one.close()
    trace.frame("9", "->", L, L.encode["Rclunk"](1))
    assert (one.take(), two.take()) == ([], ["9 -> Rclunk tag 1"])
    two.close()
    two.close()
    assert not trace.on


def test_a_slow_reader_loses_the_oldest() -> None:
    trace = Trace()
    feed = trace.subscribe()
    for tag in range(KEEP + 3):
        trace.frame("9", "->", L, L.encode["Rclunk"](tag))
    lines = feed.take()
    assert (len(lines), lines[0], feed.lost) == (KEEP, "9 -> Rclunk tag 3", 3)


def test_so_many_readers() -> None:
    trace = Trace()
    feeds = [trace.subscribe() for _ in range(MAX_FEEDS + 1)]
    trace.frame("9", "->", L, L.encode["Rclunk"](1))
    assert [len(feed.take()) for feed in feeds] == [0] + [1] * MAX_FEEDS


async def test_waiting_for_a_line() -> None:
    trace = Trace()
    feed = trace.subscribe()
    with trio.move_on_after(0.01) as scope:
        await feed.wait()
    assert scope.cancelled_caught
    trace.frame("9", "->", L, L.encode["Rclunk"](1))
    await feed.wait()
    assert len(feed.take()) == 1
    with trio.move_on_after(0.01) as scope:
        await feed.wait()
    assert scope.cancelled_caught
