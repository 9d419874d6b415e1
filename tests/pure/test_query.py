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
