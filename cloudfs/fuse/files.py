"""Open files: what the kernel's file handles stand for."""

from __future__ import annotations

from pyfuse3 import RequestContext

from cloudfs.errors import CloudError
from cloudfs.fuse.listing import Listing
from cloudfs.fuse.share import Share
from cloudfs.tree.api import Handle, Ref
from cloudfs.tree.space import Attach

ROOM = 65536  # files open at once


class File:
    """An open file or directory.

    fh: its number.  pid, uid: of the thread that opened it.  append: every write goes
    to the end.  listing: of a directory.
    """

    __slots__ = ("append", "at", "fh", "handle", "ino", "listing", "pid", "ref", "uid")

    def __init__(
        self, handle: Handle, at: Attach, ref: Ref, ino: int, ctx: RequestContext, append: bool
    ) -> None:
        self.fh = 0
        self.handle = handle
        self.at = at
        self.ref = ref
        self.ino = ino
        self.pid = ctx.pid
        self.uid = ctx.uid
        self.append = append
        self.listing: Listing | None = None


class Files:
    """All open files, by number; no number is used twice."""

    __slots__ = ("_files", "_last", "_share")

    def __init__(self, room: int = ROOM) -> None:
        self._files: dict[int, File] = {}
        self._last = 0
        self._share = Share(room)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, fh: int) -> File:
        """Raises CloudError("nofid") for a number that is not open."""
        try:
            return self._files[fh]
        except KeyError:
            raise CloudError("nofid", f"file handle {fh} is not open") from None

    def add(self, file: File) -> int:
        """Give a file its number.  Raises CloudError("toomany") if the user has too many
        open; the file is then still to be closed."""
        if not self._share.take(file.uid):
            raise CloudError("toomany", "too many of your files are open here", "close some")
        self._last = file.fh = self._last + 1
        self._files[file.fh] = file
        return file.fh

    def remove(self, file: File) -> None:
        del self._files[file.fh]
        self._share.give(file.uid)

    def remove_all(self) -> list[File]:
        """Every file that is open; none is any more."""
        files = list(self._files.values())
        for file in files:
            self.remove(file)
        return files
