"""The requests that block, of all connections of a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.wait import Soon, Wait
from cloudfs.wire.connection import Connection
from cloudfs.wire.fids import Job

CLOSE_TIME = 10.0  # seconds that closing a fid may take when nobody waits for it
AT_ONCE = 8  # tasks started or cancelled in one turn


class Jobs:
    """Has jobs wait: with a task of the nursery each, or without one where that can be.

    told: of a connection in whose session a job has ended.  awake: to be set while it is the
    server's loop that runs; what is to start or to be cancelled then is kept in `todo`.
    taken: answers that jobs took without a task, less those that the loop knows to have come:
    negative if tasks took some.
    """

    def __init__(self, told: Callable[[Connection], None]) -> None:
        self.nursery: trio.Nursery | None = None
        self.awake = False
        self.taken = 0
        self.todo: deque[Callable[[], None]] = deque()
        self._told = told
        self._scopes: dict[Job, trio.CancelScope] = {}
        self._begun: dict[Job, Soon[Any]] = {}  # those that wait without a task

    def start_some(self) -> None:
        """Start and cancel some of what is to be."""
        for _ in range(min(len(self.todo), AT_ONCE)):
            self.todo.popleft()()

    def start_all(self) -> None:
        """Start and cancel all of it, once the loop has ended."""
        while self.todo:
            self.todo.popleft()()

    def step(self, connection: Connection) -> None:
        """Start and stop the jobs that a connection's session decided to."""
        session = connection.session
        while session.started or session.stopped:
            started, session.started = session.started, []
            stopped, session.stopped = session.stopped, []
            for job in started:
                self._begin(connection, job)
            for job in stopped:
                if job in self._scopes:
                    self._soon(self._scopes[job].cancel)
                elif job in self._begun:
                    self._begun.pop(job).stop()
                    session.done(job, None, CloudError("interrupted"))

    def _begin(self, connection: Connection, job: Job) -> None:
        """Have a job wait: without a task if somebody waits for its answer and it can."""
        wait = job.wait
        if isinstance(wait, Soon) and job.tag is not None:
            if job.state == "waiting":
                self._begun[job] = wait
                wait.start(partial(self._ended, connection, job))
            else:
                connection.session.done(job, None, CloudError("interrupted"))
            return
        assert self.nursery is not None
        scope = self._scopes[job] = trio.CancelScope()
        if job.tag is None:
            scope.deadline = trio.current_time() + CLOSE_TIME
        self._soon(partial(self.nursery.start_soon, self._job, connection, job, scope))

    def _ended(
        self, connection: Connection, job: Job, result: Any, error: Exception | None
    ) -> None:
        """A job that waited without a task has its result, or goes on with one."""
        self._begun.pop(job, None)
        self.taken += 1
        if isinstance(result, Wait):
            job.wait = result
            self._begin(connection, job)
            return
        connection.session.done(job, result, error)
        self._told(connection)

    def _soon(self, act: Callable[[], None]) -> None:
        """Start or cancel a task: in the loop a few at a time, since trio lets all of them
        run before it comes back to the loop."""
        if self.awake:
            self.todo.append(act)
        else:
            act()

    async def _job(self, connection: Connection, job: Job, scope: trio.CancelScope) -> None:
        result: Any = None
        error: Exception | None = CloudError("interrupted")
        try:
            with scope:
                try:
                    if job.state == "waiting":
                        result = await job.run()
                        error = None
                except Exception as reason:
                    error = _only(reason)
        finally:
            del self._scopes[job]
            connection.session.done(job, result, error)
            self._told(connection)


def _only(error: Exception) -> Exception:
    """The one reason in the groups that nurseries wrap around it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
