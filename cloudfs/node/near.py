"""Whether a path can be looked at without leaving the root's mount.

A path that a user names may lead into this node's own mount.  The daemon's one thread
must not look there: the kernel would ask the daemon, which waits for the kernel.  So a
path is first resolved with openat2(2) and RESOLVE_NO_XDEV, which stops before it
crosses into any other mount; what does not resolve is left to a thread.
"""

from __future__ import annotations

import ctypes
import os
import struct

OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_XDEV = 0x01
_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_how = _HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_XDEV)
_libc = ctypes.CDLL(None)


def near(path: str) -> bool:
    """Whether an absolute path is there and on the root's mount all the way.  False, too,
    on a kernel that cannot tell (before 5.6)."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd: int = _libc.syscall(OPENAT2, root, os.fsencode(path), _how, _HOW.size)
    finally:
        os.close(root)
    if fd < 0:
        return False
    os.close(fd)
    return True
