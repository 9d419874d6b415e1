"""What will be in a moment."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.kernel.forecast import ENOUGH, Series, levinson


def fed(values, step=1.0):
    series = Series(step)
    for slot, value in enumerate(values):
        assert series.add(value, slot * step)
    return series


def host_load(count, seed=1):
    """An AR(2) load about 2 with innovations of 0.1."""
    dice, past = random.Random(seed), [0.0, 0.0]
    for _ in range(count):
        past.append(1.3 * past[-1] - 0.4 * past[-2] + dice.gauss(0, 0.1))
    return [2 + x for x in past]


def test_levinson_finds_the_coefficients():
    # Autocorrelations of x[t] = 0.5 x[t-1] + e: 0.5^lag.
    terms, left = levinson([0.5**lag for lag in range(6)])
    assert terms == pytest.approx([0.5, 0, 0, 0, 0], abs=1e-9)
    assert left == pytest.approx(0.75)


def test_one_value_then_smooth_then_ar():
    assert Series().ahead(1) is None
    assert fed([3.0]).ahead(1).how == "last"
    assert fed([3.0] * 10).ahead(5).how == "smooth"
    load = fed(host_load(ENOUGH + 10))
    assert load.ahead(1).how == "ar"


def test_a_constant_stays_one():
    forecast = fed([0.25] * 200).ahead(10)
    assert forecast.value == pytest.approx(0.25)
    assert forecast.error < 1e-6


def test_better_than_the_last_value_with_an_honest_error():
    values = host_load(1200)
    for steps in (1, 5):
        series, off, last, claimed = Series(), [], [], []
        for slot, value in enumerate(values[:-steps]):
            series.add(value, slot)
            if slot > 300:
                forecast = series.ahead(steps)
                truth = values[slot + steps]
                off.append((truth - forecast.value) ** 2)
                last.append((truth - value) ** 2)
                claimed.append(abs(truth - forecast.value) <= 2 * forecast.error)
        assert sum(off) < 0.95 * sum(last)
        assert 0.9 <= sum(claimed) / len(claimed) <= 0.995


def test_of_a_walk_the_last_value_is_the_forecast():
    # The model believes in a mean; what it promised and what came tell it otherwise.
    dice, value, off, last, within = random.Random(3), 10.0, [], [], []
    series, values = Series(), []
    for _ in range(900):
        values.append(value := value + dice.gauss(0, 0.1))
    for slot, value in enumerate(values[:-30]):
        series.add(value, slot)
        if slot > 300:
            forecast, truth = series.ahead(30), values[slot + 30]
            off.append((truth - forecast.value) ** 2)
            last.append((truth - value) ** 2)
            within.append(abs(truth - forecast.value) <= 2 * forecast.error)
    assert sum(off) < 1.5 * sum(last)
    assert sum(within) / len(within) > 0.77


def test_error_grows_with_the_distance():
    series = fed(host_load(400))
    errors = [series.ahead(seconds).error for seconds in (1, 5, 30)]
    assert errors[0] < min(errors[1:])
    assert series.ahead(1, now=430).error > series.ahead(1).error


def test_times_between_gaps_and_the_past():
    series = Series(10.0)
    assert series.add(1, 0)
    assert series.add(2, 3)  # the same step: the last one counts
    assert series.ahead(1).value == 2
    assert series.add(3, 95)  # steps without a value repeat
    assert not series.add(4, 20)
    assert series.refused == 1
    assert series.add(5, 1e9)
    assert series.ahead(1) is not None


@pytest.mark.parametrize("step", [0, -1, math.nan, math.inf])
def test_a_step_is_a_length_of_time(step):
    with pytest.raises(ValueError):
        Series(step)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats(0, 400)), max_size=150), st.floats())
def test_any_values_leave_sound_forecasts(told, seconds):
    series = Series()
    for value, now in sorted(told, key=lambda pair: pair[1]):
        series.add(value, now)
    forecast = series.ahead(seconds)
    if forecast is not None:
        assert math.isfinite(forecast.value)
        assert forecast.error >= 0
        assert math.isfinite(forecast.error)


def test_levinson_of_nothing():
    assert levinson([0.0, 0.0]) == ([], 0.0)
