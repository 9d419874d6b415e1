"""Numbers and tables for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.cli.show import columns, duration, rate, size, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00ms"), (0.00025, "0.25ms"), (0.0123, "12.3ms"), (1.2, "1.20s"), (0.2, "200.0ms")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0bit/s"), (12.5e6, "100Mbit/s"), (1.875e8, "1.5Gbit/s"), (1e15, "8e+03Tbit/s")],
)
def test_rate(count: float, text: str) -> None:
    assert rate(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (1024, "1.0K"),
        (12 << 20, "12M"),
        (1.5 * 2**30, "1.5G"),
        (1 << 60, "1024P"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.0s"),
        (0.04, "0.0s"),
        (9.96, "10.0s"),
        (45, "45s"),
        (60, "1m"),
        (3600, "1h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (400 * 86400, "400d"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_nothing_in_a_column_acts_on_the_terminal() -> None:
    rows = [("a\x1b[31m", "b\nc\r", "d\x9b\u202e"), ("ü", "名", "x y")]
    assert list(columns(("A", "B", "C"), rows))[1:] == ["a?[31m  b?c?  d??", "ü       名     x y"]


@given(st.lists(st.tuples(*[st.text("abc", max_size=9)] * 3), max_size=5))
def test_columns_begin_where_their_head_does(rows: list[tuple[str, str, str]]) -> None:
    head, *lines = columns(("ONE", "TWO", "THREE"), rows)
    for line, row in zip(lines, rows, strict=True):
        assert line[head.index("TWO") :].startswith(row[1])
        assert line[head.index("THREE") :] == row[2].rstrip()
