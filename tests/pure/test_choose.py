"""Queries on their way through zones."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import aggregate, choose, coordinate, query
from cloudfs.kernel.aggregate import Digest
from cloudfs.kernel.choose import Question
from cloudfs.kernel.coordinate import DIMS, Coordinate

WORDS = st.sampled_from(["a100", "h100", "it's new", "x86_64", "2"])


def at(*place, height=0.001):
    return Coordinate((*place, *(0.0,) * (DIMS - len(place))), height, 0.1)


@st.composite
def nodes(draw):
    """A node's record: what is free of a thing is never more than there is of it.  Records tell
    six digits, so numbers have no more here."""
    cpus, total = draw(st.integers(1, 64)), draw(st.integers(1, 10)) * 10**9
    has = {
        "name": draw(st.text("abcd", min_size=1, max_size=3)),
        "cluster": "paris",
        "state": draw(st.sampled_from(["alive", "drained", "gone"])),
        "arch": draw(st.sampled_from(["x86_64", "arm64"])),
        "cpus": cpus,
        "cpu.idle": round(cpus * draw(st.floats(0, 1)), 6),
        "cpu.unreserved": draw(st.integers(0, cpus)),
        "mem.total": total,
        "mem.free": int(total * draw(st.floats(0, 1))),
        "load": round(draw(st.floats(0, 10)), 6),
        "price": draw(st.sampled_from([0.0, 0.05, 0.5])),
    }
    label = draw(st.none() | WORDS)
    return {**has, "label.gpu": label} if label else has


CONDITIONS = st.one_of(
    st.builds(
        lambda attr, op, value: f"{attr}{op}{value}",
        st.sampled_from(["cpus", "cpu.idle", "cpu.unreserved", "load", "price"]),
        st.sampled_from(sorted(query.OPS)),
        st.sampled_from(["0", "0.05", "1", "2", "8", "63.5", "-1"]),
    ),
    st.builds(
        lambda attr, op, value: f"{attr}{op}{value}",
        st.sampled_from(["mem.free", "mem.total"]),
        st.sampled_from(sorted(query.OPS)),
        st.sampled_from(["1e9", "5e9", "5000000001", "0"]),
    ),
    st.builds(
        lambda attr, op, value: f"{attr}{op}{value}",
        st.sampled_from(["arch", "label.gpu", "node", "cluster", "state"]),
        st.sampled_from(["=", "!="]),
        WORDS | st.text("abcd", min_size=1, max_size=3) | st.just("alive"),
    ),
    st.sampled_from(["sort=load", "near=n9", "rtt(n9)<0.01", "age<5", "count=2"]),
)
QUERIES = st.lists(CONDITIONS, max_size=3).map(lambda texts: tuple(map(query.parse, texts)))


def record(has):
    return ndb.record(has)


def digest(rows, moved=0.0):
    """Of a zone, in which what moves has moved by so much since the digest was made."""
    shown = []
    for has in rows:
        if has["state"] != "gone":
            old = {**has, "load": has["load"] + moved, "mem.free": 0, "cpu.idle": 0.0}
            shown.append((has["state"], {name: ndb.show(value) for name, value in old.items()}))
    return aggregate.of(shown)


@given(st.lists(nodes(), max_size=5), QUERIES)
def test_no_zone_is_left_out_that_has_a_node_which_meets(rows, exprs):
    """Also by a digest made when all was taken, long before."""
    own = [{**has, "node": has["name"], "age": 1.0, "rtt(n9)": 0.001} for has in rows]
    meet = [has for has in own if has["state"] != "gone" and choose.suits(exprs, has, True)]
    if meet:
        assert choose.may_match(digest(rows, 99.0), Question(exprs))


def test_zones_are_left_out_by_what_does_not_move():
    rows = [{"name": f"n{n}", "state": "alive", "cpus": 4, "mem.total": 8 * 10**9, "load": 1.0,
             "arch": "arm64", "label.gpu": "a100"} for n in range(3)]  # fmt: skip
    found = digest(rows)
    for no in ("cpus>4", "cpu.idle>=5", "mem.free>9e9", "mem.free=9e9", "arch=x86_64", "node=m1"):
        assert not choose.may_match(found, Question((query.parse(no),))), no
        assert choose.may_match(found, Question((query.parse(no),), every=True))
    for yes in (
        "cpus>=4",
        "cpu.idle>=4",
        "mem.free>7e9",
        "load>50",
        "mem.free<1",
        "label.gpu=a100",
    ):
        assert choose.may_match(found, Question((query.parse(yes),))), yes
    assert not choose.may_match(Digest(), Question((query.parse("near=n1"),)))


@given(QUERIES, st.booleans(), st.floats(-4, 4))
def test_a_question_reads_back_to_the_same(exprs, every, x):
    question = Question(exprs, {"n9": coordinate.parse(str(at(x, 0.25)))}, every)
    assert choose.parse(str(question)) == question


@pytest.mark.parametrize(
    "text",
    [
        *("query cpus", "query @n1=here", "query " + "cpus>1 " * 40, "query " + "x" * 20_000),
        "query " + " ".join(ndb.quote(f"@n{n}={at()}") for n in range(9)),
    ],
)
def test_what_is_no_question_is_refused(text):
    with pytest.raises(CloudError):
        choose.select(text, [])


@given(st.lists(st.lists(nodes(), max_size=6), max_size=4), QUERIES)
def test_zones_together_answer_what_one_would(zones, exprs):
    """What delegates pass on of their zones' answers holds all that may be among the best."""
    names = iter(range(100))
    zones = [[{**has, "name": f"m{next(names)}"} for has in zone] for zone in zones]
    text = str(Question(exprs))
    passed = [line for zone in zones for line in choose.select(text, map(record, zone))]
    found = [ndb.parse(line)["name"] for line in choose.select(text, passed)]
    meet = [
        has for zone in zones for has in zone
        if choose.suits(exprs, {**has, "node": has["name"]}, relative=False)
    ]  # fmt: skip
    most = choose.count_of(exprs)
    if most is None or any(e.relative for e in exprs):
        assert sorted(found) == sorted(has["name"] for has in meet)
    else:
        as_told = [{**ndb.parse(record(has)), "node": has["name"]} for has in meet]
        best = heapq.nsmallest(most, as_told, key=lambda has: choose.rank(exprs, has))
        assert sorted(found) == sorted(has["node"] for has in best)


def test_a_large_zone_names_few_for_a_search():
    places = {f"n{n}": at(n / 1000, height=0.05 if n % 2 else 0.001) for n in range(500)}
    records = [record({"name": name, "coordinate": str(p)}) for name, p in places.items()]
    exprs = (query.parse("near=x"), query.parse("count=3"))
    target = at(0.25)
    found = choose.select(str(Question(exprs, {"x": target})), records)
    names = {ndb.parse(line)["name"] for line in found}
    assert len(names) <= 2 * choose.CANDIDATES
    assert {"n250", "n248", "n252"} <= names
    assert len(choose.select(str(Question(exprs)), records)) == 500  # nothing to go by


def test_who_is_surely_too_far_is_left_out():
    places = {"room": at(height=0.03), "near": at(0.05), "far": at(1.0), "hidden": None}
    records = [
        record({"name": name, **({"coordinate": str(place)} if place else {})})
        for name, place in places.items()
    ]
    # Two machines of one room are nearer than both their access links promise.
    question = Question((query.parse("rtt(x)<0.01"),), {"x": at(height=0.03)})
    found = choose.select(str(question), records)
    assert [ndb.parse(line)["name"] for line in found] == ["room", "near", "hidden"]


def test_other_nodes_mistakes_are_passed_over():
    records = ["name='", "no name", "name=n1 cpus=4 coordinate=nowhere", "state=alive"]
    assert choose.select("query cpus>=4", records) == [records[2]]


def test_gone_nodes_are_found_only_by_their_state():
    records = [f"name=n{n} state={state}" for n, state in enumerate(["alive", "gone", "drained"])]
    assert choose.select("query", records) == [records[0], records[2]]
    assert choose.select("query state=gone", records) == [records[1]]
