"""Building the C programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloudfs.errors import CloudError
from cloudfs.node import keeper, wan
from cloudfs.node.compiled import FLAGS
from tests.node.conftest import need


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CloudError) as caught:
        keeper.build(tmp_path)
    assert caught.value.kind == "unsupported"
    assert "gcc" in caught.value.fix


@pytest.mark.parametrize("sources", [keeper.SOURCES, wan.SOURCES])
def test_it_compiles_without_a_warning(tmp_path: Path, sources: Sequence[Path]):
    need("" if shutil.which("cc") else "there is no C compiler")
    command = ["cc", *FLAGS, "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "program")]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
