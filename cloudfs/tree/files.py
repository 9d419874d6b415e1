"""The kinds of files that the tables of directories are made of (tree/table.py).

A row is a file's name, mode, kind and small functions, whose docstrings are its help.
The functions take the subject (what the directory is about) and mostly the `Attach` of
the caller.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from cloudfs.errors import CloudError, from_errno
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.kernel.bell import first
from cloudfs.tree.api import DMAPPEND, Cues, Handle, Wait
from cloudfs.tree.handles import Cloned, Following, Lines, Taken, Text
from cloudfs.tree.space import Attach

MAX_OFFSET = (1 << 63) - 1  # of a file on disk


class Row:
    """One file of a table.  `make(subject, at, cues)` opens it."""

    def __init__(self, name: str, mode: int, doc: str | None) -> None:
        self.name = name
        self.mode = mode
        self.doc = " ".join((doc or "").split())

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        raise CloudError("nosys")

    def length(self, subject: Any) -> int:
        """The size that stat tells: 0 where content is made at open, as in /proc."""
        return 0


class Value(Row):
    """A text made at open by `read(subject, at)`; `write(subject, text, at)` takes a new one."""

    def __init__(
        self,
        name: str,
        mode: int,
        read: Callable[[Any, Attach], str],
        write: Callable[[Any, str, Attach], Any] | None = None,
    ) -> None:
        super().__init__(name, mode, read.__doc__)
        self.read = read
        self.write = write

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        text = "" if mode & 3 == 1 else self.read(subject, at)
        if self.write is None:
            return Text(text)
        return Lines(text, partial(self._line, subject, at))

    def _line(self, subject: Any, at: Attach, line: str) -> Any:
        assert self.write is not None
        return self.write(subject, line, at) if line.strip() else None


class Ctl(Row):
    """A file that takes verbs: `read` gives its text, `act(subject, line, at)` does a line."""

    def __init__(
        self,
        name: str,
        mode: int,
        read: Callable[[Any, Attach], str],
        act: Callable[[Any, str, Attach], Any],
    ) -> None:
        super().__init__(name, mode, read.__doc__)
        self.read = read
        self.act = act

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        text = "" if mode & 3 == 1 else self.read(subject, at)
        return Lines(text, lambda line: self.act(subject, line, at))


class Clone(Row):
    """A file whose first read makes something new and gives its name: `make(subject, at)`."""

    def __init__(self, name: str, mode: int, make: Callable[[Any, Attach], str]) -> None:
        super().__init__(name, mode, make.__doc__)
        self.make = make

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        if cues.look:
            raise CloudError("again", "a read of it makes something")
        return Cloned(partial(self.make, subject, at))


class Blocking(Row):
    """What is known now; under .follow a read waits for `wait(subject)` first."""

    def __init__(
        self,
        name: str,
        mode: int,
        read: Callable[[Any, Attach], str],
        wait: Callable[[Any], Awaitable[None]],
    ) -> None:
        super().__init__(name, mode, read.__doc__)
        self.read = read
        self.wait = wait

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        text = self.read(subject, at)
        if text or not cues.follow:
            return Text(text)
        told = False

        async def more() -> bytes | None:
            nonlocal told
            if told:
                return None
            await self.wait(subject)
            told = True
            return self.read(subject, at).encode()

        return Following(more)


class Log(Row):
    """The last records of something; under .follow also those that come, until
    `over(subject)`.  `post(subject, line, at)` adds one where it may be written."""

    def __init__(
        self,
        name: str,
        mode: int,
        log: Callable[[Any], KernelLog],
        over: Callable[[Any], Awaitable[None]] | None = None,
        post: Callable[[Any, str, Attach], Any] | None = None,
    ) -> None:
        super().__init__(name, mode, log.__doc__)
        self.log = log
        self.over = over
        self.post = post

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        log = self.log(subject)
        if mode & 3 == 1:
            post = self.post
            if post is None:  # no permission bit applies to the node's owner
                raise CloudError("refused", "nobody writes this file")
            return Lines("", lambda line: post(subject, line, at) if line.strip() else None)
        if not cues.follow:
            return Text(log.since(0)[0])
        number = 0

        async def more() -> bytes | None:
            nonlocal number
            waits: list[Callable[[], Awaitable[None]]] = [partial(log.more, number)]
            if self.over:
                waits.append(partial(self.over, subject))
            await first(*waits)
            text, number = log.since(number)
            return text.encode() or None

        return Following(more)


class Stream(Row):
    """A file on disk that grows: read at any offset, with its true size.

    `path(subject)` is where; `dropped(subject, name)` the bytes at its beginning that are
    no longer kept.  Under .follow a read at its end waits for `grown(subject, name,
    size)`, which returns False when it is complete.
    """

    def __init__(
        self,
        name: str,
        mode: int,
        path: Callable[[Any], Path],
        dropped: Callable[[Any, str], int],
        grown: Callable[[Any, str, int], Awaitable[bool]],
    ) -> None:
        super().__init__(name, mode | DMAPPEND, path.__doc__)
        self.path = path
        self.dropped = dropped
        self.grown = grown

    def length(self, subject: Any) -> int:
        try:
            return os.stat(self.path(subject)).st_size
        except OSError:
            return 0

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        return _StreamHandle(self, subject, cues.follow)


class _StreamHandle(Handle):
    __slots__ = ("dropped", "fd", "follow", "row", "subject")

    def __init__(self, row: Stream, subject: Any, follow: bool) -> None:
        self.row = row
        self.subject = subject
        self.follow = follow
        self.fd = -1
        self.dropped = row.dropped(subject, row.name)
        self._open()

    def _open(self) -> None:
        try:
            self.fd = os.open(self.row.path(self.subject), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass  # nothing was run yet
        except OSError as error:
            raise from_errno(error.errno or 0, f"its file: {error.strerror}") from None

    def read(self, offset: int, count: int) -> bytes | Wait[bytes]:
        data = self._kept(offset, count)
        if data:
            if data[0] == 0 or offset < self.dropped:
                self._check(offset)
            return data
        return Wait(partial(self._wait, offset, count)) if self.follow else b""

    def _kept(self, offset: int, count: int) -> bytes:
        # Offsets of 9P have 64 bits, those of pread(2) 63.
        within = self.fd >= 0 and offset + count <= MAX_OFFSET
        return os.pread(self.fd, count, offset) if within else b""

    def _check(self, offset: int) -> None:
        # A hole reads as NULs, so only what begins with one can lie in it.
        self.dropped = self.row.dropped(self.subject, self.row.name)
        if offset < self.dropped:
            raise CloudError(
                "nodata",
                f"its first {self.dropped} bytes are no longer kept",
                f"read on from there: tail -c +{self.dropped + 1}",
            )

    async def _wait(self, offset: int, count: int) -> bytes:
        while True:
            goes_on = await self.row.grown(self.subject, self.row.name, offset)
            if self.fd < 0:
                self._open()
            data = self._kept(offset, count)
            if data or not goes_on:
                if data:
                    self._check(offset)
                return data

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Pipe(Row):
    """A file that only takes bytes: `write(subject, data)`."""

    def __init__(
        self, name: str, mode: int, write: Callable[[Any, bytes], int | Wait[int]]
    ) -> None:
        super().__init__(name, mode, write.__doc__)
        self.write = write

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        return Taken(partial(self.write, subject))
