"""What was sent to a node counts against it, whatever it tells of itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.kernel.placement import Wish, cpus_of, order
from cloudfs.kernel.sent import HALF, KEPT, Sent

CPUS, NEWS, LIFE = 4, 5, 60  # cores; seconds between news of a node, and that an object runs


def test_it_counts_half_as_much_after_a_while() -> None:
    sent = Sent()
    sent.note("n1", 2.0, 10.0)
    sent.note("n1", 0.0, 10.0)  # one that says nothing counts one core
    assert sent.cores("n1", 10.0) == 3.0
    assert sent.cores("n1", 10.0 + HALF) == pytest.approx(1.5)
    assert sent.shares({"n1": 4.0}, 10.0) == {"n1": 0.75}
    assert sent.shares({"n1": 1e9, "n2": 4.0, "n3": 4.0}, 10.0) == {"n1": 0.75}
    assert sent.shares({"n1": 4.0}, 10.0 + 20 * HALF) == {}


@given(st.lists(st.tuples(st.integers(0, 999), st.floats(0, 64)), max_size=600))
def test_what_is_kept_is_bounded(notes: list[tuple[int, float]]) -> None:
    sent = Sent()
    for when, (number, cores) in enumerate(notes):
        sent.note(f"n{number}", cores, when / 10)
    cpus = dict.fromkeys((f"n{number}" for number in range(1000)), 4.0)
    assert len(sent.shares(cpus, len(notes) / 10)) <= KEPT


def attracted(liars: int, honest: int, knows: bool, seed: int = 1) -> float:
    """The part of the work of one busy node that goes to nodes that call themselves idle, with
    a thousand cores, whatever they do."""
    chance = random.Random(seed)
    names = [f"liar{number}" for number in range(liars)]
    names += [f"node{number}" for number in range(honest)]
    base = {name: chance.uniform(0.5, 2.5) for name in names}  # cores busy with others' work
    mine: dict[str, list[int]] = {name: [] for name in names}  # when each began
    told: dict[str, dict[str, object]] = {}
    sent, lied = Sent(), 0
    for now in range(600):
        for name in names:
            mine[name] = [then for then in mine[name] if now - then < LIFE]
            if name.startswith("liar"):
                told[name] = {"cpus": 1000, "cpu.idle": 1000.0, "load": 0.0, "state": "alive"}
            elif now % NEWS == 0:
                busy = min(CPUS, base[name] + len(mine[name]))
                told[name] = {"cpus": CPUS, "cpu.idle": CPUS - busy, "load": busy, "state": "alive"}
        nodes = {**told, "home": {"cpus": CPUS, "cpu.idle": 0.0, "state": "alive"}}
        lately = (
            sent.shares({name: cpus_of(has) for name, has in nodes.items()}, now) if knows else {}
        )
        best = order(Wish(f"{seed}-{now}"), nodes, "home", (), lately)[0]
        sent.note(best, 0.0, now)
        if best != "home":
            mine[best].append(now)
            lied += best.startswith("liar")
    return lied / 600


@pytest.mark.parametrize("seed", range(5))
def test_liars_cannot_attract_work_beyond_a_bound(seed: int) -> None:
    assert attracted(8, 32, knows=False, seed=seed) > 0.9
    assert attracted(8, 32, knows=True, seed=seed) < 3 * 8 / 40
