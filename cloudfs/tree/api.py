"""The one tree interface: what adapters (9P, FUSE, web) call and every tree offers.

An adapter establishes who the caller is, makes a `Space` for the session and an
`Attach` for each caller of it, and then only calls `Attach` (tree/space.py) with
`Ref`s.  A tree offers `Node`s; an opened node is a `Handle`.  Local directories,
9P clients, unions and proxies all speak this.

Every operation is a plain function that either answers at once, raises
`CloudError`, or returns a `Wait`: the work that is left, as a coroutine function
that the adapter runs in a task of its own and may cancel (Tflush, FUSE interrupt).
Only what can block pays for a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloudfs.errors import CloudError
from cloudfs.wait import Wait as Wait
from cloudfs.who import NOBODY as NOBODY
from cloudfs.who import Who as Who

if TYPE_CHECKING:
    from cloudfs.tree.space import Attach

# Bits of Plan 9 (stat(5)).  The low nine are rwxrwxrwx.
DMDIR = 0x80000000
DMAPPEND = 0x40000000
DMEXCL = 0x20000000
QTDIR, QTAPPEND, QTEXCL, QTFILE = 0x80, 0x40, 0x20, 0x00

# Open modes (open(5)).
OREAD, OWRITE, ORDWR, OEXEC = 0, 1, 2, 3
OTRUNC, ORCLOSE = 0x10, 0x40

R, W, X = 4, 2, 1  # permission bits of one class


@dataclass(slots=True)
class Cues:
    """What the path elements that begin with a dot asked for (DESIGN §3).

    follow: block or follow where a file can.  max_time: seconds a remote operation
    may take.  fresh: refuse aged answers.  look: a proxy reads a file ahead of its caller,
    so what does something by being read, and directories, are not opened ("again").
    """

    follow: bool = False
    max_time: float = 2.0
    fresh: bool = False
    look: bool = False


PLAIN = Cues()


@dataclass(slots=True)
class Stat:
    """What stat(5) and stat(2) both want.  Times in seconds since 1970, length in bytes.

    qid is the 64-bit qid path, the same for a file however it was reached.
    """

    name: str
    qid: int
    mode: int  # permission bits and DM*
    length: int
    mtime: float
    uid: str
    gid: str
    muid: str = ""
    vers: int = 0


class Handle:
    """An open file.  Its content is made at open, so reads at offsets agree."""

    __slots__ = ()

    def read(self, offset: int, count: int) -> bytes | memoryview | Wait[Any]:
        """At most count bytes at offset; b"" is the end."""
        raise CloudError("bad", "the file is not open for reading")

    def write(self, offset: int, data: bytes | memoryview) -> int | Wait[int]:
        """Write data, which is the handle's only until this returns or waits no more."""
        raise CloudError("bad", "the file is not open for writing")

    def close(self) -> Wait[None] | None:
        """Called exactly once.  May raise what a buffered write still had to say."""
        return None


class Entries:
    """A directory's content as one open saw it; never changed once made.

    A directory whose content did not change may hand the same Entries to many
    opens, so an adapter keeps its packed form in `packed`, keyed as it likes.
    nodes: name → Node, in listing order, without "." and "..".
    """

    __slots__ = ("nodes", "packed")

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.packed: dict[Any, Any] = {}


class DirHandle(Handle):
    """An open directory.  Adapters pack `entries` in their own form."""

    __slots__ = ("entries",)

    def __init__(self, entries: Entries) -> None:
        self.entries = entries


class Node:
    """A file of a tree that is not open: what a walk reaches.

    It belongs to no caller, so it may be kept and shared.  `mode`, `uid`, `gid` and
    `qid` are plain attributes because every permission check reads them.
    """

    __slots__ = ("gid", "mode", "name", "qid", "uid")

    name: str
    mode: int
    uid: str
    gid: str
    qid: int  # the qid path; its type follows from mode

    @property
    def remote(self) -> bool:
        """Whether it is a proxy, whose permission bits are the far side's to check."""
        return False

    def stat(self) -> Stat | Wait[Stat]:
        """Attributes now.  Never blocks on anything that may take its time."""
        raise CloudError("nosys")

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        """The child of that name as `at` sees it, else CloudError("absent")."""
        raise CloudError("notdir")

    def ahead(self, names: Sequence[str], at: Attach, cues: Cues) -> Wait[None] | None:
        """A walk of these names, one by one, is about to begin: a proxy may fetch them all
        at once.  Nothing is asked of what answers at once."""
        return None

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        """Open for OREAD, OWRITE, ORDWR (| OTRUNC); permission is already checked.

        A directory returns a DirHandle (or a Wait of one).
        """
        raise CloudError("nosys")

    def create(
        self, name: str, perm: int, mode: int, at: Attach, cues: Cues
    ) -> tuple[Node, Handle] | Wait[tuple[Node, Handle]]:
        """Make and open a child; permission is already checked."""
        raise CloudError("refused", "files cannot be made here")

    def remove(self, at: Attach) -> Wait[None] | None:
        raise CloudError("refused", "this file cannot be removed")

    def wstat(self, changes: dict[str, Any], at: Attach) -> Wait[None] | None:
        """Change attributes: any of name, mode, mtime, length, uid, gid (all or none)."""
        raise CloudError("refused", "these attributes cannot be changed")


@dataclass(slots=True)
class Ref:
    """What a fid or an inode points to: a node, the path that led there and its cues.

    path: elements from the root of the name space, cues left out.
    """

    node: Node
    path: tuple[str, ...]
    cues: Cues


def qid_type(mode: int) -> int:
    """The qid's type byte, which is the mode's top byte (stat(5))."""
    return (mode >> 24) & 0xFF


def join(path: Sequence[str]) -> str:
    """A path as text, "/" for the root."""
    return "/" + "/".join(path)
