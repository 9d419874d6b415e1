"""The node's small C programs, each compiled where it is first used."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cloudfs.errors import CloudError

FLAGS = ["-O2", "-s", "-std=gnu11", "-D_FILE_OFFSET_BITS=64"]
FIX = "apt install gcc libc6-dev"


def compiled(folder: Path, name: str, sources: Sequence[Path]) -> str:
    """The path of a program in folder/bin, made there of these sources unless it is there.

    Raises CloudError("unsupported") where there is no C compiler.
    """
    text = b"".join(source.read_bytes() for source in sources)
    binary = folder / "bin" / f"{name}-{hashlib.sha256(text).hexdigest()[:16]}"
    if binary.exists():
        return str(binary)
    compiler = shutil.which("musl-gcc") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CloudError("unsupported", "there is no C compiler here", FIX)
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        made = Path(scratch) / name
        # Static starts twice as fast and needs less memory, where the libc allows it.
        for linking in (["-static"], []):
            command = [compiler, *FLAGS, *linking, "-o", str(made), *map(str, sources)]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "TMPDIR": scratch},  # of a compiler that is killed
            )
            if done.returncode == 0:
                made.rename(binary)
                return str(binary)
    said = done.stderr.splitlines()
    why = next((line for line in said if "error" in line), "no reason given")
    raise CloudError("unsupported", f"the {name} cannot be compiled: {why}", FIX)
