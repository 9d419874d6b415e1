"""Who lives in a zone, by what sign."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloudfs.errors import CloudError
from cloudfs.kernel import beats, roster
from cloudfs.kernel.beats import Beat
from cloudfs.kernel.roster import Roster


def beat(seq, *, id="aa", boot=1, leaf="c", rev=1, **more):
    return Beat(id, boot, seq, leaf, rev, **more)


def record(name, *, id="aa", boot=1, rev=1, **more):
    return {"name": name, "id": id, "boot": str(boot), "rev": str(rev), "addr": "h:1", **more}


def one(now=0.0):
    """A roster in which n1 lives."""
    found = Roster("c", "n0", now, now)
    found.record("n1", record("n1"), now)
    found.beat("n1", beat(1), now)
    return found


def state(found, name="n1"):
    return found.peers[name].state


def test_silence_makes_suspect_and_then_gone():
    found = one()
    for now, wanted in ((4.0, "alive"), (4.6, "suspect"), (8.9, "suspect"), (9.0, "gone")):
        found.judge(now)
        assert state(found) == wanted
    found.beat("n1", beat(2), 10.0)
    assert [(old, new) for _, old, new, _ in found.changes] == [
        ("", "alive"),
        ("alive", "suspect"),
        ("suspect", "gone"),
        ("gone", "alive"),
    ]


def test_a_lost_connection_shortens_the_wait_and_a_new_one_lengthens_it():
    found = one()
    found.hint("n1", False, 2.5)
    found.judge(6.4)
    assert state(found) == "suspect"
    found.judge(6.5)
    assert state(found) == "gone"
    again = one()
    again.hint("n1", False, 2.5)
    again.hint("n1", True, 3.5)
    again.judge(8.0)
    assert state(again) == "suspect"


def test_time_that_this_node_stood_still_is_given_back():
    found = one()
    found.forgive(20.0, 21.0)
    found.judge(21.0)
    assert state(found) == "alive"
    found.judge(29.1)
    assert state(found) == "gone"


def test_late_and_doubled_beats_are_no_sign_of_life():
    found = one()
    found.beat("n1", beat(5), 1.0)
    for seq in (5, 4, 1):
        found.beat("n1", beat(seq), 8.0)
    found.judge(10.0)
    assert state(found) == "gone"


def test_what_others_hear_counts_only_if_it_is_newer():
    found = one()
    found.sights((("n1", 1, 1), ("n1", 2, 9), ("stranger", 1, 1)), 8.0)
    found.judge(9.0)
    assert state(found) == "gone"
    found.sights((("n1", 1, 2),), 9.5)
    assert state(found) == "alive"
    assert found.missed(9.5) == ("n1",)


def test_who_hears_one_that_others_miss_says_so():
    found = one()
    assert found.vouch({"n1", "n2"}, 1.0) == (("n1", 1, 1),)
    assert found.vouch({"n1"}, 4.0) == ()


def test_a_name_is_its_first_holders_while_that_lives():
    found = one()
    found.beat("n1", beat(1, id="bb", boot=0), 1.0)
    found.record("n1", record("n1", id="bb", boot=0, rev=9), 1.0)
    assert found.peers["n1"].id == "aa"
    found.judge(9.5)
    found.beat("n1", beat(2, id="bb", boot=0), 9.6)
    assert (found.peers["n1"].id, state(found)) == ("bb", "alive")


def test_a_restart_is_seen_and_an_echo_of_an_earlier_start_is_not():
    found = one()
    found.beat("n1", beat(1, boot=2), 1.0)
    found.beat("n1", beat(50, boot=1), 2.0)
    assert (found.peers["n1"].boot, found.peers["n1"].seq) == (2, 1)
    assert found.changes[-1][1:] == ("alive", "alive", "started again")
    # With the clock set back the newer start has the older stamp: it holds after a silence.
    found.judge(6.0)
    found.beat("n1", beat(1, boot=1), 6.1)
    assert (found.peers["n1"].boot, state(found)) == (1, "alive")


def test_goodbyes():
    found = one()
    found.beat("n1", beat(2, bye="left"), 1.0)
    assert state(found) == "left"
    found.judge(100.0)
    assert state(found) == "left"
    found.judge(roster.KEEP + 2)
    assert "n1" not in found.peers


def test_those_who_are_gone_are_remembered_up_to_a_number():
    found = Roster("c", "n0", 0.0, 0.0)
    for n in range(200):
        found.beat(f"n{n}", beat(1), n / 100)
    found.judge(20.0)
    found.judge(20.5)
    assert len(found.peers) == roster.KEEP_MOST


def test_a_record_in_rags_is_passed_over():
    found = one()
    for wrong in ({}, {"name": "n2", "boot": "x", "rev": "1"}, {"boot": "1"}):
        found.record("n2", wrong, 1.0)
    assert set(found.peers) == {"n1"}


@given(
    st.builds(
        Beat,
        st.from_regex(r"\A[0-9a-f]{8}\Z"),
        st.integers(0, 2**63),
        st.integers(0, 2**31),
        st.sampled_from(["c", "c.01"]),
        st.integers(0, 10**6),
        st.integers(0, 0xFFFF),
        st.sampled_from(["", ".01"]),
        st.sampled_from(["", "split", "merge"]),
        st.sampled_from(["", "left", "parted"]),
        st.lists(st.sampled_from(["n1", "n2"]), max_size=5).map(tuple),
        st.lists(
            st.tuples(st.sampled_from(["n1", "a-b"]), st.integers(0, 99), st.integers(0, 99)),
            max_size=5,
        ).map(tuple),
        st.lists(st.sampled_from(["n1", "n2"]), max_size=5).map(tuple),
    )
)
def test_a_beat_reads_back_and_is_small(one):
    assert beats.beat(one.text()) == one
    if not (one.miss or one.seen or one.want):
        assert len(one.text()) < 120


@given(st.binary(max_size=60))
def test_what_is_no_beat_is_refused(data):
    with pytest.raises(CloudError):
        beats.beat(data)


class Life(RuleBasedStateMachine):
    """One peer, whatever happens: it is never gone while it is heard, never alive long after."""

    def __init__(self):
        super().__init__()
        self.found, self.now, self.seq, self.heard = one(), 0.0, 1, 0.0
        self.bye = False

    @rule(seconds=st.floats(0.0, 4.0))
    def time(self, seconds):
        self.now += seconds
        self.found.judge(self.now)

    @rule(late=st.integers(0, 3))
    def beats(self, late):
        self.seq += 1
        if not late:
            self.found.beat("n1", beat(self.seq), self.now)
            self.heard, self.bye = self.now, False
        else:
            self.found.beat("n1", beat(max(0, self.found.peers["n1"].seq - late)), self.now)

    @rule(joined=st.booleans())
    def engine(self, joined):
        self.found.hint("n1", joined, self.now)

    @rule()
    def another(self):
        if self.found.lives("n1"):
            self.found.beat("n1", beat(99, id="bb"), self.now)

    @rule()
    def goodbye(self):
        self.seq += 1
        self.found.beat("n1", beat(self.seq, bye="left"), self.now)
        self.heard, self.bye = self.now, True

    @invariant()
    def alive_while_heard(self):
        silence, peer = self.now - self.heard, self.found.peers["n1"]
        assert peer.id == "aa"
        if self.bye:
            assert peer.state == "left"
        elif silence < roster.HOME.lost:
            assert peer.state in roster.LIVE
        elif silence >= roster.GONE:
            self.found.judge(self.now)
            assert peer.state == "gone"


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase


def test_delegates_from_below_beat_slower_and_are_waited_for_longer():
    found = one()
    found.beat("n1", beat(2, leaf="c.01"), 0.0)
    for now, wanted in ((7.4, "alive"), (7.6, "suspect"), (11.9, "suspect"), (12.0, "gone")):
        found.judge(now)
        assert state(found) == wanted
    found.beat("n1", beat(3, leaf="c.01"), 20.0)
    assert found.missed(24.0) == ()
    assert found.missed(25.0) == ("n1",)
    found.hint("n1", False, 22.0)
    found.judge(27.6)
    assert state(found) == "gone"


def test_a_split_zone_is_not_kept_alive_by_its_halves():
    """An inner zone is, by those in the leaves below it."""
    found = Roster("c", "n0", 0.0, 0.0)
    found.beat("n1", beat(1, leaf="c.01"), 0.0)
    found.beat("n2", beat(1, leaf="c.1101"), 0.0)
    assert found.manned("c.01")
    assert not found.manned("c.0")
    assert found.manned("c.110")
    root = Roster("", "n0", 0.0, 0.0)
    root.beat("n1", beat(1, leaf="paris.01", stand=".01"), 0.0)
    assert not root.manned(".0")
    assert not root.manned("paris")
    assert root.manned(".01")
