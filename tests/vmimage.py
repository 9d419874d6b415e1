"""The small Linux that tests of virtual machines boot: made once a run, or where $CLOUDFS_VM
says that there is one."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from cloudfs.cli import vmimage

APPEND = "append=console=ttyS0 quiet"


@functools.cache
def folder() -> Path:
    """Where vmlinux, vmlinuz and initrd.gz are."""
    given = os.environ.get("CLOUDFS_VM", "")
    made = Path(given or tempfile.mkdtemp(prefix="vm-"))
    if not (made / "initrd.gz").exists():
        vmimage.build(made, lambda said: None)
    made.chmod(0o755)
    return made


def words(*more: str) -> list[str]:
    """What exec is told to boot it, unpacked, which is quicker."""
    kernel = folder() / "vmlinux"
    if not kernel.exists():
        kernel = folder() / "vmlinuz"
    return [f"kernel={kernel}", f"initrd={folder() / 'initrd.gz'}", APPEND, *more]
