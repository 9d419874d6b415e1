"""What of a sandbox travels beside criu's image: its own directories, as one tar file.

A tar file may be another node's work, and it is unpacked as root: nothing is left of one
that holds what a program in a sandbox could not have made.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.uids import SIZE

FILE = "work.tar"
FINE = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK})


def pack(file: Path, home: Path, names: Sequence[str]) -> None:
    """Put directories of home into a tar file.  Raises CloudError."""
    _tar(["--create", "--sparse", "--file", str(file), "-C", str(home), "--", *names])


def unpack(file: Path, home: Path, names: Sequence[str], first_uid: int) -> None:
    """Put them back, in place of what is there.  Raises CloudError."""
    fresh = home / "unpacked"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    try:
        options = ["--same-owner", "--same-permissions", "--delay-directory-restore"]
        _tar(["--extract", *options, "--file", str(file), "-C", str(fresh), "--", *names])
        for name in names:
            _check(fresh / name, first_uid)
            shutil.rmtree(home / name, ignore_errors=True)
            (fresh / name).rename(home / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _tar(args: list[str]) -> None:
    command = ["tar", "--numeric-owner", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # 1 is for files that vanished or grew meanwhile, and sockets, which are left out.
    if done.returncode > 1:
        said = (done.stderr.strip().splitlines() or ["gave no reason"])[0]
        raise CloudError("full" if "No space" in said else "io", f"its files: {said[:200]}")


def _check(tree: Path, first_uid: int) -> None:
    """Raise CloudError("bad") for what a program in a sandbox could not have made."""
    for folder, names, files in os.walk(tree):
        for name in (".", *names, *files):
            found = os.lstat(os.path.join(folder, name))
            owned = first_uid <= found.st_uid < first_uid + SIZE
            if not owned or stat.S_IFMT(found.st_mode) not in FINE:
                raise CloudError("bad", f"its files are not a sandbox's: {name[:80]}")


def give(images: Path, first_uid: int) -> None:
    """Let criu read an image from within the sandbox's user name space, where it is the
    sandbox's root, or for a moment root without any rights."""
    for path in (*images.iterdir(), images):
        os.chown(path, first_uid, 0, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o750 if path.is_dir() else 0o640)


def let_pass(home: Path, first_uid: int) -> None:
    """The sandbox's root, and nobody else, may pass through the object's directory."""
    os.chown(home, 0, first_uid)
    home.chmod(0o710)
