"""A small tree in memory with every behaviour an adapter must cope with."""

from __future__ import annotations

import time
import zlib
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import (
    DMDIR,
    OTRUNC,
    Cues,
    DirHandle,
    Entries,
    Handle,
    Node,
    Stat,
    Wait,
)
from cloudfs.tree.space import Attach


class Leaf(Node):
    """A file with content that can be written when its mode says so."""

    __slots__ = ("data", "mtime")

    def __init__(self, name: str, data: bytes = b"", mode: int = 0o644, uid: str = "root") -> None:
        self.name, self.data, self.mode, self.uid, self.gid = name, data, mode, uid, uid
        self.qid = zlib.crc32(name.encode()) | 1 << 40
        self.mtime = time.time()

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, len(self.data), self.mtime, self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        if mode & OTRUNC:
            self.data = b""
        return LeafHandle(self)

    def wstat(self, changes: dict[str, Any], at: Attach) -> None:
        if set(changes) - {"length", "mtime", "atime"}:
            raise CloudError("refused", "only the length can be changed")
        self.data = self.data[: changes["length"]].ljust(changes["length"], b"\0")


class LeafHandle(Handle):
    __slots__ = ("leaf",)

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf

    def read(self, offset: int, count: int) -> bytes:
        return self.leaf.data[offset : offset + count]

    def write(self, offset: int, data: bytes | memoryview) -> int:
        old = self.leaf.data.ljust(offset, b"\0")
        self.leaf.data = old[:offset] + bytes(data) + old[offset + len(data) :]
        return len(data)


class Never(Leaf):
    """A file whose read waits until `feed` is called."""

    __slots__ = ("fed", "text", "waiting")

    def __init__(self, name: str, mode: int = 0o444) -> None:
        super().__init__(name, b"", mode)
        self.fed = trio.Event()
        self.text = b""
        self.waiting = 0

    def feed(self, text: bytes) -> None:
        self.text = text
        self.fed.set()

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return NeverHandle(self)


class NeverHandle(Handle):
    __slots__ = ("leaf",)

    def __init__(self, leaf: Never) -> None:
        self.leaf = leaf

    def read(self, offset: int, count: int) -> bytes | Wait[bytes]:
        if self.leaf.fed.is_set():
            return self.leaf.text[offset : offset + count]

        async def run() -> bytes:
            self.leaf.waiting += 1
            try:
                await self.leaf.fed.wait()
            finally:
                self.leaf.waiting -= 1
            return self.leaf.text[offset : offset + count]

        return Wait(run)


class Ctl(Leaf):
    """A file that takes only the word `ok`."""

    __slots__ = ()

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return CtlHandle(self)


class CtlHandle(LeafHandle):
    __slots__ = ()

    def write(self, offset: int, data: bytes | memoryview) -> int:
        if bytes(data).strip() != b"ok":
            raise CloudError("bad", "ctl takes only ok", "type: echo ok > ctl")
        return len(data)


class Dir(Node):
    """A directory; with mode 0o777 files can be made and removed in it."""

    __slots__ = ("children",)

    def __init__(
        self, name: str, children: list[Node], mode: int = 0o555, uid: str = "root"
    ) -> None:
        self.name, self.mode, self.uid, self.gid = name, mode | DMDIR, uid, uid
        self.qid = zlib.crc32(name.encode()) | 2 << 40
        self.children = {child.name: child for child in children}

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, 1.0e9, self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        try:
            return self.children[name]
        except KeyError:
            raise CloudError("absent") from None

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return DirHandle(Entries(dict(self.children)))

    def create(
        self, name: str, perm: int, mode: int, at: Attach, cues: Cues
    ) -> tuple[Node, Handle] | Wait[tuple[Node, Handle]]:
        if name in self.children:
            raise CloudError("exists")
        node: Node = (
            Dir(name, [], perm & 0o777, at.who.user)
            if perm & DMDIR
            else Leaf(name, b"", perm & 0o777, at.who.user)
        )
        self.children[name] = node
        handle = node.open(mode, at, cues)
        assert isinstance(handle, Handle)
        return node, handle


class Slow(Dir):
    """A directory whose walks and opens wait a moment, as those of a far node do."""

    __slots__ = ()

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        async def run() -> Node:
            await trio.sleep(0.01)
            found = Dir.walk(self, name, at, cues)
            assert isinstance(found, Node)
            return found

        return Wait(run)


def tree() -> Dir:
    """/ hello big(1 MiB) empty never ctl secret(root's, 0400) dir/{a,b} many/(1000)
    slow/x open/(0777) private/(root's, 0700)/inside"""
    return Dir(
        "/",
        [
            Leaf("hello", b"hello, world\n", 0o444),
            Leaf("big", bytes(range(256)) * 4096, 0o444),
            Leaf("empty", b"", 0o666),
            Never("never"),
            Ctl("ctl", b"", 0o666),
            Leaf("secret", b"secret\n", 0o400),
            Dir("dir", [Leaf("a", b"A\n"), Leaf("b", b"B\n")]),
            Dir("many", [Leaf(f"f{i:04}", b"%d\n" % i) for i in range(1000)]),
            Slow("slow", [Leaf("x", b"X\n")]),
            Dir("open", [], 0o777),
            Dir("private", [Leaf("inside", b"in\n", 0o444)], 0o700),
        ],
    )
