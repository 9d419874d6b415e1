"""What keeps the secrets of this process in it: no core, no debugger, no swap."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

from cloudfs.errors import CloudError

# prctl(2), mlockall(2), capabilities(7)
_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38
_CURRENT, _FUTURE = 1, 2
_IPC_LOCK = 14


def harden() -> list[str]:
    """Close this process to others of the same user; what could not be done, as sentences.

    One that is not dumpable leaves no core, cannot be attached to, and its /proc/PID is root's
    (ptrace(2), proc(5)).  CloudError("unsupported") where the system does not do that much.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        why = os.strerror(ctypes.get_errno())
        raise CloudError("unsupported", f"this system keeps no process to itself: {why}")
    lacks = []
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        lacks.append("it may gain privileges by what it runs, which is nothing")
    # What is locked now counts against the limit later as well, and a process that hits it
    # cannot allocate: so all or nothing.
    if not _unlimited() or libc.mlockall(_CURRENT | _FUTURE) != 0:
        lacks.append("its memory may be swapped out: RLIMIT_MEMLOCK is not unlimited")
    return lacks


def _unlimited() -> bool:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return True
    words = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line
    )
    return bool(int(words["CapEff"], 16) >> _IPC_LOCK & 1)
