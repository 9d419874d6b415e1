"""One client's socket, and what is kept for it while it does not read."""

from __future__ import annotations

import socket

from cloudfs.tree.api import Who
from cloudfs.wire.session import Session

MAX_QUEUE = 4 << 20  # bytes kept for a client that does not read
SEND_ROOM = 208 << 10  # bytes of replies kept by the system; it doubles this
SMALL, LARGE = 8 << 10, 256 << 10  # bytes received at a time: at first, at most
JOINED = 32 << 10  # bytes of replies that are joined rather than sent as pieces
PIECES = 512  # buffers of one sendmsg

Buffers = list[bytes | memoryview]


class Connection:
    """A client.  Its state: open; stuck (it does not take what is sent, so nothing is
    received from it); closed.

    more: whether whole frames wait in the session.  since: when a stuck client last took
    something, on trio's clock.
    """

    __slots__ = (
        "_queue",
        "_room",
        "more",
        "name",
        "queued",
        "session",
        "since",
        "socket",
        "state",
        "who",
    )

    def __init__(self, sock: socket.socket, who: Who, session: Session, name: str) -> None:
        sock.setblocking(False)
        self._make_room(sock)
        self.socket = sock
        self.who = who
        self.session = session
        self.name = name
        self.state = "open"
        self.more = False
        self.since = 0.0
        self.queued = 0  # bytes in _queue
        self._queue: Buffers = []
        self._room = SMALL

    def _make_room(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_ROOM)

    def receive(self) -> bytes:
        """What has come, b"" at the end.  Raises OSError, BlockingIOError for nothing."""
        data = self.socket.recv(self._room)
        if len(data) == self._room < LARGE:
            self._room *= 2
        return data

    def send(self) -> bool:
        """Send the session's replies; whether all went.  Raises OSError, also when too much
        would have to be kept."""
        size = self.session.out_size
        out = self.session.take()
        if self.state == "stuck":
            return self._keep(out)
        sent = self._transmit(out, size)
        return sent == size or self._keep(after(out, sent))

    def push(self) -> bool:
        """Send what was kept; whether all went.  Raises OSError."""
        sent = self._transmit(self._queue, self.queued)
        self._queue = after(self._queue, sent)
        self.queued -= sent
        return not self._queue

    def _transmit(self, out: Buffers, size: int) -> int:
        """Send what goes of so many bytes; how many went.  Raises OSError."""
        try:
            if size > JOINED:
                return self.socket.sendmsg(out[:PIECES])
            return self.socket.send(out[0] if len(out) == 1 else b"".join(out))
        except (BlockingIOError, InterruptedError):
            return 0

    def _keep(self, out: Buffers) -> bool:
        self._queue += out
        self.queued += sum(map(len, out))
        if self.queued > MAX_QUEUE:
            raise ConnectionError("it does not read its replies")
        return False


def after(out: Buffers, sent: int) -> Buffers:
    """What of the buffers is left after so many bytes of them."""
    for index, part in enumerate(out):
        if sent < len(part):
            return [memoryview(part)[sent:], *out[index + 1 :]]
        sent -= len(part)
    return []
