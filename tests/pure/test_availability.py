"""Leases, epochs and votes: whatever is lost, late, stopped or restarted, two never run."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import availability
from cloudfs.kernel.availability import (
    Claim,
    Copies,
    News,
    Promise,
    Refused,
    Tenure,
    Terms,
    agreed,
    answer,
    plan,
    recall,
    superfluous,
    turn,
)

TERMS = Terms(patience=9.0)
STEPS = 600  # of a simulated half a second or so


class Node:
    """A node as its core has it: a promise on disk, and perhaps a tenure.

    rate, ahead: how its clock goes.  up: whether its daemon runs; what it let run runs on
    without it until the lease is over, as the object's keeper sees to.
    """

    def __init__(self, name: str, rate: float, ahead: float) -> None:
        self.name, self.rate, self.ahead = name, rate, ahead
        self.promise: Promise | None = None
        self.tenure: Tenure | None = None
        self.leased = -math.inf  # until when the object here may run, on its clock
        self.up, self.seen = True, 0
        self.votes: dict[str, float] = {}
        self.wanted: Claim | None = None

    def clock(self, now: float) -> float:
        return self.ahead + now * self.rate

    def runs(self, now: float) -> bool:
        return self.leased > self.clock(now)


class Cloud:
    """Nodes whose messages a random generator delays, loses and doubles."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self.chance = chance
        self.now = 0.0
        names = [f"n{i}" for i in range(count)]
        self.nodes = {
            name: Node(name, chance.uniform(0.995, 1.005), chance.uniform(-1e3, 1e6))
            for name in names
        }
        self.voters = tuple(names[: count - (count % 2 == 0)])
        self.mail: list[tuple[float, str, str, Claim, float]] = []
        self.cut: set[frozenset[str]] = set()
        self.takeovers = 0
        self.begin(self.nodes[names[0]])

    def begin(self, node: Node) -> None:
        clock = node.clock(self.now)
        epoch = node.seen + 1
        others = tuple(name for name in self.nodes if name != node.name)
        node.tenure = Tenure(epoch, epoch, self.voters, others, 2, since=clock)
        node.leased = node.tenure.until()

    def send(self, node: Node, claim: Claim, to: str) -> None:
        delay = self.chance.choice([0.0, 0.0, 0.0, 0.05, 0.5, 4.0, 20.0])
        self.mail.append((self.now + delay, node.name, to, claim, node.clock(self.now)))

    def deliver(self) -> None:
        due = [one for one in self.mail if one[0] <= self.now]
        self.mail = [one for one in self.mail if one[0] > self.now]
        for _, source, to, claim, asked in due:
            lost = frozenset((source, to)) in self.cut or self.chance.random() < 0.05
            if lost and source != to:
                continue
            there = self.nodes[to]
            if not there.up:
                continue
            error = None
            try:
                found = answer(there.promise, claim, there.clock(self.now))
                there.promise = found
            except Refused as refused:
                error = refused
            if self.chance.random() < 0.05 and source != to:
                continue  # the answer is lost
            self.answered(self.nodes[source], to, claim, asked, error)

    def answered(
        self, node: Node, to: str, claim: Claim, asked: float, error: Refused | None
    ) -> None:
        if not node.up:
            return
        if error is not None:
            word = error.why.rpartition("in epoch ")[2].split()[0]
            node.seen = max(node.seen, int(word) if word.isdigit() else 0)
            if error.kind == "stale" and node.tenure is not None:
                node.tenure, node.leased = None, -math.inf  # it is another's
            return
        tenure = node.tenure
        if claim.verb in ("begin", "hold"):
            if tenure is not None and tenure.epoch == claim.epoch:
                tenure.granted(to, asked)
                node.leased = max(node.leased, tenure.until())
        elif claim == node.wanted and tenure is None:
            node.votes[to] = asked
            if agreed(self.voters, node.votes):
                if claim.verb == "may":
                    self.ask(node, "take", claim)
                else:
                    self.won(node, claim)

    def won(self, node: Node, claim: Claim) -> None:
        others = tuple(name for name in self.nodes if name != node.name)
        node.tenure = Tenure(claim.epoch, claim.series, self.voters, others, 2)
        for voter, asked in node.votes.items():
            node.tenure.granted(voter, asked)
        node.leased, node.wanted = node.tenure.until(), None
        self.takeovers += 1

    def ask(self, node: Node, verb: str, like: Claim) -> None:
        node.votes = {}
        node.wanted = Claim(verb, like.epoch, node.name, like.series, (), TERMS.patience)
        for voter in self.voters:
            self.send(node, node.wanted, voter)

    def turn(self, node: Node) -> None:
        """What its driver would do now."""
        if not node.up:
            return
        tenure, has = node.tenure, node.promise
        if tenure is not None:
            for to in self.nodes:
                first = tenure.epoch == tenure.series and to not in tenure.grants
                verb = "begin" if first else "hold"
                claim = Claim(
                    verb, tenure.epoch, node.name, tenure.series, self.voters, TERMS.patience
                )
                self.send(node, claim, to)
            return
        due = has is not None and node.clock(self.now) >= has.until
        if has is not None and self.chance.random() < (0.5 if due else 0.05):
            epoch = max(has.epoch, node.seen) + 1
            self.ask(node, "may", Claim("may", epoch, node.name, has.series))

    def fault(self) -> None:
        kind = self.chance.choice(["cut", "heal", "down", "up", "up", "sleep", "heal", "nothing"])
        node = self.chance.choice([*self.nodes.values()])
        if kind == "cut":
            for other in self.nodes:
                if self.chance.random() < 0.6:
                    self.cut.add(frozenset((node.name, other)))
        elif kind == "heal":
            self.cut.clear()
        elif kind == "down":  # the daemon; what it let run stays until its lease is over
            node.up = False
        elif kind == "up" and not node.up:
            node.up, node.tenure, node.wanted = True, node.tenure and self.resumed(node), None
            if node.promise is not None:
                node.promise = recall(node.promise.record(), node.clock(self.now))
        elif kind == "sleep":  # all of it stands still, and its clock goes on
            self.now += self.chance.choice([1.0, 8.0, 30.0])

    def resumed(self, node: Node) -> Tenure:
        """What a daemon that comes back knows of its tenure."""
        assert node.tenure is not None
        return availability.tenure(node.tenure.record())

    def check(self) -> None:
        running = [name for name, node in self.nodes.items() if node.runs(self.now)]
        assert len(running) <= 1, (self.now, running)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1 << 32))
def test_two_never_run(count: int, seed: int) -> None:
    chance = random.Random(seed)
    cloud = Cloud(count, chance)
    for _ in range(STEPS):
        cloud.now += chance.uniform(0.0, 1.0)
        if chance.random() < 0.05:
            cloud.fault()
        for node in cloud.nodes.values():
            if chance.random() < 0.4:
                cloud.turn(node)
        cloud.deliver()
        cloud.check()


def test_the_simulation_sees_takeovers() -> None:
    """Or it would prove nothing."""
    total = 0
    for seed in range(20):
        chance = random.Random(seed)
        cloud = Cloud(3, chance)
        for _ in range(STEPS):
            cloud.now += 0.5
            if chance.random() < 0.05:
                cloud.fault()
            for node in cloud.nodes.values():
                cloud.turn(node)
            cloud.deliver()
            cloud.check()
        total += cloud.takeovers
    assert total > 10


def test_a_bound_that_is_the_patience_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin is for clocks that go differently: the simulation finds it if it is gone."""
    monkeypatch.setattr(availability, "SHARE", 1.3)
    with pytest.raises(AssertionError):
        for seed in range(200):
            chance = random.Random(seed)
            cloud = Cloud(3, chance)
            for _ in range(STEPS):
                cloud.now += 0.5
                if chance.random() < 0.05:
                    cloud.fault()
                for node in cloud.nodes.values():
                    cloud.turn(node)
                cloud.deliver()
                cloud.check()


# --- the rules one by one ---------------------------------------------------------------

V = ("a", "b", "c")


def held(**more: object) -> Promise:
    known = {"epoch": 3, "owner": "a", "series": 3, "voters": V, "patience": 9.0}
    return Promise(**{**known, "phase": "held", "until": 10.0, **more})  # type: ignore[arg-type]


def claim(verb: str, epoch: int, owner: str, series: int = 3) -> Claim:
    return Claim(verb, epoch, owner, series, V, 9.0)


@pytest.mark.parametrize(
    ("has", "asked", "now", "kind"),
    [
        (None, claim("begin", 1, "a", 1), 0, ""),
        (None, claim("hold", 1, "a", 1), 0, "absent"),
        (None, claim("take", 2, "b", 1), 0, "absent"),
        (held(), claim("begin", 3, "a"), 0, ""),
        (held(), claim("begin", 4, "b", 4), 0, "busy"),
        (held(), claim("begin", 4, "b", 4), 10, ""),
        (held(), claim("begin", 4, "a", 4), 0, ""),
        (held(), claim("begin", 2, "b", 2), 99, "stale"),
        (held(phase="dropped"), claim("begin", 3, "a"), 0, "stale"),
        (held(phase="dropped"), claim("begin", 4, "b", 4), 0, ""),
        (held(), claim("hold", 3, "a"), 0, ""),
        (held(), claim("hold", 4, "b"), 0, ""),
        (held(), claim("hold", 2, "b"), 99, "stale"),
        (held(), claim("hold", 4, "b", 4), 99, "absent"),
        (held(series=5, epoch=5, owner="b"), claim("hold", 3, "a"), 0, "stale"),
        (held(phase="dropped"), claim("hold", 3, "a"), 0, "stale"),
        (held(), claim("take", 4, "b"), 9.9, "busy"),
        (held(), claim("take", 4, "b"), 10, ""),
        (held(), claim("take", 3, "b"), 99, "stale"),
        (held(), claim("take", 4, "b", 2), 99, "absent"),
        (held(phase="dropped"), claim("take", 4, "b"), 99, "absent"),
        (held(phase="voted", owner="c"), claim("take", 3, "b"), 99, "busy"),
        (held(phase="voted", owner="c"), claim("hold", 2, "a"), 0, "busy"),
        (held(), claim("drop", 3, "a"), 0, ""),
        (held(), claim("drop", 2, "b"), 0, "stale"),
    ],
)
def test_a_rule(has: Promise | None, asked: Claim, now: float, kind: str) -> None:
    if kind:
        with pytest.raises(Refused) as caught:
            answer(has, asked, now)
        assert caught.value.kind == kind
    else:
        found = answer(has, asked, now)
        assert (found.epoch, found.owner) == (asked.epoch, asked.owner)
        assert found.until == now + 9.0


def test_asking_changes_nothing() -> None:
    assert answer(held(), claim("may", 4, "b"), 11) == held()
    with pytest.raises(Refused):
        answer(held(), claim("may", 4, "b"), 9)


@given(st.lists(st.sampled_from(["begin", "hold", "take", "drop"]), max_size=12), st.randoms())
def test_an_epoch_never_goes_back(verbs: list[str], chance: random.Random) -> None:
    has: Promise | None = None
    now = 0.0
    for verb in verbs:
        now += chance.choice([0.0, 3.0, 10.0])
        asked = claim(verb, chance.randint(1, 5), chance.choice("abc"), chance.randint(1, 3))
        before = has.epoch if has else 0
        try:
            has = answer(has, asked, now)
        except Refused:
            continue
        assert has.epoch >= before


def test_a_tenure_counts_a_majority_from_when_it_was_asked() -> None:
    tenure = Tenure(1, 1, V, ("b", "c"), 2, 10.0, since=0.0)
    assert tenure.until() == 8.0
    tenure.granted("a", 5.0)
    assert (tenure.until(), tenure.established()) == (8.0, False)
    tenure.granted("b", 4.0)
    assert (tenure.until(), tenure.established()) == (12.0, True)
    tenure.granted("c", 6.0)
    assert tenure.until() == 13.0
    tenure.granted("b", 1.0)  # an answer that came late
    assert tenure.until() == 13.0
    tenure.dropped("a")
    tenure.dropped("b")
    assert tenure.until() == math.inf
    again = availability.tenure(tenure.record())
    assert (again.record(), again.until()) == (tenure.record(), -math.inf)


# --- plans --------------------------------------------------------------------------------

OTHERS = [("b", "x"), ("c", "x"), ("d", "y"), ("e", "z"), ("f", "y")]


def test_other_clusters_come_first() -> None:
    assert plan("a", (), (), OTHERS, "x", 2) == (("d", "e"), ("a", "d", "e"), 2)
    assert plan("a", (), (), OTHERS, "x", 1) == (("d", "e"), ("a", "d", "e"), 1)
    members, voters, holders = plan("a", (), (), OTHERS, "x", 3)
    assert (len(members), len(voters), holders) == (4, 5, 3)
    assert plan("a", (), (), [("b", "x")], "x", 2) == (("b",), ("a",), 1)
    assert plan("a", (), (), [], "x", 2) == ((), ("a",), 0)
    assert plan("a", (), (), [("b", "x")], "x", 2, ["w"]) == (("b", "w"), ("a", "b", "w"), 1)


def test_those_that_are_well_stay() -> None:
    assert plan("a", ("b", "c"), (), OTHERS, "x", 2) == (("b", "c"), ("a", "b", "c"), 2)
    assert plan("a", ("b", "c"), ("b",), OTHERS, "x", 2) == (("c", "d"), ("a", "c", "d"), 2)
    few = [("c", "x")]
    assert plan("a", ("b", "c"), ("b",), few, "x", 2) == (("c", "b"), ("a", "c", "b"), 1)


@given(
    st.integers(1, 7),
    st.lists(st.sampled_from("bcdefgh"), unique=True),
    st.sets(st.sampled_from("bcdefgh")),
    st.lists(st.sampled_from("bcdefgh"), unique=True),
)
def test_a_plan_is_one(replicas: int, has: list[str], bad: set[str], names: list[str]) -> None:
    others = [(name, name if name < "e" else "x") for name in names]
    members, voters, holders = plan("a", has, bad, others, "x", replicas)
    assert len(set(members)) == len(members) <= 8
    assert "a" not in members
    assert voters[0] == "a"
    assert len(voters) % 2 == 1
    assert set(voters[1:]) <= {*members}
    assert holders <= min(replicas, len(members))
    assert not set(members[:holders]) & bad


# --- images and turns -----------------------------------------------------------------------


def test_an_image_goes_once_a_newer_one_is_whole_on_enough() -> None:
    assert superfluous([3], 9) == []
    assert superfluous([3, 4], 3) == []  # the other has not got 4 yet
    assert superfluous([3, 4], 4) == [3]
    assert superfluous([1, 2, 3], 2) == [1]
    assert superfluous([], 5) == []
    copies = Copies()
    copies.put("b", 5)
    assert copies.news(("b", "c")) == News(5, ("b",), 0)
    copies.put("c", 4)
    assert copies.news(("b", "c")) == News(5, ("b",), 4)
    assert copies.news(("b", "c"), lost=("c",)) == News(5, ("b",), 5)
    copies.put("c", 5)
    assert copies.news(("b", "c")) == News(5, ("b", "c"), 5)


@given(st.sets(st.integers(1, 9)), st.integers(0, 9))
def test_the_newest_is_never_removed(whole: set[int], enough: int) -> None:
    gone = superfluous(whole, enough)
    assert not whole or max(whole) not in gone
    assert all(number < enough for number in gone)


def test_turns_differ_and_the_newest_goes_first() -> None:
    news = News(7, ("b", "c"), 6)
    at = {name: turn("id", name, held(voters=("a", *"bcdef")), news, 7) for name in "bc"}
    late = {name: turn("id", name, held(voters=("a", *"bcdef")), news, 6) for name in "def"}
    every = sorted([*at.values(), *late.values()])
    assert all(b - a >= 1.0 for a, b in itertools.pairwise(every))
    assert max(at.values()) < min(late.values())
    assert min(at.values()) == held().until
    assert turn("id", "b", held(), news, 0) == math.inf
    first = {turn("id", name, held(), News(), 1) for name in "bc"}  # nobody told of it yet
    assert len(first) == 2


@given(st.text(max_size=40))
def test_words_that_are_none(word: str) -> None:
    with pytest.raises(CloudError) as caught:
        availability.terms([f"{word}x=1"])
    assert caught.value.kind == "bad"


@given(st.floats(1, 86400), st.integers(1, 7), st.floats(5, 3600))
def test_terms_are_what_their_text_says(checkpoint: float, replicas: int, patience: float) -> None:
    words = Terms(checkpoint, replicas, patience).text().split()
    found = availability.terms(words)
    assert availability.terms(found.text().split()) == found
    assert found.replicas == replicas
