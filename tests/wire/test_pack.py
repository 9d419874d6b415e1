"""Directories as bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, Entries, Stat
from cloudfs.wire.codec import codec, decode_dirents, decode_stats
from cloudfs.wire.pack import Listing, getattr_reply, listing, stat_bytes
from tests.synthetic import Dir, Leaf
from tests.wire.talk import STEADY


@settings(STEADY)
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=20), st.integers(9, 40), st.booleans())
def test_read_from_end_to_end(packed: list[bytes], count: int, by_bytes: bool) -> None:
    """Whole entries, all of them, in order, whatever the size of a read."""
    made = Listing(packed, by_bytes)
    got, offset = b"", 0
    while data := made.read(offset, count):
        assert len(data) <= count
        got += data
        offset = len(got) if by_bytes else made.ends.index(len(got))
        assert len(got) in made.ends
    assert got == b"".join(packed)
    assert made.read(offset + 100, count) == b""


def test_offsets_between_entries() -> None:
    made = Listing([b"abc", b"def"], True)
    with pytest.raises(CloudError, match="read on only where"):
        made.read(1, 10)
    with pytest.raises(CloudError, match="too few"):
        made.read(0, 2)
    assert made.read(7, 2) == b""


def test_names_are_those_of_the_directory() -> None:
    """A bound file is listed by the name it has there."""
    entries = Entries({"here": Leaf("elsewhere"), "dir": Dir("x", [])})
    for key in "9u":
        made = listing(entries, key)
        assert isinstance(made, Listing)
        stats = decode_stats(key, made.blob)
        assert [fields[7] for fields in stats] == ["here", "dir"]
        assert stats[1][3] == DMDIR | 0o555
    made = listing(entries, "L")
    assert isinstance(made, Listing)
    found = decode_dirents(made.blob)
    assert [(name, dtype) for _, _, dtype, name in found] == [("here", 8), ("dir", 4)]
    assert listing(entries, "L") is made


def test_names_that_are_no_text_do_not_hide_the_others() -> None:
    entries = Entries({"good": Leaf("good"), "b\udcffd": Leaf("bad")})
    for key in "9uL":
        made = listing(entries, key)
        assert isinstance(made, Listing)
        assert b"good" in made.blob
        assert len(made.ends) == 3


@pytest.mark.parametrize("mtime", [0.0, -5.0, 1.5, 2.0**31, 2.0**33])
def test_times(mtime: float) -> None:
    stat = Stat("n", 1, 0o644, 0, mtime, "root", "root")
    assert decode_stats("9", stat_bytes("9", "n", stat))[0][5] == min(max(int(mtime), 0), 2**32 - 1)
    _, _, fields = codec("L").parse(getattr_reply(1, stat))
    assert fields[12] + fields[13] / 1e9 == max(mtime, 0)


def test_attributes_that_changed_are_packed_anew() -> None:
    stat = Stat("f", 7, 0o444, 1, 1.5, "root", "root")
    for changed in ({"length": 2}, {"mtime": 2.5}, {"mode": 0o644}, {"uid": "daemon"}):
        before = getattr_reply(1, stat), stat_bytes("9", "f", stat), stat_bytes("u", "f", stat)
        stat = replace(stat, **changed)
        after = getattr_reply(1, stat), stat_bytes("9", "f", stat), stat_bytes("u", "f", stat)
        assert not set(before) & set(after)
        assert after[0] == getattr_reply(1, stat)
