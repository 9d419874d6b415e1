"""Which inode number stands for which file: the table behind lookup and forget.

The kernel calls files by numbers that we choose, counts for each how often we told
it the number, and gives the counts back when it forgets the file.  A number stands
for one path, not for one file: a directory reached by two paths has two numbers,
since the kernel does not bear a directory with two parents.  Numbers are never used
again, so a late answer can never mean another file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, Ref

ROOT = 1  # FUSE_ROOT_ID


class Inode:
    """A file that the kernel may know.

    ino: its number.  parent, name: where it was looked up.  ref: what was found there
    last.  count: how often the kernel was told of it.  item: what a listing showed of
    it, or None.  entry: its attributes as told last, which were made of `seen` and hold
    until the time `until` as long as that stays the same.
    """

    __slots__ = ("count", "entry", "ino", "item", "name", "parent", "ref", "seen", "until")

    def __init__(self, ino: int, parent: int, name: bytes, ref: Ref) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.ref = ref
        self.count = 0
        self.item: Any = None
        self.entry: Any = None
        self.seen: Any = None
        self.until = 0.0


class Inodes:
    """All files that the kernel knows of, the root always among them."""

    def __init__(self, root: Ref) -> None:
        self._last = ROOT
        self._by_ino = {ROOT: Inode(ROOT, 0, b"", root)}
        self._by_name: dict[tuple[int, bytes], Inode] = {}

    def __len__(self) -> int:
        return len(self._by_ino)

    def __getitem__(self, ino: int) -> Inode:
        """The file of a number.  Raises CloudError("stale") for one never told."""
        try:
            return self._by_ino[ino]
        except KeyError:
            raise CloudError("stale", f"inode {ino} is not known") from None

    def place(self, parent: int, name: bytes, ref: Ref) -> Inode:
        """The inode for what was found under a name: the same as before as long as the
        same file is there, else a new one.  Not counted yet."""
        known = self._by_name.get((parent, name))
        if known is not None:
            old, new = known.ref.node, ref.node
            if old is new or (old.qid == new.qid and not (old.mode ^ new.mode) & DMDIR):
                known.ref = ref
                return known
        self._last += 1
        return Inode(self._last, parent, name, ref)

    def known(self, parent: int, name: bytes) -> Inode | None:
        """What the kernel knows under a name."""
        return self._by_name.get((parent, name))

    def told(self, inode: Inode) -> None:
        """Count that the kernel is told of an inode that `place` gave."""
        if not inode.count:
            self._by_ino[inode.ino] = inode
            self._by_name[inode.parent, inode.name] = inode
        inode.count += 1

    def forget(self, ino: int, times: int) -> None:
        """The kernel gives back `times` of an inode's count; at none it is gone."""
        inode = self._by_ino.get(ino)
        if inode is None or ino == ROOT:
            return
        inode.count -= times
        if inode.count <= 0:
            inode.count = 0
            del self._by_ino[ino]
            self._drop_name(inode)

    def renamed(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """What the kernel knew under one name it now knows under another."""
        inode = self._by_name.pop((parent, name), None)
        if inode is not None:
            inode.parent, inode.name = new_parent, new_name
            self._by_name[new_parent, new_name] = inode

    def removed(self, parent: int, name: bytes) -> None:
        """A name is gone; its inode lives on for those who have it open."""
        self._by_name.pop((parent, name), None)

    def files(self) -> Iterator[Inode]:
        """All but the root, those told of first at the front."""
        inodes = iter(self._by_ino.values())
        next(inodes)
        return inodes

    def path(self, ino: int) -> Sequence[str]:
        """The path of a number, for messages; empty if it is not known."""
        inode = self._by_ino.get(ino)
        return inode.ref.path if inode else ()

    def _drop_name(self, inode: Inode) -> None:
        key = inode.parent, inode.name
        if self._by_name.get(key) is inode:
            del self._by_name[key]
