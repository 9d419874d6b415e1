"""A file of a 9P server, by a fid of ours: the same operations in all three dialects."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, OTRUNC, Stat
from cloudfs.tree.idmap import gid_of, group_of, uid_of, user_of
from cloudfs.wire.call import Answers, Call
from cloudfs.wire.codec import BadMessage, Qid, decode_dirents, decode_stats, stat_codec
from cloudfs.wire.pack import GETATTR_BASIC

if TYPE_CHECKING:
    from cloudfs.wire.client import Client

MAX_ENTRIES = 1 << 20  # of one directory
MAX_STAT = 1024  # bytes: more than a stat of ours has, so a read this much short is the last
Entry = tuple[str, Qid, Stat | None]
_SAME2, _SAME4, _SAME8 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF  # "do not change"
_SETATTR = {"mode": 1, "uid": 2, "gid": 4, "length": 8, "atime": 0x90, "mtime": 0x120}


class File:
    """A fid and what it points to.  Leaving its `async with` lets go of it.

    deadline: seconds for each operation, None for the client's, math.inf for files that
    block.  walked: the qids of the walk that led to it, where that is of interest.
    """

    __slots__ = ("client", "deadline", "fid", "iounit", "path", "qid", "walked")

    def __init__(self, client: Client, fid: int, qid: Qid, path: tuple[str, ...]) -> None:
        self.client = client
        self.fid = fid
        self.qid = qid
        self.path = path
        self.iounit = 0
        self.deadline: float | None = None
        self.walked: list[Qid] = []

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None:
            self.drop()
        else:
            await self.clunk()

    def call(self, name: str, *fields: Any, **how: Any) -> Awaitable[tuple[Any, ...]]:
        """Client.call with this fid in front."""
        return self.client.call(name, self.fid, *fields, deadline=self.deadline, **how)

    @property
    def dialect(self) -> str:
        return self.client.codec.key

    def drop(self, soon: bool = True) -> None:
        """Let go of the fid without waiting; see Client.forget."""
        self.client.forget(self.fid, soon)

    async def clunk(self) -> None:
        """Let go of the fid; raises what the server still had to say."""
        await self.call("Tclunk", takes=self.fid)

    async def remove(self) -> None:
        """Remove the file; the fid is gone in any case."""
        await self.call("Tremove", takes=self.fid)

    async def open(self, mode: int) -> None:
        """Open for OREAD, OWRITE or ORDWR, or'ed with OTRUNC."""
        (answer,) = await self.client.together((self.to_open(mode),), self.deadline)
        self.opened(*answer)

    def to_open(self, mode: int) -> Call:
        """The request of `open`, to be sent together with others."""
        if self.dialect == "L":
            return Call("Tlopen", self.fid, _flags(mode))
        return Call("Topen", self.fid, mode)

    def opened(self, qid: Qid, iounit: int) -> None:
        """Take the answer to `to_open`."""
        most = self.client.most
        self.qid = qid
        self.iounit = min(iounit or most, most)

    async def create(self, name: str, perm: int, mode: int) -> None:
        """Make a file in this directory and open it: the fid then points to it."""
        if self.dialect == "L" and perm & DMDIR:
            await self.call("Tmkdir", name, perm & 0o777, os.getegid())
            (qids,) = await self.client.call("Twalk", self.fid, self.fid, [name])
            if not qids:
                raise CloudError("absent", "the directory made is not there")
            self.path = (*self.path, name)
            await self.open(mode)
            return
        if self.dialect == "L":
            flags = _flags(mode) | os.O_CREAT | os.O_EXCL
            made = await self.call("Tlcreate", name, flags, perm & 0o777, os.getegid())
        else:
            unix = ("",) if self.dialect == "u" else ()
            made = await self.call("Tcreate", name, perm, mode, *unix)
        self.path = (*self.path, name)
        self.opened(*made)

    async def read(self, offset: int, count: int) -> bytes | memoryview:
        """At most count bytes, and at most a frame's worth; b"" is the end."""
        return read_of(count, [await self.call("Tread", offset, min(count, self.iounit))])

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write data, at most a frame's worth of it; the number of bytes taken."""
        (count,) = await self.call("Twrite", offset, data[: self.iounit])
        return min(int(count), len(data))

    async def stat(self) -> Stat:
        """Attributes now."""
        (answer,) = await self.client.together((self.to_stat(),), self.deadline)
        return self.stat_of(answer)

    def to_stat(self) -> Call:
        """The request of `stat`, to be sent together with others."""
        if self.dialect == "L":
            return Call("Tgetattr", self.fid, GETATTR_BASIC)
        return Call("Tstat", self.fid)

    def stat_of(self, answer: tuple[Any, ...]) -> Stat:
        """What the answer to `to_stat` says."""
        if self.dialect == "L":
            _, qid, mode, uid, gid, _, _, size, _, _, _, _, mtime, nanos, *_ = answer
            kind = DMDIR if qid[0] & 0x80 else 0
            name = self.path[-1] if self.path else "/"
            when = mtime + nanos / 1e9
            user, group = user_of(uid), group_of(gid)
            return Stat(name, qid[2], mode & 0o777 | kind, size, when, user, group, "", qid[1])
        stats = decode_stats(self.dialect, bytes(answer[0]))
        if len(stats) != 1:
            raise BadMessage("an Rstat without exactly one stat")
        return _stat(stats[0])

    async def wstat(self, changes: dict[str, Any]) -> None:
        """Change attributes: any of name, mode, mtime, atime, length, uid, gid."""
        if self.dialect == "L":
            await self._setattr(dict(changes))
            return
        await self.client.together((self.to_wstat(changes),), self.deadline)

    def to_wstat(self, changes: dict[str, Any]) -> Call:
        """The request of `wstat` where the dialect has stats, to be sent with others."""
        _, encode = stat_codec(self.dialect)
        mode, atime, mtime = (int(changes.get(key, _SAME4)) for key in ("mode", "atime", "mtime"))
        name, uid, gid = (changes.get(key, "") for key in ("name", "uid", "gid"))
        qid = (0xFF, _SAME4, _SAME8)
        length = changes.get("length", _SAME8)
        unix = ("", _SAME4, _SAME4, _SAME4) if self.dialect == "u" else ()
        body = encode(_SAME2, _SAME4, qid, mode, atime, mtime, length, name, uid, gid, "", *unix)
        return Call("Twstat", self.fid, len(body).to_bytes(2, "little") + body)

    async def _setattr(self, changes: dict[str, Any]) -> None:
        name = changes.pop("name", None)
        if name is not None:
            if changes:
                raise CloudError("unsupported", "a name is not changed together with others")
            async with await self.client.walk(self.path[:-1]) as parent:
                await self.call("Trename", parent.fid, name)
            return
        valid = 0
        for key in changes:
            valid |= _SETATTR[key]
        if "uid" in changes:
            changes["uid"] = uid_of(changes["uid"])
        if "gid" in changes:
            changes["gid"] = gid_of(changes["gid"])
        mode, uid, gid, length = (
            int(changes.get(key, 0)) for key in ("mode", "uid", "gid", "length")
        )
        times = (*_time(changes, "atime"), *_time(changes, "mtime"))
        await self.call("Tsetattr", valid, mode & 0o777, uid, gid, length, *times)

    async def entries(self, begun: bytes | memoryview | None = None) -> list[Entry]:
        """What an open directory holds: name, qid, and attributes where the dialect
        tells them at once.  "." and ".." are left out.

        begun: the stats that a read at its beginning, of a frame's worth, gave already.
        """
        read = self._read_entries if self.dialect == "L" else self._read_stats
        found = self._stats(begun or b"")
        offset = len(begun or b"")
        while begun is None or len(begun) > self.iounit - MAX_STAT:
            begun = None
            some, offset = await read(offset)
            if not some:
                return found
            found += [entry for entry in some if entry[0] not in (".", "..")]
            if len(found) > MAX_ENTRIES:
                raise CloudError("toomany", f"a directory of more than {MAX_ENTRIES} files")
        return found

    async def _read_entries(self, offset: int) -> tuple[list[Entry], int]:
        (data,) = await self.call("Treaddir", offset, self.iounit)
        entries = decode_dirents(bytes(data))
        if entries and entries[-1][1] == offset:
            raise BadMessage("a directory that does not go on")
        last = entries[-1][1] if entries else offset
        return [(name, qid, None) for qid, _, _, name in entries], last

    async def _read_stats(self, offset: int) -> tuple[list[Entry], int]:
        data = await self.read(offset, self.iounit)
        return self._stats(data), offset + len(data)

    def _stats(self, data: bytes | memoryview) -> list[Entry]:
        if not data:
            return []
        stats = decode_stats(self.dialect, bytes(data))
        return [(fields[7], fields[2], _stat(fields)) for fields in stats]


def read_of(count: int, answers: Answers) -> bytes | memoryview:
    """The data of a read of at most count bytes."""
    ((data,),) = answers
    if len(data) > count:
        raise BadMessage("a read gave more than was asked for")
    return data  # type: ignore[no-any-return]


def _flags(mode: int) -> int:
    """Linux's open flags for an open mode."""
    return mode & 3 | (os.O_TRUNC if mode & OTRUNC else 0)


def _time(changes: dict[str, Any], key: str) -> tuple[int, int]:
    """Seconds and nanoseconds."""
    seconds, rest = divmod(float(changes.get(key, 0)), 1)
    return int(seconds), int(rest * 1e9)


def _stat(fields: tuple[Any, ...]) -> Stat:
    _, _, qid, mode, _, mtime, length, name, uid, gid, muid, *_ = fields
    return Stat(name, qid[2], mode, length, float(mtime), uid, gid, muid, qid[1])
