"""Digests: what a zone says of its nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import aggregate, query
from cloudfs.kernel.aggregate import Digest

WORDS = st.text("abc' =:1.-", max_size=8)
VALUES = st.one_of(
    st.floats(-1e18, 1e18).map(repr),
    st.integers(-(10**6), 10**9).map(str),
    st.sampled_from(["0", "x86_64", "arm"]),
    WORDS,
)
ATTRS = st.dictionaries(
    st.sampled_from(["load", "cpus", "arch", "label.rack", "mem.free", "version"]), VALUES
)
NODES = st.lists(
    st.tuples(
        st.sampled_from(["alive", "drained", "suspect"]),
        st.text("abcdefgh", min_size=1, max_size=5),
        ATTRS,
    ),
    max_size=6,
).map(lambda rows: [(state, attrs | {"name": name}) for state, name, attrs in rows])
DIGESTS = NODES.map(aggregate.of)


@given(DIGESTS, DIGESTS, DIGESTS)
def test_merging_is_associative_and_commutative(a, b, c):
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(Digest()) == a


@given(NODES, NODES)
def test_a_merge_is_the_digest_of_all_nodes(one, other):
    both = aggregate.of(one).merge(aggregate.of(other))
    both.leaves = 1
    assert both == aggregate.of([*one, *other])


def test_merging_stays_associative_where_attributes_and_values_are_left_out():
    def many(start, step):
        rows = [
            ("alive", {"name": f"n{n}", f"a{n:03}": "1", f"t{n:03}": "x", "rack": f"r{n}"})
            for n in range(start, 90, step)
        ]
        return aggregate.of(rows)

    a, b, c = (many(start, 3) for start in range(3))
    assert a.merge(b).merge(c) == c.merge(b.merge(a)) == b.merge(c).merge(a)
    whole = a.merge(b).merge(c)
    assert whole.cut
    assert len(whole.numbers) == len(whole.texts) == aggregate.NUMBERS
    assert len(whole.texts["rack"].values) == aggregate.VALUES
    assert whole.texts["rack"].others == 90 - aggregate.VALUES


@given(DIGESTS)
def test_the_text_reads_back_to_the_same(digest):
    assert aggregate.parse(digest.text()) == digest


@given(NODES)
def test_numbers_are_what_they_are_of_the_nodes(nodes):
    digest = aggregate.of(nodes)
    assert digest.nodes == len(nodes) == sum(digest.states.values())
    for name, stat in digest.numbers.items():
        values = [
            v
            for _, attrs in nodes
            if (v := query.number(attrs.get(name, ""))) is not None and name in attrs
        ]
        assert stat.count == len(values) == sum(stat.histogram.values())
        assert stat.min <= min(values)
        assert stat.max >= max(values)
        assert stat.mean == pytest.approx(
            sum(values) / len(values), rel=1e-6, abs=1e-5 + 1e-9 * max(map(abs, values))
        )


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), st.floats(0.01, 1))
def test_quantiles_are_good_to_a_factor_of_two(values, share):
    digest = aggregate.of([("alive", {"name": "a", "x": repr(v)}) for v in values])
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    found = digest.numbers["x"].quantile(share)
    if exact >= 0:
        assert exact - 1e-6 <= found <= max(2 * exact, exact + 2.0**-19) + 1e-6
    else:
        assert exact - 1e-6 <= found <= exact / 2 + 1e-6


@given(
    NODES,
    st.sampled_from(["load", "cpus", "arch", "label.rack"]),
    st.sampled_from(sorted(query.OPS)),
    VALUES,
)
def test_a_digest_never_denies_what_one_of_its_nodes_is(nodes, attr, op, value):
    try:
        expr = query.parse(f"{attr}{op}{value}")
    except CloudError:
        return
    if any(query.meets(expr, attrs) for _, attrs in nodes if attrs.get(attr) != ""):
        assert aggregate.of(nodes).could_meet(expr)


def test_a_digest_denies_what_it_can():
    digest = aggregate.of(
        [("alive", {"name": f"n{n}", "cpus": str(n + 1), "arch": "arm64"}) for n in range(4)]
    )
    for yes in (
        "cpus>=4",
        "cpus=2",
        "cpus!=2",
        "arch=arm64",
        "arch!=x86",
        "node=n1",
        "sort=load",
        "cpus!=arm",
    ):
        assert digest.could_meet(query.parse(yes)), yes
    for no in (
        "cpus>4",
        "cpus<1",
        "cpus=9",
        "arch=x86_64",
        "node=other",
        "load<1",
        "arch>3",
        "cpus=arm",
        "arch!=arm64",
    ):
        assert not digest.could_meet(query.parse(no)), no
    assert not Digest().could_meet(query.parse("sort=load"))


@pytest.mark.parametrize(
    "text",
    [
        "nodes=x leaves=1 cut=",
        "number=a count=1",
        "names=!",
        "state=a",
        "number=a count=0 min=0 max=0 sum=0 hist=0:1",
    ],
)
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(CloudError):
        aggregate.parse(text)


def test_a_digest_of_many_nodes_is_not_larger_than_one_of_few():
    def leaf(start, count):
        return aggregate.of(
            (
                "alive",
                {
                    "name": f"n{n}",
                    "cpus": "4",
                    "load": str(n % 7 / 3),
                    "mem.free": str(n * 10**7),
                    "label.rack": f"r{n % 40}",
                },
            )
            for n in range(start, start + count)
        )

    few = leaf(0, 32)
    many = aggregate.merge(leaf(n * 25, 25) for n in range(400))
    assert many.nodes == 10000
    assert many.leaves == 400
    assert len(many.text()) < 1.5 * len(few.text()) + 500


@given(NODES, NODES, NODES)
def test_a_whole_with_the_news_beyond_it_is_as_good_as_new(before, between, now):
    """Nothing that a node is now is denied by what was told before and since."""
    known, digest = aggregate.of(before), aggregate.of(now)
    said = Digest()
    for later in (aggregate.of(between), digest):
        said, _ = later.beyond(known, said)
    told = known.overlaid(aggregate.parse(said.text()))
    assert (told.nodes, told.states) == (digest.nodes, digest.states)
    for _, attrs in now:
        for name, value in attrs.items():
            if name != "name" and value and len(value) <= aggregate.LONGEST:
                assert told.could_meet(query.Expr(name, "=", value)) or not digest.could_meet(
                    query.Expr(name, "=", value)
                )
        assert told.could_meet(query.Expr("name", "=", attrs["name"]))


def test_news_of_what_is_the_same_are_a_few_bytes():
    nodes = [
        ("alive", {"name": f"n{n}", "load": str(n / 10), "rack": f"r{n}", "arch": "x86_64"})
        for n in range(25)
    ]
    digest = aggregate.of(nodes)
    news, more = digest.beyond(digest, Digest())
    assert not more
    assert not news.numbers
    assert not news.texts
    assert not news.names
    assert len(news.text()) < 100 < len(digest.text()) / 4
    one = aggregate.of([*nodes, ("alive", {"name": "new", "load": "7.5", "arch": "x86_64"})])
    news, more = one.beyond(digest, Digest())
    assert more
    assert set(news.numbers) == {"load"}
    assert not news.texts
    assert len(news.text()) < 300
    assert digest.overlaid(news).numbers["load"].max >= 7.5
    again, more = one.beyond(digest, news)
    assert not more
    assert again == news


@given(DIGESTS)
def test_a_packed_digest_is_the_same_unpacked(digest):
    packed = aggregate.Packed(digest)
    assert packed.digest() == digest
    assert (packed.nodes, packed.names) == (digest.nodes, digest.names)
