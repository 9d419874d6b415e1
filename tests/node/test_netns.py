"""What a partition means, and how failures of ip(8) are told."""

from __future__ import annotations

import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.node.netns import Port, apart, batch, comes, tool

NAMES = list("abcdef")


def test_ways_between_groups_are_lost() -> None:
    assert apart("abc", ["ab", "c"]) == {("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")}
    assert apart("abc", ["abc"]) == set()
    assert len(apart("abc", [])) == 6


@given(st.lists(st.sampled_from(range(4)), min_size=6, max_size=6))
def test_ways_are_lost_in_pairs_and_exactly_between_groups(of: list[int]) -> None:
    groups = [[n for n, number in zip(NAMES, of, strict=True) if number == g] for g in range(3)]
    lost = apart(NAMES, groups)
    assert lost == {(b, a) for a, b in lost}
    for a, number in zip(NAMES, of, strict=True):
        for b, other in zip(NAMES, of, strict=True):
            together = number == other and number < 3
            assert ((a, b) in lost) == (a != b and not together)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(CloudError, match="x, y: no such port"):
        apart("ab", ["ax", "y"])


def test_every_port_has_addresses_of_its_own() -> None:
    ports = [Port("", number) for number in range(1, 1025)]
    assert len({port.address for port in ports}) == 1024
    assert len({port.hardware for port in ports}) == 1024
    assert (ports[299].address, ports[299].hardware) == ("10.77.1.44", "02:00:0a:4d:01:2c")


def test_failures_are_told_in_the_tools_own_words() -> None:
    with pytest.raises(CloudError, match=r"(?s)private network: .*cloudfs-nowhere"):
        batch({"cloudfs-nowhere": ["link show"]})
    with pytest.raises(CloudError, match="nosuchprogram is not installed here"):
        tool("nosuchprogram")


def test_of_a_high_descriptor_too_it_is_told_whether_something_comes() -> None:
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD, 2000)
    try:
        assert not comes(high, 0.01)
        os.write(writer, b"x")
        assert comes(high, 10)
        os.read(high, 1)
        os.close(writer)
        assert comes(high, 10), "an end is something too"
    finally:
        os.close(reader)
        os.close(high)
