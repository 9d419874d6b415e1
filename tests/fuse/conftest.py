"""A mount of the synthetic tree by a process of its own, taken away whatever happens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloudfs.fuse.stale import abort, clear, mounted_at

T = TypeVar("T")

SECONDS = 20.0  # for anything; only a hang takes so long
ROOT = Path(__file__).parents[2]


def missing() -> str:
    """Why nothing can be mounted here, "" if it can."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    if os.geteuid() and not shutil.which("fusermount3"):
        return "fusermount3 is not installed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be used"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/fuse/" in item.path.as_posix():
            mounts = {"server", "fresh", "place"} & set(getattr(item, "fixturenames", ()))
            if mounts and missing():
                item.add_marker(pytest.mark.skip(reason=missing()))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


def needs(*programs: str) -> pytest.MarkDecorator:
    gone = [p for p in programs if not shutil.which(p)]
    return pytest.mark.skipif(bool(gone), reason=f"not installed: {' '.join(gone)}")


class Server:
    """A process that serves the tree at `dir`."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuse.serve", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = self.hears()

    def path(self, *names: str) -> str:
        return str(self.dir.joinpath(*names))

    def run(
        self,
        *argv: str,
        uid: int | None = None,
        input: str | None = None,
        cwd: str | None = None,
        seconds: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program, as another user if asked; fail if it does not end in time."""
        program = self.start(*argv, uid=uid, cwd=cwd)
        try:
            out, err = program.communicate(input, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.free()
            program.kill()
            out, err = program.communicate()
            pytest.fail(f"{' '.join(argv)} did not end: {out}{err}")
        return subprocess.CompletedProcess(argv, program.returncode, out, err)

    def start(
        self, *argv: str, uid: int | None = None, cwd: str | None = None
    ) -> subprocess.Popen[str]:
        """Start a program with ordinary signals, whatever our own are."""
        if uid is not None:
            argv = ("setpriv", "--reuid", str(uid), "--clear-groups", *argv)
        pipe = subprocess.PIPE
        # A terminal of a known kind for what draws on one: CI has none, and no TERM.
        env = {**os.environ, "LC_ALL": "C", "TERM": "xterm"}
        return subprocess.Popen(
            ("env", "--default-signal", *argv),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd=cwd,
            env=env,
        )

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """function(*args) here, which must not hang either."""
        answers: list[tuple[T | None, BaseException | None]] = []

        def go() -> None:
            try:
                answers.append((function(*args), None))
            except BaseException as error:
                answers.append((None, error))

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        thread.join(SECONDS)
        if not answers:
            self.free()
            pytest.fail(f"{function.__name__}{args} did not end")
        answer, error = answers[0]
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]

    def read(self, *names: str) -> str:
        return self.call(Path(self.path(*names)).read_text)

    def write(self, text: str, *names: str) -> None:
        self.call(Path(self.path(*names)).write_text, text)

    def count(self, what: str) -> int:
        """inodes, files or blocked, as the server has them now."""
        match = re.search(rf"{what}=(\d+)", self.read("count"))
        assert match
        return int(match[1])

    def until(self, what: Callable[[], bool], why: str) -> None:
        """Wait until something holds."""
        end = time.monotonic() + SECONDS
        while not what():
            if time.monotonic() > end:
                pytest.fail(f"waited in vain: {why}")
            time.sleep(0.02)

    def until_blocked(self, number: int) -> None:
        self.until(lambda: self.count("blocked") == number, f"{number} requests that block")

    def hears(self) -> str:
        """The next line of the server's output."""
        assert self.process.stdout is not None
        return self.call(self.process.stdout.readline).strip()

    def free(self) -> None:
        """Let everything that hangs in the mount come back."""
        if found := mounted_at(self.dir):
            abort(found.device)
        self.process.kill()

    def stop(self) -> tuple[str, str]:
        """End it in the proper way; what else it said on its output and as errors."""
        try:
            out, err = self.process.communicate(timeout=SECONDS)  # closes its input
        except subprocess.TimeoutExpired:
            self.free()
            self.process.communicate()
            pytest.fail("the server did not end with its input")
        return out, err

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired, ValueError):
                self.process.communicate(timeout=SECONDS)
        if self.process.poll() is None:
            self.free()
        self.process.wait()
        clear(self.dir, 0.5)


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="fuse-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _at(base: Path, name: str) -> Path:
    directory = base / name
    directory.mkdir()
    return directory


@pytest.fixture
def place(base: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory to mount on, cleared afterwards."""
    directory = _at(base, re.sub(r"\W+", "-", request.node.name)[:60])
    yield directory
    while found := mounted_at(directory):
        abort(found.device)
        clear(directory, 0.5)
        if mounted_at(directory):
            subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def fresh(place: Path) -> Iterator[Server]:
    """A server of the test's own, which it may kill."""
    server = Server(place)
    assert server.said == "ready", server.process.communicate()
    yield server
    server.close()


class Shared:
    """The server of a test module; a new one after a test that ended it."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.server: Server | None = None

    def get(self) -> Server:
        if self.server is not None and self.server.process.poll() is not None:
            self.close()
        if self.server is None:
            self.server = Server(self.dir)
            assert self.server.said == "ready", self.server.process.communicate()
        return self.server

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None


@pytest.fixture(scope="module")
def _shared(base: Path, request: pytest.FixtureRequest) -> Iterator[Shared]:
    shared = Shared(_at(base, request.module.__name__.rsplit(".", 1)[-1]))
    try:
        yield shared
    finally:
        shared.close()


@pytest.fixture
def server(_shared: Shared) -> Iterator[Server]:
    """The server of a test module, with nothing blocked and nothing open afterwards."""
    server = _shared.get()
    yield server
    assert server.process.poll() is None, server.process.communicate()
    server.until_blocked(0)


def python(*lines: str) -> Sequence[str]:
    """A command that runs a few lines of Python."""
    return (sys.executable, "-c", "\n".join(lines))
