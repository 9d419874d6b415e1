"""What a node holds for its objects."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cloudfs.errors import CloudError
from cloudfs.kernel.reserve import MANY, NOTHING, Amount, Reserve, amount, wanted
from cloudfs.node.api import Limits

AMOUNTS = st.builds(Amount, st.integers(0, 5), st.integers(0, 5))


class Holds(RuleBasedStateMachine):
    """Any interleaving of offers, commits, changes, ends and time, against a plain dict."""

    ids = Bundle("ids")

    @initialize(offer=st.builds(Amount, st.integers(0, 10), st.integers(0, 10)))
    def begin(self, offer):
        self.reserve = Reserve(offer)
        self.model = {}
        self.now = 0.0

    @rule(target=ids, number=st.integers(0, 7))
    def name(self, number):
        return f"object{number}"

    def total(self, without=""):
        return sum((a for i, (a, _) in self.model.items() if i != without), start=NOTHING)

    def take(self, id, want, until):
        fits = (self.total(id) + want).within(self.reserve.offer)
        try:
            self.reserve.hold(id, want, until)
        except CloudError:
            assert not fits
        else:
            assert fits
            self.model[id] = want, until

    @rule(id=ids, want=AMOUNTS, seconds=st.integers(1, 5))
    def offer(self, id, want, seconds):
        self.take(id, want, self.now + seconds)

    @rule(id=ids)
    def commit(self, id):
        self.take(id, self.reserve.held(id) or NOTHING, math.inf)

    @rule(id=ids, want=AMOUNTS)
    def change(self, id, want):
        if id not in self.model:
            self.reserve.change(id, want)
            assert self.reserve.held(id) is None
            return
        fits = (self.total(id) + want).within(self.reserve.offer)
        try:
            self.reserve.change(id, want)
        except CloudError:
            assert not fits
        else:
            assert fits
            self.model[id] = want, self.model[id][1]

    @rule(id=ids)
    def end(self, id):
        self.reserve.release(id)
        self.model.pop(id, None)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds):
        self.now += seconds
        gone = {id for id, (_, until) in self.model.items() if until <= self.now}
        assert set(self.reserve.expire(self.now)) == gone
        for id in gone:
            del self.model[id]

    @invariant()
    def never_more_than_is_offered(self):
        if not hasattr(self, "model"):
            return
        assert self.total().within(self.reserve.offer)
        assert self.reserve.free == self.reserve.offer - self.total()
        for id, (want, _) in self.model.items():
            assert self.reserve.held(id) == want

    def teardown(self):
        if hasattr(self, "model"):
            for id in self.model:
                self.reserve.release(id)
            assert self.reserve.free == self.reserve.offer


TestHolds = Holds.TestCase


@given(st.lists(st.floats(0.001, 64)))
def test_sums_of_cores_have_no_error(cores):
    reserve = Reserve(amount(1e6, 0))
    for number, some in enumerate(cores):
        reserve.hold(str(number), amount(some, 0))
    for number in range(len(cores)):
        reserve.release(str(number))
    assert reserve.free == reserve.offer


def test_an_object_without_limits_holds_nothing_even_where_all_is_held():
    reserve = Reserve(amount(1, 100))
    reserve.hold("a", amount(1, 100))
    reserve.hold("b", wanted(Limits(pids=5, time=3.0)))
    assert reserve.held("b") == NOTHING
    with pytest.raises(CloudError, match="has 0 cores unreserved, not 0.5 cores") as caught:
        reserve.hold("c", wanted(Limits(cpu=0.5)))
    assert caught.value.kind == "full"
    assert "wait until" in caught.value.fix
    with pytest.raises(CloudError) as caught:
        reserve.hold("c", wanted(Limits(mem=101)))
    assert "ask for less" in caught.value.fix


def test_what_runs_already_counts_beyond_what_is_offered():
    reserve = Reserve(amount(2, 0))
    reserve.count("old", amount(3, 0))
    assert reserve.free == NOTHING
    reserve.hold("none", NOTHING)
    with pytest.raises(CloudError):
        reserve.hold("new", amount(0.1, 0))
    reserve.release("old")
    reserve.hold("new", amount(2, 0))


def test_a_node_that_does_not_say_offers_without_end():
    Reserve().hold("a", amount(1e6, MANY // 2))
