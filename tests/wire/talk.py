"""A client for tests that speaks to a `Session` without any socket."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

from cloudfs.errors import CloudError
from cloudfs.tree.api import Node, Who
from cloudfs.tree.space import ErrLog, Space
from cloudfs.wire.codec import codec
from cloudfs.wire.fids import Job
from cloudfs.wire.messages import NOFID, VERSIONS
from cloudfs.wire.session import Session
from tests.synthetic import tree

BOSS = Who("root", 0, frozenset(), True)
GUEST = Who("guest", 4321)

STEADY = settings(derandomize=True, deadline=None)

Reply = tuple[str, int, tuple[Any, ...]]


class Talk:
    """One session over tests/synthetic.py's tree.

    dialect: its letter; attached with fid 0 unless attach is False.
    """

    def __init__(
        self,
        dialect: str = "L",
        who: Who = BOSS,
        root: Node | None = None,
        attach: bool = True,
        msize: int = 65536,
        **more: Any,
    ) -> None:
        self.root = root or tree()
        self.errors = ErrLog()
        self.closed: list[Space] = []
        self.spaces: list[Space] = []
        self.session = Session(who, self._space, closed=self.closed.append, **more)
        self.codec = codec(dialect)
        self.jobs: list[Job] = []  # those that wait
        if attach:
            version = VERSIONS[dialect]
            assert self.ask("Tversion", msize, version) == ("Rversion", (msize, version))
            assert self.attach(0)[0] == "Rattach"

    def _space(self, who: Who) -> Space:
        self.spaces.append(Space(self.root, self.errors))
        return self.spaces[-1]

    def attach(self, fid: int, aname: str = "", tag: int = 1) -> tuple[str, tuple[Any, ...]]:
        number = () if self.codec.key == "9" else (0,)
        return self.ask("Tattach", fid, NOFID, "somebody", aname, *number, tag=tag)

    def frame(self, name: str, *fields: Any, tag: int = 1) -> bytes:
        return self.codec.encode[name](tag, *fields)

    def send(self, name: str, *fields: Any, tag: int = 1) -> list[Reply]:
        """All replies that a message brings at once."""
        return self.raw(self.frame(name, *fields, tag=tag))

    def raw(self, data: bytes) -> list[Reply]:
        self.session.feed(data)
        while self.session.step():
            pass
        return self.replies()

    def replies(self) -> list[Reply]:
        self.jobs += self.session.started
        self.session.started = []
        stopped, self.session.stopped = self.session.stopped, []
        for job in stopped:
            if job in self.jobs:
                self.jobs.remove(job)
                self.session.done(job, error=CloudError("interrupted"))
        if stopped:
            self.jobs += self.session.started
            self.session.started = []
        out = b"".join(self.session.take())
        found = []
        while out:
            size = int.from_bytes(out[:4], "little")
            found.append(self.session.codec.parse(out[:size]))
            out = out[size:]
        return found

    def ask(self, name: str, *fields: Any, tag: int = 1) -> tuple[str, tuple[Any, ...]]:
        """The one reply, which must come at once."""
        replies = self.send(name, *fields, tag=tag)
        assert len(replies) == 1, replies
        got, answered, values = replies[0]
        assert answered == tag
        return got, values

    def blocks(self, name: str, *fields: Any, tag: int = 1) -> Job:
        """Send what must block; its job."""
        before = len(self.jobs)
        assert self.send(name, *fields, tag=tag) == []
        assert len(self.jobs) == before + 1
        return self.jobs[-1]

    def end(self, job: Job, result: Any = None, error: Exception | None = None) -> list[Reply]:
        """End a job by hand."""
        self.jobs.remove(job)
        self.session.done(job, result, error)
        return self.replies()

    async def wait(self) -> list[Reply]:
        """Run all jobs to their end; what they answer."""
        replies: list[Reply] = []
        while self.jobs:
            job = self.jobs[0]
            try:
                result, error = await job.run(), None
            except Exception as reason:
                result, error = None, reason
            replies += self.end(job, result, error)
        return replies

    async def eventually(
        self, name: str, *fields: Any, tag: int = 1
    ) -> tuple[str, tuple[Any, ...]]:
        """The one reply, at once or after a wait."""
        replies = self.send(name, *fields, tag=tag) or await self.wait()
        assert len(replies) == 1, replies
        return replies[0][0], replies[0][2]

    def walk(self, path: str, fid: int = 1, start: int = 0) -> None:
        names = [name for name in path.split("/") if name]
        got, (qids,) = self.ask("Twalk", start, fid, names)
        assert got == "Rwalk"
        assert len(qids) == len(names)

    def open(self, path: str, fid: int = 1, mode: int = 0) -> None:
        self.walk(path, fid)
        got, _ = self.ask("Tlopen" if self.codec.key == "L" else "Topen", fid, mode)
        assert got in ("Rlopen", "Ropen")


def drive(job: Job) -> tuple[Any, Exception | None]:
    """(result, error) of a job that waits for nothing in particular, without an event loop."""
    try:
        job.run().__await__().send(None)  # type: ignore[attr-defined]
    except StopIteration as end:
        return end.value, None
    except Exception as error:
        return None, error
    raise AssertionError("it really waits")


def refused(reply: tuple[str, tuple[Any, ...]]) -> Any:
    """The errno of an error reply, or its text where the dialect has no more."""
    got, values = reply
    assert got in ("Rlerror", "Rerror"), reply
    return values[-1]
