"""Paths that can be looked at without leaving the root's mount."""

from __future__ import annotations

import os
from pathlib import Path

from cloudfs.node.near import near


def test_what_is_on_the_roots_mount(tmp_path: Path) -> None:
    assert near("/")
    if os.stat(tmp_path).st_dev == os.stat("/").st_dev:
        (tmp_path / "link").symlink_to("inside")
        (tmp_path / "inside").mkdir()
        assert near(str(tmp_path))
        assert near(f"{tmp_path}/link/..")


def test_what_lies_in_another_mount_or_nowhere(tmp_path: Path) -> None:
    (tmp_path / "away").symlink_to("/proc/self")
    assert not near("/proc")
    assert not near("/proc/self/status")
    assert not near(f"{tmp_path}/away")
    assert not near(f"{tmp_path}/nowhere")
    assert near("/proc/..") is False
