"""What a wan is told, before it is told: matrices, settings."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.node.wan import Wan, change, example, load, matrix

TIMES = st.floats(0, 60_000)


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(TIMES, min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_a_matrix_is_read_in_milliseconds(rows: list[list[float]]) -> None:
    text = "\n".join("\t".join(map(repr, row)) for row in rows)
    assert matrix(text) == [[value / 1e3 for value in row] for row in rows]


@pytest.mark.parametrize(
    "text", ["1 2", "0 1\n1", "0 x\n1 0", "0 -1\n1 0", "0 nan\n1 0", "0 1e9\n1 0"]
)
def test_what_is_no_matrix_is_refused(text: str) -> None:
    with pytest.raises(CloudError):
        matrix(text)


def test_a_file_gives_its_first_rows(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("0 10 20\n10 0 30\n20 30 0\n")
    (tmp_path / "m.gz").write_bytes(gzip.compress((tmp_path / "m").read_bytes()))
    for name in ("m", "m.gz"):
        assert load(tmp_path / name, 2) == [[0, 0.01], [0.01, 0]]
    with pytest.raises(CloudError, match="3 rows, for 4 nodes"):
        load(tmp_path / "m", 4)
    with pytest.raises(CloudError, match="No such file"):
        load(tmp_path / "absent", 2)
    (tmp_path / "half.gz").write_bytes((tmp_path / "m.gz").read_bytes()[:-9])
    with pytest.raises(CloudError):
        load(tmp_path / "half.gz", 2)


@given(st.integers(1, 40))
def test_the_example_is_a_symmetric_matrix_of_any_size(count: int) -> None:
    rows = example(count)
    assert len(rows) == count
    assert all(rows[a][b] == rows[b][a] for a in range(count) for b in range(count))
    assert all((rows[a][b] == 0) == (a == b) for a in range(count) for b in range(count))


@pytest.mark.parametrize(
    ("ends", "settings"),
    [
        ("ab", {"delay": -1}),
        ("ab", {"delay": float("nan")}),
        ("ab", {"speed": 1}),
        ("aa", {}),
        ("ax", {}),
    ],
)
def test_no_such_link(tmp_path: Path, ends: str, settings: dict[str, float]) -> None:
    with pytest.raises(CloudError):
        Wan("tag", "ab", tmp_path).links({(ends[0], ends[1]): settings})


def test_without_its_program_a_wan_says_so(tmp_path: Path) -> None:
    with pytest.raises(CloudError, match="cannot be changed: No such file"):
        change(tmp_path, ["1 2 0 0 0 0 0"])
