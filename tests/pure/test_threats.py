"""docs/THREATS.md speaks of files and tests that are there, and of every promise."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parents[1]
PAGE = (HERE.parent / "docs" / "THREATS.md").read_text()
HELD = PAGE.split("## The promises", 1)[1]


def test_its_files_are_there() -> None:
    named = set(re.findall(r"`([a-z0-9_/]+\.py)`", PAGE))
    assert len(named) > 30
    for name in named - {"tests/pure/test_threats.py"}:
        assert (HERE.parent / "cloudfs" / name).is_file(), name


def test_each_promise_has_a_test() -> None:
    rows = [line.split("|")[1:3] for line in HELD.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 16
    for promise, tests in rows:
        found = re.findall(r"`([a-z0-9_/]+\.py)::(test_\w+)`", tests)
        assert found, promise
        for file, name in found:
            said = (HERE / file).read_text()
            assert re.search(rf"^(async )?def {name}\(", said, re.MULTILINE), f"{file}::{name}"
