"""How pyfuse3 waits for the next request: what it uses of trio, made cheaper.

pyfuse3 takes its event loop from its module attribute `trio`, which its own asyncio
mode replaces.  Replaced by a `Turns` it runs on trio still, but twice as fast:

- A request that is there already is read without a trip through the scheduler, at
  most `REQUESTS` in a row or for `SECONDS`, so that the 9P side has its turns.
- Of pyfuse3's workers only one listens and the others wait for the lock.  A trio lock
  wakes one of them for each request; here the same worker goes on, and another is
  woken only when a request has to wait (`pass_on`).

Also, it looks again right before pyfuse3 reads.  A request whose process was killed is
taken back by the kernel; pyfuse3's read, which blocks, would then stop the whole
daemon until the next request.
"""

from __future__ import annotations

import select
import time
from collections import deque
from types import SimpleNamespace

import trio

REQUESTS = 32  # read in a row
SECONDS = 0.0005  # or as many as begin within this
SPARE = 2  # workers that pyfuse3 keeps though they are idle (its min_tasks)


class Turns:
    """Stands for the module `trio` in pyfuse3, for one mount."""

    open_nursery = staticmethod(trio.open_nursery)
    ClosedResourceError = trio.ClosedResourceError

    def __init__(self) -> None:
        self._lock = _Lock()
        self._poll: select.poll | None = None
        self._left = 0
        self._until = 0.0
        self.lowlevel = SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=self._wait_readable,
        )

    def Lock(self) -> _Lock:  # noqa: N802 - pyfuse3 calls it by trio's name
        return self._lock

    def pass_on(self) -> None:
        """The running request is going to wait: let another worker listen."""
        self._lock.wake()

    def end(self) -> None:
        """There will be no more requests: let every worker see that."""
        self._lock.eager = True
        self._lock.wake()

    async def _wait_readable(self, fd: int) -> None:
        """Return once a read will not block."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        if self._left > 0 and time.perf_counter() < self._until and self._poll.poll(0):
            self._left -= 1
            return
        while True:
            await trio.lowlevel.wait_readable(fd)
            if self._poll.poll(0):
                break
        self._left = REQUESTS
        self._until = time.perf_counter() + SECONDS


class _Lock:
    """Held by the worker that listens.  Letting go of it wakes nobody as long as the
    one that does is sure to come back: pyfuse3 ends a worker that finds more than
    `SPARE` others here."""

    __slots__ = ("_held", "_queue", "eager")

    def __init__(self) -> None:
        self._held = False
        self._queue: deque[trio.lowlevel.Task] = deque()
        self.eager = False

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        task = trio.lowlevel.current_task()
        self._queue.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._queue.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self.eager or len(self._queue) > SPARE:
            self.wake()

    def wake(self) -> None:
        """Hand the lock to the worker that waits longest, unless one holds it."""
        if self._queue and not self._held:
            self._held = True
            trio.lowlevel.reschedule(self._queue.popleft())
