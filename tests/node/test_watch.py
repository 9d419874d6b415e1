"""Waiting until a file has grown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cloudfs.node.watch import Watch


@pytest.fixture(params=["inotify", "polling"])
def watch(request):
    made = Watch()
    if request.param == "polling":
        made.close()
    yield made
    made.close()


async def append(path: Path, data: bytes, pause: float = 0.02) -> None:
    await trio.sleep(pause)
    with path.open("ab") as file:
        file.write(data)


async def test_it_returns_at_once_if_the_file_is_longer(watch, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"123")
    with trio.fail_after(5):
        await watch.grown(path, 2)


async def test_it_waits_for_more(watch, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"123")
    with trio.move_on_after(0.1) as scope:
        await watch.grown(path, 3)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, path, b"4")
        with trio.fail_after(5):
            await watch.grown(path, 3)


async def test_it_waits_for_a_file_that_is_not_there_yet(watch, tmp_path):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, tmp_path / "file", b"1")
        with trio.fail_after(5):
            await watch.grown(tmp_path / "file", 0)


async def test_many_followers_of_many_files_all_hear(watch, tmp_path):
    paths = [tmp_path / f"file{n}" for n in range(5)]
    heard = []

    async def follow(path: Path, size: int) -> None:
        await watch.grown(path, size)
        heard.append((path, size))

    for path in paths:
        path.touch()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for path in paths:
                for size in range(3):
                    nursery.start_soon(follow, path, size)
            with trio.move_on_after(0.05):  # this one may be the one that reads for all
                await watch.grown(paths[0], 100)
            for _ in range(3):
                for path in paths:
                    await append(path, b"x", 0.005)
    assert len(heard) == 15
    assert not watch._bells


async def test_nothing_is_watched_when_nobody_waits(tmp_path):
    watch = Watch()
    path = tmp_path / "file"
    path.touch()
    for _ in range(100):
        with trio.CancelScope() as scope:
            scope.cancel()
            await watch.grown(path, 0)
    info = Path(f"/proc/self/fdinfo/{watch._fd}").read_text()
    assert "inotify wd" not in info
    watch.close()


async def test_closing_leaves_followers_polling(tmp_path):
    watch = Watch()
    path = tmp_path / "file"
    path.touch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.grown, path, 0)
        await trio.testing.wait_all_tasks_blocked()
        watch.close()
        with trio.fail_after(5):
            await append(path, b"x")
    assert watch._fd == -1
    assert os.path.exists(path)
