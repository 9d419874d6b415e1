"""The simulator on small clouds: errors are bounded, times are not judged."""

import random

import pytest

from tests.sim import curves, forecasts, topologies
from tests.sim.measuring import LIES, Cloud, quantile

SIZE = 80


def run(cloud, rounds=60):
    for _ in range(rounds):
        cloud.round()
    return cloud.errors()


@pytest.mark.parametrize(
    ("family", "middle", "tail"),
    [("plane", 0.12, 0.35), ("detours", 0.17, 0.75), ("transit", 0.2, 0.7)],
)
def test_errors_of_the_families(family, middle, tail):
    found = run(Cloud(topologies.FAMILIES[family](SIZE, 1), 1))
    assert found[0] < middle
    assert found[1] < tail


def test_a_prober_alone_finds_its_place_as_well():
    assert run(Cloud(topologies.plane(SIZE, 2), 2, both=False), 100)[0] < 0.15


@pytest.mark.parametrize("kind", LIES)
def test_liars_are_bounded(kind):
    net = topologies.plane(SIZE, 3)
    honest = run(Cloud(net, 3))
    lied_to = run(Cloud(net, 3, liars=0.2, lie=LIES[kind]))
    assert lied_to[0] < 1.6 * honest[0]


def test_searches_find_the_nearest():
    cloud = Cloud(topologies.transit(SIZE, 4), 4, explore=20)
    run(cloud)
    ratios = cloud.searches(60, known=True)
    assert quantile(ratios, 0.5) <= 1.2
    assert quantile(ratios, 0.9) <= 3


def test_a_topology_is_the_same_each_time_and_both_ways():
    for make in topologies.FAMILIES.values():
        one, other = make(50, 7), make(50, 7)
        for _ in range(20):
            i, j = random.sample(range(50), 2)
            assert one.rtt(i, j) == other.rtt(j, i) > 0


def test_a_matrix_is_read(tmp_path):
    (tmp_path / "m.txt").write_text("0 10 20\n10 0 30\n20 30 0\n")
    net = topologies.matrix(tmp_path / "m.txt")
    assert (net.size, net.rtt(1, 2)) == (3, 0.03)
    assert topologies.matrix(tmp_path / "m.txt", slice(0, None, 2)).rtt(0, 1) == 0.02


@pytest.mark.parametrize(("kind", "ahead"), [("hosts", 1), ("hosts", 30), ("jobs", 5)])
def test_forecasts_are_no_worse_than_simple_guesses_and_honest(kind, ahead):
    found = forecasts.score(forecasts.MADE[kind](1), ahead)
    assert found.forecast < 1.1 * min(found.last, found.mean)
    assert found.within > 0.6
    assert found.within_two > 0.88


def test_curves_are_svg():
    text = curves.draw("t", "x", "y", {"a": [(1, 0.5), (10, 0.1)]}, {"aim": 0.09})
    assert text.startswith("<svg")
    assert "polyline" in text


def test_the_recorded_load_is_there_and_foretold_a_second_ahead():
    [trace] = forecasts.recorded(forecasts.RECORDED)
    assert len(trace) == 540
    found = forecasts.score(trace, 1)
    assert found.forecast < 0.1
    assert found.forecast < found.mean
