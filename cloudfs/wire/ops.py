"""The messages that all three dialects have.

Each handler gets the session, the tag and the decoded fields, and returns the reply,
or None when it has blocked.  It may raise CloudError, which the session answers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudfs.errors import CloudError
from cloudfs.factotum.p9any import Server
from cloudfs.tree.api import OWRITE, PLAIN, Handle, Ref
from cloudfs.tree.space import MAX_DEPTH, Space, Walked, cue
from cloudfs.wait import Wait
from cloudfs.who import Who
from cloudfs.wire import auth
from cloudfs.wire.fids import (
    CLOSED,
    MAX_MSIZE,
    MIN_MSIZE,
    OPENING,
    Fid,
    Reply,
    Tree,
    unknown,
)
from cloudfs.wire.messages import IOHDRSZ, NODES, NOFID, READ_HEAD
from cloudfs.wire.pack import Listing, listing, open_reply, qid, walk_reply

if TYPE_CHECKING:
    from cloudfs.wire.session import Session

OWN = "node"  # the aname of a node's own directory
SEPARATE = 32 << 10  # bytes of data from which a reply is sent from where it lies

_DATA = struct.Struct("<IBHI")  # head of an Rread or Rreaddir; an Rwrite
_EMPTY = struct.Struct("<IBH")
_RREAD, _RWRITE, _RCLUNK = 117, 119, 121


def opens(session: Session, number: int) -> Fid:
    """The fid of that number, which must not be open."""
    fid = session.fids.get(number)
    if fid is None:
        raise unknown(number)
    if fid.mode != CLOSED:
        raise CloudError("bad", f"fid {number} is open already")
    return fid


def known(session: Session, number: int) -> Fid:
    """The fid of that number."""
    fid = session.fids.get(number)
    if fid is None:
        raise unknown(number)
    return fid


def answer(
    session: Session, tag: int, fid: Fid, result: Any, finish: Callable[[Any], Reply]
) -> Reply | None:
    """finish(result), now or when the result is there."""
    if isinstance(result, Wait):
        return session.block(tag, fid, result, finish)
    return finish(result)


def empty(session: Session, tag: int, fid: Fid, result: Any, name: str) -> Reply | None:
    """The reply without fields of that name, once `result` is there."""
    return answer(session, tag, fid, result, lambda _: session.reply[name](tag))


def agree(version: str) -> str | None:
    """The dialect for what a client asked for, e.g. "L" for 9P2000.L.Google.7."""
    base, _, rest = version.partition(".")
    if base != "9P2000":
        return None
    first = rest.partition(".")[0]
    return first if first in ("u", "L") else "9"


def t_version(session: Session, tag: int, msize: int, version: str) -> Reply:
    session.close()
    session.msize = MIN_MSIZE
    if msize < MIN_MSIZE:
        session.speak(None)
        raise CloudError("bad", f"an msize of {msize} is too small, {MIN_MSIZE} is the least")
    key = agree(version)
    session.speak(key)
    session.msize = min(msize, MAX_MSIZE)
    session.tells = version == NODES
    spoken = NODES if session.tells else session.codec.version if key else "unknown"
    return session.reply["Rversion"](tag, session.msize, spoken)


def t_attach(
    session: Session, tag: int, number: int, afid: int, uname: str, aname: str, n_uname: int = 0
) -> Reply | None:
    """aname: a path; one that begins with `node` begins in the node's own directory, and
    `login` is how a factotum says who its uid is (wire/auth.py).

    uname and n_uname only claim who the caller is, so they say nothing here, unless it is
    another node of the cloud that says it.
    """
    talk = None
    if afid != NOFID:
        who, talk = auth.proved(session, afid)
        who = who.by(session.node) if session.node else who
    elif session.vouch is not None:
        who = session.vouch(uname).by(session.node)
    else:
        who = session.caller()
    session.free(number)
    names = [name for name in aname.split("/") if name]
    make_space = session.make_space if talk is None else session.proved_space
    if session.node_space is not None and names[:1] == [OWN]:
        make_space, names = session.node_space, names[1:]
    elif session.logins is not None and session.uid is not None and names[:1] == [auth.LOGIN]:
        path, names = tuple(names[1:]), []
        make_space = partial(_log_in, session.logins, session.uid, talk, path)
    space = make_space(who)
    tree = Tree(space, space.attach(who))
    session.promise(number, tree)  # so that a failure closes the space again
    try:
        if len(names) > MAX_DEPTH:
            raise CloudError("toolong", f"a path has at most {MAX_DEPTH} elements")
        found = tree.at.find(names)
    except Exception as error:
        session.withdraw(number, tree)
        raise _noted(tree, error, names)

    async def later(found: Wait[Ref]) -> Ref:
        try:
            return await found.run()
        except CloudError as error:
            raise _noted(tree, error, names)

    def finish(ref: Ref) -> Reply:
        session.add(number, tree, ref)
        if talk is None:
            session.attached = who.user
        elif talk not in session.talks:
            session.talks.append(talk)
        tree.depth = len(ref.path)
        return session.reply["Rattach"](tag, qid(ref.node))

    if isinstance(found, Wait):
        wait, after = Wait(partial(later, found)), partial(session.withdraw, number, tree)
        return session.block(tag, None, wait, finish, after)
    reply = finish(found)
    session.withdraw(number, tree)
    return reply


def _log_in(
    logins: auth.Logins, uid: int, talk: Server | None, path: tuple[str, ...], who: Who
) -> Space:
    return logins.open(uid, who, talk, path)


def _noted(tree: Tree, error: Exception, path: Sequence[str]) -> Exception:
    """The error, told to the caller's `err` where no fid is left to do it by."""
    return tree.at.note(error, path) if isinstance(error, CloudError) else error


def t_flush(session: Session, tag: int, oldtag: int) -> Reply:
    job = session.jobs.get(oldtag)
    if job is not None:
        session.stop(job)
    return session.reply["Rflush"](tag)


def t_walk(
    session: Session, tag: int, number: int, newnumber: int, names: Sequence[str]
) -> Reply | None:
    fid = session.fids.get(number)
    if fid is None:
        raise unknown(number)
    if fid.mode != CLOSED:
        raise CloudError("bad", f"fid {number} is open, so it cannot be walked")
    if newnumber != number:
        session.free(newnumber)
    tree = fid.tree
    if not names:
        if newnumber != number:
            session.add(newnumber, tree, fid.ref)
        return walk_reply(tag, ())
    if tree.depth and ".." in names:
        names = below(tree.depth, fid.ref, names)
    walked = tree.at.walk_all(fid.ref, names)
    if not isinstance(walked, Wait):
        return _walked(session, tag, fid, newnumber, names, walked)
    if newnumber == number:
        fid.mode = OPENING
    else:
        session.promise(newnumber, tree)
    finish = partial(_walked, session, tag, fid, newnumber, names)
    after = partial(_walk_over, session, fid, number, newnumber)
    return session.block(tag, fid, walked, finish, after)


def _walk_over(session: Session, fid: Fid, number: int, newnumber: int) -> None:
    if newnumber == number:
        fid.mode = CLOSED
    else:
        session.withdraw(newnumber, fid.tree)


def _walked(
    session: Session, tag: int, fid: Fid, newnumber: int, names: Sequence[str], walked: Walked
) -> Reply:
    nodes, ref, error = walked
    if error is not None and not nodes:
        error.path = error.path or "/" + "/".join((*fid.ref.path, names[0]))
        raise error
    if error is None:
        if session.fids.get(newnumber) is fid:
            fid.ref = ref
        else:
            session.add(newnumber, fid.tree, ref)
    return walk_reply(tag, nodes)


def below(depth: int, ref: Ref, names: Sequence[str]) -> list[str]:
    """The names of a walk with each `..` that would leave the attached tree made "."."""
    here = len(ref.path)
    kept = []
    for name in names:
        if name == "..":
            if here <= depth:
                name = "."
            else:
                here -= 1
        elif name != "." and not _is_cue(name):
            here += 1
        kept.append(name)
    return kept


def _is_cue(name: str) -> bool:
    try:
        return cue(PLAIN, name) is not None
    except CloudError:
        return True  # the walk itself will say what is wrong with it


def t_read(session: Session, tag: int, number: int, offset: int, count: int) -> Reply | None:
    fid = session.fids.get(number)
    if fid is None:
        if number in session.afids:
            return auth.read(session, tag, session.afids[number], count)
        raise unknown(number)
    handle = fid.handle
    if handle is None or fid.mode & 3 == OWRITE:
        raise CloudError("nofid", f"fid {number} is not open for reading")
    count = min(count, session.msize - READ_HEAD)
    if fid.entries is not None:
        if session.key == "L":
            raise CloudError("isdir", "a directory is read with Treaddir")
        return read_entries(session, tag, fid, offset, count)
    data = handle.read(offset, count)
    if isinstance(data, Wait):
        return session.block(tag, fid, data, partial(data_reply, tag, _RREAD, count))
    return data_reply(tag, _RREAD, count, data)


def read_entries(
    session: Session, tag: int, fid: Fid, offset: int, count: int, number: int = _RREAD
) -> Reply | None:
    """Whole entries of an open directory."""
    assert fid.entries is not None

    def finish(found: Listing) -> Reply:
        return data_reply(tag, number, count, found.read(offset, count))

    return answer(session, tag, fid, listing(fid.entries, session.key), finish)


def data_reply(tag: int, number: int, count: int, data: bytes | memoryview) -> Reply:
    size = len(data)
    if size > count:
        data, size = data[:count], count
    head = _DATA.pack(READ_HEAD + size, number, tag, size)
    return head + data if size < SEPARATE else (head, data)


def t_write(
    session: Session, tag: int, number: int, offset: int, data: bytes | memoryview
) -> Reply | None:
    fid = session.fids.get(number)
    if fid is None:
        if number in session.afids:
            return auth.write(session, tag, session.afids[number], data)
        raise unknown(number)
    handle = fid.handle
    if handle is None or fid.mode & 3 not in (1, 2):
        raise CloudError("nofid", f"fid {number} is not open for writing")
    done = handle.write(offset, data)
    if isinstance(done, Wait):
        return session.block(tag, fid, done, partial(_DATA.pack, READ_HEAD, _RWRITE, tag))
    return _DATA.pack(READ_HEAD, _RWRITE, tag, done)


def t_clunk(session: Session, tag: int, number: int) -> Reply | None:
    fid = session.fids.pop(number, None)
    if fid is None:
        if session.afids.pop(number, None) is not None:
            return _clunked(tag, None)
        raise unknown(number)
    try:
        left = session.release(fid)
    except Exception as error:
        raise _noted(fid.tree, error, fid.ref.path)
    if left is not None:
        return session.block(tag, fid, left, partial(_clunked, tag))
    return _EMPTY.pack(7, _RCLUNK, tag)


def _clunked(tag: int, _: None) -> Reply:
    return _EMPTY.pack(7, _RCLUNK, tag)


def t_remove(session: Session, tag: int, number: int) -> Reply | None:
    """The fid is clunked whether or not the file could be removed."""
    fid = session.fids.pop(number, None)
    if fid is None:
        if session.afids.pop(number, None) is not None:
            raise CloudError("refused", "an afid cannot be removed")
        raise unknown(number)
    tree = fid.tree
    tree.fids += 1  # the space is needed until the file is removed
    session.discard(fid)
    try:
        left = tree.at.remove(fid.ref)
    except Exception as error:
        session.leave(tree)
        raise _noted(tree, error, fid.ref.path)
    if isinstance(left, Wait):
        finish = partial(_removed, session, tag)
        return session.block(tag, fid, left, finish, partial(session.leave, tree))
    session.leave(tree)
    return _removed(session, tag, None)


def _removed(session: Session, tag: int, _: None) -> Reply:
    return session.reply["Rremove"](tag)


def wstat(session: Session, tag: int, fid: Fid, changes: dict[str, Any], name: str) -> Reply | None:
    """Change attributes and answer with the reply `name`."""
    left = fid.tree.at.wstat(fid.ref, changes)
    renamed = changes.get("name")
    if renamed is None:
        return empty(session, tag, fid, left, name)

    def moved(_: None) -> Reply:
        ref = fid.ref
        fid.ref = Ref(ref.node, (*ref.path[:-1], renamed), ref.cues)
        return session.reply[name](tag)

    return answer(session, tag, fid, left, moved)


def opened(session: Session, tag: int, fid: Fid, made: Any, mode: int, number: int) -> Reply | None:
    """Open `fid` with what `made` gives, a (Ref, Handle); number: of the reply."""

    def finish(pair: tuple[Ref, Any]) -> Reply:
        fid.ref, handle = pair
        session.opened(fid, handle, mode)
        return open_reply(tag, number, fid.ref.node, session.msize - IOHDRSZ)

    if not isinstance(made, Wait):
        return finish(made)
    fid.mode = OPENING
    after = partial(_not_opening, fid)
    return session.block(tag, fid, made, finish, after, lambda pair: session.shut(pair[1]))


def open_file(session: Session, tag: int, fid: Fid, mode: int, number: int) -> Reply | None:
    """Open the file of a fid; number: of the reply."""
    ref = fid.ref
    handle = fid.tree.at.open(ref, mode)
    if isinstance(handle, Wait):
        fid.mode = OPENING
        finish = partial(_open, session, tag, fid, mode, number)
        return session.block(tag, fid, handle, finish, partial(_not_opening, fid), session.shut)
    return _open(session, tag, fid, mode, number, handle)


def _open(session: Session, tag: int, fid: Fid, mode: int, number: int, handle: Handle) -> Reply:
    session.opened(fid, handle, mode)
    return open_reply(tag, number, fid.ref.node, session.msize - IOHDRSZ)


def _not_opening(fid: Fid) -> None:
    if fid.mode == OPENING:
        fid.mode = CLOSED


HANDLERS: dict[str, Callable[..., Reply | None]] = {
    "Tversion": t_version,
    "Tauth": auth.t_auth,
    "Tattach": t_attach,
    "Tflush": t_flush,
    "Twalk": t_walk,
    "Tread": t_read,
    "Twrite": t_write,
    "Tclunk": t_clunk,
    "Tremove": t_remove,
}
