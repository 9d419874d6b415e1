"""A 9P client: many requests at a time over one connection, in all three dialects.

    async with connect("tcp:127.0.0.1:5640") as client:
        async with await client.walk(["proc", "clone"]) as file:
            await file.open(OREAD)
            print(await file.read(0, 100))

A request that is cancelled or past its deadline is flushed: its tag and the fid that it
may have made are not used again before the server's Rflush.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from cloudfs.errors import CloudError, from_errno, from_text
from cloudfs.tree.idmap import user_of
from cloudfs.wire.address import Address, parse
from cloudfs.wire.codec import HEAD, HEAD_SIZE, BadMessage, Codec, codec
from cloudfs.wire.file import File
from cloudfs.wire.messages import MAX_WALK, NOFID, NOTAG, VERSIONS
from cloudfs.wire.trace import Trace

MSIZE = 64 << 10  # bytes of a frame asked for
DEADLINE = 10.0  # seconds for an answer
TAGS = 256  # requests at a time
FIDS = 4096
RECEIVE = 64 << 10  # bytes received at a time
# The tag of a Tflush and of a Tclunk that nobody waits for follow from what they are
# about, so that neither ever lacks one.
_FLUSH, _CLUNK = 0x8000, 0x4000
_ROOT = 0  # the fid of the attach


class _Call:
    """A request under way.

    makes: the fid that it makes; steps: the elements of a walk that must succeed for
    that.  takes: the fid that is gone once it is answered.
    """

    __slots__ = ("done", "makes", "name", "reply", "steps", "takes")

    def __init__(self, name: str, makes: int | None, steps: int, takes: int | None) -> None:
        self.name = name
        self.makes = makes
        self.steps = steps
        self.takes = takes
        self.done = trio.Event()
        self.reply: tuple[str, tuple[Any, ...]] | None = None

    def made(self) -> bool:
        """Whether the server has made the fid."""
        if self.makes is None or self.reply is None or self.reply[0] != "R" + self.name[1:]:
            return False
        return self.name != "Twalk" or len(self.reply[1][0]) == self.steps


class Client:
    """One attached connection; `connect` makes it.

    root: the file that was attached to.  deadline: seconds for an answer where a call
    does not say otherwise.  why: why it is of no use any more, or "".
    """

    def __init__(
        self, stream: trio.abc.Stream, name: str, deadline: float, trace: Trace | None
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.trace = trace
        self.why = ""
        self.codec: Codec = codec("9")
        self.msize = MSIZE
        self.root = File(self, _ROOT, (0x80, 0, 0), ())
        self._stream = stream
        self._calls: dict[int, _Call] = {}  # by tag
        self._flushing: dict[int, _Call] = {}  # by tag: nobody waits for these any more
        self._tags = list(range(TAGS - 1, -1, -1))
        self._turn = trio.Semaphore(TAGS)
        self._fids = list(range(FIDS - 1, _ROOT, -1))
        self._out: list[bytes] = []
        self._wake = trio.Event()

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

        deadline: seconds, None for the client's own.  makes: a number from `new_fid`,
        which is free again unless the server made the fid (by a walk: took all `steps`);
        takes: one that is free again once the server has answered.
        Raises CloudError: what the server answered, `timeout`, or `unreachable` once the
        connection is lost.
        """
        call = _Call(name, makes, steps, takes)
        with trio.move_on_after(self.deadline if deadline is None else deadline) as scope:
            await self._ask(call, fields)
        if scope.cancelled_caught or call.reply is None:
            raise CloudError("timeout", f"{self.name} did not answer {name} in time")
        return self._checked(name, *call.reply)

    async def _ask(self, call: _Call, fields: tuple[Any, ...]) -> None:
        tag = -1
        try:
            await self._turn.acquire()
            tag = NOTAG if call.name == "Tversion" else self._tags.pop()
            frame = self.codec.encode[call.name](tag, *fields)
            if len(frame) > self.msize:
                raise CloudError("toobig", f"{call.name} does not fit in {self.msize} bytes")
            if self.why:
                raise CloudError("unreachable", self.why)
            self._calls[tag] = call
            self._send(frame)
            await call.done.wait()
        except BaseException:
            if call.made():  # the answer came while the cancellation was on its way
                self.forget(call.makes or 0)
            raise
        finally:
            if self._calls.pop(tag, None) is None:
                self._over(tag, call)
            else:
                self._flushing[tag] = call
                self._send(self.codec.encode["Tflush"](_FLUSH | tag & 0x7FFF, tag))

    def _over(self, tag: int, call: _Call) -> None:
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

    def _checked(self, name: str, got: str, fields: tuple[Any, ...]) -> tuple[Any, ...]:
        if got == "R" + name[1:]:
            return fields
        if got == "lost":
            raise CloudError("unreachable", self.why)
        if got == "Rlerror":
            raise from_errno(fields[0])
        if got == "Rerror":
            raise from_errno(fields[1]) if fields[1:] and fields[1] else from_text(fields[0])
        self._lose(f"{self.name} answered {name} with {got}")
        raise CloudError("proto", self.why)

    # --- fids -----------------------------------------------------------------------------

    def new_fid(self) -> int:
        """A number for a fid, to be given to `call` as `makes`."""
        if not self._fids:
            raise CloudError("toomany", f"{FIDS} files of {self.name} are in use")
        return self._fids.pop()

    def forget(self, fid: int) -> None:
        """Let go of a fid without waiting; its number is free with the answer."""
        if not self.why:
            self._send(self.codec.encode["Tclunk"](_CLUNK | fid, fid))

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
        wanted = [*dict.fromkeys([version, *reversed(VERSIONS.values())])]
        for asked in wanted[wanted.index(version) :]:
            key = await self._agree(asked)
            if key:
                self.codec = codec(key)
                break
        else:
            raise CloudError("proto", f"{self.name} speaks no dialect of 9P2000")
        uid = os.geteuid()
        numeric = () if self.codec.key == "9" else (uid,)
        (self.root.qid,) = await self.call("Tattach", _ROOT, NOFID, user_of(uid), aname, *numeric)

    async def _agree(self, asked: str) -> str:
        try:
            msize, version = await self.call("Tversion", self.msize, asked)
        except CloudError as error:
            if error.kind in ("unreachable", "timeout"):
                raise
            return ""
        if not 256 <= msize <= self.msize:
            raise CloudError("proto", f"{self.name} wants frames of {msize} bytes")
        keys = {name: key for key, name in VERSIONS.items()}
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
                data = self._replies(data + more if data else bytes(more))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose(f"the connection to {self.name} broke")
        except BadMessage as error:
            self._lose(f"{self.name} does not speak 9P: {error.why}")

    async def run_writer(self) -> None:
        """Send what calls put out, together what came together."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                out, self._out = self._out, []
                await self._stream.send_all(b"".join(out))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose(f"the connection to {self.name} broke")

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
            call.done.set()
        elif tag in self._flushing:
            self._flushing[tag].reply = name, fields
        elif tag & _FLUSH:
            self._flushed(tag & 0x7FFF)
        elif tag & _CLUNK:
            self._fids.append(tag & 0x3FFF)
        else:
            raise BadMessage(f"an answer to tag {tag}, which asked nothing")

    def _send(self, frame: bytes) -> None:
        if self.trace is not None and self.trace.on:
            self.trace.frame(self.name, "->", self.codec, frame)
        self._out.append(frame)
        self._wake.set()

    def _lose(self, why: str) -> None:
        self.why = self.why or why
        for call in self._calls.values():
            call.reply = "lost", ()
            call.done.set()
        self._calls.clear()


@asynccontextmanager
async def connect(
    text: str,
    *,
    version: str = "9P2000.L",
    aname: str = "",
    deadline: float = DEADLINE,
    trace: Trace | None = None,
) -> AsyncIterator[Client]:
    """A client attached to the server at an address, for as long as the block lasts.

    Raises CloudError: `unreachable` or `timeout` if nobody answers there, and what the
    server said to the attach.
    """
    address = parse(text)
    stream = await _dial(address, deadline)
    failed: Exception | None = None
    async with stream, trio.open_nursery() as nursery:
        client = Client(stream, str(address), deadline, trace)
        nursery.start_soon(client.run_reader)
        nursery.start_soon(client.run_writer)
        try:
            await client.start(version, aname)
            yield client
        except Exception as error:
            failed = error  # raised outside the nursery, which would wrap it
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _dial(address: Address, deadline: float) -> trio.SocketStream:
    try:
        with trio.fail_after(deadline):
            if address.path:
                return await trio.open_unix_socket(address.path)
            return await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError:
        raise CloudError("timeout", f"{address} does not answer") from None
    except OSError as error:
        why = error.strerror or "cannot be reached"
        raise CloudError(
            "unreachable", f"{address}: {why}", "is a cloud running there?  type: cloudfs up"
        ) from None
