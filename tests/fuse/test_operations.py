"""What a mount does beyond the everyday: faults, memory, reasons, attributes."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.fuse.callers import KEEP, Callers
from cloudfs.fuse.files import File, Files
from cloudfs.fuse.operations import CloudOperations
from cloudfs.fuse.share import Share
from cloudfs.tree import idmap
from cloudfs.tree.api import PLAIN, Cues, Handle, Node, Ref, Wait, Who
from cloudfs.tree.space import Attach, Space
from tests.fuse.conftest import Server, needs_root
from tests.fuse.serve import served, who
from tests.synthetic import Leaf, LeafHandle, tree


class Context:
    """What pyfuse3 tells of a caller."""

    def __init__(self, uid: int = 0) -> None:
        self.uid = self.gid = uid
        self.pid = 0
        self.umask = 0


ROOT: Context = Context()


def operations(root: Node | None = None) -> CloudOperations:
    return CloudOperations(Space(root or tree()), who)


async def refused(call: object) -> int:
    """The errno that a request is answered with."""
    import pyfuse3

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call  # type: ignore[misc]
    return int(caught.value.errno)


# On a real mount


def test_a_fault_is_eio_and_harms_nobody(server: Server) -> None:
    boom = server.path("boom")

    def errnos() -> list[int | None]:
        seen: list[int | None] = []
        fd = os.open(boom, os.O_RDWR)
        for call, *args in (
            (os.read, fd, 10),
            (os.write, fd, b"x"),
            (os.truncate, boom, 5),
            (os.listdir, server.path("boomdir")),
            (os.stat, server.path("boomdir", "x")),
            (os.mkdir, server.path("boomdir", "x")),
            (os.unlink, server.path("boomdir", "x")),
        ):
            with pytest.raises(OSError) as caught:
                call(*args)
            seen.append(caught.value.errno)
        os.close(fd)
        return seen

    assert server.call(errnos) == [errno.EIO] * 7
    assert server.read("hello") == "hello, world\n"
    assert server.count("files") == 0


def test_files_that_are_closed_are_gone(server: Server) -> None:
    def go() -> None:
        fds = [os.open(server.path("hello"), os.O_RDONLY) for _ in range(200)]
        for fd in fds:
            os.close(fd)
        for _ in range(200):
            os.listdir(server.path("dir"))

    server.call(go)
    server.until(lambda: server.count("files") == 0, "every file is closed")


def test_what_is_made_and_removed_is_forgotten(server: Server) -> None:
    def go() -> None:
        for number in range(300):
            path = server.path("work", f"file{number}")
            with open(path, "w") as file:
                file.write("x")
            os.stat(path)
            os.unlink(path)

    before = server.count("inodes")
    server.call(go)
    server.until(lambda: server.count("inodes") <= before + 5, "the kernel forgets")


def test_one_file_has_one_inode(server: Server) -> None:
    def go() -> None:
        for _ in range(300):
            os.stat(server.path("dir", "a"))
            with open(server.path("dir", "b")) as file:
                file.read()

    server.call(go)
    before = server.count("inodes")
    server.call(go)
    assert server.count("inodes") == before


def test_listing_again_makes_no_new_inodes(server: Server) -> None:
    assert len(server.call(os.listdir, server.path("huge"))) == 10_000
    before = server.count("inodes")
    assert before > 10_000
    for _ in range(3):
        server.call(os.listdir, server.path("huge"))
    assert server.count("inodes") == before


@needs_root
def test_a_large_listing_by_two_readers_at_once(server: Server) -> None:
    def go() -> list[str]:
        with os.scandir(server.path("huge")) as one, os.scandir(server.path("huge")) as two:
            first = [entry.name for _, entry in zip(range(5000), one, strict=False)]
            second = [entry.name for entry in two]
            first += [entry.name for entry in one]
        assert first == second
        return first

    assert server.call(go) == [f"f{i:05}" for i in range(10_000)]


def test_attributes(server: Server) -> None:
    status = server.call(os.stat, server.path("big"))
    assert stat.S_IFMT(status.st_mode) == stat.S_IFREG
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert (status.st_size, status.st_blocks, status.st_nlink) == (1 << 20, 2048, 1)
    assert (status.st_uid, status.st_gid) == (0, 0)
    directory = server.call(os.stat, server.path("dir"))
    assert stat.S_ISDIR(directory.st_mode)
    assert directory.st_nlink == 1
    assert directory.st_mtime == 1.0e9
    assert server.call(os.stat, server.path("far")).st_uid == 65534
    assert server.call(os.stat, server.path(".follow", "dir")).st_ino != directory.st_ino


def test_reads_at_offsets_agree(server: Server) -> None:
    data = bytes(range(256)) * 4096

    def go() -> None:
        fd = os.open(server.path("big"), os.O_RDONLY)
        for offset, count in ((0, 10), (1 << 19, 1 << 18), ((1 << 20) - 3, 10), (1 << 20, 10)):
            assert os.pread(fd, count, offset) == data[offset : offset + count]
        assert os.lseek(fd, 0, os.SEEK_END) == 1 << 20
        os.close(fd)

    server.call(go)


# Without a kernel


async def test_reasons_are_kept_for_the_caller() -> None:
    space = Space(tree())
    ops = CloudOperations(space, who)
    entry = await ops.lookup(1, b"ctl", ROOT)
    file = await ops.open(entry.st_ino, os.O_WRONLY, ROOT)
    assert await refused(ops.write(file.fh, 0, b"no\n")) == errno.EINVAL
    assert await refused(ops.link(entry.st_ino, 1, b"x", Context(12345))) == errno.EPERM
    (root,) = space.errors.of("root")
    assert root[1] == "/ctl: ctl takes only ok; type: echo ok > ctl"
    assert space.errors.of("#12345") == []  # nobody the tree has seen yet
    assert await refused(ops.lookup(entry.st_ino, b"x", Context(12345))) == errno.ENOTDIR
    secret = await ops.lookup(1, b"secret", Context(12345))
    assert await refused(ops.open(secret.st_ino, os.O_RDONLY, Context(12345))) == errno.EACCES
    assert "/secret: #12345 may not read it" in space.errors.of("#12345")[-1][1]


async def test_a_who_of_that_fails_is_a_fault_like_others() -> None:
    def broken(uid: int, gid: int, pid: int) -> Who:
        raise RuntimeError("no name service")

    ops = CloudOperations(Space(tree()), broken)
    assert await refused(ops.lookup(1, b"hello", ROOT)) == errno.EIO
    assert await refused(ops.getattr(1, ROOT)) == errno.EIO


class Odd(Leaf):
    """A file whose handle gives the wrong things."""

    __slots__ = ("given",)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle:
        return OddHandle(self)


class OddHandle(LeafHandle):
    def read(self, offset: int, count: int) -> bytes:
        assert isinstance(self.leaf, Odd)
        return self.leaf.given  # type: ignore[no-any-return]

    def write(self, offset: int, data: bytes | memoryview) -> int:
        assert isinstance(self.leaf, Odd)
        return self.leaf.given  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", [None, "text", 7, -1, 2.5, memoryview(b"abcd")[::2]])
async def test_what_pyfuse3_could_not_take_is_eio(given: object) -> None:
    root = tree()
    odd = Odd("odd", b"", 0o666)
    odd.given = given
    root.children["odd"] = odd
    ops = operations(root)
    entry = await ops.lookup(1, b"odd", ROOT)
    file = await ops.open(entry.st_ino, os.O_RDWR, ROOT)
    assert await refused(ops.read(file.fh, 0, 10)) == errno.EIO
    if given != 7:
        assert await refused(ops.write(file.fh, 0, b"abc")) == errno.EIO
    await ops.release(file.fh)


async def test_numbers_that_were_never_given() -> None:
    ops = operations()
    assert await refused(ops.getattr(99, ROOT)) == errno.ESTALE
    assert await refused(ops.lookup(99, b"x", ROOT)) == errno.ESTALE
    assert await refused(ops.read(99, 0, 1)) == errno.EBADF
    assert await refused(ops.release(99)) == errno.EBADF
    await ops.forget([(99, 1), (1, 1)])
    assert (await ops.getattr(1, ROOT)).st_ino == 1


async def test_binds_are_seen() -> None:
    root = tree()
    space = Space(root)
    ops = CloudOperations(space, who)
    at = space.attach(who(0, 0, 0))
    before = (await ops.lookup(1, b"open", ROOT)).st_ino
    space.bind(at, "/dir", "/open")
    bound = (await ops.lookup(1, b"open", ROOT)).st_ino
    assert bound != before
    assert (await ops.lookup(bound, b"a", ROOT)).st_size == 2
    space.bind(at, "/deep" if "deep" in root.children else "/many", "/")
    assert (await ops.lookup(1, b"f0001", ROOT)).st_size == 2


async def test_who_asks_again_in_time() -> None:
    now = [0.0]
    asked: list[int] = []

    def who_is(uid: int, gid: int, pid: int) -> Who:
        asked.append(uid)
        return Who(f"u{uid}", uid)

    callers = Callers(Space(tree()), who_is, clock=lambda: now[0])
    at = callers.attach(Context(5))  # type: ignore[arg-type]
    assert callers.attach(Context(5)) is at  # type: ignore[arg-type]
    now[0] = KEEP
    assert callers.attach(Context(5)) is at  # type: ignore[arg-type]
    assert asked == [5, 5]
    for uid in range(3000):
        callers.attach(Context(uid))  # type: ignore[arg-type]
    assert callers.attach(Context(5)) is not at  # type: ignore[arg-type]


def test_a_login_counts_at_once() -> None:
    who = ["none"]
    callers = Callers(Space(tree()), lambda uid, gid, pid: Who(who[0], uid), clock=lambda: 0.0)
    ctx: Any = Context(1001)
    assert callers.attach(ctx).who.user == "none"
    who[0] = "ana"
    assert callers.attach(ctx).who.user == "none"
    idmap.log_in("ana", 1001)
    try:
        assert callers.attach(ctx).who.user == "ana"
        who[0] = "none"
    finally:
        idmap.log_out("ana", 1001)
    assert callers.attach(ctx).who.user == "none"


def test_a_share_is_half_of_what_is_left() -> None:
    share = Share(64)
    taken = {}
    for uid in (1, 2, 3, 4):
        taken[uid] = 0
        while share.take(uid):
            taken[uid] += 1
    assert list(taken.values()) == [32, 16, 8, 4]
    for uid, count in taken.items():
        for _ in range(count):
            share.give(uid)
    assert sum(share.take(9) for _ in range(64)) == 32


async def test_a_user_with_too_many_files() -> None:
    ops = operations()
    ops.files = Files(room=4)
    entry = await ops.lookup(1, b"hello", ROOT)
    opened = [await ops.open(entry.st_ino, os.O_RDONLY, ROOT) for _ in range(2)]
    assert await refused(ops.open(entry.st_ino, os.O_RDONLY, ROOT)) == errno.EMFILE
    home = await ops.lookup(1, b"open", ROOT)
    known = len(ops.inodes)
    assert await refused(ops.create(home.st_ino, b"x", 0o644, os.O_RDWR, ROOT)) == errno.EMFILE
    assert len(ops.inodes) == known
    await ops.open(entry.st_ino, os.O_RDONLY, Context(12345))
    await ops.release(opened[0].fh)
    await ops.open(entry.st_ino, os.O_RDONLY, ROOT)
    assert len(ops.files) == 3


async def test_what_waits_passes_on_first() -> None:
    passed: list[int] = []
    ops = CloudOperations(Space(served()[0]), who, pass_on=lambda: passed.append(1))
    remote = await ops.lookup(1, b"remote", ROOT)
    hello = await ops.lookup(remote.st_ino, b"hello", ROOT)
    before = len(passed)
    assert before >= 3  # the walk and the stat of each
    file = await ops.open(hello.st_ino, os.O_RDONLY, ROOT)
    await ops.read(file.fh, 0, 10)
    await ops.release(file.fh)
    assert len(passed) == before + 3


async def test_closing_at_the_end_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Handle):
        def close(self) -> Wait[None]:
            return Wait(trio.sleep_forever)

    class Bad(Handle):
        def close(self) -> None:
            raise CloudError("io", "lost")

    ops = operations()
    at = ops.space.attach(who(0, 0, 0))
    for handle in (Bad(), Slow()):
        ops.files.add(File(handle, at, Ref(tree(), (), PLAIN), 1, ROOT, False))  # type: ignore[arg-type]
    begun = trio.current_time()
    await ops.close()
    assert trio.current_time() - begun < 2
    assert len(ops.files) == 0
