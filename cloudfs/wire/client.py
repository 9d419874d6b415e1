"""A 9P client, in all three dialects.

async with connect("tcp:127.0.0.1:5640") as client:
    async with await client.walk(["proc", "clone"]) as file:
        await file.open(OREAD)
        print(await file.read(0, 100))
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.idmap import user_of
from cloudfs.wire.codec import codec
from cloudfs.wire.exchange import ROOT, Exchange
from cloudfs.wire.file import File
from cloudfs.wire.messages import MAX_WALK, NODES, NOFID, VERSIONS
from cloudfs.wire.trace import Trace

Prove: TypeAlias = "Callable[[Client, str, str], Awaitable[int]]"  # client, user, aname → afid


class Client(Exchange):
    """One attached connection; `connect` makes it.

    root: the file that was attached to.
    """

    def __init__(
        self, stream: trio.abc.Stream, name: str, deadline: float, trace: Trace | None
    ) -> None:
        super().__init__(stream, name, deadline, trace)
        self.root = File(self, ROOT, (0x80, 0, 0), ())

    async def walk(
        self, names: Sequence[str], start: File | None = None, deadline: float | None = None
    ) -> File:
        """The file at the end of a path, from `start` or the root; to be let go of.
        Raises CloudError("absent") if a name is not there."""
        start = start or self.root
        file = File(self, self.new_fid(), start.qid, (*start.path, *names))
        step, rest = names[:MAX_WALK], names[MAX_WALK:]
        await self._step(file, start.fid, step, deadline, file.fid)
        try:
            while rest:
                step, rest = rest[:MAX_WALK], rest[MAX_WALK:]
                await self._step(file, file.fid, step, deadline, None)
        except BaseException:
            file.drop()
            raise
        return file

    async def _step(
        self, file: File, fid: int, names: Sequence[str], deadline: float | None, makes: int | None
    ) -> None:
        (qids,) = await self.call(
            "Twalk",
            fid,
            file.fid,
            list(names),
            deadline=deadline,
            makes=makes,
            steps=len(names),
        )
        if len(qids) < len(names):
            await self._stopped(fid, names[: len(qids)], names[len(qids)], deadline)
        if qids:
            file.qid = qids[-1]

    async def _stopped(
        self, fid: int, passed: Sequence[str], name: str, deadline: float | None
    ) -> None:
        """Raise why a walk from fid did not get past `passed`: a walk that begins with
        the name it stopped at is told the reason."""
        last = File(self, self.new_fid(), (0x80, 0, 0), ())
        await self._step(last, fid, passed, deadline, last.fid)
        try:
            await self.call("Twalk", last.fid, last.fid, [name], deadline=deadline)
        finally:
            last.drop()
        raise CloudError("absent")  # it was, a moment ago

    # --- beginning and end ------------------------------------------------------------------

    async def start(self, version: str, aname: str, prove: Prove | None = None) -> None:
        """Agree on a dialect, `version` or an older one, and attach: with the afid that
        prove(client, user, aname) gives, which is let go of then."""
        await self.agree(version)
        uid = os.geteuid()
        user, numeric = user_of(uid), () if self.codec.key == "9" else (uid,)
        afid = NOFID if prove is None else await prove(self, user, aname)
        try:
            (self.root.qid,) = await self.call("Tattach", ROOT, afid, user, aname, *numeric)
        finally:
            if afid != NOFID:
                self.forget(afid)

    async def attach(
        self, user: str, aname: str = "", deadline: float | None = None, afid: int = NOFID
    ) -> File:
        """One more tree of the connection, as that user sees it where the server believes us,
        or who was proved on an afid; to be let go of like any file."""
        file = File(self, self.new_fid(), (0x80, 0, 0), ())
        numeric = () if self.codec.key == "9" else (NOFID,)
        fields = (file.fid, afid, user, aname, *numeric)
        (file.qid,) = await self.call("Tattach", *fields, deadline=deadline, makes=file.fid)
        return file

    async def agree(self, version: str) -> None:
        """Agree on a dialect, `version` or an older one."""
        wanted = [*dict.fromkeys([version, *reversed(VERSIONS.values())])]
        for asked in wanted[wanted.index(version) :]:
            key = await self._agree(asked)
            if key:
                self.codec = codec(key)
                break
        else:
            raise CloudError("proto", f"{self.name} speaks no dialect of 9P2000")

    async def _agree(self, asked: str) -> str:
        try:
            msize, version = await self.call("Tversion", self.msize, asked)
        except CloudError as error:
            if error.kind in ("unreachable", "timeout"):
                raise
            return ""
        if not 256 <= msize <= self.msize:
            raise CloudError("proto", f"{self.name} wants frames of {msize} bytes")
        keys = {name: key for key, name in VERSIONS.items()} | {NODES: "u"}
        self.node = version == NODES
        if version in keys:
            self.msize = msize
        return keys.get(version, "")
