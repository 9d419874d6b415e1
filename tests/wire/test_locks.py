"""Record locks against what fcntl(2) says, range by range."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.wire.locks import (
    BLOCKED,
    FOREVER,
    MAX_RANGES,
    READ,
    SUCCESS,
    UNLOCK,
    WRITE,
    Held,
    Locks,
)
from tests.wire.talk import STEADY

FILE = 7
SIZE = 12


def fid(number: int) -> Any:
    return SimpleNamespace(number=number, ref=SimpleNamespace(node=SimpleNamespace(qid=FILE)))


FIDS = [fid(number) for number in range(3)]


def held(owner: int, kind: int, start: int, end: int) -> Held:
    return Held("session", "client", owner, FIDS[owner], kind, start, end)


@dataclass
class Step:
    owner: int
    kind: int
    start: int
    length: int


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 2),
        st.sampled_from([READ, WRITE, UNLOCK]),
        st.integers(0, SIZE - 1),
        st.integers(1, SIZE),
    ),
    max_size=30,
)


@settings(STEADY, max_examples=200)
@given(STEPS, st.integers(0, 2))
def test_byte_by_byte(steps: list[Step], leaver: int) -> None:
    """The table agrees with one that knows each byte."""
    locks = Locks()
    model: list[dict[int, int]] = [{} for _ in range(2 * SIZE)]  # byte → owner → kind
    for step in steps:
        end = step.start + step.length
        wanted = held(step.owner, step.kind, step.start, end)
        bytes_ = model[step.start : end]
        blocked = step.kind != UNLOCK and any(
            owner != step.owner and WRITE in (kind, step.kind)
            for byte in bytes_
            for owner, kind in byte.items()
        )
        assert (locks.blocker(FILE, wanted) is not None) == (
            blocked if step.kind != UNLOCK else locks.blocker(FILE, wanted) is not None
        )
        assert locks.change(FILE, wanted) == (BLOCKED if blocked else SUCCESS)
        if not blocked:
            for byte in bytes_:
                byte.pop(step.owner, None)
                if step.kind != UNLOCK:
                    byte[step.owner] = step.kind
        assert table(locks) == model
    locks.drop(FIDS[leaver])
    for byte in model:
        byte.pop(leaver, None)
    assert table(locks) == model
    locks.forget("session")
    assert not locks.files


def table(locks: Locks) -> list[dict[int, int]]:
    model: list[dict[int, int]] = [{} for _ in range(2 * SIZE)]
    for each in locks.files.get(FILE, ()):
        for byte in model[each.start : each.end]:
            assert each.process not in byte, "an owner's ranges overlap"
            byte[each.process] = each.kind
    return model


def test_owners_are_told_apart_by_client_and_session() -> None:
    locks = Locks()
    locks.change(FILE, held(1, WRITE, 0, FOREVER))
    for session, client in (("session", "another"), ("another", "client")):
        wanted = Held(session, client, 1, FIDS[1], READ, 0, 1)
        assert locks.change(FILE, wanted) == BLOCKED
    assert locks.change(FILE + 1, held(0, WRITE, 0, 1)) == SUCCESS


def test_so_many_and_no_more() -> None:
    locks = Locks()
    for start in range(MAX_RANGES):
        locks.change(FILE, held(1, WRITE, 2 * start, 2 * start + 1))
    with pytest.raises(CloudError):
        locks.change(FILE, held(1, WRITE, 2 * MAX_RANGES, FOREVER))
    assert len(locks.files[FILE]) == MAX_RANGES
