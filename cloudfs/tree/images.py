"""checkpoint/ of an object: its images, each a directory of files that can be read.

One that is on its way to another node is walked to, and not listed; in every image the
names of kernel/pieces.py can be walked to as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cloudfs.errors import CloudError, from_errno
from cloudfs.kernel import images, pieces
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.stream import number_of
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, Cues, DirHandle, Entries, Handle, Node, Stat, Wait
from cloudfs.tree.space import Attach
from cloudfs.tree.stream import StreamFile

LOOK = 0.02  # seconds between two looks at what a dump has written
TELL = 2.0  # seconds after which its reader is told also that there is no more


class Checkpoints(Node):
    """The images that an object keeps."""

    __slots__ = ("made", "objects")

    def __init__(self, made: Object, objects: Objects) -> None:
        self.name, self.mode = "checkpoint", 0o750 | DMDIR
        self.qid = numbers.named("checkpoint", made.id)
        self.uid = self.gid = made.user
        self.made = made
        self.objects = objects

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, self.made.changed, self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node:
        hidden = name == images.MOVING or name.startswith(images.KEPT)
        if "/" in name or (not hidden and name not in images.kept(self.made.home)):
            raise CloudError(
                "absent", f"there is no image {name[:64]}", "make one: checkpoint NAME"
            )
        return ImageDir(self.made, name)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        names = images.kept(self.made.home)
        return DirHandle(Entries({name: ImageDir(self.made, name) for name in names}))


class ImageDir(Node):
    """One image."""

    __slots__ = ("made", "place")

    def __init__(self, made: Object, name: str) -> None:
        self.name, self.mode = name, 0o750 | DMDIR
        self.qid = numbers.named("checkpoint", made.id, name)
        self.uid = self.gid = made.user
        self.made = made
        self.place = made.home / "checkpoint" / name

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, _mtime(self.place), self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node:
        self.made.fetched = trio.current_time()
        number = number_of(name)
        if number is not None and self.made.stream is not None and self.name == images.MOVING:
            return StreamFile(self.made, self.made.stream, name, number)
        known = pieces.parse_growing(name)
        if known is not None:
            return ImageFile(self, name, self.place, _Growing(self.made, self.place, known))
        if name == pieces.SMALLS:
            return ImageFile(
                self, name, self.place, _Packed(partial(pieces.pack_small, self.place))
            )
        piece = pieces.parse(name)
        file = piece[0] if piece else name
        path = self.place / file
        if file in (".", "..") or "/" in file or not path.is_file():
            raise CloudError("absent", f"the image has no file {file[:64]}")
        return ImageFile(
            self, name, path, piece and _Packed(partial(pieces.pack, path, *piece[1:]))
        )

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        try:
            names = sorted(one.name for one in self.place.iterdir() if one.is_file())
        except OSError:
            raise CloudError("absent", f"the image {self.name} is gone") from None
        return DirHandle(Entries({n: ImageFile(self, n, self.place / n) for n in names}))

    def remove(self, at: Attach) -> Wait[None]:
        """An image goes as a whole."""

        async def run() -> None:
            await trio.to_thread.run_sync(images.remove, self.place)

        return Wait(run)


class ImageFile(Node):
    """A file of an image, or by what `made` gives something of it as it travels."""

    __slots__ = ("made", "path")

    def __init__(self, of: ImageDir, name: str, path: Path, made: Handle | None = None) -> None:
        self.name, self.mode = name, 0o440
        self.qid = numbers.named("checkpoint", of.made.id, of.name, name)
        self.uid = self.gid = of.uid
        self.path = path
        self.made = made

    def stat(self) -> Stat:
        try:
            size = self.path.stat().st_size if self.made is None else 0
        except OSError:
            size = 0
        return Stat(self.name, self.qid, self.mode, size, _mtime(self.path), self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return self.made or _Opened(self.path)


class _Packed(Handle):
    """Packed by the first read: another node sends open and read together."""

    __slots__ = ("_data", "_work")

    def __init__(self, work: Callable[[], bytes]) -> None:
        self._work = work
        self._data: memoryview | None = None

    def read(self, offset: int, count: int) -> Any:
        if self._data is None:
            return Wait(partial(self._pack, offset, count))
        return self._data[offset : offset + count]

    async def _pack(self, offset: int, count: int) -> Any:
        try:
            packed = await trio.to_thread.run_sync(self._work)
        except OSError as error:
            raise from_errno(error.errno or 0, f"the image: {error.strerror}") from None
        self._data = memoryview(packed)
        return self._data[offset : offset + count]


class _Growing(Handle):
    """What is there of an image that is being made."""

    __slots__ = ("_known", "_made", "_place", "_text")

    def __init__(self, made: Object, place: Path, known: int) -> None:
        self._made, self._place, self._known = made, place, known
        self._text: bytes | None = None

    def read(self, offset: int, count: int) -> Any:
        if self._text is None:
            return Wait(partial(self._wait, offset, count))
        return self._text[offset : offset + count]

    async def _wait(self, offset: int, count: int) -> bytes:
        found = pieces.grown(self._place)
        until = trio.current_time() + TELL
        while found is not None and sum(found.values()) <= self._known:
            if trio.current_time() >= until:
                break
            with trio.move_on_after(LOOK):
                await self._made.bell.wait()
            found = pieces.grown(self._place)
        self._text = pieces.told(found)
        return self._text[offset : offset + count]


class _Opened(Handle):
    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise from_errno(error.errno or 0, f"the image: {error.strerror}") from None

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self.fd, count, offset) if offset < 1 << 62 else b""

    def close(self) -> None:
        os.close(self.fd)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
