"""Key expressions: what matches what."""

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cloudfs.fabric.keys import meets

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)
PARTS = st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("a/b", "a/b", True),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/**", "a", True),
        ("a/**", "a/b/c", True),
        ("**", "x/y", True),
        ("a/*/c", "a/**/c", True),
        ("down/*/n1", "down/paris/n1", True),
        ("down/*/n1", "down/paris/n2", False),
        ("*/b", "a/*", True),
        ("*/b", "*/c", False),
    ],
)
def test_meets(one, two, same):
    assert meets(one, two) == meets(two, one) == same


@given(PARTS, WORDS)
def test_an_expression_matches_as_its_regular_expression_does(parts, words):
    pattern = "".join({"*": "/[^/]+", "**": "(/[^/]+)*"}.get(part, f"/{part}") for part in parts)
    wanted = re.fullmatch(pattern, "".join(f"/{word}" for word in words)) is not None
    assert meets("/".join(parts), "/".join(words)) == wanted
