"""Images of objects on disk, and how one travels.

An image is a directory of files under `checkpoint/` of its object: kept ones under the
name that was given, with the file `sums` (as of sha256sum); the one of a move under
`MOVING`, which no directory lists.  What an image says of its object is in `manifest`.

How one travels is in kernel/pieces.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.node.api import Usage

MOST_FILES = 4096
MOST_KEPT = 16  # images of one object
MOVING = ".moving"
KEPT = ".kept-"  # and a number: an image that others keep (holding.py)
MANIFEST = "manifest"
STREAMS = ("stdout", "stderr")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


@dataclass(slots=True)
class Manifest:
    """What an image says.  files: name → size; dropped: bytes at the beginning of a
    stream that are no longer kept; ran: seconds since its start; created: seconds since
    1970; used: by all its runs up to then; anew: whether its program is to start anew."""

    argv: list[str]
    runtime: str
    ran: float
    created: float
    used: dict[str, Any]
    prefer: list[str] = field(default_factory=list)
    spread: str = ""
    files: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    anew: bool = False

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
            and all(map(FILE.fullmatch, found.files))
            and isinstance(found.anew, bool)
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
    fresh = folder / f".{MANIFEST}"
    fresh.write_text(manifest.text())
    fresh.rename(folder / MANIFEST)  # whoever reads it finds all of it


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
            if not FILE.fullmatch(name):
                raise CloudError("bad", f"the image's sums name {name[:40]!r}")
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                    raise CloudError("bad", f"the image's file {name} has changed")
        if MANIFEST not in {line.partition("  ")[2] for line in lines}:
            raise CloudError("bad", "the image has no manifest")
    except OSError as error:
        raise CloudError("bad", f"the image is not whole: {error.strerror}") from None
