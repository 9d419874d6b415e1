"""The sweep that makes the kernel forget."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from cloudfs.fuse import sweep
from cloudfs.fuse.mount import mount
from cloudfs.tree.space import Space
from tests.fuse.serve import served, who


async def test_files_go_and_directories_that_are_there_stay(place: Path) -> None:
    root, _ = served()
    async with trio.open_nursery() as nursery:
        operations = await nursery.start(partial(mount, Space(root), place, who_of=who))
        inodes = operations.inodes
        await trio.run_process(["ls", "-R", str(place / "many"), str(place / "deep")], stdout=-3)
        names = {inode.name for inode in inodes.files()}
        assert len(names) >= 1000
        del root.children["deep"]
        start = 0
        while start < len(inodes) - 1:
            start = await sweep.sweep(operations, start, part=100)
            await trio.sleep(0.01)  # the kernel's forgets come as requests
        await _until(lambda: len(inodes) < 50)
        left = {inode.name for inode in inodes.files()}
        assert b"many" in left
        assert not left & {b"deep", b"f0001", b"c"}
        done = await trio.run_process(["cat", str(place / "many" / "f0001")], capture_stdout=True)
        assert done.stdout == b"1\n"
        nursery.cancel_scope.cancel()


async def test_a_full_table_is_swept_by_itself(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endless cues are directories that are all there; above FULL they go too."""
    for name, value in (("HIGH", 20), ("FULL", 40), ("PAUSE", 0.05)):
        monkeypatch.setattr(sweep, name, value)
    root, _ = served()
    async with trio.open_nursery() as nursery:
        operations = await nursery.start(partial(mount, Space(root), place, who_of=who))
        cues = [str(place / f".MaxTime=1.{number}" / "dir") for number in range(1, 200)]
        await trio.run_process(["ls", "-d", *cues], stdout=-3)
        await _until(lambda: len(operations.inodes) <= 45)
        nursery.cancel_scope.cancel()


async def _until(what: object) -> None:
    with trio.fail_after(20):
        while not what():  # type: ignore[operator]
            await trio.sleep(0.02)
