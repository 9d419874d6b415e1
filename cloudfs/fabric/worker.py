"""Between trio and the threads of a blocking library: jobs go out, events come in.

Both queues are bounded or hold the latest of each name only, and a flood of either costs
the other side one wake-up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

import trio

from cloudfs.fabric.queue import Queue

Job = Callable[[], None]

_log = logging.getLogger(__name__)


class Inbox:
    """Calls from any thread, made in trio's: `keep` and `add` as in Queue."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._calls: Queue[Job] = Queue()
        self._rung = False
        self._closed = False

    def keep(self, name: tuple[str, ...], call: Job) -> None:
        with self._lock:
            self._calls.keep(name, call)
            self._ring()

    def add(self, call: Job) -> None:
        with self._lock:
            self._calls.add(call)
            self._ring()

    def close(self) -> None:
        """Nothing is called any more."""
        with self._lock:
            self._closed = True
            self._calls.clear()

    def _ring(self) -> None:
        if self._closed:
            self._calls.clear()
        elif not self._rung:
            try:
                self._token.run_sync_soon(self._run)
                self._rung = True
            except trio.RunFinishedError:
                self._closed = True

    def _run(self) -> None:
        with self._lock:
            calls = self._calls.clear()
            self._rung = False
        for call in calls:
            _guarded(call)


class Worker:
    """A thread that does jobs in the order they came; one that hangs is left behind.

    since: monotonic seconds at which the job under way began, None between jobs.
    """

    def __init__(self, name: str) -> None:
        self.since: float | None = None
        self._jobs: Queue[Job] = Queue()
        self._wake = threading.Condition()
        self._stopped = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def keep(self, name: tuple[str, ...], job: Job) -> None:
        """In place of what waits under that name."""
        with self._wake:
            if not self._stopped:
                self._jobs.keep(name, job)
                self._wake.notify()

    def add(self, job: Job) -> None:
        """One of those of which the oldest goes where too many wait."""
        with self._wake:
            if not self._stopped:
                self._jobs.add(job)
                self._wake.notify()

    def stop(self, last: Job) -> None:
        """Do this at last, and nothing else any more."""
        with self._wake:
            self._jobs.clear()
            self._jobs.keep(("last",), last)
            self._stopped = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self.since = None
                while not self._jobs:
                    if self._stopped:
                        return
                    self._wake.wait()
                job = self._jobs.take()
                self.since = time.monotonic()
            _guarded(job)


async def done(post: Callable[[Job], None], job: Job, seconds: float) -> bool:
    """Have a worker do the job, and wait for it that long; whether it is done."""
    over = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def run() -> None:
        try:
            job()
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(over.set)

    post(run)
    with trio.move_on_after(seconds):
        await over.wait()
    return over.is_set()


def _guarded(call: Job) -> None:
    """What fails here must neither end the thread nor crash trio."""
    try:
        call()
    except Exception:
        _log.exception("an error in the engine")
