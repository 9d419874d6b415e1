"""How an image travels: in pieces of its files, several under way at a time.

What another node reads in the directory of an image:

    growing.SIZE              waits a little for more than SIZE bytes of memory that can be read
                              though the dump goes on, then lines `FILE BYTES`; once it is
                              over the line `made`
    manifest                  what the image holds
    small                     all files that are small, one after the other
    piece.OFFSET.SIZE.FILE    a piece of a file

The last two are a zstd frame each, with a checksum (XXH64) of what it holds: what was
damaged in a node's memory or on its disk is found by that.  Nobody in between can change
it: nodes speak in TLS.  A broken connection costs the pieces that were under way.

criu writes memory (`pages-N.img`) from the beginning to the end and changes nothing of it
any more, so pieces of it travel while the dump goes on.  A dump that criu was made to
begin anew has the file AGAIN, and what came before the manifest counts for nothing then.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import trio
import zstandard

from cloudfs.errors import CloudError, from_errno
from cloudfs.kernel import images
from cloudfs.kernel.images import FILE, MANIFEST, MOST_FILES, STREAMS, Manifest
from cloudfs.node.criu import AGAIN

PIECE = 1008 << 10  # bytes; packed they fit a frame, and several what a node keeps to send
LEVEL = 1  # of zstd: what it costs is less than what sealing and opening the bytes would
MEMORY = "pages-*.img"
MADE = "made"
SMALL, SMALLS = 16 << 10, "small"  # bytes of what is small, and the name of all such
LONGEST = 300.0  # seconds for a dump to end
TRIES, PAUSE = 5, 0.5  # without a piece that came, and seconds between them
LATER = frozenset({"timeout", "unreachable", "pipe", "again", "stale", "io"})


_own = threading.local()  # room and compressor, which cost as much to make as to use once


def pack(path: Path, offset: int, size: int) -> bytes:
    """A piece of a file, as it travels.  Blocks."""
    if len(getattr(_own, "room", b"")) < size:
        _own.room = memoryview(bytearray(size))
    with path.open("rb", buffering=0) as file:
        count = os.preadv(file.fileno(), [_own.room[:size]], offset)
    return _packed(_own.room[:count])


def pack_small(folder: Path) -> bytes:
    """All small files of an image, as they travel.  Blocks."""
    found = small(images.load(folder))
    return _packed(b"".join((folder / name).read_bytes() for name in found))


def _packed(data: bytes | memoryview) -> bytes:
    if not hasattr(_own, "compressor"):
        _own.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    packed: bytes = _own.compressor.compress(data)
    return packed


def unpack(packed: bytes | memoryview, size: int) -> bytes:
    """The piece's bytes, of which there are so many.  Raises CloudError("proto").  Blocks."""
    try:
        if zstandard.get_frame_parameters(packed).content_size == size:
            return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise CloudError("proto", f"a piece of the image: {error}") from None
    raise CloudError("proto", "a piece of the image is not what it was")


def small(manifest: Manifest) -> dict[str, int]:
    """The small files, with their sizes: together at most a piece."""
    found: dict[str, int] = {}
    for name, size in manifest.files.items():
        if size <= SMALL and sum(found.values()) + size <= PIECE and name not in STREAMS:
            found[name] = size
    return found


def pieces(manifest: Manifest, here: Mapping[str, int] = {}) -> Iterator[tuple[str, int, int]]:
    """File, offset and size of each piece; what is small, what a stream has dropped and what
    is here, so many bytes of a file, is left out."""
    others = manifest.files.keys() - small(manifest).keys()
    for name, size in manifest.files.items():
        if name not in others:
            continue
        for offset in range(here.get(name, manifest.dropped.get(name, 0)), size, PIECE):
            yield name, offset, min(PIECE, size - offset)


def piece_name(name: str, offset: int, size: int) -> str:
    """How a piece is called in the directory of an image."""
    return f"piece.{offset}.{size}.{name}"


def parse(text: str) -> tuple[str, int, int] | None:
    """The file, offset and size of a piece's name; None for other names."""
    match = re.fullmatch(r"piece\.([0-9]{1,15})\.([0-9]{1,7})\.(.+)", text)
    if not match or not FILE.fullmatch(match[3]) or int(match[2]) > PIECE:
        return None
    return match[3], int(match[1]), int(match[2])


def grown(folder: Path) -> dict[str, int] | None:
    """Of an image that is being made, the files of memory and how many bytes of each are
    there to stay, in whole pieces; None once it is made.  Raises CloudError("absent")."""
    try:
        if (folder / MANIFEST).exists():
            return None
        found = {path.name: path.stat().st_size // PIECE * PIECE for path in folder.glob(MEMORY)}
        if not found and not folder.is_dir():
            raise FileNotFoundError
    except FileNotFoundError:
        raise CloudError("absent", "the image is gone") from None
    return {name: size for name, size in sorted(found.items())[:MOST_FILES] if size}


def told(growing: Mapping[str, int] | None) -> bytes:
    """What a reader of growing.SIZE is told."""
    lines = [MADE] if growing is None else [f"{name} {size}" for name, size in growing.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def parse_growing(text: str) -> int | None:
    """Of how many bytes a reader knows already who asks for growing.SIZE."""
    match = re.fullmatch(r"growing\.([0-9]{1,15})", text)
    return int(match[1]) if match else None


class Way(Protocol):
    """See tree/imports.py's Bulk."""

    async def read(self, names: Iterator[str], take: Callable[[str, memoryview], None]) -> None: ...


class Fetch:
    """An image that comes from another node.

    open_way: a connection to the image's directory over there.  told: of a step that is done,
    which is `manifest` or `piece`, be it in a thread.  done: bytes that are here.
    """

    def __init__(
        self,
        folder: Path,
        open_way: Callable[[], AbstractAsyncContextManager[Way]],
        told: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.folder = folder
        self.done = 0
        self._open_way = open_way
        self._told = told
        self._manifest: Manifest | None = None
        self._text = b""
        self._grown: dict[str, int] = {}  # bytes of each file that came during the dump
        self._missing: dict[str, None] = {}  # names of pieces
        self._file: tuple[str, int] = "", -1  # the one that was written last

    async def run(self) -> Manifest:
        """Fetch it.  Raises CloudError once it was tried often enough in vain."""
        tries = 0
        while True:
            before = len(self._missing)
            try:
                async with self._open_way() as way:
                    return await self._all(way)
            except CloudError as error:
                tries = 1 if len(self._missing) < before else tries + 1
                if error.kind not in LATER or tries >= TRIES:
                    raise
            finally:
                self._close()
            await trio.sleep(PAUSE)

    async def _all(self, way: Way) -> Manifest:
        if self._manifest is None:
            with trio.move_on_after(LONGEST):
                while await self._early(way):
                    pass
            first: dict[str, bytes] = {}
            both = iter([MANIFEST, SMALLS])
            await way.read(both, lambda name, data: first.update({name: bytes(data)}))
            self._told(MANIFEST)
            await trio.to_thread.run_sync(self._begin, first[MANIFEST], first[SMALLS])
        assert self._manifest is not None
        if self._missing:
            await way.read(iter(list(self._missing)), self._put)
        (self.folder / MANIFEST).write_bytes(self._text)
        return self._manifest

    async def _early(self, way: Way) -> bool:
        """Fetch what is there of an image that is being made; whether it still is."""
        known = sum(self._grown.values())
        lines: list[str] = []

        def take(name: str, data: memoryview) -> None:
            lines.extend(bytes(data).decode(errors="replace").splitlines())

        await way.read(iter([f"growing.{known}"]), take)
        self.done += 1
        if lines == [MADE]:
            return False
        for line in lines[:MOST_FILES]:
            name, _, size = line.partition(" ")
            if not re.fullmatch(r"pages-[0-9]{1,9}\.img", name) or not size.isdecimal():
                raise CloudError("proto", "what is there of the image is no list of files")
            begin, end = self._grown.get(name, 0), int(size[:15]) // PIECE * PIECE
            images.room(self.folder, end - begin)
            await way.read(
                (piece_name(name, at, PIECE) for at in range(begin, end, PIECE)), self._put
            )
            self._grown[name] = end
        return True

    # --- in a thread ----------------------------------------------------------------------

    def _begin(self, text: bytes, smalls: bytes) -> None:
        self._text = text
        found = images.read(text.decode(errors="replace"))
        images.room(self.folder, found.size - sum(self._grown.values()))
        early = {} if AGAIN in found.files else self._grown
        for file in found.files.keys() - small(found).keys():
            self._open(file)
            os.truncate(self._file[1], found.files[file])
        wanted = (SMALLS, *(piece_name(*piece) for piece in pieces(found, early)))
        self._missing = dict.fromkeys(wanted)
        self._manifest = found
        self._put(SMALLS, memoryview(smalls))

    def _put(self, name: str, data: memoryview) -> None:
        piece = parse(name)
        try:
            if piece is None:
                self._put_small(data)
            else:
                file, offset, size = piece
                whole = unpack(data, size)
                self._open(file)
                os.pwrite(self._file[1], whole, offset)
                self._told("piece")
        except OSError as error:
            raise from_errno(error.errno or 0, f"the image: {error.strerror}") from None
        self._missing.pop(name, None)
        self.done += len(data)

    def _put_small(self, data: memoryview) -> None:
        assert self._manifest is not None
        found = small(self._manifest)
        whole, at = unpack(data, sum(found.values())), 0
        for name, size in found.items():
            self._open(name)
            os.pwrite(self._file[1], whole[at : at + size], 0)
            at += size

    def _open(self, name: str) -> None:
        if self._file[0] != name:
            self._close()
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = name, os.open(self.folder / name, flags, 0o600)

    def _close(self) -> None:
        if self._file[1] >= 0:
            os.close(self._file[1])
        self._file = "", -1
