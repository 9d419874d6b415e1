"""Many 9P requests at a time over one connection, and the fids of its client.

A request that is cancelled or past its deadline is flushed: its tag and the fid that it
may have made are not used again before the server's Rflush.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import trio

from cloudfs.errors import CloudError, from_errno, from_text
from cloudfs.wire.call import REPLY, Answers, Asking, Call, Deadlines
from cloudfs.wire.codec import HEAD, HEAD_SIZE, BadMessage, Codec, codec
from cloudfs.wire.messages import IOHDRSZ, NOTAG
from cloudfs.wire.pipe import MAX_LATER, Pipe
from cloudfs.wire.trace import Trace

MSIZE = 64 << 10  # bytes of a frame asked for
DEADLINE = 10.0  # seconds for an answer
TAGS = 256  # requests at a time
FIDS = 4096
MUCH = 8 << 10  # bytes received at a time that are part of something large
# The tag of a Tflush and of a Tclunk that nobody waits for follow from what they are
# about, so that neither ever lacks one.
_FLUSH, _CLUNK = 0x8000, 0x4000
ROOT = 0  # the fid of the attach


class Exchange:
    """What goes over one connection.

    deadline: seconds for an answer where a call does not say otherwise.  why: why the
    connection is of no use any more, or ""; `lost` is set then.
    node: whether the server is a node of ours: it answers in the order in which it was
    asked and says why it refuses.  timed: told of a request's name and seconds.
    carried: told of bytes that come in bulk.  binding: in TLS, of a proof to the certificate
    that the server showed (cap25519); b"" elsewhere.
    """

    def __init__(
        self, stream: trio.abc.Stream, name: str, deadline: float, trace: Trace | None
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.trace = trace
        self.why = ""
        self.binding = b""
        self.lost = trio.Event()
        self.node = False
        self.codec: Codec = codec("9")
        self.msize = MSIZE
        self.timed: Callable[[str, float], None] | None = None
        self.carried: Callable[[int], None] | None = None
        self.pipe = Pipe(stream, self._received, self._broke)
        self._calls: dict[int, Call] = {}  # by tag
        self._flushing: dict[int, Call] = {}  # by tag: nobody waits for these any more
        self._tags = list(range(TAGS - 1, -1, -1))
        self._queue: deque[Asking[Any]] = deque()  # what waits for tags
        self.deadlines = Deadlines()
        self._fids = list(range(FIDS - 1, ROOT, -1))
        self._spare: list[int] = []  # fids in use of which nothing is wanted any more
        self._ended = 0  # of what was asked
        self._data = b""  # received, of a frame that is not whole yet
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
    ) -> Answers:
        """The fields of the answers to requests that build on each other: all in one round
        trip where the server is a node, else one by one.  See `asking`."""
        seconds = self.deadline if deadline is None else deadline
        if self.node or len(calls) == 1:
            return await self.asking(calls, seconds, spare).run()
        found: Answers = []
        try:
            with trio.move_on_after(seconds):
                for call in calls:
                    found += await Asking(self, (call,), math.inf, 0, None, True).run()
                return found
            raise CloudError("timeout", f"{self.name} did not answer {calls[0].name} in time")
        except BaseException as error:
            if isinstance(error, CloudError) and len(found) >= len(calls) - spare > 0:
                return found
            self._unmake(calls)
            raise

    def asking(
        self,
        calls: Sequence[Call],
        seconds: float,
        spare: int = 0,
        late: Callable[[], CloudError] | None = None,
    ) -> Asking[Answers]:
        """The fields of the answers to one request, or to several that build on each other
        and are sent together, which only a node may be asked.

        The first that fails is raised, as by `call`; a fid that was made is let go of
        then.  Where there are several, a walk that stops early fails as `absent`.  seconds:
        for all of it, math.inf for no limit; late: makes the error for what was not
        answered by then.  spare: so many at the end may fail; the first that does ends
        what is given.
        """
        return Asking(self, calls, seconds, spare, late, len(calls) > 1)

    # --- what an Asking does -----------------------------------------------------------------

    def begin(self, asking: Asking[Any]) -> None:
        if self._queue or len(self._tags) < len(asking.calls):
            self._queue.append(asking)
        else:
            self._ask(asking)
        if asking.seconds < math.inf and asking.done is not None:  # the server is at it already
            now = trio.current_time()
            if self._owed is None:
                self._owed = now
            self.deadlines.add(asking, now + asking.seconds)

    def give_up(self, asking: Asking[Any]) -> None:
        """Nobody wants the answers any more."""
        self.deadlines.drop(asking)
        if asking in self._queue:
            self._queue.remove(asking)
            self._unused(asking.calls)
            return
        for call in asking.calls:
            if call.reply is None:
                self._flushing[call.tag] = self._calls.pop(call.tag)
                self._send(self.codec.encode["Tflush"](_FLUSH | call.tag & 0x7FFF, call.tag))
        self._unmake(asking.calls)

    def _ask(self, asking: Asking[Any]) -> None:
        """Send what is asked, for which there are tags."""
        calls, tags, encode = asking.calls, self._tags, self.codec.encode
        kept = len(tags) - len(calls)
        mine = [NOTAG] if calls[0].name == "Tversion" else tags[kept:]
        frames = []
        try:
            if self.why:
                raise CloudError("unreachable", self.why)
            for call, tag in zip(calls, mine, strict=True):
                frame = encode[call.name](tag, *call.fields)
                if len(frame) > self.msize:
                    raise CloudError("toobig", f"{call.name} is more than {self.msize} bytes")
                frames.append(frame)
        except CloudError as error:
            self.deadlines.drop(asking)
            self._unused(calls)
            asking.end(None, error)
            return
        for call, tag in zip(calls, mine, strict=True):
            call.asking, call.tag = asking, tag
            self._calls[tag] = call
        if mine[0] != NOTAG:
            del tags[kept:]
        self._show("->", *frames)
        calls[0].sent = perf_counter()
        self.pipe.push(frames)

    def _unused(self, calls: Sequence[Call]) -> None:
        """The fids of calls that were never sent are as they were."""
        for call in calls:
            if call.makes is not None:
                if call.again:
                    self.forget(call.makes)
                else:
                    self._fids.append(call.makes)
            if call.takes is not None:
                self.forget(call.takes)

    def _unmake(self, calls: Sequence[Call]) -> None:
        """Let go of what calls made of which others failed."""
        for call in calls:
            if call.made():
                self.forget(call.makes or 0)

    def _answered(self, asking: Asking[Any]) -> None:
        """All its calls have their replies."""
        self._ended += 1
        self.deadlines.drop(asking)
        found: Answers = []
        whole = asking.whole
        try:
            for call in asking.calls:
                name, fields = call.reply  # type: ignore[misc]
                if name != REPLY[call.name] or (whole and name == "Rwalk"):
                    fields = self._checked(call, whole)
                found.append(fields)
        except CloudError as error:
            if not len(found) >= len(asking.calls) - asking.spare > 0:
                self._unmake(asking.calls)
                asking.end(None, error)
                return
        asking.end(found)

    def expect(self) -> None:
        """Something is about to be asked whose answer has its time: see `silence`."""
        if self._owed is None:
            self._owed = trio.current_time()

    def silence(self) -> float:
        """Seconds for which the server has owed an answer that has its time and has said
        nothing at all."""
        return 0.0 if self._owed is None else trio.current_time() - self._owed

    @property
    def stream(self) -> trio.abc.Stream:
        return self.pipe.stream

    @property
    def most(self) -> int:
        """Bytes of data that go into a frame."""
        return self.msize - IOHDRSZ

    @property
    def busy(self) -> int:
        """Requests under way and fids in use."""
        under_way = len(self._calls) + len(self._flushing) + len(self._queue)
        return under_way + FIDS - 1 - len(self._fids)

    def _over(self, call: Call) -> None:
        """The call's tag is free, and so are fids that it did not make or took."""
        if call.tag != NOTAG:
            self._tags.append(call.tag)
        if call.makes is not None:
            if not call.made():
                self._fids.append(call.makes)
        elif call.takes is not None:
            if call.reply is None:
                self.forget(call.takes)
            else:
                self._fids.append(call.takes)

    def _next(self) -> None:
        """Ask what waited for tags."""
        while self._queue and len(self._tags) >= len(self._queue[0].calls):
            self._ask(self._queue.popleft())

    def _flushed(self, tag: int) -> None:
        call = self._flushing.pop(tag, None)
        if call is None:
            raise BadMessage("an Rflush that nothing asked for")
        if call.made():
            assert call.makes is not None
            self.forget(call.makes)
        self._over(call)
        self._next()

    def _checked(self, call: Call, whole: bool) -> tuple[Any, ...]:
        """The fields of the answer; `whole`: a walk must have taken all its steps."""
        assert call.reply is not None
        got, fields = call.reply
        if got == REPLY[call.name]:
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

    def spare_fid(self) -> tuple[int, bool]:
        """A number for a fid that Tlook makes, and whether that lets go of one so called."""
        return (self._spare.pop(), True) if self._spare else (self.new_fid(), False)

    def forget(self, fid: int, soon: bool = True) -> None:
        """Let go of a fid without waiting; its number is free with the answer.

        soon: whether the server hears of it at once, and not with what is sent next.
        """
        if self.why:
            return
        if not soon and self.node and len(self._spare) < MAX_LATER:
            self._spare.append(fid)
        else:
            self._send(self.codec.encode["Tclunk"](_CLUNK | fid, fid), soon)

    def flush(self) -> None:
        """Send what waits for something to go with."""
        spare, self._spare = self._spare, []
        for fid in spare:
            self.forget(fid)
        self.pipe.flush()

    # --- what comes ---------------------------------------------------------------------------

    def _received(self, data: bytes) -> int:
        """Take what has come, b"" at the end; how many Askings that ended."""
        before = self._ended
        if not data:
            self._lose(f"{self.name} closed the connection")
            return self._ended - before
        self._owed = None
        if len(data) >= MUCH and self.carried is not None:
            self.carried(len(data))
        try:
            self._data = self._replies(self._data + data if self._data else data)
        except BadMessage as error:
            self._lose(f"{self.name} does not speak 9P: {error.why}")
        return self._ended - before

    def _replies(self, data: bytes) -> bytes:
        """Take all whole frames; what is left of data."""
        at, end = 0, len(data)
        head = HEAD.unpack_from
        tracing = self.trace is not None and self.trace.on
        while end - at >= HEAD_SIZE:
            size, number, tag = head(data, at)
            if not HEAD_SIZE <= size <= self.msize:
                raise BadMessage(f"a frame of {size} bytes")
            stop = at + size
            if stop > end:
                break
            if tracing:
                self._show("<-", data[at:stop])
            name, fields = self.codec.body(number, data, at + HEAD_SIZE, stop)
            self._reply(name, tag, fields)
            at = stop
        return data[at:]

    def _reply(self, name: str, tag: int, fields: tuple[Any, ...]) -> None:
        call = self._calls.pop(tag, None)
        if call is not None:
            call.reply = name, fields
            self._over(call)
            asking, call.asking = call.asking, None  # no cycle is left for the collector
            assert asking is not None
            if call.sent:
                call.took = perf_counter() - call.sent
                if self.timed is not None:
                    self.timed(call.name, call.took)
            asking.left -= 1
            if not asking.left:
                self._answered(asking)
            if self._queue:
                self._next()
        elif tag in self._flushing:
            self._flushing[tag].reply = name, fields
        elif tag & _FLUSH:
            self._flushed(tag & 0x7FFF)
        elif tag & _CLUNK:
            self._fids.append(tag & 0x3FFF)
        else:
            raise BadMessage(f"an answer to tag {tag}, which asked nothing")

    def _send(self, frame: bytes, soon: bool = True) -> None:
        self._show("->", frame)
        self.pipe.send(frame, soon)

    def _show(self, arrow: str, *frames: bytes) -> None:
        if self.trace is not None and self.trace.on:
            for frame in frames:
                self.trace.frame(self.name, arrow, self.codec, frame)

    def _broke(self, why: str) -> None:
        self._lose(f"{self.name}: {why}")

    def _lose(self, why: str) -> None:
        self.why = self.why or why
        self.lost.set()
        self.pipe.end()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.reply = "lost", ()
            self._over(call)
        for asking in dict.fromkeys(call.asking for call in calls.values()):
            assert asking is not None
            self._answered(asking)
        while self._queue:
            self._ask(self._queue.popleft())
