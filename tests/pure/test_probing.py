"""Who is probed when."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import probing
from cloudfs.kernel.probing import Probe, Schedule, references

PEERS = [(f"n{i}", f"c{i % 5}") for i in range(500)]


def run(schedule, seconds, start=0.0, step=0.05):
    """(when, probe) of each probe in so many seconds."""
    sent = []
    for tick in range(int(seconds / step)):
        now = start + tick * step
        probe = schedule.next(now)
        if probe is not None:
            sent.append((now, probe))
    return sent


def test_references_are_of_the_own_cluster_near_and_far():
    chosen = references("n0", PEERS, "c0", near=["n7", "n8"])
    assert len(chosen) == 16
    assert "n0" not in chosen
    assert {"n7", "n8"} <= set(chosen)
    trusted = [name for name, home in chosen.items() if home]
    assert len(trusted) >= probing.HOME
    assert all(dict(PEERS)[name] == "c0" for name in trusted)


def test_churn_moves_few_references():
    before = set(references("n0", PEERS, "c0"))
    after = set(references("n0", [*PEERS[:480], *((f"m{i}", "c1") for i in range(20))], "c0"))
    assert len(before - after) <= 4


@given(st.integers(0, 40))
def test_few_peers_are_all_references(count):
    assert len(references("me", PEERS[:count], "c0")) == min(16, count)


def test_each_reference_in_turn_and_no_faster_than_the_period():
    schedule = Schedule("n0")
    schedule.keep(f"n{i}" for i in range(16))
    sent = run(schedule, 120)
    assert 140 <= len(sent) <= 161
    assert {probe.peer for _, probe in sent[:16]} == {f"n{i}" for i in range(16)}
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(sent)]
    assert min(gaps) >= probing.PERIOD * (1 - probing.JITTER) - 0.06
    assert len({round(gap, 2) for gap in gaps}) > 3


@given(st.integers(1, 16), st.integers(0, 1000))
def test_nobody_waits_much_longer_than_a_round_and_the_order_drifts(count, seed):
    schedule = Schedule(seed)
    schedule.keep(f"n{i}" for i in range(count))
    peers = [schedule.next(10.0 * turn).peer for turn in range(20 * count)]
    rounds = [peers[at : at + count] for at in range(0, len(peers), count)]
    assert {tuple(sorted(each)) for each in rounds} == {tuple(sorted(rounds[0]))}
    for name in rounds[0]:
        at = [turn for turn, peer in enumerate(peers) if peer == name]
        assert max(b - a for a, b in itertools.pairwise(at)) <= count + 2
    assert count < 6 or len(set(map(tuple, rounds))) > 5


def test_a_newcomer_is_asked_in_the_next_round():
    schedule = Schedule("n0")
    schedule.keep(["a", "b"])
    assert {schedule.next(10.0 * turn).peer for turn in range(2)} == {"a", "b"}
    schedule.keep(["a", "b", "c"])
    assert {schedule.next(10.0 * turn).peer for turn in range(2, 5)} == {"a", "b", "c"}
    schedule.keep(["c"])
    assert [schedule.next(10.0 * turn).peer for turn in range(5, 8)] == ["c"] * 3


def test_late_calls_are_not_made_up_for():
    schedule = Schedule("n0")
    schedule.keep(["a"])
    assert schedule.next(0)
    assert schedule.next(1000)
    assert schedule.next(1000) is None
    assert 0 < schedule.due(1000) <= 1


def test_demand_goes_first_in_turns_with_a_gap():
    schedule = Schedule("n0")
    assert schedule.due(0) is None
    schedule.demand("a", 2)
    schedule.demand("b", 1)
    assert schedule.next(0) == Probe("a", "demand")
    assert schedule.next(0.01) is None
    assert schedule.due(0.01) == pytest.approx(probing.GAP - 0.01)
    assert [probe.peer for _, probe in run(schedule, 5, 0.2)] == ["b", "a"]


def test_demands_are_bounded():
    schedule = Schedule("n0")
    for count in (0, -1, probing.COUNT + 1):
        with pytest.raises(CloudError) as caught:
            schedule.demand("a", count)
        assert caught.value.kind == "bad"
    schedule.demand("a", 32)
    schedule.demand("b", 32)
    with pytest.raises(CloudError) as caught:
        schedule.demand("c")
    assert caught.value.kind == "toomany"
    schedule.doubt("c")
    assert len(run(schedule, 20)) == 64


def test_doubt_is_settled_soon_and_once():
    schedule = Schedule("n0")
    schedule.doubt("a")
    schedule.doubt("a")
    assert len(run(schedule, 5)) == probing.AGAIN


def test_a_peer_without_answers_is_asked_less_often():
    schedule = Schedule("n0")
    schedule.keep(["dead", "well"])
    asked = []
    for tick in range(3000):
        probe = schedule.next(tick * 0.1)
        if probe is not None:
            asked.append(probe.peer)
            (schedule.missed if probe.peer == "dead" else schedule.answered)(probe.peer)
    assert 0.05 * len(asked) < asked.count("dead") < 0.2 * len(asked)
    schedule.answered("dead")
    assert "dead" in [probe.peer for _, probe in run(schedule, 3, 1000)]


def test_strangers_wait_for_a_place_then_take_every_second_turn_then_every_third():
    schedule = Schedule("n0")
    schedule.keep(["a", "b"])
    none, often = probing.NEW
    turns = []
    for tick in range(200 * 20):
        if not schedule.exploring:
            schedule.explore(f"s{tick}.{i}" for i in range(8))
        probe = schedule.next(tick * 0.05)
        if probe is not None:
            turns.append(probe.why)
    assert "explore" not in turns[:none]
    assert turns[none:often].count("explore") == (often - none) // 2
    assert turns[often : often + 60].count("explore") == 20


def test_strangers_are_asked_once_each():
    schedule = Schedule("n0")
    schedule.keep(["a", "b"])
    schedule.explore(["x", "y"])
    assert schedule.exploring == 2
    sent = [probe for _, probe in run(schedule, 25)]
    assert [probe.peer for probe in sent if probe.why == "explore"] == ["x", "y"]
    assert sent[0].why == "reference"
    assert schedule.exploring == 0


def test_who_is_no_reference_any_more_is_not_probed():
    schedule = Schedule("n0")
    schedule.keep(["a", "b", "c"])
    schedule.next(0)
    schedule.keep(["c"])
    assert {probe.peer for _, probe in run(schedule, 10, 5)} == {"c"}
    schedule.keep([])
    assert not run(schedule, 10, 50)
