"""The query language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.kernel import query

NODE = {"arch": "x86_64", "cpus": 8, "mem.free": 4e9, "price": 0.05, "label.gpu": "a100"}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("arch=x86_64", True),
        ("arch!=x86_64", False),
        ("cpus>=8", True),
        ("cpus>8", False),
        ("cpus=8.0", True),
        ("mem.free>=4e9", True),
        ("mem.free<4000000000", False),
        ("price<0.1", True),
        ("label.gpu=a100", True),
        ("label.disk=ssd", False),
        ("label.disk!=ssd", False),
        ("arch>1", False),
        ("sort=price", True),
    ],
)
def test_meets(text, met):
    assert query.meets(query.parse(text), NODE) is met


@pytest.mark.parametrize(
    ("text", "number"),
    [("4e9", 4e9), ("-1.5", -1.5), (".5", 0.5), ("2.", 2.0), ("1E-05", 1e-5), ("+3", 3.0)]
    + [
        (word, None)
        for word in ("", ".", "1_0", "\u0661", " 1", "1\n", "nan", "inf", "1e999", "0x1")
    ],
)
def test_numbers(text, number):
    assert query.number(text) == number


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300))
def test_what_python_prints_is_a_number(value):
    assert query.number(value) == float(value)


@pytest.mark.parametrize(
    "text", ["", "cpus", "=3", "cpus>=", "cpus>many", "9>cpus", "a b=3", "sort>3", "x=" + "y" * 300]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(CloudError) as caught:
        query.parse(text)
    assert caught.value.why


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_refused(text):
    try:
        expr = query.parse(text)
    except CloudError:
        return
    assert query.parse(str(expr)) == expr
    assert query.meets(expr, NODE) in (True, False)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False))
def test_numbers_compare_as_numbers(have, want):
    for op, function in query.OPS.items():
        met = query.meets(query.Expr("x", op, repr(want)), {"x": have})
        if abs(want) < float("inf"):
            assert met == function(have, want)


def test_unmet_says_what_the_node_has_instead():
    exprs = [query.parse("cpus>=16"), query.parse("arch=x86_64"), query.parse("gpu=1")]
    assert query.unmet(exprs, NODE) == ["cpus>=16 (it has 8)", "gpu=1 (it has no such attribute)"]


# --- orders, times and units


@pytest.mark.parametrize(
    "text",
    [
        *("rtt(paris-3)<0.02", "rtt<0.02", "sort=rtt(paris-3)", "sort=-mem.free", "near=paris-3"),
        *("count=3", "price<0.1", "label.gpu=4GB"),
    ],
)
def test_expressions_are_written_as_they_were_read(text):
    assert str(query.parse(text)) == text
    query.check([query.parse(text)])


@pytest.mark.parametrize(
    ("text", "why", "fix"),
    [
        ("mem.free>=4GB", "numbers in base units", "write: mem.free>=4e9"),
        ("mem.free=4 GiB", "is a number \\(bytes\\)", "write: mem.free=4.29497e9"),
        ("rtt(paris-3)<20ms", "base units", "write: rtt\\(paris-3\\)<0.02"),
        ("rtt<150us", "base units", "write: rtt<0.00015"),
        ("rtt<1m", "base units", "write: rtt<60"),
        ("disk.free>50M", "base units", "write: disk.free>5e7"),
        ("cpu.idle>=50%", "base units", "write: cpu.idle>=0.5"),
        ("price<cheap", "base units", "as in 4e9"),
        ("cpus=many", "is a number \\(cores\\)", "as in cpus=2"),
        ("arch>=3", "arch is a text", "with = or !="),
        ("cpu.iddle>=2", "has an attribute cpu.iddle", "did you mean cpu.idle"),
        ("gpu=a100", "has an attribute gpu", "label.gpu"),
        ("zzzzzz=1", "has an attribute zzzzzz", "there are node, cluster"),
        ("sort=lod", "has an attribute lod", "load"),
        ("label.=1", "has an attribute label.", "label.NAME"),
        ("rtt(Paris)<1", "no node's name", "ls /cloud/nodes"),
        ("load(paris)<1", "is no attribute", "rtt\\(NODE\\)"),
        ("cpus==4", "'==4' is no operator", "= != < <= > >="),
        ("cpus=>4", "'=>4' is no operator", "= != < <= > >="),
        ("near=../x", "no node's name", "ls /cloud/nodes"),
        ("near>x", "near takes =", "near=NODE"),
        ("count=0", "whole number", "from 1"),
        ("count=1e3", "whole number", "from 1"),
        ("count=99999", "whole number", "from 1"),
        ("sort=", "no expression", ""),
        ("sort=--load", "is no attribute", ""),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(text, why, fix):
    with pytest.raises(CloudError, match=f"{why}.*{fix}") as caught:
        query.parse_all([text])
    assert caught.value.kind == "bad"


def test_an_attribute_that_some_node_tells_is_known():
    query.parse_all(["site.power>=2"], {"site.power"})
    with pytest.raises(CloudError, match=r"site\.power"):
        query.parse_all(["site.pwer>=2"], {"site.power"})


def test_long_queries_are_refused():
    for texts in (["cpus>=1"] * 33, ["label.a=" + "x" * 240] * 20, ["x" * 10_000]):
        with pytest.raises(CloudError) as caught:
            query.parse_all(texts)
        assert caught.value.kind == "toobig"


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["cpus>=4", "arch=x86_64", "cpus<2"], ("cpus>=4", "cpus<2")),
        (["cpus>2", "cpus<=2"], ("cpus>2", "cpus<=2")),
        (["cpus=2", "cpus!=2.0"], ("cpus=2", "cpus!=2.0")),
        (["arch=arm64", "arch=x86_64"], ("arch=arm64", "arch=x86_64")),
        (["label.gpu>3", "label.gpu=many"], ("label.gpu>3", "label.gpu=many")),
        (["near=a", "near=b"], ("near=a", "near=b")),
        (["count=1", "count=2"], ("count=1", "count=2")),
    ],
)
def test_contradictions_are_named(texts, named):
    with pytest.raises(CloudError) as caught:
        query.parse_all(texts)
    assert all(word in caught.value.why for word in named)


CONDITIONS = st.builds(
    lambda attr, op, value: query.Expr(attr, op, str(value)),
    st.sampled_from(["load", "label.x"]),
    st.sampled_from(sorted(query.OPS)),
    st.integers(-3, 3),
)


@given(CONDITIONS, CONDITIONS)
def test_two_conditions_contradict_where_no_value_meets_both(one, other):
    values = [n / 2 for n in range(-10, 11)]
    met = any(
        query.meets(one, {"load": a, "label.x": b})
        and query.meets(other, {"load": a, "label.x": b})
        for a in values
        for b in values
    )
    assert (query.contradiction([one, other]) is None) == met


@given(st.lists(st.floats(-1e9, 1e9) | st.sampled_from(["", "a", "ab", "b", None]), max_size=9))
def test_an_order_and_its_reverse(values):
    nodes = [{} if value is None else {"x": value} for value in values]
    up = sorted(nodes, key=lambda node: query.place(query.Expr("x", "sort", ""), node))
    down = sorted(nodes, key=lambda node: query.place(query.Expr("x", "sort", "-"), node))
    numbers = [node["x"] for node in up if isinstance(node.get("x"), float)]
    assert numbers == sorted(numbers)
    assert [node["x"] for node in down if isinstance(node.get("x"), float)] == numbers[::-1]
    texts = [node["x"] for node in up if isinstance(node.get("x"), str)]
    assert texts == sorted(texts)
    assert [node["x"] for node in down if isinstance(node.get("x"), str)] == texts[::-1]
    assert [len(node) for node in up] == sorted((len(node) for node in nodes), reverse=True)
