"""Stamps only grow, whatever the clocks do."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cloudfs.errors import CloudError
from cloudfs.fabric.stamp import AHEAD, Clock, Stamp, parse


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**12), st.integers(0, 9)), max_size=30))
def test_each_is_greater_than_all_before_it(steps):
    time = 0
    clock = Clock("n1", lambda: time)
    last = clock.now()
    for heard, number, count in steps:
        if heard:
            stamp = Stamp(number, count, "n2")
            clock.saw(stamp)
            if stamp.time <= time + AHEAD:
                last = max(last, stamp)
        else:
            time = number  # forwards or backwards
        now = clock.now()
        assert now > last
        last = now


def test_a_clock_from_far_ahead_is_not_believed():
    clock = Clock("n1", lambda: 1000)
    clock.saw(Stamp(10**18, 0, "n2"))
    assert clock.now().time == 1000


@given(st.integers(0, 1 << 63), st.integers(0, 1 << 31))
def test_text_and_back(time, count):
    stamp = Stamp(time, count, "n1")
    assert parse(str(stamp)) == stamp


def test_what_is_no_stamp():
    for text in ("", "1.2", "x.1@n", "1@n", "@"):
        with pytest.raises(CloudError, match="no stamp"):
            parse(text)
