"""Trains and what they tell."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.kernel.bandwidth import (
    CAR_ON_WIRE,
    FASTEST,
    LEAST,
    LONGEST,
    MOST,
    SHARE,
    SLACK,
    SPAN,
    STRETCH,
    TRAINS,
    Flow,
    Measuring,
    Rate,
    Spread,
    believed,
    bound,
    estimate,
    pause,
    spread,
)

RATES = st.floats(1e4, 1e10)  # bytes/s


def through(
    length: int, rate: float, noise: float = 0.0, clump: float = 0.0, seed: int = 1
) -> list[float]:
    """When the cars of a train come out of a link: each late by up to `noise`, in order, and
    stamped at the end of the clump of so many seconds that it comes in."""
    dice = random.Random(seed)
    last, found = 0.0, []
    for number in range(length):
        at = 5.0 + number * CAR_ON_WIRE / rate + dice.uniform(0, noise)
        if clump:
            at = math.ceil(at / clump) * clump
        last = max(last, at)
        found.append(last)
    return found


@given(st.integers(LEAST, LONGEST), RATES)
def test_a_train_tells_the_rate_of_the_link(length: int, rate: float) -> None:
    found = spread(through(length, rate))
    assert found is not None
    assert found.rate == pytest.approx(rate, rel=0.01)


@given(st.floats(0.1, 20.0), st.integers(0, 1000))
def test_clumps_do_not_make_it_faster(cars: float, seed: int) -> None:
    rate = 62.5e6
    stamps = through(LONGEST, rate, clump=cars * CAR_ON_WIRE / rate, seed=seed)
    found = spread(stamps)
    assert found is not None
    # At worst the last clump is not full, nor is the first time at its beginning.
    assert found.rate == pytest.approx(rate, rel=0.02 + 2 * cars / LONGEST / (1 - cars / LONGEST))


@given(st.lists(st.floats(0, 1e6), max_size=60).map(sorted))
def test_any_stamps_give_a_believable_rate_or_none(stamps: list[float]) -> None:
    found = spread(stamps)
    if found is not None:
        assert 0 < found.rate <= FASTEST
        assert found.size < len(stamps) * CAR_ON_WIRE


def test_too_little_and_all_at_once_tell_nothing() -> None:
    assert spread([]) is None
    assert spread([1.0, 2.0, 3.0]) is None
    assert spread([1.0] * 30) is None


@given(st.integers(-5, 10**9), st.floats())
def test_a_claim_is_believed_only_if_it_can_be(size: int, seconds: float) -> None:
    found = believed(size, seconds)
    if found is not None:
        assert 0 < found.rate <= FASTEST


def measure(rate: float, noise: float = 0.0, buffer: int = 10**9, seed: int = 1) -> Measuring:
    """A measurement over a link with a buffer of so many bytes."""
    made = Measuring()
    while length := made.next():
        seed += 1
        came = min(length, max(1, buffer // CAR_ON_WIRE))
        made.took(spread(through(came, rate, noise, seed=seed)), length, came)
    return made


@pytest.mark.parametrize("rate", [12.5e3, 125e3, 1.25e6, 12.5e6, 62.5e6, 125e6])
def test_links_of_any_rate(rate: float) -> None:
    made = measure(rate, noise=20e-6)
    found = made.rate()
    assert found is not None
    assert found.value == pytest.approx(rate, rel=0.05)
    assert made.sent <= MOST
    # A slow link is not held up: its trains are as long as it takes them in SPAN.
    least = LEAST * CAR_ON_WIRE / rate
    assert all(one.seconds <= max(SPAN * 1.2, least) for one in made.trains)


@given(RATES, st.floats(0, 0.01), st.integers(0, 100))
def test_a_measurement_is_bounded_whatever_comes(rate: float, noise: float, seed: int) -> None:
    made = measure(rate, noise, seed=seed)
    assert made.sent <= MOST
    assert len(made.trains) < TRAINS
    lost = Measuring()
    tries = 0
    while length := lost.next():
        lost.took(None, length, 0)
        tries += 1
    assert tries <= TRAINS
    assert lost.rate() is None
    assert lost.sent <= MOST


def test_a_short_buffer_tells_the_rate_and_shortens_the_trains() -> None:
    made = measure(1.25e6, buffer=20_000)
    found = made.rate()
    assert found is not None
    assert found.value == pytest.approx(1.25e6, rel=0.05)
    assert made.sent < TRAINS * LONGEST * CAR_ON_WIRE / 2


def test_the_error_is_that_of_the_values() -> None:
    """One standard error: about two thirds of the medians are nearer."""
    rate, inside = 12.5e6, 0
    for seed in range(200):
        dice = random.Random(seed)
        trains = [Spread(60_000, 60_000 / (rate * dice.gauss(1, 0.1))) for _ in range(7)]
        found = estimate(trains)
        assert found is not None
        inside += abs(found.value - rate) <= found.error
    assert 90 < inside < 170


def test_few_trains_are_hardly_a_figure() -> None:
    assert estimate([]) is None
    one = estimate([Spread(10_000, 0.01)])
    assert one is not None
    assert (one.value, one.error) == (1e6, 5e5)


@given(st.floats(1.1, 1000.0), st.floats(0.001, 0.3))
def test_no_claim_beats_the_clock(lie: float, trip: float) -> None:
    """Who says that it came faster than it can have, is not believed beyond the slack."""
    rate = 1.25e6
    size = (LONGEST - 1) * CAR_ON_WIRE
    seen = [Spread(size, trip + size / rate + late) for late in (0.0, 0.001, 0.02)]
    found = bound(Rate(rate * lie, 1.0), seen, trip)
    assert found.value <= size / (size / rate - SLACK) * 1.001
    assert found.error >= min(1.0, (rate * lie - found.value) / 2)
    honest = Rate(rate, 1.0)
    assert bound(honest, seen, trip) == honest


def test_measuring_takes_a_share_of_the_link() -> None:
    assert pause(800_000, 1.25e6) == pytest.approx(800_000 / 1.25e6 / SHARE)
    for rate in (12.5e3, 1.25e6, 62.5e6):
        made = measure(rate)
        assert made.sent / pause(made.sent, rate) <= SHARE * rate * 1.001


# --- what comes anyway ------------------------------------------------------------------


def flow(times: list[float], size: int = 16 << 10) -> list[float]:
    """The rates that these arrivals tell."""
    made = Flow()
    return [rate for at in times if (rate := made.took(size, at)) is not None]


@given(st.floats(3e5, 1e9), st.floats(0, 1e9))
def test_bulk_tells_its_rate(rate: float, start: float) -> None:
    size = max(1 << 14, int(rate / 1000))
    found = flow([start + n * size / rate for n in range(int(3.5 * rate / size) + 2)], size)
    assert len(found) >= 2
    assert all(one == pytest.approx(rate, rel=0.02) for one in found)


def test_what_is_no_bulk_tells_nothing() -> None:
    assert flow([n * 0.3 for n in range(100)]) == []  # a little now and then
    assert flow([n * 1.0 for n in range(100)], 1 << 20) == []  # much, and long pauses
    assert flow([5.0] * 1000) == []  # at once


@given(st.lists(st.floats(0, 0.3), min_size=30, max_size=200), st.integers(1, 1 << 20))
def test_a_flow_never_tells_more_than_came(gaps: list[float], size: int) -> None:
    times = [sum(gaps[:n]) for n in range(len(gaps))]
    for rate in flow(times, size):
        assert rate <= size * len(gaps) / STRETCH
