"""A file whose operations can be counted, made to fail and made to wait."""

from __future__ import annotations

from typing import Any

from cloudfs.tree.api import Cues, Handle, Node, Stat, Wait
from cloudfs.tree.space import Attach
from tests.synthetic import Dir, Leaf, LeafHandle


class Watched(Leaf):
    """A file that counts what is closed, and whose operations can be made to fail or wait."""

    __slots__ = ("closed", "opened", "raises", "removed", "waits")

    def __init__(self, name: str = "watched", data: bytes = b"data") -> None:
        super().__init__(name, data, 0o666)
        self.opened = self.closed = self.removed = 0
        self.raises: dict[str, Exception] = {}
        self.waits: set[str] = set()

    def act(self, what: str, result: Any) -> Any:
        if what in self.waits:

            async def run() -> Any:
                if what in self.raises:
                    raise self.raises[what]
                return result() if callable(result) else result

            return Wait(run)
        if what in self.raises:
            raise self.raises[what]
        return result() if callable(result) else result

    def stat(self) -> Stat:
        return self.act("stat", super().stat)  # type: ignore[no-any-return]

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        def made() -> Handle:
            self.opened += 1
            return WatchedHandle(self)

        return self.act("open", made)  # type: ignore[no-any-return]

    def remove(self, at: Attach) -> Wait[None] | None:
        self.removed += 1
        return self.act("remove", None)  # type: ignore[no-any-return]

    def wstat(self, changes: dict[str, Any], at: Attach) -> Any:
        self.name = changes.get("name", self.name)
        return self.act("wstat", None)


class WatchedHandle(LeafHandle):
    __slots__ = ()
    leaf: Watched

    def read(self, offset: int, count: int) -> bytes:
        return self.leaf.act("read", lambda: LeafHandle.read(self, offset, count))  # type: ignore[no-any-return]

    def write(self, offset: int, data: bytes | memoryview) -> int:
        return self.leaf.act("write", lambda: LeafHandle.write(self, offset, data))  # type: ignore[no-any-return]

    def close(self) -> Wait[None] | None:
        self.leaf.closed += 1
        return self.leaf.act("close", None)  # type: ignore[no-any-return]


class Slow(Dir):
    """A directory whose walks wait, for nothing in particular."""

    __slots__ = ()

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        async def run() -> Node:
            found = Dir.walk(self, name, at, cues)
            assert isinstance(found, Node)
            return found

        return Wait(run)
