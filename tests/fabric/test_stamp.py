"""Stamps are ordered, never go back, and follow what was heard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fabric.stamp import MAX_AHEAD, Clock, Stamp

NODES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
STAMPS = st.builds(Stamp, st.integers(0, 2**63), st.integers(0, 2**31), NODES)


@given(STAMPS, STAMPS)
def test_text_and_order(one, two):
    assert Stamp.parse(str(one)) == one
    assert (one < two) + (one > two) + (one == two) == 1
    assert (one == two) == (str(one) == str(two))
    assert one != two or hash(one) == hash(two)


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2@a b", "a.b@c", "1.2@a\n", "-1.0@a", "٣.0@a", "1.2@" + "a" * 99]
)
def test_text_that_is_none(text):
    with pytest.raises(CloudError) as caught:
        Stamp.parse(text)
    assert caught.value.kind == "bad"


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2), st.integers(0, 2))))
def test_three_clocks_that_hear_each_other(steps):
    """Each step: one clock's wall moves, it gives a stamp, another hears it."""
    walls = [1000, 2000, 3000]
    clocks = [Clock(f"n{i}", lambda i=i: walls[i]) for i in range(3)]
    given_by = [[], [], []]
    known = [[], [], []]  # stamps that each has given or heard
    for move, giver, hearer in steps:
        walls[giver] = max(0, walls[giver] + move)
        stamp = clocks[giver].now()
        assert all(stamp > other for other in known[giver])
        given_by[giver].append(stamp)
        known[giver].append(stamp)
        clocks[hearer].heard(stamp)
        known[hearer].append(stamp)
    stamps = [stamp for each in given_by for stamp in each]
    assert len(set(stamps)) == len(stamps)


def test_a_clock_that_is_far_ahead_pulls_nobody_along():
    clock = Clock("n1", lambda: 1000)
    clock.heard(Stamp(1001 + MAX_AHEAD, 0, "n2"))
    assert clock.now().time == 1000
    clock.heard(Stamp(1000 + MAX_AHEAD, 0, "n2"))
    assert clock.now().time == 1000 + MAX_AHEAD


def test_seconds():
    assert Stamp(1_500_000_000, 3, "n1").seconds == 1.5
