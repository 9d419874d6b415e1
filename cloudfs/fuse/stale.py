"""Mounts that a daemon left behind: found in the kernel's table, probed, cleared.

A daemon that was killed leaves "Transport endpoint is not connected"; one that is
stopped or stuck leaves a directory in which every program hangs.  Nothing here looks
at such a directory itself without a deadline.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudfs.errors import CloudError

NAME = "cloudfs"  # our fsname and subtype in the table
PROBE = 3.0  # seconds after which a mount that does not answer is stuck
_TOOL = 10.0  # seconds for fusermount3
_FORCE, _DETACH, _NOFOLLOW = 1, 2, 8  # of umount2(2)
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(slots=True)
class Mounted:
    """A line of /proc/self/mountinfo.  device: "major:minor" as stat(2) has it."""

    directory: str
    device: str
    type: str
    source: str

    @property
    def ours(self) -> bool:
        return self.type == f"fuse.{NAME}" and self.source == NAME


def parse(mountinfo: str) -> list[Mounted]:
    """The mounts in the text of /proc/self/mountinfo, in the order they were made."""
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        first, last = left.split(), right.split()
        if len(first) < 6 or len(last) < 2:
            continue
        mounts.append(Mounted(_plain(first[4]), first[2], last[0], _plain(last[1])))
    return mounts


def _plain(field: str) -> str:
    """A field without its octal escapes for blanks and the like."""
    raw = _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
    return (
        raw.encode("latin-1", "surrogateescape").decode("utf-8", "surrogateescape")
        if (raw != field)
        else field
    )


def mounts() -> list[Mounted]:
    """All mounts that this process sees."""
    text = Path("/proc/self/mountinfo").read_bytes()
    return parse(os.fsdecode(text))


def mounted_at(directory: str | os.PathLike[str]) -> Mounted | None:
    """The topmost mount on exactly this directory."""
    path = _absolute(directory)
    return next((m for m in reversed(mounts()) if m.directory == path), None)


def _absolute(directory: str | os.PathLike[str]) -> str:
    """The directory's path without links, touching only the directories above it."""
    parent, name = os.path.split(os.path.abspath(directory))
    return os.path.join(os.path.realpath(parent), name) if name else "/"


def state(directory: str, seconds: float = PROBE) -> str:
    """ "live", "dead" (its daemon is gone) or "stuck" (no answer within `seconds`)."""
    return states([directory], seconds)[0]


def states(directories: Sequence[str], seconds: float = PROBE) -> list[str]:
    """The states of some mounts, all looked at together."""
    answers = dict.fromkeys(directories, "stuck")

    def look(directory: str) -> None:
        try:
            os.statvfs(directory)
        except OSError as error:
            gone = error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            answers[directory] = "dead" if gone else "live"
        else:
            answers[directory] = "live"

    # A thread that hangs is let go when the connection is cut, or when we end.
    threads = [threading.Thread(target=look, args=(d,), daemon=True) for d in answers]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [answers[directory] for directory in directories]


def stale_mounts(seconds: float = PROBE) -> list[Mounted]:
    """The mounts of cloudfs that do not answer any more; takes `seconds` if one is stuck."""
    ours = [m for m in mounts() if m.ours]
    found = states([m.directory for m in ours], seconds)
    return [m for m, word in zip(ours, found, strict=True) if word != "live"]


def clear(directory: str | os.PathLike[str], seconds: float = PROBE) -> bool:
    """Take away a stale mount of ours at a directory; False if there was none.

    Programs that hang in it come back with an error.  Raises CloudError if it cannot
    be taken away."""
    cleared = False
    while (found := mounted_at(directory)) and found.ours:
        if state(found.directory, seconds) == "live":
            break
        abort(found.device)
        detach(found.directory, force=True)
        cleared = True
    return cleared


def unmount(directory: str | os.PathLike[str]) -> None:
    """Take away a mount of ours, stale or not; its daemon sees that and goes on.

    Programs that have files open in a live one keep them until they close them.
    Raises CloudError("absent") if there is no mount of ours."""
    found = mounted_at(directory)
    if found is None or not found.ours:
        raise CloudError(
            "absent", f"{os.fspath(directory)} is no mount of cloudfs", "see: cloudfs doctor"
        )
    stuck = state(found.directory) == "stuck"
    if stuck:
        abort(found.device)
    detach(found.directory, force=stuck)


def abort(device: str) -> None:
    """Cut a FUSE connection, which frees every process that hangs in it.  Does nothing
    where the kernel's directory for that is not mounted, or the connection is gone."""
    with contextlib.suppress(OSError):
        (_CONNECTIONS / device.partition(":")[2] / "abort").write_text("1")


def detach(directory: str, *, force: bool) -> None:
    """Unmount now, whoever uses it.  force: cut the connection first (root only)."""
    if os.geteuid() == 0:
        _umount(directory, _DETACH | _NOFOLLOW | (_FORCE if force else 0))
    else:
        _fusermount(directory)


def _umount(directory: str, flags: int) -> None:
    """umount2(2) itself: umount(8) may look at the directory first, and hang."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(directory), flags):
        reason = os.strerror(ctypes.get_errno())
        raise CloudError("busy", f"{directory} cannot be unmounted: {reason}")


def _fusermount(directory: str) -> None:
    if not shutil.which("fusermount3"):
        raise CloudError("unsupported", "fusermount3 is not installed", "apt-get install fuse3")
    command = ["fusermount3", "-u", "-z", "--", directory]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TOOL, check=False)
    except subprocess.TimeoutExpired:
        raise CloudError("timeout", "fusermount3 did not end", f"as root: umount -l {directory}")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise CloudError(
            "busy", f"{directory} cannot be unmounted: {said}", f"as root: umount -l {directory}"
        )
