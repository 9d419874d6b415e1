"""Brings what foreign threads call back with into trio, in order."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

log = logging.getLogger(__name__)

MOST = 1 << 16  # calls that wait; with more the oldest go, and `lost` counts them


class Bridge:
    """`call(function, …)` from any thread runs it in trio's, soon and in order.

    A burst costs one wake-up of the loop, not one for each call.  Nothing is raised in the
    calling thread: an exception that escaped there would take the process with it.
    """

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._token: trio.lowlevel.TrioToken | None = None
        self._waking = False
        self.lost = 0

    def open(self) -> None:
        """From now on calls come in; to be called in trio's thread."""
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """What waits, and what still comes, is dropped."""
        self._token = None
        self._calls.clear()

    def call(self, function: Callable[[], None]) -> None:
        token = self._token
        if token is None:
            return
        with self._lock:
            if len(self._calls) >= MOST:
                self._calls.popleft()
                self.lost += 1
            self._calls.append(function)
            if self._waking:
                return
            self._waking = True
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._run, idempotent=True)

    def _run(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
            self._waking = False
        if self._token is not None:
            for function in calls:
                try:
                    function()
                except Exception:  # it would end trio itself
                    log.exception("a call from another thread failed")
