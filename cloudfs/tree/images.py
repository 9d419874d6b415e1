"""checkpoint/ of an object: its images, each a directory of files that can be read.

One that is on its way to another node is walked to, and not listed; in every image the
names of kernel/images.py's pieces can be walked to as well.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cloudfs.errors import CloudError, from_errno
from cloudfs.kernel import images
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.stream import number_of
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, Cues, DirHandle, Entries, Handle, Node, Stat, Wait
from cloudfs.tree.space import Attach
from cloudfs.tree.stream import StreamFile


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
        if name != images.MOVING and name not in images.kept(self.made.home):
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
        piece = images.parse_piece(name)
        file = piece[0] if piece else name
        path = self.place / file
        if file in (".", "..") or "/" in file or not path.is_file():
            raise CloudError("absent", f"the image has no file {file[:64]}")
        return ImageFile(self, name, path, piece[1:] if piece else None)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        try:
            names = sorted(one.name for one in self.place.iterdir() if one.is_file())
        except OSError:
            raise CloudError("absent", f"the image {self.name} is gone") from None
        return DirHandle(Entries({n: ImageFile(self, n, self.place / n, None) for n in names}))

    def remove(self, at: Attach) -> Wait[None]:
        """An image goes as a whole."""

        async def run() -> None:
            await trio.to_thread.run_sync(images.remove, self.place)

        return Wait(run)


class ImageFile(Node):
    """A file of an image, or with an offset and a size a piece of it as it travels."""

    __slots__ = ("path", "piece")

    def __init__(self, of: ImageDir, name: str, path: Path, piece: tuple[int, int] | None) -> None:
        self.name, self.mode = name, 0o440
        self.qid = numbers.named("checkpoint", of.made.id, of.name, name)
        self.uid = self.gid = of.uid
        self.path = path
        self.piece = piece

    def stat(self) -> Stat:
        try:
            size = self.path.stat().st_size if self.piece is None else 0
        except OSError:
            size = 0
        return Stat(self.name, self.qid, self.mode, size, _mtime(self.path), self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        if self.piece is None:
            return _Opened(self.path)
        return _Piece(self.path, *self.piece)


class _Piece(Handle):
    """Packed by the first read: another node sends open and read together."""

    __slots__ = ("_data", "_offset", "_path", "_size")

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._path, self._offset, self._size = path, offset, size
        self._data: memoryview | None = None

    def read(self, offset: int, count: int) -> Any:
        if self._data is None:
            return Wait(partial(self._pack, offset, count))
        return self._data[offset : offset + count]

    async def _pack(self, offset: int, count: int) -> Any:
        try:
            packed = await trio.to_thread.run_sync(
                images.pack, self._path, self._offset, self._size
            )
        except OSError as error:
            raise from_errno(error.errno or 0, f"the image: {error.strerror}") from None
        self._data = memoryview(packed)
        return self._data[offset : offset + count]


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
