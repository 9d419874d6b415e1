"""The server on real sockets: hostile clients, and a second one that must not notice."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest
import trio

from cloudfs.tree.api import NOBODY
from cloudfs.wire import connection as sending
from cloudfs.wire import jobs
from cloudfs.wire import server as module
from cloudfs.wire.connect import connect
from cloudfs.wire.trace import Trace
from tests.wire.serving import Raw, Serving, raw, serving


async def fine(client: Raw) -> None:
    """Another client is answered, with the right content."""
    with trio.fail_after(5):
        assert (await client.ask("Twalk", 0, 77, ["hello"]))[0] == "Rwalk"
        assert (await client.ask("Tlopen", 77, 0))[0] == "Rlopen"
        assert (await client.ask("Tread", 77, 0, 100))[1] == (b"hello, world\n",)
        assert (await client.ask("Tclunk", 77))[0] == "Rclunk"


async def gone(client: Raw) -> None:
    """The server has closed the connection."""
    with trio.fail_after(10), pytest.raises(EOFError):
        while True:
            await client.reply()


async def test_a_batch_is_answered_in_order() -> None:
    async with serving() as here, raw(here) as client:
        tags = range(200)
        await client.send(*(client.frame("Tgetattr", 0, 0, tag=tag) for tag in tags))
        assert [(await client.reply())[1] for _ in tags] == list(tags)


async def test_frames_in_pieces_hold_up_nobody() -> None:
    async with serving() as here, raw(here) as slow, raw(here) as other:
        frame = slow.frame("Twalk", 0, 1, ["dir", "a"])
        for index in range(len(frame)):
            await slow.send(frame[index : index + 1])
            await fine(other)
        assert (await slow.reply())[0] == "Rwalk"


@pytest.mark.parametrize("msize", [8192, 65536, 1 << 20])
async def test_much_data_both_ways(msize: int) -> None:
    async with serving() as here, raw(here, attach=False) as client:
        await client.attach(msize)
        await client.ask("Twalk", 0, 1, ["open"])
        await client.ask("Tlcreate", 1, "new", 0o102, 0o644, 0)
        data = os.urandom(msize - 24)
        assert (await client.ask("Twrite", 1, 0, data))[1] == (len(data),)
        await client.send(*(client.frame("Tread", 1, 0, len(data), tag=tag) for tag in range(20)))
        for tag in range(20):
            name, answered, (got,) = await client.reply()
            assert (name, answered) == ("Rread", tag)
            assert got == data


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 20, b"\xff" * 20])
async def test_garbage_ends_its_own_connection(noise: bytes) -> None:
    async with serving() as here, raw(here) as bad, raw(here) as other:
        await bad.send(noise)
        await gone(bad)
        await fine(other)
        assert len(here.server.connections) == 1
        assert len(here.closed) == 1


async def test_half_a_frame_is_waited_for_so_long() -> None:
    async with serving(frame_time=0.3) as here, raw(here) as bad, raw(here) as other:
        await bad.send(bad.frame("Tgetattr", 0, 0)[:9])
        await gone(bad)
        await fine(other)


async def test_a_slow_client_that_ends_its_frames_is_not_cut() -> None:
    async with serving(frame_time=0.3) as here, raw(here) as slow:
        frames = slow.frame("Tgetattr", 0, 0) * 12
        for at in range(0, len(frames), 19):  # a frame always ends, another always begins
            await slow.send(frames[at : at + 19])
            await trio.sleep(0.08)
        for _ in range(12):
            assert (await slow.reply())[0] == "Rgetattr"


async def test_a_client_that_never_reads_is_paused_and_cut() -> None:
    async with serving(stuck_time=0.5) as here, raw(here) as bad, raw(here) as other:
        await bad.open(1, "big")
        (connection, _) = here.server.connections.values()
        with trio.move_on_after(0.3):
            while True:
                await bad.send(bad.frame("Tread", 1, 0, 60000) * 50)
        assert connection.state == "stuck"
        assert connection.queued <= sending.MAX_QUEUE
        await fine(other)
        await here.until(lambda: connection.state == "closed")
        await fine(other)
        assert len(here.server.connections) == 1


async def test_a_client_that_reads_late_gets_everything() -> None:
    async with serving() as here, raw(here) as late:
        await late.open(1, "big")
        async with trio.open_nursery() as nursery:
            frames = [late.frame("Tread", 1, 0, 50000, tag=tag) for tag in range(100)]
            nursery.start_soon(late.send, *frames)
            (connection,) = here.server.connections.values()
            await here.until(lambda: connection.state == "stuck")
            for tag in range(100):
                name, answered, (data,) = await late.reply()
                assert (name, answered, len(data)) == ("Rread", tag, 50000)
        assert connection.state == "open"
        assert connection.queued == 0
        await fine(late)


async def test_answers_of_waiting_reads_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_QUEUE", 1 << 20)
    async with serving() as here, raw(here) as bad, raw(here) as other:
        await bad.open(1, "never")
        for tag in range(100, 200):
            await bad.send(bad.frame("Tread", 1, 0, 60000, tag=tag))
        await here.until(lambda: here.root.children["never"].waiting == 100)
        here.root.children["never"].feed(b"x" * 60000)
        await here.until(lambda: len(here.server.connections) == 1)
        await fine(other)


async def test_floods_of_fids_and_tags() -> None:
    async with serving() as here, raw(here) as bad, raw(here) as other:
        count = 5000

        async def flood() -> None:
            await bad.send(*(bad.frame("Twalk", 0, fid, []) for fid in range(1, count + 1)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(fine, other)
            got = [(await bad.reply())[::2] for _ in range(count)]
        assert got.count(("Rlerror", (errno.EMFILE,))) == count - 4095
        await bad.ask("Tclunk", 1)
        await bad.open(1, "never")
        await bad.send(*(bad.frame("Tread", 1, 0, 10, tag=tag) for tag in range(1000)))
        for _ in range(1000 - 256):
            assert (await bad.reply())[::2] == ("Rlerror", (errno.EAGAIN,))
        await fine(other)


async def test_a_client_that_vanishes_leaves_nothing() -> None:
    async with serving() as here, raw(here) as other:
        async with raw(here) as bad:
            await bad.open(1, "never")
            await bad.ask("Tlock", 1, 1, 0, 0, 0, 1, "client")
            await bad.send(*(bad.frame("Tread", 1, 0, 10, tag=tag) for tag in range(50)))
            await here.until(lambda: here.root.children["never"].waiting == 50)
        await here.until(lambda: here.root.children["never"].waiting == 0)
        await other.open(1, "never")
        assert (await other.ask("Tlock", 1, 1, 0, 0, 0, 1, "client"))[1] == (0,)
        await fine(other)
        assert here.closed == [here.spaces[1]]
        assert not here.server.jobs._scopes


async def test_rflush_comes_at_once_and_the_read_ends() -> None:
    async with serving() as here, raw(here) as client:
        await client.open(1, "never")
        await client.send(client.frame("Tread", 1, 0, 10, tag=5))
        await here.until(lambda: here.root.children["never"].waiting == 1)
        assert await client.ask("Tflush", 5, tag=6) == ("Rflush", ())
        await here.until(lambda: here.root.children["never"].waiting == 0)
        # A read and its flush in one batch: the job never gets to run at all.
        await client.send(client.frame("Tread", 1, 0, 10, tag=5), client.frame("Tflush", 5, tag=6))
        assert (await client.reply())[:2] == ("Rflush", 6)
        await fine(client)


async def test_a_read_that_waits_is_answered_when_there_is_something() -> None:
    async with serving() as here, raw(here) as client:
        await client.open(1, "never")
        await client.send(client.frame("Tread", 1, 0, 10, tag=5))
        await fine(client)
        here.root.children["never"].feed(b"at last")
        assert await client.reply() == ("Rread", 5, (b"at last",))


async def test_at_most_so_many_connections() -> None:
    async with serving(max_connections=3, max_of_one=2) as here:
        async with raw(here) as one, raw(here) as two:
            async with raw(here, attach=False) as three:
                await gone(three)
            async with await trio.open_tcp_stream("127.0.0.1", here.tcp.port) as stream:
                nobody = Raw(stream, "L")
                await nobody.attach()
                async with await trio.open_tcp_stream("127.0.0.1", here.tcp.port) as more:
                    await gone(Raw(more, "L"))
            await fine(one)
            await fine(two)
        await here.until(lambda: not here.server.connections)
        async with raw(here) as again:
            await fine(again)


async def test_tcp_proves_nobody() -> None:
    async with serving() as here, connect(str(here.tcp)) as client:
        (connection,) = here.server.connections.values()
        assert connection.who is NOBODY
        assert (await client.walk(["hello"])).qid
        file = await client.walk(["secret"])
        with pytest.raises(Exception, match="denied"):
            await file.open(0)


async def test_a_unix_socket_proves_the_user() -> None:
    async with serving() as here, raw(here):
        (connection,) = here.server.connections.values()
        assert connection.who.uid == os.geteuid()
        assert connection.who.boss


AS_SOMEBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(4321); os.setuid(4321)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(10); s.recv(1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")
async def test_a_unix_socket_proves_another_user() -> None:
    async with serving() as here:
        os.chmod(os.path.dirname(here.address), 0o755)
        command = [sys.executable, "-c", AS_SOMEBODY, here.address]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.run_process, command)
            await here.until(lambda: here.server.connections)
            (connection,) = here.server.connections.values()
            assert connection.who.uid == 4321
            assert not connection.who.boss
            here.server.drop(connection, "seen")


async def test_a_socket_can_be_handed_over() -> None:
    async with serving() as here:
        ours, theirs = socket.socketpair()
        assert here.server.adopt(theirs, NOBODY) is not None
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            client = Raw(stream, "9")
            await client.attach()
            assert (await client.ask("Twalk", 0, 1, ["hello"]))[0] == "Rwalk"


async def test_the_end_of_the_server_ends_everything() -> None:
    async with serving() as here:
        stream = await trio.open_unix_socket(here.address)
        client = Raw(stream, "L")
        await client.attach()
        await client.open(1, "never")
        await client.send(client.frame("Tread", 1, 0, 10))
        never = here.root.children["never"]
        await here.until(lambda: never.waiting == 1)
    await gone(client)
    await stream.aclose()
    assert never.waiting == 0
    assert here.closed == here.spaces
    assert not os.path.exists(here.address)


async def test_a_trace_shows_both_ways() -> None:
    trace = Trace()
    async with serving(trace=trace) as here, raw(here) as client:
        feed = trace.subscribe()
        await fine(client)
        feed.close()
        await fine(client)
        lines = feed.take()
        assert lines[:2] == [
            "1 <- Twalk tag 1 fid 0 newfid 77 wname 1 hello",
            "1 -> Rwalk tag 1 wqid 1 (1003610a686 0 -)",
        ]
        assert lines[4:] == [
            "1 <- Tread tag 1 fid 77 offset 0 count 100",
            "1 -> Rread tag 1 count 13",
            "1 <- Tclunk tag 1 fid 77",
            "1 -> Rclunk tag 1",
        ]


async def test_many_connections_at_once() -> None:
    async def one(here: Serving) -> None:
        async with raw(here) as client:
            for _ in range(5):
                await fine(client)

    async with serving() as here:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one, here)
        await here.until(lambda: not here.server.connections)
        assert len(here.closed) == 100


def test_naps_in_vain_become_rare() -> None:
    """After each the loop lets twice as many chances pass; one that was worth it ends that."""
    server = module.Server(lambda who: None)  # type: ignore[arg-type, return-value]
    asked: list[float] = []
    ready: list[tuple[int, int]] = []

    class Epoll:
        def poll(self, seconds: float, events: int) -> list[tuple[int, int]]:
            if seconds == 0:  # a nap begins with a look
                asked.append(seconds)
            return ready

    server._epoll = Epoll()
    for _ in range(1 + 1 + 1 + 3 + 1 + 7 + 1):
        assert server._nap() == []
    assert len(asked) == 4
    for _ in range(100_000):
        server._nap()
    assert len(asked) < 120
    ready.append((5, 1))
    while not server._nap():
        pass
    count = len(asked)
    assert server._nap() == server._nap() == ready
    assert len(asked) == count + 2
    server.jobs.todo.append(lambda: None)
    assert server._nap() == []


def test_what_is_left_of_buffers() -> None:
    out: list[bytes | memoryview] = [b"abc", memoryview(b"defg"), b"h"]
    for sent in range(9):
        assert b"".join(sending.after(out, sent)) == b"abcdefgh"[sent:]


def test_one_reason_in_groups() -> None:
    error = ValueError("x")
    assert jobs._only(ExceptionGroup("", [ExceptionGroup("", [error])])) is error
    both = ExceptionGroup("", [error, KeyError("y")])
    assert jobs._only(both) is both
