"""Mounts from their beginning to their end, the good and the bad ones."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.fuse import mount as module
from cloudfs.fuse.mount import mount, prepare
from cloudfs.fuse.stale import clear, detach, mounted_at, stale_mounts, state, unmount
from cloudfs.tree.api import Cues, Handle
from cloudfs.tree.space import Attach, Space
from tests.fuse.conftest import SECONDS, Server, needs_root
from tests.fuse.serve import who
from tests.synthetic import Leaf, LeafHandle, tree


def test_it_comes_and_goes(fresh: Server) -> None:
    found = mounted_at(fresh.dir)
    assert found is not None
    assert found.ours
    assert fresh.read("hello") == "hello, world\n"
    assert fresh.stop() == ("", "")
    assert fresh.process.returncode == 0
    assert mounted_at(fresh.dir) is None
    assert os.listdir(fresh.dir) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_unmounts(fresh: Server, name: str) -> None:
    reader = fresh.start("cat", fresh.path("never"))
    fresh.until_blocked(1)
    fresh.process.send_signal(signal.Signals[name])
    assert fresh.process.wait(SECONDS) == 0
    assert mounted_at(fresh.dir) is None
    _, said = reader.communicate(timeout=SECONDS)
    assert reader.returncode == 1
    assert said.startswith("cat: ")


def test_it_is_unmounted_from_outside_while_a_reader_blocks(fresh: Server) -> None:
    """The server sees it, ends what blocks, and goes on to its own end."""
    reader = fresh.start("cat", fresh.path("never"))
    idle = [fresh.start("cat", fresh.path("never")) for _ in range(3)]
    fresh.until_blocked(4)
    for program in idle:
        program.kill()
        program.communicate(timeout=SECONDS)
    found = mounted_at(fresh.dir)
    assert found is not None
    module.unmount(fresh.dir)
    assert mounted_at(fresh.dir) is None
    assert reader.poll() is None  # it was only detached: who has files open keeps them
    reader.terminate()
    reader.communicate(timeout=SECONDS)
    assert fresh.hears() == "unmounted"
    assert fresh.stop() == ("", "")


def test_the_end_of_a_detached_mount_leaves_its_successor_alone(fresh: Server) -> None:
    reader = fresh.start("cat", fresh.path("never"))
    fresh.until_blocked(1)
    module.unmount(fresh.dir)
    second = Server(fresh.dir)
    try:
        assert second.said == "ready"
        reader.terminate()
        reader.communicate(timeout=SECONDS)
        assert fresh.hears() == "unmounted"
        assert second.read("hello") == "hello, world\n"
    finally:
        second.close()


@needs_root
def test_its_connection_is_cut(fresh: Server) -> None:
    reader = fresh.start("cat", fresh.path("never"))
    fresh.until_blocked(1)
    detach(str(fresh.dir), force=True)
    reader.communicate(timeout=SECONDS)
    assert reader.returncode == 1
    assert fresh.hears() == "unmounted"
    _, said = fresh.stop()
    assert "Traceback" not in said
    assert mounted_at(fresh.dir) is None


def test_a_mount_whose_server_was_killed_is_found_and_cleared(fresh: Server) -> None:
    reader = fresh.start("cat", fresh.path("never"))
    fresh.until_blocked(1)
    fresh.process.kill()
    fresh.process.communicate(timeout=SECONDS)
    reader.communicate(timeout=SECONDS)
    assert reader.returncode == 1
    with pytest.raises(OSError) as caught:
        os.listdir(fresh.dir)
    assert caught.value.errno == errno.ENOTCONN
    assert state(str(fresh.dir)) == "dead"
    assert str(fresh.dir) in [m.directory for m in stale_mounts(0.5)]
    second = Server(fresh.dir)
    try:
        assert second.said == "ready"
        assert second.read("hello") == "hello, world\n"
        assert str(fresh.dir) not in [m.directory for m in stale_mounts(0.5)]
        assert clear(fresh.dir) is False  # a live one stays
        assert second.read("hello") == "hello, world\n"
    finally:
        second.close()
    assert mounted_at(fresh.dir) is None


@needs_root
def test_a_mount_whose_server_is_stuck_is_cleared(fresh: Server) -> None:
    assert fresh.read("hello")
    fresh.process.send_signal(signal.SIGSTOP)
    reader = fresh.start("cat", fresh.path("hello"))
    try:
        assert state(str(fresh.dir), 0.5) == "stuck"
        assert clear(fresh.dir, 0.5) is True
        assert mounted_at(fresh.dir) is None
        reader.communicate(timeout=SECONDS)
        assert reader.returncode == 1
    finally:
        fresh.process.send_signal(signal.SIGCONT)
    fresh.stop()


def test_unmount_wants_a_mount_of_ours(place: Path) -> None:
    with pytest.raises(CloudError, match="no mount of cloudfs") as caught:
        unmount(place)
    assert caught.value.kind == "absent"
    assert clear(place) is False


def refusal(directory: Path) -> CloudError:
    with pytest.raises(CloudError) as caught:
        prepare(directory)
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def test_directories_that_will_not_do(place: Path) -> None:
    assert prepare(place) == str(place)
    assert refusal(place / "nowhere").kind == "absent"
    (place / "file").touch()
    assert refusal(place / "file").kind == "notdir"
    assert refusal(place).kind == "notempty"
    (place / "file").unlink()


@needs_root
def test_a_directory_of_another_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(module.shutil, "which", lambda _: "/bin/fusermount3")  # type: ignore[attr-defined]
    error = refusal(place)
    assert error.kind == "denied"
    assert "root" in error.why


def test_what_the_machine_lacks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEVICE", str(place / "nothing"))
    assert refusal(place).kind == "unsupported"
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    assert "fuse3" in refusal(place).fix


def test_a_live_mount_is_left_alone(fresh: Server) -> None:
    second = Server(fresh.dir)
    try:
        assert second.said.startswith("busy: cloudfs is mounted on")
        assert "cloudfs unmount" in second.said
    finally:
        second.process.communicate(timeout=SECONDS)
    assert fresh.read("hello") == "hello, world\n"


@needs_root
def test_a_mount_of_something_else_is_left_alone(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "cloudfs-test", str(place)], check=True)
    error = refusal(place)
    assert error.kind == "busy"
    assert "tmpfs" in error.why
    with pytest.raises(CloudError):
        unmount(place)
    subprocess.run(["umount", str(place)], check=True)


async def test_one_process_serves_one_mount(place: Path) -> None:
    """And when that one is gone, it can serve another."""
    (place / "a").mkdir()
    (place / "b").mkdir()
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(mount, Space(tree()), place / "a", who_of=who))
            assert mounted_at(place / "a") is not None
            with pytest.raises(CloudError, match="one process can serve one mount"):
                await mount(Space(tree()), place / "b", who_of=who)
            done = await trio.run_process(["cat", str(place / "a" / "hello")], capture_stdout=True)
            assert done.stdout == b"hello, world\n"
            nursery.cancel_scope.cancel()
        assert mounted_at(place / "a") is None
    (place / "a").rmdir()
    (place / "b").rmdir()


async def _within(
    show: Callable[..., Awaitable[None]], *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    """Run a mount; started with the scope that ends it."""
    async with trio.open_nursery() as nursery:
        await nursery.start(show)
        task_status.started(nursery.cancel_scope)


class Seen(Leaf):
    """A file that tells when it is opened and closed."""

    __slots__ = ("closed", "opened")

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        self.opened.set()
        return SeenHandle(self)


class SeenHandle(LeafHandle):
    def close(self) -> None:
        assert isinstance(self.leaf, Seen)
        self.leaf.closed = True


async def test_what_is_open_is_closed_at_the_end(place: Path) -> None:
    root = tree()
    seen = Seen("seen", b"x")
    seen.closed, seen.opened = False, trio.Event()
    root.children["seen"] = seen
    async with trio.open_nursery() as nursery:
        show = partial(mount, Space(root), place, who_of=who)
        serving = await nursery.start(_within, show)
        program = await trio.lowlevel.open_process(["tail", "-f", str(place / "seen")])
        await seen.opened.wait()
        serving.cancel()
    assert seen.closed
    assert mounted_at(place) is None
    program.kill()
    await program.wait()
