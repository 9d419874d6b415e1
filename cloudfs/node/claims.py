"""Claims: what a program holds on this machine, and who comes next must clear away if that
program is killed.

A claim is a file in HOME, locked by its owner for as long as the owner lives; the kernel
lets go of the lock, however the owner ends.  Its text is one record (ndb).
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from cloudfs import ndb
from cloudfs.errors import CloudError

HOME = Path("/run/cloudfs/nets")


class Claim:
    """A claim of ours, under a tag of its own.  release() when nothing of it is left."""

    def __init__(self, record: Mapping[str, str]) -> None:
        HOME.mkdir(parents=True, exist_ok=True)
        self.tag = secrets.token_hex(3)
        self._path = HOME / self.tag
        # It has its lock and its text before it has its name, so that nobody takes it
        # for an orphan.
        early = HOME / f".{self.tag}"
        self._fd = os.open(early, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, ndb.record(record).encode())
        early.rename(self._path)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def find(tag: str) -> dict[str, str]:
    """The record of a claim.  Raises CloudError("absent")."""
    try:
        return ndb.parse((HOME / tag).read_text())
    except OSError:
        raise CloudError("absent", f"there is no private network {tag}") from None


def orphans() -> Iterator[tuple[str, dict[str, str]]]:
    """Tag and record of the claims whose owners are gone; each is removed once the caller
    asks for the next, and nobody else gets it meanwhile."""
    for path in sorted(HOME.glob("[!.]*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path.name, ndb.parse(path.read_text())
            path.unlink(missing_ok=True)
        except OSError:
            continue  # its owner lives, or another clears it
        finally:
            os.close(fd)
