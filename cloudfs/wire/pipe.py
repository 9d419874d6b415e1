"""A client's stream: what goes out together, and who looks whether something has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from cloudfs.wire import tls

RECEIVE = 64 << 10  # bytes received at a time
MAX_LATER = 32  # frames that wait for one that is in a hurry


class Watcher(Protocol):
    """Who looks at sockets anyway: the server's loop."""

    def watch(self, fd: int, ready: Callable[[], int]) -> bool:
        """Call ready whenever there is something to receive; False if it does not run.
        It returns how many answers have come."""

    def unwatch(self, fd: int) -> None:
        """Not any more.  May be called again."""


class Pipe:
    """A stream with one reader and one writer.

    received(data): told what has come, b"" at the end; returns how many answers that were.
    broke(why): told when the stream is lost.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        received: Callable[[bytes], int],
        broke: Callable[[str], None],
    ) -> None:
        self.stream = stream
        self._tls = stream if isinstance(stream, tls.Stream) else None
        self._received = received
        self._told = broke
        self._out: list[bytes] = []
        self._wake = trio.Event()
        self._later = 0  # frames in _out that nobody is in a hurry for
        self._sending = False  # whether the writer is at it
        self._over = trio.Event()

    def end(self) -> None:
        """Receive no more."""
        self._over.set()

    # --- out ------------------------------------------------------------------------------

    def send(self, frame: bytes, soon: bool = True) -> None:
        """Send a frame: at once, or not soon with what is sent next."""
        self._out.append(frame)
        self._later += not soon
        if soon or self._later >= MAX_LATER:
            self._wake.set()

    def push(self, frames: Sequence[bytes]) -> None:
        """Send them here and now, where the stream can: to wake the writer costs as much as
        a small request."""
        self._out += frames
        if self._sending or self._tls is None:
            self._wake.set()
            return
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        try:
            sent = self._tls.send_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)
            return
        self._later = 0
        self._out = []
        if sent < len(data):
            self._out.append(data[sent:])
            self._wake.set()

    def flush(self) -> None:
        """Send what waits for something to go with."""
        if self._out:
            self._wake.set()

    async def run_writer(self) -> None:
        """Send what was put out, together what came together."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                self._later = 0
                out, self._out = self._out, []
                if out:
                    self._sending = True
                    await self.stream.send_all(b"".join(out))
                    self._sending = False
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)

    # --- in -------------------------------------------------------------------------------

    async def run_reader(self, watcher: Watcher | None) -> None:
        """Receive until the end; by way of the watcher, if there is one and the stream can."""
        try:
            if watcher is not None and self._tls is not None:
                fd = self._tls.socket.fileno()
                ready = partial(self._ready, self._tls, watcher, fd)
                ready()  # what came with the end of the handshake
                if not self._over.is_set() and watcher.watch(fd, ready):
                    try:
                        await self._over.wait()
                    finally:
                        watcher.unwatch(fd)
                    return
            while not self._over.is_set():
                self._received(bytes(await self.stream.receive_some(RECEIVE)))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)

    def _ready(self, stream: tls.Stream, watcher: Watcher, fd: int) -> int:
        """Take what there is; how many answers that were."""
        answers = 0
        try:
            for _ in range(tls.RECEIVE):
                data = None if self._over.is_set() else stream.receive_now()
                if data is None:
                    break
                answers += self._received(data)
                if not stream.more:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broke(error)
        if self._over.is_set():
            watcher.unwatch(fd)
        return answers

    def _broke(self, error: Exception) -> None:
        self._told(error.why if isinstance(error, tls.Broken) else "the connection broke")
