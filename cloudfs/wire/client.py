"""A 9P client: many requests at a time over one connection, in all three dialects.

    async with connect("tcp:127.0.0.1:5640") as client:
        async with await client.walk(["proc", "clone"]) as file:
            await file.open(OREAD)
            print(await file.read(0, 100))

A request that is cancelled or past its deadline is flushed: its tag and the fid that it
may have made are not used again before the server's Rflush.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import trio

from cloudfs.errors import CloudError, from_errno, from_text
from cloudfs.tree.idmap import user_of
from cloudfs.wire import tls
from cloudfs.wire.call import Call
from cloudfs.wire.codec import HEAD, HEAD_SIZE, BadMessage, Codec, codec
from cloudfs.wire.file import File
from cloudfs.wire.messages import IOHDRSZ, MAX_WALK, NODES, NOFID, NOTAG, VERSIONS
from cloudfs.wire.trace import Trace

MSIZE = 64 << 10  # bytes of a frame asked for
DEADLINE = 10.0  # seconds for an answer
TAGS = 256  # requests at a time
MAX_LATER = 32  # fids let go of that the server has not heard of yet
FIDS = 4096
RECEIVE = 64 << 10  # bytes received at a time
MUCH = 8 << 10  # bytes received at a time that are part of something large
# The tag of a Tflush and of a Tclunk that nobody waits for follow from what they are
# about, so that neither ever lacks one.
_FLUSH, _CLUNK = 0x8000, 0x4000
_ROOT = 0  # the fid of the attach


class Client:
    """One attached connection; `connect` makes it.

    root: the file that was attached to.  deadline: seconds for an answer where a call
    does not say otherwise.  why: why it is of no use any more, or ""; `lost` is set then.
    node: whether the server is a node of ours: it answers in the order in which it was
    asked and says why it refuses.  timed: told of a request's name and seconds.
    carried: told of bytes that come in bulk.
    """

    def __init__(
        self, stream: trio.abc.Stream, name: str, deadline: float, trace: Trace | None
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.trace = trace
        self.why = ""
        self.lost = trio.Event()
        self.node = False
        self.codec: Codec = codec("9")
        self.msize = MSIZE
        self.root = File(self, _ROOT, (0x80, 0, 0), ())
        self.timed: Callable[[str, float], None] | None = None
        self.carried: Callable[[int], None] | None = None
        self._stream = stream
        self._calls: dict[int, Call] = {}  # by tag
        self._flushing: dict[int, Call] = {}  # by tag: nobody waits for these any more
        self._tags = list(range(TAGS - 1, -1, -1))
        self._turn = trio.Semaphore(TAGS)
        self._fids = list(range(FIDS - 1, _ROOT, -1))
        self._out: list[bytes] = []
        self._wake = trio.Event()
        self._later = 0  # requests in _out that nobody is in a hurry for
        self._sending = False  # whether the writer is at it
        self._owed: float | None = None  # since when it owes the first answer, and is silent

    async def call(
        self,
        name: str,
        *fields: Any,
        deadline: float | None = None,
        makes: int | None = None,
        steps: int = 0,
        takes: int | None = None,
    ) -> tuple[Any, ...]:
        """Send T-message `name` and return the fields of its answer.

        deadline: seconds, None for the client's own.  makes, takes: see Call.
        Raises CloudError: what the server answered, `timeout`, or `unreachable` once the
        connection is lost.
        """
        call = Call(name, *fields, makes=makes, steps=steps, takes=takes)
        return (await self.together((call,), deadline))[0]

    async def together(
        self, calls: Sequence[Call], deadline: float | None = None, spare: int = 0
    ) -> list[tuple[Any, ...]]:
        """The fields of the answers to requests that build on each other: all in one round
        trip where the server is a node, else one by one.

        The first that fails is raised, as by `call`; a fid that was made is let go of
        then.  Where there are several, a walk that stops early fails as `absent`.  spare:
        so many at the end may fail; the first that does ends what is returned.
        """
        found: list[tuple[Any, ...]] = []
        seconds = self.deadline if deadline is None else deadline
        try:
            if seconds == math.inf:
                await self._one_by_one(calls, found)
            else:
                self.expect()
                with trio.move_on_after(seconds):
                    await self._one_by_one(calls, found)
            if len(found) == len(calls):
                return found
            raise CloudError("timeout", f"{self.name} did not answer {calls[0].name} in time")
        except BaseException as error:
            if isinstance(error, CloudError) and len(found) >= len(calls) - spare > 0:
                return found
            for call in calls:
                if call.made():
                    self.forget(call.makes or 0)
            raise

    async def _one_by_one(self, calls: Sequence[Call], found: list[tuple[Any, ...]]) -> None:
        """Put the answers to the calls into found."""
        many = len(calls) > 1
        for group in [calls] if self.node else [(call,) for call in calls]:
            await self._ask(group)
            for call in group:
                found.append(self._checked(call, many))

    def expect(self) -> None:
        """Something is about to be asked whose answer has its time: see `silence`."""
        if self._owed is None:
            self._owed = trio.current_time()

    async def _ask(self, calls: Sequence[Call]) -> None:
        """Ask and wait until each call has its reply."""
        tags: list[int] = []
        begun = 0
        try:
            for call in calls:
                try:
                    self._turn.acquire_nowait()
                except trio.WouldBlock:
                    await self._turn.acquire()
                tags.append(NOTAG if call.name == "Tversion" else self._tags.pop())
            frames = [
                self.codec.encode[call.name](tag, *call.fields)
                for call, tag in zip(calls, tags, strict=True)
            ]
            if max(map(len, frames)) > self.msize:
                raise CloudError("toobig", f"{calls[0].name} is more than {self.msize} bytes")
            if self.why:
                raise CloudError("unreachable", self.why)
            for call, tag, frame in zip(calls, tags, frames, strict=True):
                self._calls[tag] = call
                self._send(frame, False)
            begun = len(calls)
            calls[0].sent = perf_counter()
            self._push()
            for call in calls:
                if call.reply is None:  # mostly all come together
                    call.done = trio.Event()
                    await call.done.wait()
        finally:
            for index, call in enumerate(calls):
                tag = tags[index] if index < len(tags) else -1
                if index >= begun or self._calls.pop(tag, None) is None:
                    self._over(tag, call)
                else:
                    self._flushing[tag] = call
                    self._send(self.codec.encode["Tflush"](_FLUSH | tag & 0x7FFF, tag))

    def silence(self) -> float:
        """Seconds for which the server has owed an answer that has its time and has said
        nothing at all."""
        return 0.0 if self._owed is None else trio.current_time() - self._owed

    @property
    def stream(self) -> trio.abc.Stream:
        return self._stream

    @property
    def most(self) -> int:
        """Bytes of data that go into a frame."""
        return self.msize - IOHDRSZ

    @property
    def busy(self) -> int:
        """Requests under way and fids in use."""
        return len(self._calls) + len(self._flushing) + FIDS - 1 - len(self._fids)

    def _over(self, tag: int, call: Call) -> None:
        """The call's tag is free, and so are fids that it did not make or took."""
        if tag >= 0:
            self._turn.release()
            if tag != NOTAG:
                self._tags.append(tag)
        if call.makes is not None and not call.made():
            self._fids.append(call.makes)
        if call.takes is not None:
            if call.reply is None:
                self.forget(call.takes)
            else:
                self._fids.append(call.takes)

    def _flushed(self, tag: int) -> None:
        call = self._flushing.pop(tag, None)
        if call is None:
            raise BadMessage("an Rflush that nothing asked for")
        if call.made():
            assert call.makes is not None
            self.forget(call.makes)
        self._over(tag, call)

    def _checked(self, call: Call, whole: bool) -> tuple[Any, ...]:
        """The fields of the answer; `whole`: a walk must have taken all its steps."""
        assert call.reply is not None
        got, fields = call.reply
        if got == "R" + call.name[1:]:
            if whole and call.name == "Twalk" and len(fields[0]) < len(call.fields[2]):
                raise CloudError("absent")
            return fields
        if got == "lost":
            raise CloudError("unreachable", self.why)
        if got == "Rlerror":
            raise from_errno(fields[0])
        if got == "Rerror":
            raise self._refused(*fields)
        self._lose(f"{self.name} answered {call.name} with {got}")
        raise CloudError("proto", self.why)

    def _refused(self, ename: str, errno: int = 0) -> CloudError:
        if not errno:
            return from_text(ename)
        error = from_errno(errno)
        if self.node:
            error.why, _, error.fix = ename.partition("\n")
        return error

    # --- fids -----------------------------------------------------------------------------

    def new_fid(self) -> int:
        """A number for a fid, to be given to `call` as `makes`."""
        if not self._fids:
            raise CloudError("toomany", f"{FIDS} files of {self.name} are in use")
        return self._fids.pop()

    def end(self, why: str) -> None:
        """Give the connection up: who waits for an answer hears why."""
        self._lose(why)

    def forget(self, fid: int, soon: bool = True) -> None:
        """Let go of a fid without waiting; its number is free with the answer.

        soon: whether the server hears of it at once, and not with what is sent next.
        """
        if not self.why:
            self._later += 1
            self._send(
                self.codec.encode["Tclunk"](_CLUNK | fid, fid), soon or self._later >= MAX_LATER
            )

    def flush(self) -> None:
        """Send what waits for something to go with."""
        if self._out:
            self._wake.set()

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

    async def start(self, version: str, aname: str) -> None:
        """Agree on a dialect, `version` or an older one, and attach."""
        await self.agree(version)
        uid = os.geteuid()
        numeric = () if self.codec.key == "9" else (uid,)
        (self.root.qid,) = await self.call("Tattach", _ROOT, NOFID, user_of(uid), aname, *numeric)

    async def attach(self, user: str, aname: str = "", deadline: float | None = None) -> File:
        """One more tree of the connection, as that user sees it where the server believes
        us; to be let go of like any file."""
        file = File(self, self.new_fid(), (0x80, 0, 0), ())
        numeric = () if self.codec.key == "9" else (NOFID,)
        fields = (file.fid, NOFID, user, aname, *numeric)
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

    async def run_reader(self) -> None:
        """Receive until the connection ends."""
        data = b""
        try:
            while True:
                more = await self._stream.receive_some(RECEIVE)
                if not more:
                    self._lose(f"{self.name} closed the connection")
                    return
                self._owed = None
                if len(more) >= MUCH and self.carried is not None:
                    self.carried(len(more))
                data = self._replies(data + more if data else bytes(more))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)
        except BadMessage as error:
            self._lose(f"{self.name} does not speak 9P: {error.why}")

    async def run_writer(self) -> None:
        """Send what calls put out, together what came together."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                self._later = 0
                out, self._out = self._out, []
                if out:
                    self._sending = True
                    await self._stream.send_all(b"".join(out))
                    self._sending = False
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)

    def _replies(self, data: bytes) -> bytes:
        """Take all whole frames; what is left of data."""
        at, end = 0, len(data)
        while end - at >= HEAD_SIZE:
            size, _, _ = HEAD.unpack_from(data, at)
            if not HEAD_SIZE <= size <= self.msize:
                raise BadMessage(f"a frame of {size} bytes")
            if at + size > end:
                break
            frame = data[at : at + size]
            if self.trace is not None and self.trace.on:
                self.trace.frame(self.name, "<-", self.codec, frame)
            self._reply(*self.codec.parse(frame))
            at += size
        return data[at:]

    def _reply(self, name: str, tag: int, fields: tuple[Any, ...]) -> None:
        if tag in self._calls:
            call = self._calls.pop(tag)
            call.reply = name, fields
            if call.sent:
                call.took = perf_counter() - call.sent
                if self.timed is not None:
                    self.timed(call.name, call.took)
            if call.done is not None:
                call.done.set()
        elif tag in self._flushing:
            self._flushing[tag].reply = name, fields
        elif tag & _FLUSH:
            self._flushed(tag & 0x7FFF)
        elif tag & _CLUNK:
            self._fids.append(tag & 0x3FFF)
        else:
            raise BadMessage(f"an answer to tag {tag}, which asked nothing")

    def _send(self, frame: bytes, soon: bool = True) -> None:
        if self.trace is not None and self.trace.on:
            self.trace.frame(self.name, "->", self.codec, frame)
        self._out.append(frame)
        if soon:
            self._wake.set()

    def _push(self) -> None:
        """Send at once what goes without waiting, where the stream can: to wake the
        writer costs as much as a small request."""
        if self._sending or not isinstance(self._stream, tls.Stream):
            self._wake.set()
            return
        data = b"".join(self._out)
        try:
            sent = self._stream.send_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)
            return
        self._later = 0
        self._out = []
        if sent < len(data):
            self._out.append(data[sent:])
            self._wake.set()

    def _broke(self, error: Exception) -> None:
        why = error.why if isinstance(error, tls.Broken) else "the connection broke"
        self._lose(f"{self.name}: {why}")

    def _lose(self, why: str) -> None:
        self.why = self.why or why
        self.lost.set()
        for call in self._calls.values():
            call.reply = "lost", ()
            if call.done is not None:
                call.done.set()
        self._calls.clear()
