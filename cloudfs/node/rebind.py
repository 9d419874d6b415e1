"""Show a directory at /cloud of a sandbox that runs already.

    python -m cloudfs.node.rebind PID DIRECTORY

A sandbox has the node's mount bound at its /cloud.  When the daemon ends, that mount is
dead; the next daemon's is another one, so it is taken as a detached copy, carried into
the sandbox's mount name space and put in the place of the dead one (open_tree(2),
setns(2), move_mount(2)).  This is a program of its own because setns needs a process
with one thread, and because the daemon must not wait for its own mount.
"""

from __future__ import annotations

import ctypes
import os
import sys

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
MNT_DETACH = 2
CLONE_NEWNS = 0x20000
OPEN_TREE, MOVE_MOUNT = 428, 429  # the same numbers on every architecture

_libc = ctypes.CDLL(None, use_errno=True)


def _must(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def rebind(pid: int, directory: str, at: str = "/cloud") -> None:
    """Put directory at `at` in the mount name space of pid.  Raises OSError."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    tree = _must(
        _libc.syscall(OPEN_TREE, AT_FDCWD, directory.encode(), flags), f"open_tree {directory}"
    )
    there = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _must(_libc.setns(there, CLONE_NEWNS), "setns")
    _libc.umount2(at.encode(), MNT_DETACH)  # the dead one, if it is still there
    _must(
        _libc.syscall(MOVE_MOUNT, tree, b"", AT_FDCWD, at.encode(), MOVE_MOUNT_F_EMPTY_PATH),
        f"move_mount {at}",
    )


if __name__ == "__main__":
    try:
        rebind(int(sys.argv[1]), sys.argv[2])
    except OSError as error:
        sys.exit(error.strerror)
