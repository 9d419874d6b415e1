"""A claim is held for as long as its owner lives, and then taken by one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloudfs.errors import CloudError
from cloudfs.node import claims
from cloudfs.node.claims import Claim, find, orphans


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims, "HOME", tmp_path / "nets")
    return tmp_path / "nets"


def test_a_claim_that_is_held_is_nobodys_orphan(home: Path) -> None:
    claim = Claim({"base": "/x y", "nodes": "a b"})
    assert find(claim.tag) == {"base": "/x y", "nodes": "a b"}
    assert list(orphans()) == []
    claim.release()
    assert list(home.iterdir()) == []
    with pytest.raises(CloudError, match=claim.tag):
        find(claim.tag)


OWNER = """
import sys
from pathlib import Path
from cloudfs.node import claims
claims.HOME = Path(sys.argv[1])
print(claims.Claim({"base": "/b"}).tag, flush=True)
"""


def test_who_is_killed_leaves_an_orphan_for_one(home: Path) -> None:
    # It ends without a word, as if killed.
    done = subprocess.run(
        [sys.executable, "-c", f"{OWNER}\nimport os; os._exit(9)", str(home)],
        capture_output=True,
        text=True,
        check=False,
    )
    tag = done.stdout.strip()
    first = orphans()
    assert next(first) == (tag, {"base": "/b"})
    assert list(orphans()) == []  # somebody is at it
    assert next(first, None) is None
    assert list(orphans()) == []
    assert list(home.iterdir()) == []


def test_where_nobody_ever_claimed(home: Path) -> None:
    assert list(orphans()) == []
