"""Waiting until a file has grown, for those who follow stdout and stderr.

One inotify instance serves all; a file is watched only while somebody waits for it.
Where inotify cannot be had, or has no watch left, files are looked at every POLL.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import trio

POLL = 0.2  # seconds
IN_MODIFY, IN_CREATE, IN_ATTRIB, IN_DELETE_SELF = 0x2, 0x100, 0x4, 0x400
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
EVENT = struct.Struct("iIII")


class Watch:
    """Followers of files.  Made in trio or outside; used inside only."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        self._bells: dict[int, tuple[trio.Event, int]] = {}  # watch → bell, how many wait
        self._reading = trio.Lock()

    async def grown(self, path: Path, size: int) -> None:
        """Wait until the file is longer than size bytes, or gone."""
        while not longer(path, size):
            number = self._add(path)
            if number < 0:
                await trio.sleep(POLL)
                continue
            bell, waiting = self._bells.get(number, (trio.Event(), 0))
            self._bells[number] = bell, waiting + 1
            try:
                if not longer(path, size):  # it may have grown before the watch was set
                    await self._await(bell)
            finally:
                self._leave(number, bell)

    def close(self) -> None:
        """Stop watching; whoever still waits goes on by polling."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        for bell, _ in self._bells.values():
            bell.set()
        self._bells.clear()

    def _add(self, path: Path) -> int:
        if self._fd < 0:
            return -1
        mask = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF
        number: int = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        return number

    def _leave(self, number: int, bell: trio.Event) -> None:
        now, waiting = self._bells.get(number, (bell, 0))
        if now is not bell:
            return  # it rang: the watch was given up with it
        if waiting > 1:
            self._bells[number] = bell, waiting - 1
        elif self._bells.pop(number, None):
            self._libc.inotify_rm_watch(self._fd, number)

    async def _await(self, bell: trio.Event) -> None:
        """Whoever waits first reads the events for all; if it leaves, the next does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_until, bell)
            await bell.wait()
            nursery.cancel_scope.cancel()

    async def _read_until(self, bell: trio.Event) -> None:
        async with self._reading:
            while not bell.is_set():
                await trio.lowlevel.wait_readable(self._fd)
                self._ring()

    def _ring(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, _, _, length = EVENT.unpack_from(data, at)
            at += EVENT.size + length
            bell, _ = self._bells.pop(number, (None, 0))
            if bell is not None:
                self._libc.inotify_rm_watch(self._fd, number)
                bell.set()


def longer(path: Path, size: int) -> bool:
    """Whether the file is there and has more than size bytes."""
    try:
        return os.stat(path).st_size > size
    except FileNotFoundError:
        return False
