"""The factotum as a process: what it keeps to itself, what its files say, and when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import ORDWR, OREAD, OWRITE
from cloudfs.wire.connect import connect
from tests.factotum.town import Town

SECRET = "c0ffee" * 10 + "beef"  # a seed in hexadecimal
KEY = f"key proto=cap25519 dom=local user=ana epoch=1 root=02 !seed={SECRET}\n"


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


class Process:
    """A factotum that runs."""

    def __init__(self, *options: str) -> None:
        self.path = Path(tempfile.mkdtemp()) / "mine" / "sock"
        self.error = self.path.parent.parent / "stderr"
        with self.error.open("wb") as error:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cloudfs.factotumd", "--socket", str(self.path), *options],
                stdin=subprocess.DEVNULL,
                stdout=error,
                stderr=error,
            )
        until(lambda: self.process.poll() is not None or self.path.exists())

    def proc(self, name: str) -> bytes:
        return Path(f"/proc/{self.process.pid}/{name}").read_bytes()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    async def write(self, name: str, text: str) -> None:
        async with connect(f"unix:{self.path}") as client:
            async with await client.walk([name]) as file:
                await file.open(OWRITE)
                assert await file.write(0, text.encode()) == len(text)

    async def read(self, name: str) -> str:
        async with connect(f"unix:{self.path}") as client:
            async with await client.walk([name]) as file:
                await file.open(OREAD)
                return bytes(await file.read(0, 65536)).decode()

    def all(self) -> str:
        """What all its files say, one after the other."""

        async def read() -> str:
            names = ("ctl", "rpc", "proto", "confirm", "needkey", "log", "err", "help")
            return "".join([await self.read(name) for name in names])

        return trio.run(read)


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    """One that no test ends; each leaves it without keys."""
    made = Process()
    yield made
    made.close()


async def test_files_of_factotum(shared: Process) -> None:
    await shared.write("ctl", KEY)
    assert (await shared.read("ctl")) == KEY.replace(f"={SECRET}", "?")
    assert (await shared.read("proto")).split() == ["cap25519", "p9any"]
    assert "event=key proto=cap25519 dom=local user=ana" in await shared.read("log")
    assert "confirm" in await shared.read("help")
    for name in ("rpc", "confirm", "needkey", "err"):
        assert await shared.read(name) == "", "what is only looked at says nothing and ends"
    await shared.write("ctl", "delkey user=ana\n")
    assert await shared.read("ctl") == ""


def test_it_is_its_users_alone(shared: Process) -> None:
    assert shared.path.stat().st_mode & 0o777 == 0o600
    assert shared.path.parent.stat().st_mode & 0o777 == 0o700
    # What is not dumpable is root's in /proc, whoever runs it, and leaves no core.
    assert os.stat(f"/proc/{shared.process.pid}/environ").st_uid == 0
    status = dict(
        line.split(":\t", 1) for line in shared.proc("status").decode().splitlines() if "\t" in line
    )
    assert status.get("CoreDumping", "0").strip() == "0"
    assert status["NoNewPrivs"] == "1"
    limits = shared.proc("limits").decode().splitlines()
    (core,) = (line.split() for line in limits if line.startswith("Max core"))
    assert core[4:6] == ["0", "0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
def test_a_debugger_of_the_same_user_cannot_attach() -> None:
    """As nobody: of two processes alike, the one that is hardened is closed to a third."""
    code = (
        "import ctypes, os, subprocess, sys, time\n"
        "from cloudfs.factotumd.harden import harden\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.prctl(4, 1, 0, 0, 0)\n"  # as a program that this user started is
        "def child(hard):\n"
        "    r, w = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        if hard: harden()\n"
        "        os.write(w, b'x'); time.sleep(60); os._exit(0)\n"
        "    os.read(r, 1)\n"
        "    return pid\n"
        "found = []\n"
        "for hard in (False, True):\n"
        "    pid = child(hard)\n"
        "    attached = libc.ptrace(16, pid, None, None) == 0\n"
        "    if attached: os.waitpid(pid, 0)\n"
        "    try: open(f'/proc/{pid}/mem', 'rb').close(); memory = True\n"
        "    except OSError: memory = False\n"
        "    os.kill(pid, 9); os.waitpid(pid, 0)\n"
        "    found.append((attached, memory))\n"
        "print(found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[(True, True), (False, False)]", done.stderr


def test_no_secret_comes_out(process: Process) -> None:
    async def use() -> None:
        await process.write("ctl", KEY)
        for bad in (
            f"key proto=cap25519 user=ana '!seed={SECRET}\n",
            f"key proto=cap25519 !seed= {SECRET}\n",
            f"ky proto=cap25519 !seed={SECRET}\n",
            f"{SECRET}\n",
            f"delkey !seed={SECRET}\n",
            f"delkey {SECRET}\n",
            f"granted {SECRET}\n",
            f"login unix:/nowhere !seed={SECRET}\n",
        ):
            with pytest.raises(CloudError):
                await process.write("ctl", bad)
        async with connect(f"unix:{process.path}") as client:
            async with await client.walk(["rpc"]) as file:
                await file.open(ORDWR)
                for request in (b"start proto=p9any role=client", b"read", b"attr", b"authinfo"):
                    await file.write(0, request)
                    assert SECRET.encode() not in bytes(await file.read(0, 8192))

    trio.run(use)
    assert SECRET not in process.all()
    assert "no verb of a factotum" in process.all()
    for name in ("environ", "cmdline", "status", "maps"):
        assert SECRET.encode() not in process.proc(name)
    process.process.send_signal(signal.SIGABRT)  # what would leave a core elsewhere
    process.process.wait(20)
    assert SECRET.encode() not in process.error.read_bytes()
    left = [path for path in process.path.parent.parent.rglob("*") if path.is_file()]
    assert left == [process.error]


async def test_a_key_is_asked_for_in_needkey_until_it_comes(shared: Process) -> None:
    async with connect(f"unix:{shared.path}") as client:
        async with (
            await client.walk([".follow", "needkey"]) as follow,
            await client.walk(["rpc"]) as rpc,
        ):
            await follow.open(OREAD)
            await rpc.open(ORDWR)
            await rpc.write(0, b"start proto=p9any role=client user=ana")
            assert await rpc.read(0, 99) == b"ok"
            assert await rpc.read(2, 99) == b"", "an answer is read once"
            got: list[bytes] = []

            async def ask() -> None:
                got.append(bytes(await follow.read(0, 999)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await shared.read("needkey")
                assert got == [], "nothing was wanted yet"
                await rpc.write(7, b"read\n")
                assert bytes(await rpc.read(3, 99)).startswith(b"needkey user=ana")
            said = got[0].decode()
            assert said == "needkey tag=1 user=ana proto=cap25519 !seed? dom? user?\n"
            assert await shared.read("needkey") == said
            await shared.write("ctl", KEY)
            assert await shared.read("needkey") == ""
            await rpc.write(0, b"start proto=p9any role=client user=bob")
            await rpc.write(0, b"read")
            assert "user=bob" in await shared.read("needkey")
            await shared.write("needkey", "tag=2\n")
            assert await shared.read("needkey") == ""
            with pytest.raises(CloudError):
                await shared.write("needkey", "tag=2\n")


@pytest.mark.parametrize("answer", ["yes", "no"])
async def test_a_key_with_confirm_waits_for_its_owners_word(
    shared: Process, answer: str, tmp_path: Path
) -> None:
    town = Town(tmp_path)
    town.user("ana")
    await shared.write("ctl", f"key {town.line('ana', 'confirm=yes ')}\n")
    async with connect(f"unix:{shared.path}") as client:
        async with (
            await client.walk([".follow", "confirm"]) as follow,
            await client.walk(["rpc"]) as rpc,
        ):
            await follow.open(OREAD)
            await rpc.open(ORDWR)
            await rpc.write(0, b"start proto=p9any role=client")
            await rpc.read(0, 99)
            await rpc.write(0, b"read")
            got: list[bytes] = []

            async def ask() -> None:
                got.append(bytes(await rpc.read(0, 99)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                said = bytes(await follow.read(0, 999)).decode()
                tag = said.split()[1]
                assert said == f"confirm {tag} proto=cap25519 dom=local user=ana\n"
                assert await shared.read("confirm") == said
                assert got == []
                await shared.write("confirm", f"{tag} answer={answer}\n")
    assert got[0].startswith(b"phase" if answer == "yes" else b"error its owner did not confirm")
    assert await shared.read("confirm") == ""


@pytest.mark.parametrize("limit", ["--life", "--idle"])
def test_it_ends_when_its_time_is_over(limit: str) -> None:
    made = Process(limit, "0.5")
    try:
        assert made.process.wait(30) == 0
        assert not made.path.exists()
    finally:
        made.close()


def test_it_ends_when_told_to(process: Process) -> None:
    trio.run(process.write, "ctl", "end\n")
    assert process.process.wait(20) == 0
    assert not process.path.exists()


def test_there_is_one_at_a_socket_and_none_in_a_directory_of_others(shared: Process) -> None:
    words = [sys.executable, "-m", "cloudfs.factotumd", "--socket"]
    second = subprocess.run(
        [*words, str(shared.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert "listens at" in second.stderr
    open_to_all = Path(tempfile.mkdtemp())
    open_to_all.chmod(0o755)
    third = subprocess.run(
        [*words, str(open_to_all / "sock")], capture_output=True, text=True, timeout=60, check=False
    )
    assert third.returncode == 1
    assert "not a directory that is yours alone" in third.stderr
