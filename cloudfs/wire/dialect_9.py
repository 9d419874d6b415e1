"""The messages that only 9P2000 and 9P2000.u have: open, create, stat, wstat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMAPPEND, DMDIR, DMEXCL, ORCLOSE, OTRUNC
from cloudfs.tree.idmap import group_of, user_of
from cloudfs.wait import Wait
from cloudfs.wire.codec import BadMessage, stat_codec
from cloudfs.wire.fids import Fid, Reply
from cloudfs.wire.ops import known, open_file, opened, opens, wstat
from cloudfs.wire.pack import stat_reply

if TYPE_CHECKING:
    from cloudfs.wire.session import Session

_ROPEN, _RCREATE = 113, 115
_OCEXEC = 0x20
_MODES = 3 | OTRUNC | ORCLOSE
_PERM = DMDIR | DMAPPEND | DMEXCL | 0o777  # what else 9P2000.u has are special files
_SAME2, _SAME4, _SAME8 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF  # "do not change"


def _mode(mode: int) -> int:
    """The open mode asked for, without what only the client's kernel heeds."""
    mode &= ~_OCEXEC
    if mode & ~_MODES:
        raise CloudError("bad", f"{mode:#x} is no mode of opening")
    return mode


def t_open(session: Session, tag: int, number: int, mode: int) -> Reply | None:
    return open_file(session, tag, opens(session, number), _mode(mode), _ROPEN)


def t_create(
    session: Session,
    tag: int,
    number: int,
    name: str,
    perm: int,
    mode: int,
    extension: str = "",
) -> Reply | None:
    fid = opens(session, number)
    mode = _mode(mode)
    if perm & ~_PERM or extension:
        raise CloudError("refused", "only plain files and directories can be made")
    if mode & ORCLOSE:
        raise CloudError("refused", "no file here is removed by closing it")
    if perm & DMDIR and mode & ~3 | mode & 1:
        raise CloudError("isdir", "a new directory is opened for reading")
    made = fid.tree.at.create(fid.ref, name, perm, mode)
    return opened(session, tag, fid, made, mode, _RCREATE)


def t_stat(session: Session, tag: int, number: int) -> Reply | None:
    fid = known(session, number)
    path = fid.ref.path
    name = path[-1] if path else "/"
    stat = fid.tree.at.stat(fid.ref)
    if isinstance(stat, Wait):
        return session.block(tag, fid, stat, partial(stat_reply, tag, session.key, name))
    return stat_reply(tag, session.key, name, stat)


def t_wstat(session: Session, tag: int, number: int, stat: bytes) -> Reply | None:
    fid = known(session, number)
    if len(stat) < 2 or int.from_bytes(stat[:2], "little") != len(stat) - 2:
        raise BadMessage("Twstat has a stat of a wrong length")
    decode, _ = stat_codec(session.key)
    changes = _changes(fid, decode(stat, 2, len(stat)))
    return wstat(session, tag, fid, changes, "Rwstat")


def _changes(fid: Fid, fields: tuple[Any, ...]) -> dict[str, Any]:
    """What a Twstat asks for: all that is neither "do not change" nor as it was."""
    kind, dev, qid, mode, atime, mtime, length, name, uid, gid, _, *unix = fields
    node = fid.ref.node
    fixed = (
        kind in (0, _SAME2),
        dev in (0, _SAME4),
        qid[2] in (node.qid, _SAME8),
        mode == _SAME4 or not (mode ^ node.mode) & DMDIR,
    )
    if not all(fixed):
        raise CloudError("refused", "type, dev and qid cannot be changed")
    if unix and unix[1] != _SAME4 and not uid:
        uid = user_of(unix[1])
    if unix and unix[2] != _SAME4 and not gid:
        gid = group_of(unix[2])
    here = fid.ref.path[-1] if fid.ref.path else "/"
    wanted = (
        ("name", name, ("", here)),
        ("mode", mode, (_SAME4, node.mode)),
        ("length", length, (_SAME8,)),
        ("atime", atime, (_SAME4,)),
        ("mtime", mtime, (_SAME4,)),
        ("uid", uid, ("", node.uid)),
        ("gid", gid, ("", node.gid)),
    )
    return {key: value for key, value, same in wanted if value not in same}


HANDLERS: dict[str, Callable[..., Reply | None]] = {
    "Topen": t_open,
    "Tcreate": t_create,
    "Tstat": t_stat,
    "Twstat": t_wstat,
}
