"""The kernel's requests, answered from the tree: pyfuse3's Operations over a Space.

Nothing is decided here: a request becomes one call of the caller's `Attach`, which
checks permission each time, and its result becomes the kernel's form.  What can only
be answered later is awaited under the watch of interrupt.py.

Names are never cached (entry_timeout 0): who may see what changes at any time, and the
kernel must ask us as the caller that looks.  Attributes hold for `VALID` seconds, long
enough that one system call does not ask for the same ones three times and too short
for anybody to see an old one: whoever comes by a path gets fresh ones with the name.

When a lookup is refused, the kernel drops the name for everybody, and a shell that
stands there cannot find its own path any more.  It does not ask on behalf of one who
may not search the directory, so a tree hides a file by the mode of a directory rather
than by telling only some that it is absent.

A close(2) returns before the tree hears of it (the kernel cannot tell the last one from
that of a copy), so what it still has to say is only kept for err.

Not answered, which makes the kernel answer by itself from then on: flush, fsync and
fsyncdir (nothing to do), extended attributes (EOPNOTSUPP), poll (always ready).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat as bits
from collections.abc import Callable, Coroutine, Sequence
from operator import index
from typing import Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext

from cloudfs.errors import CloudError
from cloudfs.fuse.attributes import attributes
from cloudfs.fuse.callers import KEEP, Callers, WhoOf
from cloudfs.fuse.files import File, Files
from cloudfs.fuse.inodes import ROOT, Inode, Inodes
from cloudfs.fuse.interrupt import Blocked
from cloudfs.fuse.listing import listing_of
from cloudfs.tree.api import (
    DMDIR,
    ORDWR,
    OREAD,
    OTRUNC,
    OWRITE,
    PLAIN,
    DirHandle,
    Handle,
    Ref,
    Stat,
    Wait,
)
from cloudfs.tree.idmap import changes, group_of, user_of
from cloudfs.tree.permission import allowed, no_groups
from cloudfs.tree.space import MAX_NAME, Attach, Space, settle

T = TypeVar("T")
Handler = Callable[..., Coroutine[Any, Any, Any]]

VALID = 0.01  # seconds the kernel may keep attributes
_CLOSE = 1.0  # seconds for what is still open at the end
_MODES = {os.O_RDONLY: OREAD, os.O_WRONLY: OWRITE, os.O_RDWR: ORDWR}

_log = logging.getLogger(__name__)


def _on_inode(handler: Handler) -> Handler:
    """For a request (inode, …, ctx): every way it can fail becomes an errno."""

    @functools.wraps(handler)
    async def answer(self: CloudOperations, *args: Any) -> Any:
        try:
            return await handler(self, *args)
        except CloudError as error:
            self.callers.note(args[-1].uid, self.inodes.path(args[0]), error)
            refusal = FUSEError(error.errno)
        except Exception:
            refusal = _broken(handler.__name__)
        raise refusal from None

    return answer


def _on_file(handler: Handler) -> Handler:
    """The same for a request (file handle, …)."""

    @functools.wraps(handler)
    async def answer(self: CloudOperations, fh: int, *args: Any) -> Any:
        file = None
        try:
            file = self.files[fh]
            return await handler(self, file, *args)
        except CloudError as error:
            if file is not None:
                file.at.note(error, file.ref.path)
            refusal = FUSEError(error.errno)
        except Exception:
            refusal = _broken(handler.__name__)
        raise refusal from None

    return answer


def _broken(what: str) -> FUSEError:
    """A fault of ours must not end the mount for everybody."""
    _log.exception("%s failed", what)
    return FUSEError(errno.EIO)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class CloudOperations(pyfuse3.Operations):
    """One mount.

    space: what is shown.  who_of: the caller for a (uid, gid, pid), asked again for
    each uid every few seconds.  valid: seconds the kernel may keep attributes.
    pass_on: called when a request is going to wait, before it does.
    """

    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(
        self,
        space: Space,
        who_of: WhoOf,
        valid: float = VALID,
        pass_on: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.space = space
        self.inodes = Inodes(Ref(space.root, (), PLAIN))
        self.files = Files()
        self.blocked = Blocked()
        self.callers = Callers(space, who_of)
        self._valid = valid
        self._pass_on = pass_on

    async def close(self) -> None:
        """Close what is still open when the mount ends."""
        with trio.move_on_after(_CLOSE, shield=True):
            for file in self.files.remove_all():
                try:
                    await self._closed(file.handle)
                except CloudError:
                    continue
                except Exception:
                    _broken("close")

    def _ref(self, ino: int, at: Attach) -> Ref:
        return at.root() if ino == ROOT else self.inodes[ino].ref

    async def _wait(self, result: Wait[T], ctx: RequestContext) -> T:
        self._pass_on()
        with self.blocked.entry(ctx.pid, ctx.uid):
            return await settle(result)

    async def _wait_on(self, result: Wait[T], file: File) -> T:
        self._pass_on()
        with self.blocked.entry(file.pid, file.uid, file.ino):
            return await settle(result)

    async def _closed(self, handle: Handle) -> None:
        done = handle.close()
        if done is not None:
            self._pass_on()
        await settle(done)

    async def _told(
        self, parent: int, name: bytes, ref: Ref, at: Attach, ctx: RequestContext
    ) -> EntryAttributes:
        """Tell the kernel of a file: its attributes, under a number that counts."""
        stat = at.stat(ref)
        if isinstance(stat, Wait):
            stat = await self._wait(stat, ctx)
        inode = self.inodes.place(parent, name, ref)
        self.inodes.told(inode)
        return self._entry(inode, stat)

    async def _attributes(
        self, inode: Inode, ref: Ref, at: Attach, ctx: RequestContext
    ) -> EntryAttributes:
        stat = at.stat(ref)
        if isinstance(stat, Wait):
            stat = await self._wait(stat, ctx)
        return self._entry(inode, stat)

    def _entry(self, inode: Inode, stat: Stat) -> EntryAttributes:
        """A file's attributes, those made before if nothing has changed."""
        seen = (stat.length, stat.mtime, stat.mode, stat.uid, stat.gid, changes())
        now = self.callers.now
        if seen != inode.seen or now >= inode.until:
            groups = self.space.groups_of is not no_groups
            inode.entry = attributes(inode.ino, stat, self._valid, groups)
            inode.seen, inode.until = seen, now + KEEP
        return inode.entry  # type: ignore[no-any-return]

    # Names and attributes

    @_on_inode
    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        at = self.callers.attach(ctx)
        ref = at.walk(self._ref(parent, at), _text(name))
        if isinstance(ref, Wait):
            ref = await self._wait(ref, ctx)
        return await self._told(parent, name, ref, at, ctx)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, times in inode_list:
            self.inodes.forget(ino, times)

    @_on_inode
    async def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        at = self.callers.attach(ctx)
        return await self._attributes(self.inodes[ino], self._ref(ino, at), at, ctx)

    @_on_inode
    async def setattr(
        self,
        ino: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Times are the tree's own, so setting only them succeeds and does nothing."""
        at = self.callers.attach(ctx)
        ref = self._ref(ino, at)
        changes: dict[str, Any] = {}
        if fields.update_mode:
            changes["mode"] = attr.st_mode & 0o777
        if fields.update_uid:
            changes["uid"] = user_of(attr.st_uid)
        if fields.update_gid:
            changes["gid"] = group_of(attr.st_gid)
        if fields.update_size:
            changes["length"] = attr.st_size
        if changes:
            await self._change(at, ref, changes, ctx)
        return await self._attributes(self.inodes[ino], ref, at, ctx)

    async def _change(
        self, at: Attach, ref: Ref, changes: dict[str, Any], ctx: RequestContext
    ) -> None:
        try:
            done = at.wstat(ref, changes)
            if isinstance(done, Wait):
                await self._wait(done, ctx)
        except CloudError as error:
            # A file without a length of its own is always empty enough for truncate,
            # as it is for open with O_TRUNC; who may not write it was "denied".
            if error.kind != "refused" or changes != {"length": 0}:
                raise

    @_on_inode
    async def access(self, ino: int, mode: int, ctx: RequestContext) -> bool:
        """Asked only where the kernel does not check permissions itself."""
        at = self.callers.attach(ctx)
        return allowed(at.who, self._ref(ino, at).node, mode & 7, at.space.groups_of)

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Nothing is stored here, so nothing is free or used."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = MAX_NAME
        return data

    # Making, removing and renaming

    async def _make(
        self, parent: int, name: bytes, perm: int, mode: int, ctx: RequestContext
    ) -> tuple[EntryAttributes, Handle, Ref, Attach]:
        at = self.callers.attach(ctx)
        made = at.create(self._ref(parent, at), _text(name), perm, mode)
        ref, handle = await self._wait(made, ctx) if isinstance(made, Wait) else made
        try:
            return await self._told(parent, name, ref, at, ctx), handle, ref, at
        except BaseException:
            handle.close()  # what it may have left to do is not waited for
            raise

    @_on_inode
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        entry, handle, ref, at = await self._make(parent, name, mode & 0o777, _mode(flags), ctx)
        try:
            file = File(handle, at, ref, entry.st_ino, ctx, _appends(flags))
            return await self._opened(file), entry
        except CloudError:
            self.inodes.forget(entry.st_ino, 1)
            raise

    @_on_inode
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        entry, handle, _, _ = await self._make(parent, name, mode & 0o777 | DMDIR, OREAD, ctx)
        await self._closed(handle)
        return entry

    @_on_inode
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        if not bits.S_ISREG(mode):
            raise CloudError("refused", "no devices, pipes or sockets can be made here")
        entry, handle, _, _ = await self._make(parent, name, mode & 0o777, OREAD, ctx)
        await self._closed(handle)
        return entry

    @_on_inode
    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self._remove(parent, name, False, ctx)

    @_on_inode
    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self._remove(parent, name, True, ctx)

    async def _remove(self, parent: int, name: bytes, directory: bool, ctx: RequestContext) -> None:
        at = self.callers.attach(ctx)
        ref = at.walk(self._ref(parent, at), _text(name))
        if isinstance(ref, Wait):
            ref = await self._wait(ref, ctx)
        if bool(ref.node.mode & DMDIR) != directory:
            raise CloudError("notdir" if directory else "isdir")
        done = at.remove(ref)
        if isinstance(done, Wait):
            await self._wait(done, ctx)
        self.inodes.removed(parent, name)

    @_on_inode
    async def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags:
            raise CloudError("bad", "files here cannot be exchanged")
        if parent != new_parent:
            # Not EXDEV: mv would then copy, and writing a copy of a ctl file acts.
            raise CloudError("refused", "a file cannot be moved to another directory")
        at = self.callers.attach(ctx)
        ref = at.walk(self._ref(parent, at), _text(name))
        if isinstance(ref, Wait):
            ref = await self._wait(ref, ctx)
        done = at.wstat(ref, {"name": _text(new_name)})
        if isinstance(done, Wait):
            await self._wait(done, ctx)
        self.inodes.renamed(parent, name, new_parent, new_name)

    @_on_inode
    async def link(
        self, ino: int, new_parent: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        raise CloudError("refused", "a file has one name here", "see: cloudfs bind")

    @_on_inode
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        raise CloudError("refused", "there are no symbolic links here", "see: cloudfs bind")

    @_on_inode
    async def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        raise CloudError("bad", "it is no symbolic link")

    # Open files

    async def _opened(self, file: File) -> FileInfo:
        try:
            fh = self.files.add(file)
        except CloudError:
            await self._closed(file.handle)
            raise
        return FileInfo(fh=fh, direct_io=True, keep_cache=False)

    @_on_inode
    async def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        at = self.callers.attach(ctx)
        ref = self._ref(ino, at)
        handle = at.open(ref, _mode(flags))
        if isinstance(handle, Wait):
            handle = await self._wait(handle, ctx)
        return await self._opened(File(handle, at, ref, ino, ctx, _appends(flags)))

    @_on_file
    async def read(self, file: File, offset: int, size: int) -> bytes | memoryview:
        answer = file.handle.read(offset, size)
        data = await self._wait_on(answer, file) if isinstance(answer, Wait) else answer
        if data.__class__ is not bytes and not memoryview(data).c_contiguous:
            raise TypeError("a handle's read gives bytes or a contiguous memoryview")
        return data

    @_on_file
    async def write(self, file: File, offset: int, data: bytes) -> int:
        if file.append:
            offset = (await self._stat(file)).length
        count = file.handle.write(offset, data)
        if isinstance(count, Wait):
            count = await self._wait_on(count, file)
        if not 0 <= index(count) <= len(data):
            raise ValueError("a handle's write gives a count of bytes")
        return count

    async def _stat(self, file: File) -> Stat:
        stat = file.at.stat(file.ref)
        return await self._wait_on(stat, file) if isinstance(stat, Wait) else stat

    @_on_file
    async def release(self, file: File) -> None:
        self.files.remove(file)
        await self._closed(file.handle)

    releasedir = release

    @_on_inode
    async def opendir(self, ino: int, ctx: RequestContext) -> int:
        at = self.callers.attach(ctx)
        ref = self._ref(ino, at)
        handle = at.open(ref, OREAD)
        if isinstance(handle, Wait):
            handle = await self._wait(handle, ctx)
        if not isinstance(handle, DirHandle):
            handle.close()
            raise CloudError("notdir")
        file = File(handle, at, ref, ino, ctx, False)
        file.listing = listing_of(self.inodes, ino, ref, self.space, handle.entries)
        return (await self._opened(file)).fh

    @_on_file
    async def readdir(self, file: File, start: int, token: ReaddirToken) -> None:
        if file.listing is None:
            raise CloudError("notdir")
        file.listing.fill(token, start)


def _mode(flags: int) -> int:
    """The open mode of the tree for open(2)'s flags."""
    return _MODES.get(flags & os.O_ACCMODE, ORDWR) | (OTRUNC if flags & os.O_TRUNC else 0)


def _appends(flags: int) -> bool:
    return bool(flags & os.O_APPEND)
