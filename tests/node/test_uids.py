"""Ranges of uids."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.node import uids
from cloudfs.node.uids import BASE, COUNT, SIZE, Ranges, preferred


@given(st.text(min_size=1))
def test_a_range_is_always_within_the_uids(id):
    assert 0 <= preferred(id) < COUNT
    assert BASE + COUNT * SIZE < 1 << 32


def test_ids_spread_well():
    assert len({preferred(f"object{n}") for n in range(1000)}) > 970


def test_a_range_is_kept_until_it_is_freed(tmp_path: Path):
    ranges = Ranges(tmp_path)
    first = ranges.take("one")
    assert ranges.take("one") == first == BASE + preferred("one") * SIZE
    assert ranges.holder(first + 1000) == "one"
    assert ranges.holder(first + SIZE) is None
    again = Ranges(tmp_path)  # another daemon
    assert again.first("one") == first
    again.free("one")
    again.free("one")
    assert Ranges(tmp_path).first("one") is None


def test_two_that_want_the_same_get_different_ones(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(uids, "preferred", lambda id: COUNT - 1)
    ranges = Ranges(tmp_path)
    firsts = [ranges.take(id) for id in ("one", "two", "three")]
    assert firsts == [BASE + n * SIZE for n in (COUNT - 1, 0, 1)]
    ranges.free("one")
    assert ranges.first("two") == BASE
    assert Ranges(tmp_path).first("three") == BASE + SIZE


def test_when_none_is_left_it_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(uids, "COUNT", 2)
    ranges = Ranges(tmp_path)
    ranges.take("one")
    ranges.take("two")
    with pytest.raises(CloudError) as caught:
        ranges.take("three")
    assert caught.value.kind == "full"


def test_a_range_is_claimed_as_an_image_has_it(tmp_path: Path):
    ranges = Ranges(tmp_path)
    first = ranges.take("one")
    with pytest.raises(CloudError, match="object one has the uids"):
        ranges.claim("two", first)
    assert ranges.claim("one", first) == first
    other = ranges.claim("two", first + SIZE if first < BASE + SIZE * 9 else first - SIZE)
    assert Ranges(tmp_path).holder(other + 1000) == "two"
    ranges.free("one")
    assert ranges.claim("two", first) == first  # and gives the other back
    assert Ranges(tmp_path).holder(other) is None
    for wrong in (0, BASE - SIZE, first + 1, BASE + COUNT * SIZE, 1 << 61):
        with pytest.raises(CloudError, match="no range"):
            ranges.claim("two", wrong)
