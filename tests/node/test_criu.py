"""What criu makes of real objects: they go on elsewhere, and not a byte is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.node import criu
from cloudfs.node.api import Image, Limits
from cloudfs.node.running import Kept
from cloudfs.wait import settle
from tests.node.conftest import Bench, need

RUNTIMES = ("process", "sandbox")


@pytest.fixture(autouse=True)
def _criu(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("criu needs root")
    need("" if criu.program(tmp_path) else "there is no criu; see bin/test")


def runs(bench: Bench, runtime: str) -> None:
    need(bench.host.sandbox.word if runtime == "sandbox" else "")


async def dumped(bench: Bench, running: Kept, name: str = "image") -> Image:
    """An image of it, which stays frozen."""
    images = bench.state / f"{name}-{running.dir.name}"
    images.mkdir()
    await running.dump(images)
    return Image(images, 1.0)


async def ended(running: Kept) -> None:
    running.kill("moved")
    await running.ended()


async def until(bench: Bench, id: str, text: bytes) -> bytes:
    """Its output once that is in it."""
    with trio.fail_after(20):
        while text not in (out := bench.out(id)):
            await trio.sleep(0.01)
    return out


async def moved(bench: Bench, id: str, running: Kept, runtime: str, **more: object) -> Kept:
    """The same object, after its processes were dumped, killed and restored."""
    image = await dumped(bench, running, f"image{running.pid}")
    await ended(running)
    return await bench.host.restore(bench.launch(id, "sh", runtime=runtime, **more), image)


COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_counter_goes_on_again_and_again(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    running = await bench.sh("count", COUNT, runtime=runtime)
    for wanted in (b"5\n", b"25\n", b"45\n"):
        await until(bench, "count", wanted)
        running = await moved(bench, "count", running, runtime)
    await until(bench, "count", b"60\n")
    await ended(running)
    lines = bench.out("count").decode().split()
    assert lines == [str(number) for number in range(len(lines))]
    assert not bench.out("count", "stderr")


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_many_go_on_at_the_same_time(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    images = {}
    for name in ("one", "two", "three", "four", "five", "six"):
        running = await bench.sh(name, COUNT, runtime=runtime)
        await until(bench, name, b"3\n")
        images[name] = await dumped(bench, running)
        await ended(running)
    failed: list[CloudError] = []

    async def again(name: str) -> None:
        try:
            launch = bench.launch(name, "sh", runtime=runtime)
            running = await bench.host.restore(launch, images[name])
        except CloudError as error:
            failed.append(error)
        else:
            await until(bench, name, b"\n30\n")
            await ended(running)

    async with trio.open_nursery() as nursery:
        for name in images:
            nursery.start_soon(again, name)
    assert not [error.why for error in failed]


async def test_one_that_starts_while_others_are_restored_sees_nothing_of_them(bench: Bench) -> None:
    runs(bench, "sandbox")
    running = await bench.sh("secret", COUNT, runtime="sandbox")
    over = trio.Event()
    seen: dict[str, list[str]] = {}

    async def start(name: str) -> None:
        while not over.is_set():
            script = "cat /proc/self/mountinfo; echo all; sleep 60"
            one = await bench.sh(name, script, runtime="sandbox")
            text = await until(bench, name, b"all\n")
            seen.setdefault(name, []).extend(x for x in text.decode().split() if "secret" in x)
            await ended(one)
            bench.host.discard(name, bench.dir(name))

    async with trio.open_nursery() as nursery:
        for name in ("one", "two", "three"):
            nursery.start_soon(start, name)
        for _ in range(5):
            running = await moved(bench, "secret", running, "sandbox")
        over.set()
    await ended(running)
    assert seen == {"one": [], "two": [], "three": []}


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_the_dump_leaves_it_frozen_and_it_can_go_on(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    running = await bench.sh("still", COUNT, runtime=runtime)
    await until(bench, "still", b"3\n")
    image = await dumped(bench, running)
    size = len(bench.out("still"))
    assert criu.load(image.dir).stdout == size
    await trio.sleep(0.2)
    assert len(bench.out("still")) == size
    running.thaw()
    await until(bench, "still", b"30\n")
    await ended(running)


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_children_pipes_files_timers_and_threads(bench: Bench, runtime: str) -> None:
    """One of each, all at work when it is moved."""
    runs(bench, runtime)
    where = "/work" if runtime == "sandbox" else str(bench.state)
    program = f"""
import os, signal, subprocess, sys, threading, time
os.chdir({where!r})
log, plain = open("log", "a"), open("plain", "w+")
deleted = open("deleted", "w+"); deleted.write("kept"); deleted.flush(); os.unlink("deleted")
plain.write("one "); plain.flush()
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
got = []
signal.signal(signal.SIGALRM, lambda *a: got.append("alarm"))
signal.signal(signal.SIGUSR1, lambda *a: got.append("usr1"))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
beats = []
def beat():
    while len(beats) < 200:
        beats.append(1); time.sleep(0.01)
thread = threading.Thread(target=beat); thread.start()
signal.setitimer(signal.ITIMER_REAL, 1.0)
child.stdin.write(b"through a pipe"); child.stdin.flush()
log.write("before "); log.flush()
memory = os.urandom(1 << 20)
print("ready", hash(memory), flush=True)
line = sys.stdin.readline()
child.stdin.close()
plain.write("two"); plain.flush(); plain.seek(0)
log.write("after"); log.close(); deleted.seek(0)
thread.join()
while "alarm" not in got: time.sleep(0.01)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
print(line.strip(), child.stdout.read().decode(), child.wait(), open("log").read(), plain.read(),
      deleted.read(), len(beats), sorted(got), hash(memory), flush=True)
sys.exit(7)
"""
    running = await bench.start("all", "python3", "-c", program, runtime=runtime)
    out = await until(bench, "all", b"ready")
    number = out.split()[1].decode()
    running = await moved(bench, "all", running, runtime)
    assert running.write_stdin(b"go\n") == 3
    with trio.fail_after(20):
        end = await running.ended()
    assert bench.out("all", "stderr") == b""
    assert bench.out("all").decode().splitlines()[1] == (
        f"go through a pipe 0 before after one two kept 200 ['alarm', 'usr1'] {number}"
    )
    assert (end.code, end.signal) == (7, None)


SERVER = """
import os, signal, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
signal.signal(signal.SIGUSR1, lambda *_: None)
print(listener.getsockname()[1], flush=True)
found, _ = listener.accept()
print("accepted", flush=True)
signal.pause()
while True:
    found, _ = listener.accept()
    found.sendall(b"hello")
    found.close()
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_server_listens_on_and_loses_its_connections(bench: Bench, runtime: str) -> None:
    """Those that it has, and those that it has not accepted yet."""
    runs(bench, runtime)
    running = await bench.sh("server", f"exec python3 -c '{SERVER}'", runtime=runtime)
    await until(bench, "server", b"\n")
    place = ("127.0.0.1", int(bench.out("server")))
    with contextlib.ExitStack() as clients:
        for number in range(5):  # one after the other, and only the first is accepted
            clients.enter_context(socket.create_connection(place, timeout=10))
            if not number:
                await until(bench, "server", b"accepted")
        running = await moved(bench, "server", running, runtime)
    running.signal(signal.SIGUSR1)
    with socket.create_connection(place, timeout=10) as client:
        assert client.recv(100) == b"hello"
    await ended(running)


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_what_stdin_holds_goes_along(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    script = "echo up; until [ -e %s/go ]; do sleep 0.02; done; exec cat"
    where = "/work" if runtime == "sandbox" else str(bench.state)
    running = await bench.sh("in", script % where, runtime=runtime)
    await until(bench, "in", b"up")
    data = os.urandom(30000).hex().encode()
    assert await settle(running.write_stdin(data)) == len(data)
    running = await moved(bench, "in", running, runtime)
    rest = b"and more\n"
    assert await settle(running.write_stdin(rest)) == len(rest)
    running.close_stdin()
    place = bench.dir("in") / "work" if runtime == "sandbox" else bench.state
    (place / "go").touch()
    with trio.fail_after(20):
        assert (await running.ended()).code == 0
    assert bench.out("in") == b"up\n" + data + rest


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_closed_stdin_stays_closed(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    running = await bench.sh("shut", "echo up; sleep 0.5; cat; echo end", runtime=runtime)
    await until(bench, "shut", b"up")
    running.close_stdin()
    running = await moved(bench, "shut", running, runtime)
    with trio.fail_after(20):
        assert (await running.ended()).code == 0
    assert bench.out("shut") == b"up\nend\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_signals_limits_and_the_end_are_as_before(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    limits = Limits(time=600.0)
    trap = "trap 'echo trapped' USR1; echo up; while :; do sleep 0.02; done"
    running = await bench.sh("signal", trap, runtime=runtime, limits=limits)
    await until(bench, "signal", b"up")
    began = running.started
    running = await moved(bench, "signal", running, runtime, limits=limits)
    assert abs(running.started - began) < 20
    assert [pid for pid, _, _ in running.pids()] == sorted({pid for pid, _, _ in running.pids()})
    assert running.pid in {pid for pid, _, _ in running.pids()}
    running.signal(signal.SIGUSR1)
    await until(bench, "signal", b"trapped")
    running.freeze()
    size = len(bench.out("signal"))
    await trio.sleep(0.1)
    assert len(bench.out("signal")) == size
    running.thaw()
    found = bench.host.adopt("signal", bench.dir("signal"))  # as a new daemon would
    assert isinstance(found, Kept)
    assert found.pid == running.pid
    running.signal(signal.SIGTERM)
    with trio.fail_after(20):
        end = await running.ended()
    assert (end.code, end.signal) == (None, signal.SIGTERM)
    await found.ended()


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_the_time_limit_counts_from_the_first_start(bench: Bench, runtime: str) -> None:
    runs(bench, runtime)
    running = await bench.sh("limit", COUNT, runtime=runtime)
    await until(bench, "limit", b"2\n")
    image = await dumped(bench, running)
    await ended(running)
    launch = bench.launch("limit", "sh", runtime=runtime, limits=Limits(time=60.0))
    running = await bench.host.restore(launch, Image(image.dir, 59.8))
    with trio.fail_after(20):
        assert (await running.ended()).why == "time limit"


async def test_what_cannot_be_dumped_says_why_and_runs_on(bench: Bench) -> None:
    program = "\n".join(
        [
            "import ctypes, os, sys, time",
            "buf = ctypes.create_string_buffer(256)",
            "fd = ctypes.CDLL(None).syscall(425, 4, buf)",
            "print('ring' if fd >= 0 else 'none', flush=True)",
            "i = 0",
            "while True: print(i, flush=True); i += 1; time.sleep(0.02)",
        ]
    )
    running = await bench.start("ring", "python3", "-c", program)
    out = await until(bench, "ring", b"3\n")
    if not out.startswith(b"ring"):
        program = "this kernel has no io_uring"
    else:
        with pytest.raises(CloudError, match="io_uring"):
            await dumped(bench, running)
    await until(bench, "ring", b"30\n")
    await ended(running)


async def test_one_that_left_its_parent_is_told_of(bench: Bench) -> None:
    running = await bench.sh("left", "(setsid sleep 60 &) ; echo up; while :; do sleep 0.1; done")
    await until(bench, "left", b"up")
    image = bench.state / "image"
    image.mkdir()
    with pytest.raises(CloudError, match="left its parent"):
        await running.dump(image)
    await ended(running)


async def test_a_broken_image_is_refused_and_leaves_nothing(bench: Bench) -> None:
    running = await bench.sh("broken", COUNT)
    await until(bench, "broken", b"2\n")
    image = await dumped(bench, running)
    await ended(running)
    (image.dir / "pstree.img").write_bytes(b"nonsense")
    with pytest.raises(CloudError, match="cannot be restored"):
        await bench.host.restore(bench.launch("broken", "sh"), image)
    (image.dir / criu.STDIO).write_text("{}")
    with pytest.raises(CloudError, match="not whole"):
        await bench.host.restore(bench.launch("broken", "sh"), image)
    assert not bench.groups()


def test_reasons_tell_what_is_in_the_way() -> None:
    assert "io_uring" in criu.reason("Can't dump io_uring: x")
    assert criu.reason("") == "criu: gave no reason"
    told = {
        "unix: Dangling connection 6830225": "over a unix socket to a process outside",
        "tun: Net namespace is required to dump tun link": "a network tunnel of this node",
        "Can't open file run/own on restore: No such file or directory": "file /run/own is not",
        "File tmp/a has bad size 3 (expect 2)": "its file /tmp/a is another one there",
        "tty: Unable to open dev/ptmx with specified index 0": "its terminal is taken there",
    }
    for error, meaning in told.items():
        assert meaning in criu.reason(error)
        assert error in criu.reason(error)
    log = "(0.1) Error (criu/util.c:1): rlimit: no\n(0.2) Error (criu/a.c:2): the cause\n"
    assert criu.first_error(log) == "the cause"


def test_criu_takes_pids_far_from_those_it_gives() -> None:
    for pids in ([], [301], [1, 2, 3], list(range(290, 400)), [32000]):
        found = criu.free_pid(pids)
        assert found > 300
        assert not set(range(found, found + 50)) & set(pids)
