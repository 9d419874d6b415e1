"""The parts of the small Linux for virtual machines that need no package."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from cloudfs.cli import vmimage
from cloudfs.errors import CloudError


def module(*needs: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_modules_come_after_those_they_need():
    there = {
        "a": module("b", "c"),
        "b": module("c"),
        "c": module(),
        "d": module("built_in"),
        "e": module("f"),
        "f": module("e"),
    }
    assert list(vmimage.in_order(["a", "d", "nothing"], there.get)) == ["c", "b", "a", "d"]
    assert set(vmimage.in_order(["e"], there.get)) == {"e", "f"}
    assert vmimage.depends(b"no module") == []


def test_the_archive_is_one_of_cpio(tmp_path: Path):
    made = vmimage.archive([("init", 0o755, b"#!/bin/sh\n"), ("a/b/odd", 0o644, b"12345")])
    assert len(made) % 4 == 0
    if not shutil.which("busybox"):
        pytest.fail("no busybox to read it with")
    said = subprocess.run(
        ["busybox", "cpio", "-t"], input=made, capture_output=True, check=True
    ).stdout.split()
    assert said == [b"a", b"a/b", b"dev", b"dev/console", b"init", b"a/b/odd"]
    subprocess.run(
        ["busybox", "cpio", "-id", "init", "a/b/odd"], input=made, cwd=tmp_path, check=True
    )
    assert (tmp_path / "a/b/odd").read_bytes() == b"12345"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755


def test_a_packed_kernel_is_unpacked():
    kernel = b"\x7fELF" + bytes(5000)

    def packed(payload: bytes) -> bytes:
        image = bytearray(1024 + 512) + payload
        image[0x1F1] = 1
        struct.pack_into("<II", image, 0x248, 512, len(payload))
        return bytes(image)

    assert vmimage.unpacked(packed(lzma.compress(kernel))) == kernel
    assert vmimage.unpacked(packed(gzip.compress(kernel))) is None
    assert vmimage.unpacked(packed(lzma.compress(b"no kernel"))) is None
    assert vmimage.unpacked(packed(b"\xfd7zXZ broken")) is None


def test_without_apt_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CloudError, match="apt-cache") as error:
        vmimage.build(tmp_path / "image")
    assert error.value.kind == "unsupported"
