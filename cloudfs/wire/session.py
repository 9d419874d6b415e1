"""One connection's side of 9P: bytes in, bytes and blocked requests out; no I/O.

The driver (server.py) gives what it received to `feed` and calls `step` until nothing
is left.  It then sends `out`, cancels the jobs in `stopped` and awaits those in
`started`, telling `done` how each ended.  Requests that cannot block are answered in
line, in order; the others become a `Job`, which Tflush, Tclunk of its fid, a Tversion
and the end of the connection stop.

The answers to a Tflush race with those to its request in every 9P server.  Here both
are decided in one place: a job is stopped before Rflush is written, and `done` writes
nothing for a stopped job, so the old tag is never answered after its Rflush.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cloudfs.errors import CloudError
from cloudfs.factotum.p9any import Server as Talk
from cloudfs.tree.api import NOBODY, DirHandle, Handle, Ref, Who
from cloudfs.tree.space import Space
from cloudfs.wait import Wait
from cloudfs.wire import dialect_9, dialect_l, look, ops
from cloudfs.wire.auth import Afid, Logins, Proofs
from cloudfs.wire.codec import HEAD, HEAD_SIZE, BadMessage, Caller, Codec, codec
from cloudfs.wire.fids import MAX_FIDS, MAX_TAGS, MIN_MSIZE, Fid, Job, Reply, Tree
from cloudfs.wire.locks import Locks
from cloudfs.wire.messages import NOFID

if TYPE_CHECKING:
    from cloudfs.wire.trace import Trace

TURN_FRAMES = 64  # frames answered in one step, so that other connections get their turn
MAX_TOLD = 1000  # characters of a reason
TURN_BYTES = 128 << 10  # bytes answered in one step, for the same reason

log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


Handler = Callable[..., Reply | None]


class Session:
    """The fids, tags and dialect of one connection.

    who: the caller, as the connection proved it; again() says so anew at each attach, where
    that may change (`uid`: its local number there).  proofs: who checks what callers prove on
    afids, bound to the connection by `binding`; proved_space: makes the name space of who
    attaches with one, where that is another.  logins: where local users say who they are.
    clock: in seconds, for how long a proof may take.  make_space: makes the name space of
    each attach, node_space that of an attach to the node's own directory.  vouch: on a
    connection of another node, the caller that it names.  node: its name.  closed: told
    each Space that no fid uses any more.  tells: whether errors are answered with their reasons.
    """

    def __init__(
        self,
        who: Who,
        make_space: Callable[[Who], Space],
        *,
        node_space: Callable[[Who], Space] | None = None,
        vouch: Callable[[str], Who] | None = None,
        closed: Callable[[Space], None] | None = None,
        trace: Trace | None = None,
        locks: Locks | None = None,
        name: str = "",
        node: str = "",
        uid: int | None = None,
        again: Callable[[], Who] | None = None,
        proofs: Proofs | None = None,
        logins: Logins | None = None,
        proved_space: Callable[[Who], Space] | None = None,
        binding: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.who = who
        self.node = node
        self.uid = uid
        self.proofs = proofs
        self.logins = logins
        self.binding = binding
        self.clock = clock
        self.proved_space = proved_space or make_space
        self.talks: list[Talk] = []  # by which callers attached
        self.attached = ""  # the caller who attached last without one
        self.afids: dict[int, Afid] = {}
        self._again = again
        self.make_space = make_space
        self.node_space = node_space
        self.vouch = vouch
        self.tells = False
        self.name = name  # what the trace calls the connection
        self.out: list[bytes | memoryview] = []
        self.out_size = 0  # bytes in out
        self.started: list[Job] = []
        self.stopped: list[Job] = []
        self.fids: dict[int, Fid] = {}
        self.coming: set[int] = set()  # fids that a waiting walk or attach will make
        self.jobs: dict[int, Job] = {}  # by tag
        self.answered = 0  # frames
        self.locks = locks if locks is not None else Locks()
        self.trace = trace
        self._closed = closed
        self._data = b""
        self._at = 0  # where in _data the next frame begins
        self._parts: list[bytes] = []  # what came of a frame that is not whole yet
        self._have = self._want = 0  # bytes in _parts; bytes it takes to go on
        self.msize = MIN_MSIZE
        self.speak(None)

    # --- the driver's side -------------------------------------------------------------

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return bool(self._parts) or self._at < len(self._data)

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if not self._parts:
            if not self._data:
                self._data = data
                return
            rest = self._data[self._at :]
            self._parts, self._have = [rest], len(rest)
            whole = len(rest) >= HEAD_SIZE
            self._want = HEAD.unpack_from(rest)[0] if whole else HEAD_SIZE
            self._data, self._at = b"", 0
        self._parts.append(data)
        self._have += len(data)
        if self._have >= self._want:
            self._data, self._parts = b"".join(self._parts), []

    def step(self) -> bool:
        """Answer what is there, up to a turn's worth; whether more whole frames are left.

        Raises BadMessage where the stream cannot be followed any further: the
        connection is to be closed.
        """
        data, at, end = self._data, self._at, len(self._data)
        out, trace, jobs = self.out, self.trace, self.jobs
        tracing = trace is not None and trace.on
        head = HEAD.unpack_from
        frames = TURN_FRAMES
        while end - at >= HEAD_SIZE:
            size, number, tag = head(data, at)
            if not HEAD_SIZE <= size <= self.msize:
                raise BadMessage(f"a frame of {size} bytes, where {self.msize} were agreed on")
            stop = at + size
            if stop > end:
                break
            if frames == 0 or self.out_size >= TURN_BYTES:
                self._at = at
                self.answered += TURN_FRAMES - frames
                return True
            frames -= 1
            if tracing:
                self._show("<-", data[at:stop])
            try:
                if tag in jobs:
                    raise BadMessage(f"tag {tag} is in use")
                reply = self._table[number](self, tag, data, at + HEAD_SIZE, stop)
            except CloudError as error:
                reply = self.refuse(tag, error, self._fid_of(data, at))
            except Exception as error:
                reply = self.broken(tag, error, self._fid_of(data, at))
            if reply.__class__ is bytes:
                out.append(reply)
                self.out_size += len(reply)
            elif reply is not None:
                out += reply
                self.out_size += len(reply[0]) + len(reply[1])
            if tracing and reply is not None:
                self._show("->", reply if isinstance(reply, bytes) else b"".join(reply))
            at = stop
        self._data, self._at = (data, at) if at < end else (b"", 0)
        self.answered += TURN_FRAMES - frames
        return False

    def done(self, job: Job, result: Any = None, error: BaseException | None = None) -> None:
        """A job has ended: with a result, with an error, or stopped (then neither counts
        but a result that came all the same, which is put away)."""
        fid = job.fid
        if fid is not None:
            fid.busy -= 1
        if job.state == "stopped":
            self._late(job, result, error)
        else:
            job.state = "done"
            if job.tag is not None:
                del self.jobs[job.tag]
            self._answer(job, result, error)
        if fid is not None and fid.gone and not fid.busy:
            self._quietly(self.release, fid)

    def _answer(self, job: Job, result: Any, error: BaseException | None) -> None:
        tag = -1 if job.tag is None else job.tag
        try:
            if error is not None:
                raise error
            reply = job.finish(result)
        except CloudError as reason:
            reply = self.refuse(tag, reason, job.fid)
        except Exception as reason:
            reply = self.broken(tag, reason, job.fid)
        finally:
            job.after()
        if job.tag is not None:
            self._put(reply)

    def _late(self, job: Job, result: Any, error: BaseException | None) -> None:
        if error is None and job.drop is not None:
            self._quietly(job.drop, result)
        elif error is not None and not isinstance(error, CloudError):
            log.error("a stopped request failed", exc_info=error)

    def close(self) -> None:
        """The connection is gone: stop every job, close every fid."""
        for job in list(self.jobs.values()):
            self.stop(job)
        for number in list(self.fids):
            self._quietly(self.release, self.fids.pop(number))
        self.afids.clear()
        self.locks.forget(self)

    def _put(self, reply: Reply) -> None:
        parts = (reply,) if isinstance(reply, bytes) else reply
        for part in parts:
            self.out.append(part)
            self.out_size += len(part)
        if self.trace is not None and self.trace.on:
            self._show("->", b"".join(parts))

    def take(self) -> list[bytes | memoryview]:
        """The replies so far, to be sent."""
        out, self.out, self.out_size = self.out, [], 0
        return out

    # --- what the handlers of messages use ------------------------------------------------

    def speak(self, key: str | None) -> None:
        """Go on in a dialect: "9", "u" or "L", or None where none is agreed on."""
        self.key = key or "9"
        self.codec, self._table = dialect(key)
        self.reply = self.codec.encode

    def caller(self) -> Who:
        """Who asks, as the connection says it."""
        return self.who if self._again is None else self._again()

    @property
    def proved(self) -> bool:
        """Whether anybody attached by a proof."""
        return bool(self.talks)

    def outlived(self) -> str:
        """Why those who attached may not go on, "" while they may: what was proved ends, and
        so does a login."""
        if self.proofs is not None and not all(map(self.proofs.good, self.talks)):
            return "what was proved holds no more"
        if self._again is not None and self.attached not in ("", NOBODY.user):
            now = self._again()
            return "" if now.boss or now.user == self.attached else "its user is another now"
        return ""

    def free(self, number: int) -> None:
        """Raise unless a new fid may have this number."""
        taken = number in self.fids or number in self.coming or number in self.afids
        if taken or number == NOFID:
            raise CloudError("bad", f"fid {number} is in use")
        if len(self.fids) + len(self.coming) >= MAX_FIDS:
            raise CloudError("toomany", f"a connection has at most {MAX_FIDS} fids")

    def add(self, number: int, tree: Tree, ref: Ref) -> Fid:
        fid = self.fids[number] = Fid(tree, ref)
        tree.fids += 1
        return fid

    def promise(self, number: int, tree: Tree) -> None:
        """Keep a number for the fid that a waiting request makes."""
        self.coming.add(number)
        tree.fids += 1

    def withdraw(self, number: int, tree: Tree) -> None:
        """The fid promised was made, or will not be."""
        self.coming.discard(number)
        self.leave(tree)

    def block(
        self,
        tag: int,
        fid: Fid | None,
        wait: Wait[Any],
        finish: Callable[[Any], Reply],
        after: Callable[[], None] = _nothing,
        drop: Callable[[Any], None] | None = None,
    ) -> Reply | None:
        """Answer the tag when `wait` has ended; see Job.  Returns None, as the handler is
        to do."""
        if len(self.jobs) >= MAX_TAGS:
            after()
            raise CloudError("again", f"at most {MAX_TAGS} requests of a connection wait")
        job = Job(tag, fid, wait, finish, after, drop)
        self.jobs[tag] = job
        if fid is not None:
            fid.busy += 1
        self.started.append(job)
        return None

    def aside(self, wait: Wait[Any]) -> None:
        """Have `wait` run though nobody hears how it ends."""
        self.started.append(Job(None, None, wait, lambda _: b"", _nothing, None))

    def stop(self, job: Job) -> None:
        """Nobody wants the job's answer any more."""
        job.state = "stopped"
        if job.tag is not None:
            del self.jobs[job.tag]
        self.stopped.append(job)
        job.after()

    def release(self, fid: Fid) -> Wait[None] | None:
        """Close a fid that was taken from the table.  Requests that wait on it are
        answered with "interrupted", and its handle is closed when they have ended."""
        if fid.busy:
            fid.gone = True
            self._interrupt(fid)
            return None
        handle, fid.handle = fid.handle, None
        try:
            if self.locks.files:
                self.locks.drop(fid)
            return handle.close() if handle is not None else None
        finally:
            self.leave(fid.tree)

    def _interrupt(self, fid: Fid) -> None:
        for job in [job for job in self.jobs.values() if job.fid is fid]:
            self.stop(job)
            if job.tag is not None:
                self._put(self.refuse(job.tag, CloudError("interrupted"), fid))

    def discard(self, fid: Fid) -> None:
        """Close a fid that was taken from the table, whatever its handle says to it."""
        self._quietly(self.release, fid)

    def shut(self, handle: Handle) -> None:
        """Close a handle that no fid has."""
        self._quietly(handle.close)

    def leave(self, tree: Tree) -> None:
        """One fid, or one promise of a fid, less uses the tree."""
        tree.fids -= 1
        if tree.fids == 0 and self._closed is not None:
            self._closed(tree.space)

    def _quietly(self, act: Callable[..., Any], *args: Any) -> None:
        """Do what nobody waits for; what it raises is logged."""
        try:
            left = act(*args)
        except CloudError as error:
            log.info("at the end of a fid: %s", error)
        except Exception:
            log.exception("at the end of a fid")
        else:
            if isinstance(left, Wait):
                self.aside(left)

    def opened(self, fid: Fid, handle: Handle, mode: int) -> None:
        fid.handle = handle
        fid.mode = mode
        if isinstance(handle, DirHandle):
            fid.entries = handle.entries

    # --- errors and traces ---------------------------------------------------------------

    def refuse(self, tag: int, error: CloudError, fid: Fid | None) -> bytes:
        """The dialect's answer that says no; the reason goes to the caller's `err`, unless
        it was a proxy that read ahead, or a read sent along with an open that failed."""
        if fid is not None and error.kind != "nofid" and not fid.ref.cues.look:
            fid.tree.at.note(error, fid.ref.path)
        if self.key == "L":
            return self.reply["Rlerror"](tag & 0xFFFF, error.errno)
        if self.key == "u":
            text = _told(error) if self.tells else error.text
            return self.reply["Rerror"](tag & 0xFFFF, text, error.errno)
        return self.reply["Rerror"](tag & 0xFFFF, error.text)

    def broken(self, tag: int, error: Exception, fid: Fid | None) -> bytes:
        """The answer to a request on which our own code failed."""
        log.error("a request failed in the daemon itself", exc_info=error)
        why = f"the daemon failed on it ({type(error).__name__}), see its log"
        return self.refuse(tag, CloudError("io", why), fid)

    def _fid_of(self, data: bytes, at: int) -> Fid | None:
        """The fid a frame is about: nearly all messages name it first."""
        return self.fids.get(int.from_bytes(data[at + HEAD_SIZE : at + HEAD_SIZE + 4], "little"))

    def _show(self, arrow: str, frame: bytes) -> None:
        assert self.trace is not None
        self.trace.frame(self.name, arrow, self.codec, frame)


def _told(error: CloudError) -> str:
    """The ename between nodes: why, and what to do about it."""
    why, fix = (" ".join(part.split("\n"))[:MAX_TOLD] for part in (error.why, error.fix))
    return f"{why}\n{fix}"


def _early(session: Session, tag: int, data: bytes, at: int, end: int) -> Reply:
    raise CloudError("proto", "the first message is not a Tversion")


def _not_spoken(session: Session, tag: int, data: bytes, at: int, end: int) -> Reply:
    raise CloudError("unsupported", f"{session.codec.version} has no such message")


@functools.cache
def dialect(key: str | None) -> tuple[Codec, list[Caller]]:
    """The codec of a dialect and, by message number, what decodes and answers each."""
    if key is None:
        spoken = codec("9")
        handlers: dict[str, Handler] = {"Tversion": ops.t_version}
    else:
        spoken = codec(key)
        handlers = ops.HANDLERS | (dialect_l.HANDLERS if key == "L" else dialect_9.HANDLERS)
        if key == "u":
            handlers |= {"Tlook": look.t_look}
    table: list[Caller] = [_early if key is None else _not_spoken] * 256
    for name, handler in handlers.items():
        table[spoken.number[name]] = spoken.caller(name, handler)
    return spoken, table
