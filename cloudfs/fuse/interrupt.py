"""Interrupts, found by looking, since pyfuse3 passes none on.

A process that waits for us in a system call and gets a signal goes on waiting until
we answer; even SIGKILL leaves it in state D.  So while a request blocks, its process
is looked at every `LOOK` seconds: a signal that is pending and neither blocked nor
ignored nor mild, or the end of the process, answers the request with EINTR.

Reads and writes carry no caller.  They are taken for the opener's, unless it is gone
or can be seen to wait elsewhere, as a shell does whose child inherited the file.  Then
the thread is searched that waits for a FUSE answer in a process that has the file
open; if there is none and the opener is gone, nobody waits and the request ends.  A
caller in a process namespace that we cannot see into (pid 0) cannot be interrupted.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from cloudfs.errors import CloudError
from cloudfs.fuse.share import Share

LOOK = 0.2  # seconds between looks
SHARE = 20  # a look that takes t seconds is followed by a pause of at least SHARE·t
ROOM = 4096  # requests that may block at once
_BATCH = 32  # processes looked at before others have a turn
_RESCAN = 25  # looks between searches for the same reader
# What is ignored unless it is caught, as bash catches the end of each of its jobs: a
# system call goes on after it elsewhere (SA_RESTART), which here it cannot.
_MILD = sum(1 << (s - 1) for s in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))
_MASKS = b"SigPnd:", b"ShdPnd:", b"SigBlk:", b"SigIgn:"


def interrupted(status: bytes) -> bool:
    """Whether a thread with this /proc/TID/status has a signal that ends its sleep."""
    start = status.find(_MASKS[0])
    words = status[start:].split(None, 8)[:8] if start >= 0 else []
    if tuple(words[::2]) != _MASKS:
        return False
    own, shared, blocked, ignored = (int(word, 16) for word in words[1::2])
    return bool((own | shared) & ~(blocked | ignored | _MILD))


def ended(status: bytes) -> bool:
    """Whether the thread with this status is only waiting to be buried."""
    return b"\nState:\tZ" in status or b"\nState:\tX" in status


def waits(wchan: bytes) -> bool | None:
    """Whether a thread with this /proc/TID/wchan waits for a FUSE answer; None where
    the kernel does not tell."""
    if wchan in (b"", b"0"):
        return None
    return b"request_wait" in wchan or b"fuse" in wchan


class Request:
    """A request that blocks.

    tid: the thread that is taken for the waiting one.  ino: of the file if the thread
    is only its opener, else 0.  looks: how often it was looked at.  lost: whether the
    thread was seen not to be the waiting one; gone: that it is no more.
    """

    __slots__ = ("gone", "ino", "looks", "lost", "scope", "tid")

    def __init__(self, tid: int, ino: int) -> None:
        self.tid = tid
        self.ino = ino
        self.scope = trio.CancelScope()
        self.looks = 0
        self.lost = False
        self.gone = False


class Blocked:
    """All requests that block now, and the watch over them.

    device: "major:minor" of the mount, once it is known.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.device = ""
        self._share = Share(room)
        self._requests: set[Request] = set()
        self._some = trio.Event()

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def entry(self, tid: int, uid: int, ino: int = 0) -> Iterator[None]:
        """While the body blocks, watch the thread; CloudError("interrupted") when it is
        to stop, CloudError("again") if the user has too many such requests already."""
        if not self._share.take(uid):
            raise CloudError(
                "again",
                "too many of your requests wait already",
                "end some of the programs that follow or wait for files",
            )
        request = Request(tid, ino)
        self._requests.add(request)
        self._some.set()
        try:
            with request.scope:
                yield
        finally:
            self._requests.discard(request)
            self._share.give(uid)
        if request.scope.cancelled_caught:
            raise CloudError("interrupted")

    def stop(self) -> None:
        """End every request."""
        for request in self._requests:
            request.scope.cancel()

    async def watch(self) -> None:
        """Look at the waiting threads for ever; sleeps while nothing blocks."""
        while True:
            if not self._requests:
                self._some = trio.Event()
                await self._some.wait()
            pause = LOOK
            await trio.sleep(pause)
            while self._requests:
                begun = time.perf_counter()
                await self._look()
                pause = max(LOOK, SHARE * (time.perf_counter() - begun))
                await trio.sleep(pause)

    async def _look(self) -> None:
        for index, request in enumerate(list(self._requests)):
            if index % _BATCH == _BATCH - 1:
                await trio.lowlevel.checkpoint()
            if request.tid and _must_stop(request):
                request.scope.cancel()
        lost = [r for r in self._requests if r.lost and r.looks % _RESCAN == 1]
        if lost:
            await self._search(lost)

    async def _search(self, lost: list[Request]) -> None:
        """Find out who waits in the place of an opener that does not."""
        inos = {request.ino for request in lost}
        search = partial(find_waiting, inos, self.device)
        found = await trio.to_thread.run_sync(search, abandon_on_cancel=True)
        for request in lost:
            tid = found.get(request.ino)
            if tid is not None:
                request.tid, request.lost = tid, False
            elif request.gone:
                request.scope.cancel()


def _must_stop(request: Request) -> bool:
    """Look at the thread of a request once: whether the request is to end."""
    request.looks += 1
    if request.gone and request.lost:
        return False  # the search decides
    status = _read(f"/proc/{request.tid}/status")
    if not status or ended(status):
        request.gone = request.lost = bool(request.ino)
        request.looks = 1
        return not request.ino
    if request.looks == 1 and request.ino:
        request.lost = waits(_read(f"/proc/{request.tid}/wchan")) is False
    return interrupted(status) and not request.lost


def find_waiting(inos: Iterable[int], device: str) -> dict[int, int]:
    """ino: a thread that waits for a FUSE answer in a process that has the file open.

    device: "major:minor" of the mount.  Looks at every process that we may look at, so
    it takes milliseconds."""
    wanted = {b"%d" % ino: ino for ino in inos}
    found: dict[int, int] = {}
    for name in _list("/proc"):
        if not name.isdigit():
            continue
        tids = [t for t in _list(f"/proc/{name}/task") if waits(_read(f"/proc/{t}/wchan"))]
        if not tids:
            continue
        files = f"/proc/{name}/task/{tids[0]}/fdinfo"  # the first thread may have ended
        for fd in _list(files):
            about = dict(line.split(b":\t", 1) for line in _lines(f"{files}/{fd}"))
            ino = wanted.get(about.get(b"ino", b""))
            if ino is not None and _shows(tids[0], about.get(b"mnt_id", b""), device):
                found[ino] = int(tids[0])
    return found


def _shows(tid: str, mount: bytes, device: str) -> bool:
    """Whether a mount of a thread's name space shows the device; a mount that was
    detached is in no table and may be any."""
    for line in _lines(f"/proc/{tid}/mountinfo", b" "):
        fields = line.split(b" ", 3)
        if fields[0] == mount:
            return fields[2] == device.encode()
    return True


def _lines(path: str, mark: bytes = b":\t") -> list[bytes]:
    """The lines of a file of /proc that have the mark."""
    return [line for line in _read(path).splitlines() if mark in line]


def _read(path: str) -> bytes:
    """A file of /proc, empty if the process is gone or not ours to look at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    text = b""
    try:
        while part := os.read(fd, 8192):
            text += part
    except OSError:
        return b""
    finally:
        os.close(fd)
    return text


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
