"""Directories as the kernel reads them: entries with attributes, a buffer at a time."""

from __future__ import annotations

from pyfuse3 import EntryAttributes, ReaddirToken, readdir_reply

from cloudfs.fuse.attributes import listed
from cloudfs.fuse.inodes import Inode, Inodes
from cloudfs.tree.api import Entries, Node, Ref
from cloudfs.tree.space import MAX_NAME, Space

PART = 64  # entries made in advance
TURN = 512  # entries told in one request: others wait as long


class Item:
    """One entry as it was told last.  inode: None as long as it was not."""

    __slots__ = ("attributes", "inode", "name", "ref")

    def __init__(self, name: bytes, ref: Ref) -> None:
        self.name = name
        self.ref = ref
        self.attributes: EntryAttributes | None = None
        self.inode: Inode | None = None


class Listing:
    """The entries of one directory at one path, made as far as anybody has read.

    It is kept with the directory's Entries as long as these are kept, so that a large
    directory that did not change costs next to nothing to list again."""

    def __init__(self, inodes: Inodes, ino: int, ref: Ref, space: Space, entries: Entries) -> None:
        self._inodes = inodes
        self._ino = ino
        self._ref = ref
        self._mounts = space.mounts
        self._rest = iter(entries.nodes.items())
        self._items: list[Item] = []

    def fill(self, token: ReaddirToken, start: int) -> None:
        """Hand over entries from number `start` on, as many as the kernel has room for
        and at most `TURN`."""
        items = self._items
        for index in range(start, start + TURN):
            if index >= len(items) and not self._more():
                return
            item = items[index]
            inode = item.inode
            if inode is None or not inode.count:
                inode = self._place(item)
            if not readdir_reply(token, item.name, item.attributes, index + 1):  # type: ignore[arg-type]
                return
            if inode.count:
                inode.count += 1
            else:
                self._inodes.told(inode)

    def _place(self, item: Item) -> Inode:
        """Give the entry a number, which is the one that the kernel knows if it knows one."""
        item.inode = inode = self._inodes.place(self._ino, item.name, item.ref)
        if item.attributes is None:
            item.attributes = listed(inode.ino, item.ref.node)
        else:
            item.attributes.st_ino = inode.ino
        inode.item = item
        return inode

    def _more(self) -> bool:
        """Make some more entries; False if there are none."""
        known = len(self._items)
        for name, node in self._rest:
            raw = _raw(name)
            if raw:
                self._items.append(self._item(name, raw, node))
            if len(self._items) - known >= PART:
                break
        return len(self._items) > known

    def _item(self, name: str, raw: bytes, node: Node) -> Item:
        """The entry for a name, the one made before if the file is the same."""
        if self._mounts:
            node = self._mounts.get((*self._ref.path, name), node)
        inode = self._inodes.known(self._ino, raw)
        if inode is not None and inode.item is not None and inode.item.ref.node is node:
            return inode.item  # type: ignore[no-any-return]
        return Item(raw, Ref(node, (*self._ref.path, name), self._ref.cues))


def _raw(name: str) -> bytes:
    """A name as the kernel takes it; b"" for one that it would refuse, and with it the
    whole directory.  A far node may send such names."""
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""
    if b"/" in raw or b"\0" in raw or len(raw) > MAX_NAME or raw in (b".", b".."):
        return b""
    return raw


def listing_of(inodes: Inodes, ino: int, ref: Ref, space: Space, entries: Entries) -> Listing:
    """The listing of entries at a place, the one kept with them where there is one."""
    depth = len(ref.path) + 1
    if any(len(path) == depth and path[:-1] == ref.path for path in space.mounts):
        return Listing(inodes, ino, ref, space, entries)  # binds come and go: not kept
    key = inodes, ino
    kept = entries.packed.get(key)
    if not isinstance(kept, Listing):
        kept = entries.packed[key] = Listing(inodes, ino, ref, space, entries)
    return kept
