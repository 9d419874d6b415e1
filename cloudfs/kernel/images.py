"""Images of objects on disk, and how one travels.

An image is a directory of files under `checkpoint/` of its object: kept ones under the
name that was given, with the file `sums` (as of sha256sum); the one of a move under
`MOVING`, which no directory lists.  What an image says of its object is in `manifest`.

It travels in pieces of at most PIECE bytes, several at a time, each compressed and with
the hash of what it holds, so a broken connection costs a piece or two.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import trio
import zstandard

from cloudfs.errors import CloudError
from cloudfs.node.api import Usage

PIECE = 1 << 20  # bytes
AT_ONCE = 6  # pieces that are under way
TRIES, PAUSE = 5, 0.5  # of a piece, and seconds between them
MOST_FILES = 4096
MOST_KEPT = 16  # images of one object
MOVING = ".moving"
MANIFEST = "manifest"
HASH = 32  # bytes
STREAMS = ("stdout", "stderr")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_LATER = frozenset({"timeout", "unreachable", "pipe", "again", "stale", "io"})


@dataclass(slots=True)
class Manifest:
    """What an image says.  files: name → size; dropped: bytes at the beginning of a
    stream that are no longer kept; ran: seconds since its start; created: seconds since
    1970; used: by all its runs up to then."""

    argv: list[str]
    runtime: str
    ran: float
    created: float
    used: dict[str, Any]
    prefer: list[str] = field(default_factory=list)
    spread: str = ""
    files: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.files.values())

    def usage(self) -> Usage:
        return Usage(**self.used)


def read(text: str) -> Manifest:
    """The manifest of an image that may come from anywhere; CloudError("bad")."""
    try:
        found = Manifest(**json.loads(text))
        words = [*found.argv, *found.prefer, found.runtime, found.spread]
        sizes = [*found.files.values(), *found.dropped.values()]
        used = [value for value in asdict(found.usage()).values() if value is not None]
        numbers = [found.ran, found.created, *used]
        fine = (
            all(isinstance(word, str) and "\0" not in word for word in words)
            and found.argv
            and len(found.files) <= MOST_FILES
            and all(map(_FILE.fullmatch, found.files))
            and found.dropped.keys() <= {*STREAMS}
            and all(type(size) is int and 0 <= size < 1 << 50 for size in sizes)
            and all(type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in numbers)
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise CloudError("bad", f"the image's manifest: {error}") from None
    if not fine:
        raise CloudError("bad", "the image's manifest is none")
    return found


def describe(folder: Path, manifest: Manifest) -> None:
    """Note what a fresh image holds."""
    manifest.files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(manifest.text())


def load(folder: Path) -> Manifest:
    """The manifest of an image on disk.  Raises CloudError("absent") or "bad"."""
    try:
        return read((folder / MANIFEST).read_text())
    except OSError:
        raise CloudError("absent", f"there is no image {folder.name}") from None


def kept(home: Path) -> list[str]:
    """The names of the images that an object keeps."""
    try:
        return sorted(one for one in os.listdir(home / "checkpoint") if one[0] != ".")
    except OSError:
        return []


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def unfinished(home: Path) -> list[Path]:
    """Images in an object's directory that it does not keep: of a move, a restore, or a
    checkpoint that was being written."""
    return list((home / "checkpoint").glob(".*"))


def clear(home: Path) -> None:
    """Remove such images, which an earlier daemon has left.  Blocks."""
    for one in unfinished(home):
        remove(one)


def fresh(folder: Path, need: int) -> Path:
    """An empty directory for an image of about so many bytes.  CloudError("full")."""
    remove(folder)
    folder.mkdir(mode=0o700, parents=True)
    room(folder, need)
    return folder


def room(folder: Path, need: int) -> None:
    """Raise CloudError("full") where there is no space for so many bytes."""
    free = shutil.disk_usage(folder).free
    if need > free:
        remove(folder)
        raise CloudError(
            "full",
            f"its image takes {need} bytes, and the disk has {free}",
            "make space in the state directory of the node",
        )


def sums(folder: Path) -> None:
    """Write the hashes of a kept image's files.  Blocks."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "sums").write_text("".join(lines))


def check(folder: Path) -> None:
    """Raise CloudError("bad") if a kept image is not what it was.  Blocks."""
    try:
        lines = (folder / "sums").read_text().splitlines()
        for line in lines:
            wanted, _, name = line.partition("  ")
            if not _FILE.fullmatch(name):
                raise CloudError("bad", f"the image's sums name {name[:40]!r}")
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                    raise CloudError("bad", f"the image's file {name} has changed")
        if MANIFEST not in {line.partition("  ")[2] for line in lines}:
            raise CloudError("bad", "the image has no manifest")
    except OSError as error:
        raise CloudError("bad", f"the image is not whole: {error.strerror}") from None


# --- on the way ---------------------------------------------------------------------------


def pack(path: Path, offset: int, size: int) -> bytes:
    """A piece of a file: its hash, then its bytes compressed.  Blocks."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    return hashlib.sha256(data).digest() + zstandard.ZstdCompressor(level=1).compress(data)


def unpack(packed: bytes, size: int) -> bytes:
    """The piece's bytes, of which there are so many.  Raises CloudError("proto").  Blocks."""
    try:
        data = zstandard.ZstdDecompressor().decompress(packed[HASH:], max_output_size=size)
    except zstandard.ZstdError as error:
        raise CloudError("proto", f"a piece of the image: {error}") from None
    if len(data) != size or hashlib.sha256(data).digest() != packed[:HASH]:
        raise CloudError("proto", "a piece of the image is not what it was")
    return data


def pieces(manifest: Manifest) -> Iterator[tuple[str, int, int]]:
    """File, offset and size of each piece; what a stream has dropped is left out."""
    for name, size in manifest.files.items():
        for offset in range(manifest.dropped.get(name, 0), size, PIECE):
            yield name, offset, min(PIECE, size - offset)


def piece_name(name: str, offset: int, size: int) -> str:
    """How a piece is called in the directory of an image."""
    return f"piece.{offset}.{size}.{name}"


def parse_piece(text: str) -> tuple[str, int, int] | None:
    """The file, offset and size of a piece's name; None for other names."""
    match = re.fullmatch(r"piece\.([0-9]{1,15})\.([0-9]{1,7})\.(.+)", text)
    if not match or not _FILE.fullmatch(match[3]) or int(match[2]) > PIECE:
        return None
    return match[3], int(match[1]), int(match[2])


class Fetch:
    """An image that comes from another node.  done: bytes that are here, of `manifest`."""

    def __init__(self, folder: Path, get: Callable[[str], Awaitable[bytes]]) -> None:
        self.folder = folder
        self.done = 0
        self.manifest: Manifest | None = None
        self._get = get  # the bytes of a file of the image over there

    async def run(self) -> Manifest:
        """Fetch it.  Raises CloudError once a piece was asked for often enough."""
        text = (await self._patiently(MANIFEST)).decode(errors="replace")
        found = self.manifest = read(text)
        room(self.folder, found.size)
        for name, size in found.files.items():
            with (self.folder / name).open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.truncate(size)
        work = pieces(found)
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._some, work)
        (self.folder / MANIFEST).write_text(text)
        return found

    async def _some(self, work: Iterator[tuple[str, int, int]]) -> None:
        for name, offset, size in work:  # shared with the others
            await self._piece(name, offset, size)
            self.done += size

    async def _piece(self, name: str, offset: int, size: int) -> None:
        packed = await self._patiently(piece_name(name, offset, size))

        def put() -> None:
            data = unpack(packed, size)
            with (self.folder / name).open("r+b") as file:
                os.pwrite(file.fileno(), data, offset)

        await trio.to_thread.run_sync(put)

    async def _patiently(self, name: str) -> bytes:
        for attempt in range(TRIES):
            try:
                return await self._get(name)
            except CloudError as error:
                if error.kind not in _LATER or attempt + 1 == TRIES:
                    raise
            await trio.sleep(PAUSE)
        raise AssertionError
