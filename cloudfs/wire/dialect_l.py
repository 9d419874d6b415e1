"""The messages that only 9P2000.L has: those of Linux."""

from __future__ import annotations

import os
import stat as stats
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, OREAD, OTRUNC, PLAIN, Handle, Ref
from cloudfs.tree.idmap import group_of, user_of
from cloudfs.tree.space import check_name, cue
from cloudfs.wait import Wait, settle, then
from cloudfs.wire.fids import Fid, Reply
from cloudfs.wire.locks import FOREVER, READ, UNLOCK, WRITE, Held
from cloudfs.wire.messages import READ_HEAD
from cloudfs.wire.ops import empty, known, open_file, opened, opens, read_entries, wstat
from cloudfs.wire.pack import BLOCK, getattr_reply, qid

if TYPE_CHECKING:
    from cloudfs.wire.session import Session

_MAGIC = 0x01021997  # statfs(2)'s type of 9P file systems
_NAME_MAX = 255
_RLOPEN, _RLCREATE, _RREADDIR = 13, 15, 41
_REMOVEDIR = 0x200  # flag of unlinkat(2)
_LOCK_FLAGS = 3  # block, reclaim

# Bits of `valid` of a Tsetattr.
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME = 1, 2, 4, 8, 0x10, 0x20
_ATIME_SET, _MTIME_SET = 0x80, 0x100


def t_statfs(session: Session, tag: int, number: int) -> Reply:
    known(session, number)
    return session.reply["Rstatfs"](tag, _MAGIC, BLOCK, 0, 0, 0, 0, 0, 0, _NAME_MAX)


def _mode(flags: int) -> int:
    """The open mode of Linux's open flags.  What else they say is the client's matter."""
    if flags & 3 == 3:
        raise CloudError("bad", "open flags 3 are no way of opening")
    return flags & 3 | (OTRUNC if flags & os.O_TRUNC else 0)


def t_lopen(session: Session, tag: int, number: int, flags: int) -> Reply | None:
    fid = opens(session, number)
    if flags & os.O_DIRECTORY and not fid.ref.node.mode & DMDIR:
        raise CloudError("notdir")
    return open_file(session, tag, fid, _mode(flags), _RLOPEN)


def t_lcreate(
    session: Session, tag: int, number: int, name: str, flags: int, perm: int, gid: int
) -> Reply | None:
    """As open(2) with O_CREAT: a file that is there already is opened, but with O_EXCL."""
    fid = opens(session, number)
    mode = _mode(flags)
    at, ref = fid.tree.at, fid.ref
    _plain(name)

    def create() -> Any:
        return at.create(ref, name, perm & 0o777, mode)

    def use(found: Ref) -> Any:
        return then(at.open(found, mode), lambda handle: (found, handle))

    async def later(found: Wait[Ref]) -> Any:
        try:
            there = await found.run()
        except CloudError as error:
            if error.kind != "absent":
                raise
            return await settle(create())
        return await settle(use(there))

    made: Any
    if flags & os.O_EXCL:
        made = create()
    else:
        try:
            found = at.walk(ref, name)
        except CloudError as error:
            if error.kind != "absent":
                raise
            made = create()
        else:
            made = Wait(partial(later, found)) if isinstance(found, Wait) else use(found)
    return opened(session, tag, fid, made, mode, _RLCREATE)


def _plain(name: str) -> None:
    """Raise unless name can be that of a file in a directory."""
    check_name(name)
    if name in (".", "..") or cue(PLAIN, name) is not None:
        raise CloudError("bad", f"{name!r} is the name of no file")


def _make(
    session: Session, tag: int, number: int, name: str, perm: int, reply: str
) -> Reply | None:
    """Make a file or directory without opening it."""
    fid = known(session, number)
    made = fid.tree.at.create(fid.ref, name, perm, OREAD)

    def finish(pair: tuple[Ref, Handle]) -> Reply:
        ref, handle = pair
        session.shut(handle)
        return session.reply[reply](tag, qid(ref.node))

    if isinstance(made, Wait):
        return session.block(tag, fid, made, finish, drop=lambda pair: session.shut(pair[1]))
    return finish(made)


def t_mkdir(
    session: Session, tag: int, number: int, name: str, mode: int, gid: int
) -> Reply | None:
    return _make(session, tag, number, name, DMDIR | mode & 0o777, "Rmkdir")


def t_mknod(
    session: Session, tag: int, number: int, name: str, mode: int, major: int, minor: int, gid: int
) -> Reply | None:
    """v9fs makes plain files with it as well."""
    if stats.S_IFMT(mode) not in (0, stats.S_IFREG):
        known(session, number)
        raise CloudError("refused", "devices, pipes and sockets cannot be made here")
    return _make(session, tag, number, name, mode & 0o777, "Rmknod")


def t_symlink(session: Session, tag: int, number: int, name: str, target: str, gid: int) -> Reply:
    known(session, number)
    raise CloudError("refused", "links cannot be made here", "use: cloudfs bind")


def t_link(session: Session, tag: int, number: int, file: int, name: str) -> Reply:
    known(session, number)
    known(session, file)
    raise CloudError("refused", "links cannot be made here", "use: cloudfs bind")


def t_readlink(session: Session, tag: int, number: int) -> Reply:
    known(session, number)
    raise CloudError("bad", "it is not a symbolic link")


def t_rename(session: Session, tag: int, number: int, directory: int, name: str) -> Reply | None:
    fid, to = known(session, number), known(session, directory)
    _plain(name)
    if fid.ref.path[:-1] != to.ref.path:
        raise CloudError("xdev", "a file stays in its directory")
    return wstat(session, tag, fid, {"name": name}, "Rrename")


def t_renameat(
    session: Session, tag: int, number: int, name: str, directory: int, newname: str
) -> Reply | None:
    fid, to = known(session, number), known(session, directory)
    _plain(name)
    _plain(newname)
    if fid.ref.path != to.ref.path:
        raise CloudError("xdev", "a file stays in its directory")
    at = fid.tree.at
    left = then(at.walk(fid.ref, name), lambda ref: at.wstat(ref, {"name": newname}))
    return empty(session, tag, fid, left, "Rrenameat")


def t_unlinkat(session: Session, tag: int, number: int, name: str, flags: int) -> Reply | None:
    """Without the flag for directories these go too: some clients never set it, and
    Linux looks before it asks."""
    fid = known(session, number)
    _plain(name)
    at = fid.tree.at

    def remove(ref: Ref) -> Wait[None] | None:
        if flags & _REMOVEDIR and not ref.node.mode & DMDIR:
            raise CloudError("notdir")
        return at.remove(ref)

    return empty(session, tag, fid, then(at.walk(fid.ref, name), remove), "Runlinkat")


def t_getattr(session: Session, tag: int, number: int, mask: int) -> Reply | None:
    fid = known(session, number)
    stat = fid.tree.at.stat(fid.ref)
    if isinstance(stat, Wait):
        return session.block(tag, fid, stat, partial(getattr_reply, tag))
    return getattr_reply(tag, stat)


def t_setattr(
    session: Session,
    tag: int,
    number: int,
    valid: int,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    atime: int,
    atime_nsec: int,
    mtime: int,
    mtime_nsec: int,
) -> Reply | None:
    """Times that the server should set to now are left alone like the others."""
    fid = known(session, number)
    wanted = (
        (_MODE, "mode", mode & 0o777 | fid.ref.node.mode & ~0o777),
        (_SIZE, "length", size),
        (_ATIME_SET, "atime", atime + atime_nsec / 1e9),
        (_MTIME_SET, "mtime", mtime + mtime_nsec / 1e9),
    )
    changes: dict[str, Any] = {key: value for bit, key, value in wanted if valid & bit}
    if valid & _UID:
        changes["uid"] = user_of(uid)
    if valid & _GID:
        changes["gid"] = group_of(gid)
    return wstat(session, tag, fid, changes, "Rsetattr")


def t_xattrwalk(session: Session, tag: int, number: int, newnumber: int, name: str) -> Reply:
    known(session, number)
    raise CloudError("unsupported", "files here have no extended attributes")


def t_xattrcreate(
    session: Session, tag: int, number: int, name: str, size: int, flags: int
) -> Reply:
    known(session, number)
    raise CloudError("unsupported", "files here have no extended attributes")


def t_readdir(session: Session, tag: int, number: int, offset: int, count: int) -> Reply | None:
    fid = known(session, number)
    if fid.handle is None:
        raise CloudError("nofid", f"fid {number} is not open for reading")
    if fid.entries is None:
        raise CloudError("notdir")
    count = min(count, session.msize - READ_HEAD)
    return read_entries(session, tag, fid, offset, count, _RREADDIR)


def t_fsync(session: Session, tag: int, number: int, datasync: int) -> Reply:
    """What a write took is with the tree already."""
    known(session, number)
    return session.reply["Rfsync"](tag)


def _held(
    session: Session, number: int, kind: int, start: int, length: int, process: int, client: str
) -> tuple[Fid, Held]:
    fid = known(session, number)
    if fid.handle is None:
        raise CloudError("nofid", f"fid {number} is not open")
    end = start + length if length else FOREVER
    if kind not in (READ, WRITE, UNLOCK) or end > FOREVER:
        raise CloudError("bad", "that is no lock")
    return fid, Held(session, client, process, fid, kind, start, end)


def t_lock(
    session: Session,
    tag: int,
    number: int,
    kind: int,
    flags: int,
    start: int,
    length: int,
    process: int,
    client: str,
) -> Reply:
    """A lock that another holds is answered with "blocked", whatever the flags say:
    clients that want to wait ask again."""
    if flags & ~_LOCK_FLAGS:
        raise CloudError("bad", f"lock flags {flags:#x}")
    fid, held = _held(session, number, kind, start, length, process, client)
    return session.reply["Rlock"](tag, session.locks.change(fid.ref.node.qid, held))


def t_getlock(
    session: Session,
    tag: int,
    number: int,
    kind: int,
    start: int,
    length: int,
    process: int,
    client: str,
) -> Reply:
    fid, held = _held(session, number, kind, start, length, process, client)
    other = session.locks.blocker(fid.ref.node.qid, held)
    if other is None:
        return session.reply["Rgetlock"](tag, UNLOCK, start, length, process, client)
    length = 0 if other.end == FOREVER else other.end - other.start
    return session.reply["Rgetlock"](
        tag, other.kind, other.start, length, other.process, other.client
    )


HANDLERS: dict[str, Callable[..., Reply | None]] = {
    "Tstatfs": t_statfs,
    "Tlopen": t_lopen,
    "Tlcreate": t_lcreate,
    "Tsymlink": t_symlink,
    "Tmknod": t_mknod,
    "Trename": t_rename,
    "Treadlink": t_readlink,
    "Tgetattr": t_getattr,
    "Tsetattr": t_setattr,
    "Txattrwalk": t_xattrwalk,
    "Txattrcreate": t_xattrcreate,
    "Treaddir": t_readdir,
    "Tfsync": t_fsync,
    "Tlock": t_lock,
    "Tgetlock": t_getlock,
    "Tlink": t_link,
    "Tmkdir": t_mkdir,
    "Trenameat": t_renameat,
    "Tunlinkat": t_unlinkat,
}
