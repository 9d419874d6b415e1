"""What is known of one peer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.kernel.coordinate import LONGEST
from cloudfs.kernel.estimator import AGREE, WINDOW, Estimator


def fed(*times):
    estimator = Estimator()
    for now, rtt in enumerate(times):
        estimator.measured(rtt, now)
    return estimator


def test_nothing_is_known_at_first():
    assert Estimator().latency(0) is None


def test_a_spike_is_left_out_but_doubted():
    estimator = fed(*[0.020] * 8, 0.9)
    assert estimator.doubtful
    assert estimator.latency(9).value == 0.020
    assert estimator.latency(9).error > 0.5
    estimator.measured(0.020, 9)
    assert not estimator.doubtful
    assert estimator.latency(9).error < 0.001


def test_a_change_is_believed_after_three():
    estimator = fed(*[0.020] * WINDOW, *[0.200] * AGREE)
    latency = estimator.latency(20)
    assert latency.value == 0.200
    assert latency.samples == AGREE
    assert fed(*[0.200] * WINDOW, *[0.020] * AGREE).latency(20).value == 0.020


def test_spikes_to_both_sides_are_no_change():
    assert fed(*[0.1] * 8, 0.9, 0.001, 0.9, 0.001).latency(12).value == 0.1


def test_jitter_age_and_error():
    latency = fed(*[0.02, 0.03] * 20).latency(49)
    assert latency.jitter == pytest.approx(0.01, rel=0.1)
    assert latency.age == 10
    assert 0.02 <= latency.value <= 0.03
    assert 0.001 < latency.error < 0.01
    older = fed(*[0.02, 0.03] * 20).latency(490)
    assert older.error > latency.error


def test_loss():
    estimator = fed(*[0.02] * 50)
    assert estimator.latency(50).loss == 0
    for now in range(200):
        estimator.missed() if now % 4 == 0 else estimator.measured(0.02, 50 + now)
    assert 0.1 < estimator.latency(300).loss < 0.45


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=60), st.floats(-1e9, 1e9))
def test_any_times_leave_sound_figures(told, now):
    estimator = Estimator()
    for rtt, at in told:
        taken = estimator.measured(rtt, at)
        assert taken == (0 < rtt <= LONGEST and math.isfinite(at))
    latency = estimator.latency(now)
    if latency is not None:
        assert 0 < latency.value <= LONGEST
        assert 0 <= latency.error <= LONGEST
        assert 0 <= latency.jitter <= LONGEST
        assert 0 <= latency.loss <= 1
        assert latency.age >= 0
