"""Ceilings: what runs is under them whatever its owner asked, and asking for more is refused."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import ceilings
from cloudfs.kernel.ceilings import Most
from cloudfs.node.api import Limits

NAMES = [one.name for one in fields(Limits)]
numbers = st.none() | st.integers(1, 1 << 40)
limits = st.builds(Limits, cpu=numbers, mem=numbers, pids=numbers, time=numbers)


@given(limits, limits)
def test_what_runs_is_under_both(wanted: Limits, each: Limits) -> None:
    found = Most(each).under(wanted)
    for name in NAMES:
        bounds = [x for x in (getattr(wanted, name), getattr(each, name)) if x is not None]
        assert getattr(found, name) == (min(bounds) if bounds else None)


@given(limits, limits)
def test_refused_is_what_asks_for_more_and_nothing_else(wanted: Limits, each: Limits) -> None:
    more = any(
        None not in (want := getattr(wanted, name), most := getattr(each, name)) and want > most
        for name in NAMES
    )
    if more:
        with pytest.raises(CloudError, match="lets an object have"):
            Most(each).check(wanted)
    else:
        Most(each).check(wanted)


def test_words_change_one_ceiling_each() -> None:
    most = ceilings.read(["cpu=1.5", "mem=2e9", "running=3"], Most())
    assert most == Most(Limits(cpu=1.5, mem=2_000_000_000), 3)
    most = ceilings.read(["mem=none", "pids=9"], most)
    assert most == Most(Limits(cpu=1.5, pids=9), 3)
    assert ceilings.make(most.pairs()) == most


def test_the_last_that_may_run() -> None:
    Most(running=2).check_running("bob", 1)
    with pytest.raises(CloudError, match="bob has 2 objects that run"):
        Most(running=2).check_running("bob", 2)


@pytest.mark.parametrize(
    "word", ["cpu", "cpu=", "cpu=0", "cpu=-1", "cpu=nan", "mem=1.5", "running=0.5", "disk=1", "=1"]
)
def test_what_is_no_ceiling_is_refused(word: str) -> None:
    with pytest.raises(CloudError):
        ceilings.read([word], Most())
