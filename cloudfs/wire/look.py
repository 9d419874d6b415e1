"""Tlook, which only nodes ask each other: open a file and read its beginning by its path.

It is Twalk, Topen and Tread in one, of which all succeed or none, and leaves the file
open.  A fid that has the new one's number is clunked first, so that a client which goes
from file to file needs no other request.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from cloudfs.errors import CloudError
from cloudfs.tree.api import OREAD, Handle, Ref, join
from cloudfs.tree.space import Walked, cue
from cloudfs.wait import Wait, then
from cloudfs.wire.fids import Reply, Tree
from cloudfs.wire.messages import LOOK_HEAD
from cloudfs.wire.ops import below, opens

if TYPE_CHECKING:
    from cloudfs.wire.session import Session

_HEAD = struct.Struct("<IBHBIQI")  # of an Rlook
_RLOOK = 141
Beginning = tuple[Ref, Handle, bytes]


def t_look(
    session: Session, tag: int, number: int, newnumber: int, count: int, names: Sequence[str]
) -> Reply | None:
    """As with the cue `.look`, nothing is made by it and no directory is listed."""
    if not session.tells:
        raise CloudError("unsupported", "only nodes look")
    old = session.fids.pop(newnumber, None) if newnumber != number else None
    if old is not None:
        session.discard(old)
    fid = opens(session, number)
    session.free(newnumber)
    tree, start = fid.tree, fid.ref
    cues = cue(start.cues, ".look")
    assert cues is not None
    if tree.depth and ".." in names:
        names = below(tree.depth, start, names)
    count = min(count, session.msize - LOOK_HEAD)
    try:
        walked = tree.at.walk_all(Ref(start.node, start.path, cues), names)
        if isinstance(walked, Wait):
            found: Beginning | Wait[Beginning] = then(walked, partial(_beginning, tree, count))
        else:
            found = _beginning(tree, count, walked)
    except CloudError as error:
        error.path = error.path or join((*start.path, *names))
        raise
    if not isinstance(found, Wait):
        return _looked(session, tag, tree, newnumber, found)
    session.promise(newnumber, tree)
    finish = partial(_looked, session, tag, tree, newnumber)
    after, drop = partial(session.withdraw, newnumber, tree), partial(_unseen, session)
    return session.block(tag, fid, found, finish, after, drop)


def _beginning(tree: Tree, count: int, walked: Walked) -> Beginning | Wait[Beginning]:
    _, ref, error = walked
    if error is not None:
        raise error
    handle = tree.at.open(ref, OREAD)
    if isinstance(handle, Wait):
        return then(handle, partial(_begin, ref, count))
    return _begin(ref, count, handle)


def _begin(ref: Ref, count: int, handle: Handle) -> Beginning | Wait[Beginning]:
    try:
        data = handle.read(0, count)
    except CloudError as error:
        return _shut(handle, error)
    if isinstance(data, Wait):
        had: Wait[Beginning] = then(
            data, partial(_have, ref, count, handle), partial(_shut, handle)
        )
        return had
    return _have(ref, count, handle, data)


def _have(ref: Ref, count: int, handle: Handle, data: bytes | memoryview) -> Beginning:
    return ref, handle, bytes(data[:count])


def _shut(handle: Handle, error: CloudError) -> Beginning:
    handle.close()  # what it may have left to do is not waited for
    raise error


def _looked(session: Session, tag: int, tree: Tree, number: int, found: Beginning) -> Reply:
    ref, handle, data = found
    node = ref.node
    session.opened(session.add(number, tree, ref), handle, OREAD)
    size = len(data)
    kind = (node.mode >> 24) & 0xFF
    return _HEAD.pack(LOOK_HEAD + size, _RLOOK, tag, kind, 0, node.qid, size) + data


def _unseen(session: Session, found: Beginning) -> None:
    session.shut(found[1])
