"""Guessing is slow, and nobody can use up what the owner needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudfs.factotum.guesses import DEVICE, SOURCE, STRANGERS, Guesses


def attempts(guesses: Guesses, source: str, now: float, device: str = "", user: str = "ana") -> int:
    count = 0
    while guesses.wait(user, source, now, device) == 0:
        count += 1
    return count


def test_one_node_gets_its_few_attempts_and_then_one_in_five_minutes() -> None:
    guesses = Guesses()
    assert attempts(guesses, "n1", 0.0) == SOURCE[0]
    assert 298 < guesses.wait("ana", "n1", 1.0) <= 300
    assert guesses.wait("ana", "n1", 301.0) == 0
    assert guesses.wait("ana", "n1", 301.0) > 0


def test_many_nodes_together_have_a_bound_too() -> None:
    guesses = Guesses()
    assert sum(attempts(guesses, f"n{i}", 0.0) for i in range(100)) == STRANGERS[0]


def test_strangers_cannot_lock_out_a_known_device_nor_another_user() -> None:
    guesses = Guesses()
    for i in range(100):
        attempts(guesses, f"n{i}", 0.0)
    assert attempts(guesses, "n1", 0.0, device="laptop") == DEVICE[0]
    assert attempts(guesses, "n1", 0.0, user="bob") == SOURCE[0]


def test_who_was_right_gets_the_attempt_back() -> None:
    guesses = Guesses()
    for _ in range(50):
        assert guesses.wait("ana", "n1", 0.0) == 0
        guesses.right("ana", "n1")
    for _ in range(3):
        guesses.right("ana", "n1")
    assert attempts(guesses, "n1", 0.0) == SOURCE[0]


def test_floods_of_names_do_not_make_it_forget() -> None:
    guesses = Guesses(kept=20)
    attempts(guesses, "n1", 0.0)
    for i in range(1000):
        guesses.wait(f"u{i}", f"m{i}", 1.0)
    assert guesses.wait("ana", "n1", 2.0) > 0
    assert len(guesses._buckets) <= 20
    assert guesses.wait("carl", "n2", 10_000.0) == 0, "in time there is room again"


@given(st.lists(st.tuples(st.floats(0, 500), st.integers(0, 8)), max_size=200))
def test_in_any_time_there_are_no_more_than_the_rate_gives(steps: list[tuple[float, int]]) -> None:
    guesses, now, passed = Guesses(), 0.0, 0
    for gap, source in steps:
        now += gap
        passed += guesses.wait("ana", f"n{source}", now) == 0
    assert passed <= STRANGERS[0] + now * STRANGERS[1] + 1e-6


def test_a_device_that_was_right_has_its_attempt_back() -> None:
    made = Guesses()
    for _ in range(50):
        assert made.wait("ana", "n1", 0.0, "device") == 0
        made.right("ana", "n1", "device")
    assert [made.wait("ana", "n1", 0.0, "device") == 0 for _ in range(12)].count(True) == 10
