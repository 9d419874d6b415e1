"""Expressions mean what they mean to Zenoh, whose own judgement is the oracle."""

import contextlib

import zenoh
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fabric.keys import check_expr, check_key, intersects

CHUNKS = st.sampled_from(["a", "b", "ab", "*", "**"])
EXPRS = st.lists(CHUNKS, min_size=1, max_size=6).map("/".join)
KEYS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=6).map("/".join)


@given(EXPRS)
def test_the_canonical_form(expr):
    assert check_expr(expr) == str(zenoh.KeyExpr.autocanonize(expr))
    assert check_expr(check_expr(expr)) == check_expr(expr)


@given(EXPRS, EXPRS)
def test_intersects(one, two):
    one, two = check_expr(one), check_expr(two)
    assert intersects(one, two) == zenoh.KeyExpr(one).intersects(two)
    assert intersects(one, two) == intersects(two, one)


@given(EXPRS, KEYS)
def test_a_key_in_an_expression(expr, key):
    expr = check_expr(expr)
    assert intersects(expr, key) == zenoh.KeyExpr(expr).includes(key)


@given(st.text(max_size=12))
def test_what_we_let_pass_is_good_enough_for_zenoh(text):
    for check in (check_key, check_expr):
        with contextlib.suppress(CloudError):
            passed = check(text)
            assert str(zenoh.KeyExpr(f"z/{passed}")) == f"z/{passed}"
