"""A range of uids for each sandboxed object, so that no two can touch each other's files.

A range is SIZE uids from BASE on; which one follows from the object's id, so that it is
most likely free on any other node too, where an image made here may be restored.  Taken
ranges are symbolic links NUMBER → ID in one directory: made at once or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path

from cloudfs.errors import CloudError

BASE = 0x1000_0000  # far above what distributions give out
SIZE = 0x1_0000
COUNT = (0xFFF0_0000 - BASE) // SIZE
USER = 1000  # the uid and gid inside the sandbox


def preferred(id: str) -> int:
    """The range that an id has where it is free (FNV-1a of the id)."""
    mixed = 0xCBF29CE484222325
    for byte in id.encode():
        mixed = (mixed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return mixed % COUNT


class Ranges:
    """The ranges taken on this node, kept in a directory."""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._holder = {int(name): os.readlink(home / name) for name in os.listdir(home)}
        self._range = {id: number for number, id in self._holder.items()}

    def take(self, id: str) -> int:
        """The first uid of the object's range.  Raises CloudError("full")."""
        if (first := self.first(id)) is not None:
            return first
        start = preferred(id)
        for number in ((start + step) % COUNT for step in range(COUNT)):
            if number not in self._holder:
                os.symlink(id, self._home / str(number))
                self._holder[number] = id
                self._range[id] = number
                return BASE + number * SIZE
        raise CloudError("full", "every range of uids is taken", "wipe objects that ended")

    def claim(self, id: str, first: int) -> int:
        """The range that begins with this uid and no other, as an image has it.

        Raises CloudError("full") where another object has it, "bad" where it is none.
        """
        number = (first - BASE) // SIZE
        if not 0 <= number < COUNT or BASE + number * SIZE != first:
            raise CloudError("bad", f"no range of uids begins with {first}")
        if self._range.get(id) == number:
            return first
        if id in self._range:
            self.free(id)
        if number in self._holder:
            raise CloudError(
                "full",
                f"object {self._holder[number]} has the uids that its image needs",
                "end and wipe that one first, or choose another node",
            )
        os.symlink(id, self._home / str(number))
        self._holder[number] = id
        self._range[id] = number
        return first

    def first(self, id: str) -> int | None:
        """The first uid of the object's range, None if it has none."""
        number = self._range.get(id)
        return None if number is None else BASE + number * SIZE

    def holder(self, uid: int) -> str | None:
        """The id of the object whose range holds this uid."""
        return self._holder.get((uid - BASE) // SIZE)

    def free(self, id: str) -> None:
        """Give the object's range back; its files must be gone."""
        number = self._range.pop(id, None)
        if number is not None:
            del self._holder[number]
            (self._home / str(number)).unlink(missing_ok=True)
