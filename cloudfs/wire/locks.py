"""Advisory record locks of 9P2000.L, as fcntl(2) has them: pure bookkeeping.

One `Locks` serves all connections of a server, so a lock taken over one is seen over
the others.  An owner is a process of a client: (session, client_id, proc_id).  Locks go
with the fid that they were taken through and with the connection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cloudfs.errors import CloudError

READ, WRITE, UNLOCK = 0, 1, 2  # types of lock
SUCCESS, BLOCKED = 0, 1  # statuses of an Rlock
FOREVER = 1 << 64  # the end of a lock of length 0, which reaches to the end of the file
MAX_RANGES = 256  # of one file
MAX_FILES = 1024  # of one server


@dataclass(slots=True)
class Held:
    """A range [start, end) that an owner has locked through a fid."""

    session: Any
    client: str
    process: int
    fid: Any
    kind: int
    start: int
    end: int

    def same(self, other: Held) -> bool:
        """Whether both belong to one owner."""
        return (
            self.session is other.session
            and self.client == other.client
            and self.process == other.process
        )


class Locks:
    """The locks of all files.  files: by qid path, those on which there are any."""

    def __init__(self) -> None:
        self.files: dict[int, list[Held]] = {}

    def blocker(self, file: int, wanted: Held) -> Held | None:
        """The first lock of another owner that stands in the way of `wanted`."""
        for held in self.files.get(file, ()):
            overlap = held.start < wanted.end and wanted.start < held.end
            if overlap and WRITE in (held.kind, wanted.kind) and not held.same(wanted):
                return held
        return None

    def change(self, file: int, wanted: Held) -> int:
        """Take a lock, or give one back with kind UNLOCK: SUCCESS or BLOCKED.  What the
        owner held in that range before is replaced."""
        if wanted.kind != UNLOCK and self.blocker(file, wanted) is not None:
            return BLOCKED
        kept: list[Held] = []
        for held in self.files.get(file, ()):
            kept += _without(held, wanted) if held.same(wanted) else [held]
        if wanted.kind != UNLOCK:
            kept.append(wanted)
            if len(kept) > MAX_RANGES or len(self.files.keys() | {file}) > MAX_FILES:
                raise CloudError("full", "no more locks can be held")
        self._set(file, kept)
        return SUCCESS

    def drop(self, fid: Any) -> None:
        """The fid is gone, and what was locked through it."""
        file = fid.ref.node.qid
        if file in self.files:
            self._set(file, [held for held in self.files[file] if held.fid is not fid])

    def forget(self, session: Any) -> None:
        """The connection is gone, and all that was locked over it."""
        for file, kept in list(self.files.items()):
            self._set(file, [held for held in kept if held.session is not session])

    def _set(self, file: int, kept: list[Held]) -> None:
        if kept:
            self.files[file] = kept
        else:
            self.files.pop(file, None)


def _without(held: Held, cut: Held) -> list[Held]:
    """What is left of a range when another is cut out of it."""
    if held.end <= cut.start or cut.end <= held.start:
        return [held]
    left = []
    if held.start < cut.start:
        left.append(replace(held, end=cut.start))
    if cut.end < held.end:
        left.append(replace(held, start=cut.end))
    return left
