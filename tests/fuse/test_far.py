"""The tree of another node by way of a mount: cat, ls, echo, errors, interrupts, a stop."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudfs.fuse.stale import clear
from tests.bench.remote import await_port, free_port
from tests.fuse.conftest import ROOT, SECONDS, missing
from tests.wire.nodes import keys

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


class Nodes:
    """dir: where nodes/far of the near node is.  far: the process of the other one."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        keys(folder, "near", "far")
        port, mount = free_port(), folder / "mount"
        mount.mkdir()
        self.mount = mount
        self.dir = mount / "nodes" / "far"
        self.far = self._start(stack, "far", str(folder), str(port))
        await_port(port)
        self._start(stack, "near", str(folder), str(port), str(mount))
        end = time.monotonic() + SECONDS
        while not os.path.ismount(mount):
            assert time.monotonic() < end
            time.sleep(0.02)

    def _start(self, stack: ExitStack, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.fuse.nodes", *words]
        process = subprocess.Popen(command, cwd=ROOT)
        stack.callback(process.wait)
        stack.callback(process.kill)
        stack.callback(process.send_signal, signal.SIGCONT)
        return process

    def sh(self, line: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line], cwd=self.dir, capture_output=True, text=True, timeout=seconds
        )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("far")
    with ExitStack() as stack:
        nodes = Nodes(folder, stack)
        yield nodes
    clear(nodes.mount)


def test_as_it_would_be_here(two: Nodes) -> None:
    assert two.sh("cat hello dir/a").stdout == "hello, world\nA\n"
    listed = two.sh("ls -l dir").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["-rw-r--r--"] * 2
    assert two.sh("ls many | wc -l").stdout.strip() == "1000"
    assert two.sh("echo ok > ctl && echo text > empty && cat empty").stdout == "text\n"
    assert two.sh("cp big /dev/null && wc -c < big").stdout.strip() == str(1 << 20)
    assert two.sh("grep -rl world .").stdout == "./hello\n"


def test_the_reason_of_another_node(two: Nodes) -> None:
    said = two.sh("/bin/echo nonsense > ctl").stderr
    assert os.strerror(errno.EINVAL) in said
    last = (two.mount / "err").read_text().splitlines()[-1]
    assert last.endswith("/nodes/far/ctl: ctl takes only ok; type: echo ok > ctl")
    assert os.strerror(errno.ENOENT) in two.sh("cat nothing").stderr


def test_a_blocked_read_is_interrupted(two: Nodes) -> None:
    path = two.mount / ".follow" / "nodes" / "far" / "never"
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as reader:
        time.sleep(0.5)
        assert reader.poll() is None
        reader.send_signal(signal.SIGINT)
        assert reader.wait(5) == -signal.SIGINT


def test_a_stopped_node_ends_at_the_deadline(two: Nodes) -> None:
    two.far.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        said = two.sh("cat hello || ls dir").stderr
        assert os.strerror(errno.ETIMEDOUT) in said or os.strerror(errno.EHOSTUNREACH) in said
        assert os.listdir(two.mount / "nodes") == ["far"]
        assert time.monotonic() - began < 15
    finally:
        two.far.send_signal(signal.SIGCONT)
    end = time.monotonic() + 20  # it may be dialling still
    while (said := two.sh("cat hello", 5).stdout) != "hello, world\n":
        assert time.monotonic() < end, said
