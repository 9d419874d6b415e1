"""Serves a mount of the synthetic tree: python -m tests.fuse.serve DIR.

A process of its own, since a process must not use its own mount.  Says "ready" on its
output once it is mounted, or the reason why not, "unmounted" when the mount is taken
away from outside, and ends with its input.

The tree has some files more: `feed` (what is written to it comes out of `never`),
`count` (inodes, open files and blocked requests), `boom` and `boomdir` (fail in every
way), `stuck` (a write never ends), `remote/` (every operation answers later), `huge/`
(10,000 files), `work/` (files can be made, renamed and removed), `deep/`, `far` (whose
owner is unknown here) and `mine` (nobody's, 0600).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.fuse.mount import mount
from cloudfs.fuse.operations import CloudOperations
from cloudfs.tree.api import DMDIR, Cues, Handle, Node, Stat, Wait, Who
from cloudfs.tree.idmap import who_of
from cloudfs.tree.space import Attach, Space
from tests.synthetic import Dir, Leaf, LeafHandle, Never, tree


class Feed(Leaf):
    """What is written to it becomes the content of `never`."""

    __slots__ = ("never",)

    def __init__(self, name: str, never: Never) -> None:
        super().__init__(name, b"", 0o666)
        self.never = never

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return FeedHandle(self)


class FeedHandle(LeafHandle):
    def write(self, offset: int, data: bytes | memoryview) -> int:
        assert isinstance(self.leaf, Feed)
        self.leaf.never.feed(bytes(data))
        return len(data)


class Count(Leaf):
    """inodes= files= blocked= of the mount."""

    __slots__ = ("operations",)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        ops: CloudOperations = self.operations
        line = f"inodes={len(ops.inodes)} files={len(ops.files)} blocked={len(ops.blocked)}\n"
        return LeafHandle(Leaf("count", line.encode()))


class Boom(Leaf):
    """A file with a fault in every operation once it is open."""

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return BoomHandle(self)

    def wstat(self, changes: dict[str, Any], at: Attach) -> None:
        raise RuntimeError("boom")


class BoomHandle(LeafHandle):
    def read(self, offset: int, count: int) -> bytes:
        raise RuntimeError("boom")

    def write(self, offset: int, data: bytes | memoryview) -> int:
        raise RuntimeError("boom")

    def close(self) -> None:
        raise RuntimeError("boom")


class BoomDir(Dir):
    """A directory with a fault in every operation."""

    def walk(self, name: str, at: Attach, cues: Cues) -> Node:
        raise RuntimeError("boom")

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        raise RuntimeError("boom")


class Stuck(Leaf):
    """A file whose write never ends."""

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return StuckHandle(self)


class StuckHandle(LeafHandle):
    def write(self, offset: int, data: bytes | memoryview) -> Wait[int]:
        async def run() -> int:
            await trio.sleep_forever()
            raise AssertionError

        return Wait(run)


def later(function: Any, *args: Any) -> Wait[Any]:
    """What function(*args) gives, a moment later."""

    async def run() -> Any:
        await trio.sleep(0.002)
        return function(*args)

    return Wait(run)


class Proxy(Node):
    """Another node seen from afar: all that can be answered later is."""

    __slots__ = ("real",)

    def __init__(self, real: Node) -> None:
        self.real = real
        self.name, self.mode, self.qid = real.name, real.mode, real.qid
        self.uid, self.gid = real.uid, real.gid

    @property
    def remote(self) -> bool:
        return True

    def stat(self) -> Wait[Stat]:
        return later(self.real.stat)

    def walk(self, name: str, at: Attach, cues: Cues) -> Wait[Node]:
        if name == "gone":

            async def run() -> Node:
                await trio.sleep_forever()
                raise AssertionError

            return Wait(run)
        return later(lambda: Proxy(self.real.walk(name, at, cues)))

    def open(self, mode: int, at: Attach, cues: Cues) -> Wait[Handle]:
        def go() -> Handle:
            handle = self.real.open(mode, at, cues)
            if hasattr(handle, "entries"):
                handle.entries.nodes = {n: Proxy(c) for n, c in handle.entries.nodes.items()}
            return handle if hasattr(handle, "entries") else ProxyHandle(handle)

        return later(go)

    def create(self, name: str, perm: int, mode: int, at: Attach, cues: Cues) -> Any:
        def go() -> tuple[Node, Handle]:
            node, handle = self.real.create(name, perm, mode, at, cues)
            return Proxy(node), handle

        return later(go)

    def remove(self, at: Attach) -> Any:
        return later(self.real.remove, at)

    def wstat(self, changes: dict[str, Any], at: Attach) -> Any:
        return later(self.real.wstat, changes, at)


class ProxyHandle(Handle):
    __slots__ = ("real",)

    def __init__(self, real: Handle) -> None:
        self.real = real

    def read(self, offset: int, count: int) -> Wait[bytes]:
        return later(self.real.read, offset, count)

    def write(self, offset: int, data: bytes | memoryview) -> Wait[int]:
        return later(self.real.write, offset, data)

    def close(self) -> Wait[None]:
        return later(self.real.close)


class Removable(Leaf):
    """A file of `work` that can be removed and renamed."""

    __slots__ = ("home",)

    def remove(self, at: Attach) -> None:
        del self.home.children[self.name]

    def wstat(self, changes: dict[str, Any], at: Attach) -> None:
        if "name" in changes:
            if changes["name"] in self.home.children:
                raise CloudError("exists")
            del self.home.children[self.name]
            self.name = changes["name"]
            self.home.children[self.name] = self
        elif "mode" in changes:
            self.mode = changes["mode"]
        else:
            super().wstat(changes, at)


class Work(Dir):
    """A directory for all in which files can be made, renamed and removed."""

    def create(self, name: str, perm: int, mode: int, at: Attach, cues: Cues) -> Any:
        if perm & DMDIR or name in self.children:
            return super().create(name, perm, mode, at, cues)
        node = Removable("file", b"", perm & 0o777, at.who.user)
        node.name, node.home, node.qid = name, self, id(node)
        self.children[name] = node
        return node, node.open(mode, at, cues)


def served() -> tuple[Dir, Count]:
    root = tree()
    never = root.children["never"]
    assert isinstance(never, Never)
    count = Count("count", mode=0o444)
    more = [
        Feed("feed", never),
        count,
        Boom("boom", b"", 0o666),
        BoomDir("boomdir", []),
        Stuck("stuck", b"", 0o666),
        Proxy(Dir("remote", list(tree().children.values()))),
        Dir("huge", [Leaf(f"f{i:05}", b"%d\n" % i) for i in range(10_000)]),
        Leaf("far", b"far\n", 0o640, "somebody-from-afar"),
        Leaf("mine", b"mine\n", 0o600, "nobody"),
        Work("work", [], 0o777),
        Dir("deep", [Dir("a", [Dir("b", [Leaf("c", b"C\n")])])]),
    ]
    root.children.update({node.name: node for node in more})
    return root, count


def who(uid: int, gid: int, pid: int) -> Who:
    return who_of(uid, {0})


async def main(directory: str) -> None:
    root, count = served()
    space = Space(root)
    async with trio.open_nursery() as nursery:
        count.operations = await nursery.start(_show, space, directory)
        print("ready", flush=True)
        nursery.start_soon(_until_signal, nursery.cancel_scope)
        async with trio.lowlevel.FdStream(os.dup(0)) as stream:
            while await stream.receive_some():
                continue
        nursery.cancel_scope.cancel()


async def _show(
    space: Space, directory: str, *, task_status: trio.TaskStatus[CloudOperations]
) -> None:
    await mount(space, directory, who_of=who, task_status=task_status)
    print("unmounted", flush=True)


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1])
    except BaseException as error:
        reason = _first(error)
        if not isinstance(reason, CloudError):
            raise
        print(f"{reason.kind}: {reason}", flush=True)
