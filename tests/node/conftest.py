"""A real host for each test, in a folder of its own, and nothing left behind after it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudfs.node import keeper
from cloudfs.node.api import Launch
from cloudfs.node.host import RealHost
from cloudfs.node.running import Kept

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
MARK = "CLOUDFS_TEST_RUN"  # by which tests/conftest.py finds processes that were left


@pytest.fixture(scope="session")
def built() -> Iterator[Path]:
    """A state directory that holds the compiled keeper."""
    state = Path(tempfile.mkdtemp(prefix="built-"))
    keeper.build(state)
    yield state
    shutil.rmtree(state)


class Bench:
    """A host, and what a test needs around it."""

    def __init__(self, state: Path, node: str) -> None:
        self.state = state
        self.node = node
        self.host = RealHost(state, node)

    def dir(self, id: str) -> Path:
        return self.state / id

    def launch(self, id: str, *argv: str, runtime: str = "process", **more: object) -> Launch:
        cwd = str(more.pop("cwd", "/" if runtime == "process" else ""))
        env = ENV | {MARK: os.environ.get(MARK, "")} | dict(more.pop("env", {}))  # type: ignore[call-overload]
        return Launch(id, self.dir(id), argv, env, cwd, runtime, **more)  # type: ignore[arg-type]

    async def start(self, id: str, *argv: str, **more: object) -> Kept:
        return await self.host.start(self.launch(id, *argv, **more))

    async def sh(self, id: str, script: str, **more: object) -> Kept:
        return await self.start(id, "sh", "-c", script, **more)

    def out(self, id: str, stream: str = "stdout") -> bytes:
        return (self.dir(id) / stream).read_bytes()

    def groups(self) -> list[str]:
        """Control groups of objects that exist."""
        return [
            str(path)
            for home in self.host.groups.all
            if os.path.isdir(home)
            for path in Path(home).iterdir()
            if path.is_dir()
        ]

    def keepers(self) -> list[int]:
        """Keepers that live, by what they run."""
        return [pid for pid, line in processes() if line.startswith(f"cloudfs-keeper {self.node}")]

    def clear(self) -> list[str]:
        """Kill what runs and remove everything; what should not have been there."""
        left = []
        for dir in sorted(self.state.iterdir()):
            if dir.is_dir() and keeper.lives(dir):
                found = self.host.adopt(dir.name, dir)
                if isinstance(found, Kept):
                    left.append(f"{dir.name} still runs")
                    found.kill("end of the test")
                end = time.monotonic() + 10
                while keeper.lives(dir) and time.monotonic() < end:
                    time.sleep(0.01)
            if (dir / "stdout").exists():
                self.host.adopt(dir.name, dir)
                self.host.discard(dir.name, dir)
        left += self.groups()
        self.host.close()
        left += [home for home in self.host.groups.all if os.path.isdir(home)]
        shutil.rmtree(self.state)
        return left


def processes() -> list[tuple[int, str]]:
    """(pid, command line) of every process."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            found.append((int(name), line.replace(b"\0", b" ").decode(errors="replace").strip()))
    return found


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def bench(built: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    state = Path(tempfile.mkdtemp(prefix="node-"))
    state.chmod(0o711)
    shutil.copytree(built / "bin", state / "bin")
    made = Bench(state, f"test{os.getpid()}")
    yield made
    left = made.clear()
    failed = getattr(request.node, "failed", False)
    assert failed or not left, left


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report = yield
    if call.when == "call" and report.failed:
        item.failed = True  # type: ignore[attr-defined]
    return report


def need(reason: str) -> None:
    """Skip if there is a reason to."""
    if reason:
        pytest.skip(reason)
