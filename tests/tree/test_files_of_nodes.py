"""Whole files of a tree as one user."""

from __future__ import annotations

from typing import Any

import pytest

from cloudfs.errors import CloudError
from cloudfs.tree.imports import Files
from cloudfs.wait import Wait
from tests.synthetic import Dir, Leaf, tree
from tests.wire.talk import BOSS, GUEST
from tests.wire.watched import Watched


async def test_reading_and_writing() -> None:
    root: Any = tree()
    files = Files(root, BOSS)
    assert await files.read("hello") == b"hello, world\n"
    assert await files.read("/slow/x") == b"X\n"
    await files.write("empty", "one\ntwo\n")
    assert root.children["empty"].data == b"one\ntwo\n"
    assert len(await files.read("big")) > 1 << 19


async def test_what_the_node_says() -> None:
    files = Files(tree(), BOSS)
    with pytest.raises(CloudError) as caught:
        await files.write("ctl", "nonsense")
    error = caught.value
    assert (error.kind, error.why, error.fix) == ("bad", "ctl takes only ok", "type: echo ok > ctl")
    with pytest.raises(CloudError) as caught:
        await Files(tree(), GUEST).read("secret")
    assert caught.value.kind == "denied"
    with pytest.raises(CloudError) as caught:
        await files.read("nothing")
    assert caught.value.kind == "absent"


async def test_one_open_and_one_close() -> None:
    file = Watched()
    files = Files(Dir("/", [file]), BOSS)
    await files.write("watched", "x")
    assert (file.opened, file.closed) == (1, 1)
    file.raises["write"] = CloudError("bad", "no")
    with pytest.raises(CloudError, match="no"):
        await files.write("watched", "x")
    assert (file.opened, file.closed) == (2, 2)


async def test_the_limit_is_a_cue() -> None:
    seen: list[float] = []

    class Timed(Leaf):
        __slots__ = ()

        def open(self, mode: int, at: Any, cues: Any) -> Any:
            seen.append(cues.max_time)
            opened = super().open(mode, at, cues)

            async def later() -> Any:
                return opened

            return Wait(later)

    await Files(Dir("/", [Timed("timed")]), BOSS, 7.0).read("timed")
    assert seen == [7.0]
