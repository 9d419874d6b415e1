"""Stats and directories in the form that each dialect wants.

A directory is packed once for each `Entries` and kept in its `packed`; a read of it is
then one slice of whole entries.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import accumulate
from time import monotonic

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, Entries, Node, Stat, qid_type
from cloudfs.tree.idmap import gid_of, uid_of
from cloudfs.wait import Wait
from cloudfs.wire.codec import stat_codec
from cloudfs.wire.messages import MAX_WALK

S_IFDIR, S_IFREG = 0o040000, 0o100000
_DT_DIR, _DT_REG = 4, 8
BLOCK = 4096  # bytes that a client is told to read and write at a time at least
GETATTR_BASIC = 0x7FF  # which fields of an Rgetattr hold something
AT_ONCE = 32  # stats of far files asked for at a time
_LATEST = 0xFFFFFFFF
_STATS = 1024  # packed attributes that are kept: to make them takes most of a stat's time
_PAIRS = 1024  # of a user and a group whose numbers are kept

_HEAD = struct.Struct("<IBH")
_RSTAT = struct.Struct("<IBHH")
_GETATTR = struct.Struct("<QBIQIIIQQQQQ16s16s16s32x")
_TIME = struct.Struct("<QQ")
_ROPEN = struct.Struct("<IBHBIQI")
_DIRENT = struct.Struct("<BIQQBH")
_SHORT = struct.Struct("<H")
_RWALK = [struct.Struct("<IBHH" + n * "B4xQ").pack for n in range(MAX_WALK + 1)]


def qid(node: Node) -> tuple[int, int, int]:
    """(type, version, path) of a file that was walked to."""
    return (node.mode >> 24) & 0xFF, 0, node.qid


def walk_reply(tag: int, nodes: Sequence[Node]) -> bytes:
    """The Rwalk frame of the files passed, at most 16."""
    count = len(nodes)
    values = [9 + 13 * count, 111, tag, count]
    for node in nodes:
        values += (node.mode >> 24 & 0xFF, node.qid)
    return _RWALK[count](*values)


def open_reply(tag: int, number: int, node: Node, iounit: int) -> bytes:
    """The frame of an Ropen, Rlopen, Rcreate or Rlcreate."""
    return _ROPEN.pack(24, number, tag, node.mode >> 24 & 0xFF, 0, node.qid, iounit)


_known: dict[tuple[str, str], tuple[float, int, int]] = {}


def ids(uid: str, gid: str) -> tuple[int, int]:
    """The numbers of a user and a group, looked up anew once a second at most."""
    now = monotonic()
    known = _known.get((uid, gid))
    if known is None or known[0] < now:
        if len(_known) >= _PAIRS:
            _known.clear()
        known = _known[uid, gid] = now + 1.0, uid_of(uid), gid_of(gid)
    return known[1], known[2]


def getattr_reply(tag: int, stat: Stat) -> bytes:
    """The Rgetattr frame of a file."""
    uid, gid = ids(stat.uid, stat.gid)
    body = _attributes(stat.mode, stat.vers, stat.qid, uid, gid, stat.length, stat.mtime)
    return _HEAD.pack(160, 25, tag) + body


@lru_cache(_STATS)
def _attributes(
    mode: int, vers: int, qid: int, uid: int, gid: int, length: int, when: float
) -> bytes:
    """The body of an Rgetattr."""
    seconds = int(when) if when > 0 else 0
    time = _TIME.pack(seconds, int((when - seconds) * 1e9) if seconds else 0)
    return _GETATTR.pack(
        GETATTR_BASIC,
        mode >> 24 & 0xFF,
        vers,
        qid,
        mode & 0o777 | (S_IFDIR if mode & DMDIR else S_IFREG),
        uid,
        gid,
        1,  # links; for a directory 1 says that the number of its children is not known
        0,
        length,
        BLOCK,
        (length + 511) >> 9,
        time,
        time,
        time,
    )


def stat_reply(tag: int, key: str, name: str, stat: Stat) -> bytes:
    """The Rstat frame of a file in dialect "9" or "u"."""
    body = stat_bytes(key, name, stat)
    size = len(body)
    return _RSTAT.pack(9 + size, 125, tag, size) + body


def stat_bytes(key: str, name: str, stat: Stat) -> bytes:
    """A stat of dialect "9" or "u", its own size[2] in front."""
    numbers = ids(stat.uid, stat.gid) if key == "u" else ()
    owners = (stat.uid, stat.gid, stat.muid)
    return _stat(
        key, name, stat.mode, stat.vers, stat.qid, stat.length, stat.mtime, owners, numbers
    )


@lru_cache(_STATS)
def _stat(
    key: str,
    name: str,
    mode: int,
    vers: int,
    path: int,
    length: int,
    mtime: float,
    owners: tuple[str, str, str],
    numbers: tuple[int, ...],
) -> bytes:
    _, encode = stat_codec(key)
    when = min(max(int(mtime), 0), _LATEST)
    name = name if name.isascii() else name.encode(errors="replace").decode()
    length = 0 if mode & DMDIR else length
    unix = ("", *numbers, _LATEST) if numbers else ()
    qid = (qid_type(mode), vers, path)
    body = encode(0, 0, qid, mode, when, when, length, name, *owners, *unix)
    return _SHORT.pack(len(body)) + body


class Listing:
    """The packed entries of a directory and where each of them ends."""

    __slots__ = ("blob", "by_bytes", "ends")

    def __init__(self, packed: list[bytes], by_bytes: bool) -> None:
        self.blob = b"".join(packed)
        self.ends = list(accumulate(map(len, packed), initial=0))
        self.by_bytes = by_bytes  # whether offsets count bytes (9P2000) or entries (.L)

    def read(self, offset: int, count: int) -> bytes:
        """Whole entries from offset on, at most count bytes; b"" is the end."""
        ends = self.ends
        if self.by_bytes:
            first = bisect_left(ends, offset)
            if offset <= ends[-1] and ends[first] != offset:
                raise CloudError("bad", "a directory is read on only where a read ended")
        else:
            first = offset
        if first >= len(ends) - 1:
            return b""
        start = ends[first]
        stop = ends[bisect_right(ends, start + count) - 1]
        if stop == start:
            raise CloudError("bad", f"{count} bytes are too few for one entry")
        return self.blob[start:stop]


def listing(entries: Entries, key: str) -> Listing | Wait[Listing]:
    """A directory's content packed for a dialect, made once for each `entries`."""
    made = entries.packed.get(key)
    if made is not None:
        return made  # type: ignore[no-any-return]
    if key == "L":
        return _keep(entries, key, _dirents(entries))
    stats: list[Stat | Wait[Stat]] = []
    for name, node in entries.nodes.items():
        try:
            stats.append(node.stat())
        except CloudError:
            stats.append(_plain(name, node))
    if any(isinstance(stat, Wait) for stat in stats):
        return Wait(partial(_settled, entries, key, stats))
    return _keep(entries, key, _stats(entries, key, stats))


def _keep(entries: Entries, key: str, packed: list[bytes]) -> Listing:
    made = entries.packed[key] = Listing(packed, key != "L")
    return made


def _dirents(entries: Entries) -> list[bytes]:
    packed = []
    pack = _DIRENT.pack
    for offset, (name, node) in enumerate(entries.nodes.items(), 1):
        raw = name.encode(errors="replace")
        mode = node.mode
        dtype = _DT_DIR if mode & DMDIR else _DT_REG
        packed.append(pack(mode >> 24 & 0xFF, 0, node.qid, offset, dtype, len(raw)) + raw)
    return packed


def _stats(entries: Entries, key: str, stats: list[Stat | Wait[Stat]]) -> list[bytes]:
    pairs = zip(entries.nodes, stats, strict=True)
    return [stat_bytes(key, name, stat) for name, stat in pairs if isinstance(stat, Stat)]


def _plain(name: str, node: Node) -> Stat:
    """What is known of a file that cannot be asked: it is listed all the same."""
    return Stat(name, node.qid, node.mode, 0, 0, node.uid, node.gid)


async def _settled(entries: Entries, key: str, stats: list[Stat | Wait[Stat]]) -> Listing:
    nodes = list(entries.nodes.items())
    gate = trio.CapacityLimiter(AT_ONCE)

    async def ask(index: int, waiting: Wait[Stat]) -> None:
        async with gate:
            try:
                stats[index] = await waiting.run()
            except CloudError:
                stats[index] = _plain(*nodes[index])

    async with trio.open_nursery() as nursery:
        for index, stat in enumerate(stats):
            if isinstance(stat, Wait):
                nursery.start_soon(ask, index, stat)
    return _keep(entries, key, _stats(entries, key, stats))
