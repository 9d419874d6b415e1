"""Interrupts: what /proc says, the watch over what blocks, and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fuse import interrupt
from cloudfs.fuse.interrupt import Blocked, ended, interrupted, waits
from cloudfs.fuse.stale import mounted_at
from tests.fuse.conftest import SECONDS, Server, needs, python

STATUS = (
    "Name:\tcat\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nSigQ:\t0/96365\n"
    "SigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n"
)
masks = st.integers(0, (1 << 64) - 1)


def bit(number: int) -> int:
    return 1 << (number - 1)


MILD = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}


@given(masks, masks, masks, masks)
def test_a_signal_counts_unless_blocked_or_ignored_or_mild(
    own: int, shared: int, blocked: int, ignored: int
) -> None:
    text = STATUS.format(own, shared, blocked, ignored, 0).encode()
    expected = any(
        (own | shared) & bit(n) and not (blocked | ignored) & bit(n)
        for n in set(range(1, 65)) - MILD
    )
    assert interrupted(text) is expected


@pytest.mark.parametrize("number", sorted(MILD))
def test_a_mild_signal_alone_does_not_count(number: int) -> None:
    assert not interrupted(STATUS.format(0, bit(number), 0, 0, bit(number)).encode())


def test_what_is_no_status_interrupts_nothing() -> None:
    for text in (b"", b"Name:\tx\n", b"SigPnd:\t1\n", b"SigPnd:\t1\nShdPnd:\t0\nSigBlk:"):
        assert interrupted(text) is False


@given(st.binary())
def test_any_text_is_answered(text: bytes) -> None:
    for function in (interrupted, ended, waits):
        function(text)


def test_ended() -> None:
    assert ended(b"Name:\tcat\nState:\tZ (zombie)\n")
    assert not ended(b"Name:\tZ\nState:\tS (sleeping)\n")
    assert not ended(Path("/proc/self/status").read_bytes())


def test_waits() -> None:
    assert waits(b"request_wait_answer") is True
    assert waits(b"do_wait") is False
    assert waits(b"0") is None


async def test_nobody_takes_all_the_room() -> None:
    blocked = Blocked(room=4)
    with blocked.entry(os.getpid(), 1), blocked.entry(os.getpid(), 1):
        with pytest.raises(CloudError) as caught, blocked.entry(os.getpid(), 1):
            pass
        assert caught.value.kind == "again"
        with blocked.entry(os.getpid(), 2):
            assert len(blocked) == 3
    assert len(blocked) == 0
    with blocked.entry(os.getpid(), 1):
        assert len(blocked) == 1


async def test_the_end_of_a_process_interrupts(autojump_clock: trio.testing.MockClock) -> None:
    program = await trio.lowlevel.open_process(["true"])
    await program.wait()
    blocked = Blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocked.watch)
        for _ in range(2):  # the watch goes on after the first
            begun = trio.current_time()
            with pytest.raises(CloudError) as caught, blocked.entry(program.pid, 0):
                await trio.sleep(1000)
            assert caught.value.kind == "interrupted"
            assert trio.current_time() - begun < 1
        nursery.cancel_scope.cancel()


async def test_a_quiet_process_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    blocked = Blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocked.watch)
        for tid in (os.getpid(), 0):
            with blocked.entry(tid, 0):
                await trio.sleep(100)
        nursery.cancel_scope.cancel()


async def test_stop_ends_every_request() -> None:
    blocked = Blocked()
    kinds = []

    async def wait() -> None:
        try:
            with blocked.entry(os.getpid(), 0):
                await trio.sleep_forever()
        except CloudError as error:
            kinds.append(error.kind)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        blocked.stop()
    assert kinds == ["interrupted"] * 3


async def test_errors_of_the_body_come_through() -> None:
    with pytest.raises(CloudError, match="why"), Blocked().entry(os.getpid(), 0):
        raise CloudError("bad", "why")


# Real signals


def end(program: subprocess.Popen[str]) -> int:
    """The return code of a program that is to end soon; in state D it would not."""
    try:
        program.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        status = Path(f"/proc/{program.pid}/status").read_text()
        pytest.fail(f"it did not end: {status}")
    return program.returncode


def kill(*programs: subprocess.Popen[str]) -> None:
    for program in programs:
        program.kill()
    for program in programs:
        end(program)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL", "SIGUSR1"])
def test_a_signal_ends_a_blocked_reader(server: Server, name: str) -> None:
    other = server.start("cat", server.path("never"))
    reader = server.start("cat", server.path("never"))
    server.until_blocked(2)
    reader.send_signal(signal.Signals[name])
    assert end(reader) == -signal.Signals[name]
    server.until_blocked(1)
    assert other.poll() is None  # a second reader is not disturbed
    kill(other)


def test_a_handled_signal_is_eintr(server: Server) -> None:
    reader = server.start(
        *python(
            "import os, signal",
            "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))",
            f"fd = os.open({server.path('never')!r}, os.O_RDONLY)",
            "signal.siginterrupt(signal.SIGUSR1, True)",
            "os.read(fd, 100)",
        )
    )
    server.until_blocked(1)
    reader.send_signal(signal.SIGUSR1)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "handled\n"
    server.until_blocked(1)  # Python reads again after EINTR
    kill(reader)


@pytest.mark.parametrize("how", ["--ignore-signal=INT", "--block-signal=INT"])
def test_an_ignored_or_blocked_signal_does_not(server: Server, how: str) -> None:
    reader = server.start("env", how, "cat", server.path("never"))
    server.until_blocked(1)
    reader.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(interrupt.LOOK * 4)
    assert server.count("blocked") == 1
    kill(reader)


def test_the_end_of_another_child_does_not(server: Server) -> None:
    """A shell that catches SIGCHLD, as bash does, writes a verb while its jobs end."""
    writer = server.start(
        *python(
            "import ctypes, os, signal, subprocess",
            "signal.signal(signal.SIGCHLD, lambda *_: None)",
            "signal.siginterrupt(signal.SIGCHLD, False)",
            "child = subprocess.Popen(['sleep', '0.3'])",
            f"fd = os.open({server.path('stuck')!r}, os.O_WRONLY)",
            "ctypes.CDLL(None).write(fd, b'x', 1)",  # os.write would try again
        )
    )
    server.until_blocked(1)
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(0.3 + interrupt.LOOK * 4)
    assert server.count("blocked") == 1
    kill(writer)


def test_a_blocked_writer_can_be_killed(server: Server) -> None:
    writer = server.start("sh", "-c", f"exec /bin/echo x > {server.path('stuck')}")
    server.until_blocked(1)
    writer.terminate()
    assert end(writer) == -signal.SIGTERM


def test_a_blocked_lookup_can_be_killed(server: Server) -> None:
    looker = server.start("stat", server.path("remote", "gone"))
    server.until_blocked(1)
    looker.kill()
    assert end(looker) == -signal.SIGKILL


def test_threads_that_block_are_killed_with_their_process(server: Server) -> None:
    reader = server.start(
        *python(
            "import os, threading",
            f"fds = [os.open({server.path('never')!r}, os.O_RDONLY) for _ in range(3)]",
            "for fd in fds: threading.Thread(target=os.read, args=(fd, 9)).start()",
        )
    )
    server.until_blocked(3)
    reader.terminate()
    assert end(reader) == -signal.SIGTERM
    server.until_blocked(0)


@needs("sh")
def test_a_child_that_inherited_the_file(server: Server) -> None:
    """The shell opened it and waits for its child; the child reads and gets the signal."""
    shell = server.start("sh", "-c", f"exec 3<{server.path('never')}; cat <&3; echo ended $?")
    server.until_blocked(1)
    os.kill(child(shell.pid), signal.SIGINT)
    out, _ = shell.communicate(timeout=SECONDS)
    assert out == "ended 130\n"


def test_a_child_whose_parent_is_gone(server: Server) -> None:
    """Its read goes on, and it can be killed."""
    shell = server.start("sh", "-c", f"exec 3<{server.path('never')}; cat <&3 & echo $!")
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    shell.wait(SECONDS)
    server.until_blocked(1)
    time.sleep(interrupt.LOOK * 5)
    assert server.count("blocked") == 1
    os.kill(pid, signal.SIGTERM)
    server.until_blocked(0)
    shell.communicate(timeout=SECONDS)  # its pipes close with the last who has them


def child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_what_blocks_is_fed(fresh: Server) -> None:
    readers = [fresh.start("cat", fresh.path("never")) for _ in range(20)]
    fresh.until_blocked(20)
    fresh.write("here\n", "feed")
    for reader in readers:
        out, _ = reader.communicate(timeout=SECONDS)
        assert out == "here\n"
    assert fresh.count("blocked") == 0


def test_others_work_while_many_block(server: Server) -> None:
    """More than pyfuse3 has workers to begin with, and they come and go."""
    readers = [server.start("cat", server.path("never")) for _ in range(40)]
    server.until_blocked(40)
    assert server.read("hello") == "hello, world\n"
    kill(*readers)
    server.until_blocked(0)
    assert server.read("hello") == "hello, world\n"


def test_a_reader_in_another_mount_is_not_taken_for_ours(server: Server, fresh: Server) -> None:
    """Mounts number their files alike: only our reader may be found."""
    readers = [one.start("cat", one.path("never")) for one in (server, fresh)]
    server.until_blocked(1)
    fresh.until_blocked(1)
    inos = [one.call(os.stat, one.path("never")).st_ino for one in (server, fresh)]
    for one, reader, ino in zip((server, fresh), readers, inos, strict=True):
        found = mounted_at(one.dir)
        assert found is not None
        assert interrupt.find_waiting(inos, found.device) == {ino: reader.pid}
    kill(*readers)
