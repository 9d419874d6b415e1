"""One direction: wire | fuse | web → tree → kernel → node (STYLE.md).

The top modules (errors, ndb, wait, …) are everybody's and stand on nothing but each
other; `cli` and `daemon` put everything together.  What only type checkers read does
not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloudfs

ROOT = Path(cloudfs.__file__).parent
ALL = {"wire", "fuse", "web", "tree", "kernel", "fabric", "node", "factotum", "factotumd"}
ALL |= {"logins", "daemon", "cli"}

# package: the packages that it may import besides itself and the top modules
MAY = {
    "node": set(),
    "factotum": set(),
    "fabric": {"node", "factotum"},
    "kernel": {"node", "fabric", "factotum"},
    "tree": {"kernel", "node", "fabric", "factotum"},
    "wire": {"tree", "factotum"},
    "fuse": {"tree"},
    "web": {"tree"},
    "factotumd": {"wire", "tree", "kernel", "factotum"},  # a process of its own
    "logins": {"wire", "tree", "kernel", "factotum"},
    "credentials": {"factotum", "kernel"},
    "enrolling": {"credentials", "factotum", "kernel", "wire"},
    "revoking": {"credentials", "factotum", "kernel", "wire"},
    "joined": (ALL | {"credentials", "enrolling", "revoking"}) - {"cli", "daemon", "fuse"},
    "daemon": (ALL | {"joined", "credentials"}) - {"cli", "factotumd"},
    "cli": ALL,
    "__main__": ALL,
}
# The contract that everybody may speak: plain types, no service behind them.
CONTRACT = {"cloudfs.tree.api"}


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports when it runs."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from visit(child)
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def package(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def broken(path: Path) -> list[str]:
    """The imports of one file that go the wrong way."""
    mine = package(path)
    tops = {p.stem for p in ROOT.glob("*.py")} - set(MAY)
    wrong = []
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "cloudfs" or len(parts) < 2:
            continue
        other = parts[1]
        contract = any(name == c or name.startswith(c + ".") for c in CONTRACT)
        # `from cloudfs.tree import api` names cloudfs.tree first, which says nothing yet.
        bare = name in {c.rsplit(".", 1)[0] for c in CONTRACT}
        if other == mine or other in tops or contract or bare:
            continue
        if not (ROOT / other).exists() and not (ROOT / f"{other}.py").exists():
            continue  # a name in cloudfs/__init__.py
        if other not in MAY.get(mine, set()):
            wrong.append(f"{path.relative_to(ROOT.parent)} imports {name}")
    return wrong


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    assert broken(path) == []


def test_a_wrong_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: an upward import, a sideways one, one inside a function."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    for name in ("node", "tree", "wire", "fuse"):
        (tmp_path / name).mkdir()
    (tmp_path / "errors.py").write_text("")
    bad = tmp_path / "node" / "bad.py"
    bad.write_text("import cloudfs.errors\nfrom cloudfs.tree import space\n")
    assert broken(bad) == [f"{tmp_path.name}/node/bad.py imports cloudfs.tree.space"]
    bad = tmp_path / "fuse" / "bad.py"
    bad.write_text("def f():\n    from cloudfs.wire.codec import x\n")
    assert len(broken(bad)) == 2  # the module and the name in it
    good = tmp_path / "node" / "good.py"
    good.write_text(
        "from typing import TYPE_CHECKING\nfrom cloudfs.tree.api import Wait\n"
        "if TYPE_CHECKING:\n    from cloudfs.tree.space import Attach\n"
    )
    assert broken(good) == []


def test_nothing_of_the_real_work_happens_at_import() -> None:
    """`import cloudfs` costs nothing: no package imports its parts for convenience."""
    assert not [n for n in imports(ROOT / "__init__.py") if n.startswith("cloudfs")]
