"""Attributes, of good files and of nonsense that a far node may send."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cloudfs.fuse.attributes import attributes, listed
from cloudfs.tree.api import DMDIR, Stat
from tests.synthetic import Leaf

numbers = st.integers(-(1 << 80), 1 << 80)
times = st.one_of(st.floats(), st.integers(-(1 << 70), 1 << 70), st.just(math.nan))


@given(numbers, times, st.integers(0, (1 << 32) - 1), st.text(), st.text())
def test_any_stat_can_be_told(length: int, mtime: float, mode: int, uid: str, gid: str) -> None:
    entry = attributes(7, Stat("x", 1, mode, length, mtime, uid, gid), 0.5)
    assert entry.st_ino == 7
    assert 0 <= entry.st_size < 1 << 63
    assert entry.st_blocks == (entry.st_size + 511) // 512
    assert entry.st_mode & 0o7777 == mode & 0o777
    assert entry.st_mode >> 12 == (0o04 if mode & DMDIR else 0o10)
    assert 0 <= entry.st_mtime_ns < 1 << 70
    assert entry.entry_timeout == 0
    assert entry.attr_timeout == 0.5


def test_the_kernel_lets_pass_whom_only_the_tree_can_judge() -> None:
    def mode(uid: str, gid: str, groups: bool) -> int:
        return attributes(7, Stat("x", 1, 0o640, 0, 0.0, uid, gid), 0.5, groups).st_mode & 0o777

    assert mode("root", "a-group-of-the-cloud", groups=True) == 0o644
    assert mode("root", "a-group-of-the-cloud", groups=False) == 0o640  # of another's tree
    assert mode("root", "root", groups=True) == 0o640
    assert mode("a-far-user", "a-far-user", groups=True) == 0o640


def test_a_file_that_cannot_be_asked_is_listed_with_what_is_known() -> None:
    class Broken(Leaf):
        def stat(self) -> Stat:
            raise RuntimeError("boom")

    entry = listed(3, Broken("x", b"text", 0o604))
    assert entry.st_mode & 0o777 == 0o604
    assert entry.st_size == 0
    assert listed(3, Leaf("x", b"text")).st_size == 4
