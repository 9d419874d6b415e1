"""9P in TLS 1.3: both ends show certificates, which is how nodes know each other.

Who calls without one is a stranger (wire/server.py says what strangers may).

A handshake takes two milliseconds of a core.  Its steps run in threads, a few at a time,
so that thousands that knock at once cost other callers nothing; the socket is never
waited for in a thread.  With TLS 1.3 the side that called has done its part before the
other one has looked at its certificate: only the answer to its first request says that
it was let in.
"""

from __future__ import annotations

import contextlib
import logging
import socket as sockets
import ssl
import time
from collections.abc import Callable
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.factotum.certificates import peer_name, proof, when
from cloudfs.factotum.enrol import span
from cloudfs.factotum.nodekeys import stranger_context
from cloudfs.wire.connection import JOINED, Buffers, Connection

THREADS = 2  # steps of handshakes at once
MAX_GREETED = 64  # handshakes of one listener under way
GREET_TIME = 5.0  # seconds for a handshake
FAREWELL = 0.5  # seconds in which a peer that is refused may read why
RECORD = 16 << 10  # bytes of data in a TLS record
RECEIVE = 16  # records received at a time
# What is sent goes at once.  A peer that is gone is one that for 10 s has not confirmed what
# was sent, or that did not answer after a minute of silence: a node has many connections over
# which nothing goes (wire/echo.py), and probes every 10 s would cost more than all else.
_LIVELY = (
    (sockets.TCP_NODELAY, 1),
    (sockets.TCP_USER_TIMEOUT, 10_000),
    (sockets.TCP_KEEPIDLE, 60),
    (sockets.TCP_KEEPINTVL, 5),
    (sockets.TCP_KEEPCNT, 3),
)
UNTIMELY = (9, 10)  # OpenSSL: a certificate is not valid yet, has expired
LOG_EVERY = 1.0  # seconds between two lines about refused handshakes

log = logging.getLogger(__name__)


class Threads:
    """The limiter of handshakes, which trio wants made while it runs."""

    def __init__(self) -> None:
        self.limiter: trio.CapacityLimiter | None = None

    async def run(self, step: Callable[[], None]) -> None:
        if self.limiter is None:
            self.limiter = trio.CapacityLimiter(THREADS)
        await trio.to_thread.run_sync(step, limiter=self.limiter)


async def handshake(sock: ssl.SSLSocket, threads: Threads) -> None:
    """Shake hands over a non-blocking socket.  Raises OSError, ssl.SSLError among them."""
    if sock.server_side:
        await trio.lowlevel.wait_readable(sock)
    while True:
        try:
            await threads.run(sock.do_handshake)
            return
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)


def lively(sock: sockets.socket) -> None:
    """Make a TCP socket one that does not wait, and that ends when its peer is gone."""
    sock.setblocking(False)
    for option, value in _LIVELY:
        sock.setsockopt(sockets.IPPROTO_TCP, option, value)
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)


def shown_by(sock: ssl.SSLSocket) -> bytes:
    """The certificate that the peer showed, DER; b"" for none."""
    return sock.getpeercert(binary_form=True) or b""


def node_of(sock: ssl.SSLSocket) -> str:
    """The node that the peer proved to be.  Raises CloudError("denied")."""
    return peer_name(shown_by(sock))[2]


def cluster_of(stream: Stream) -> str:
    """The cluster in which the peer proved to be."""
    return peer_name(shown_by(stream.socket))[1]


def reason(error: Exception) -> str:
    """What went wrong, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not of this cloud ({error.verify_message})"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "the connection ended"
    if isinstance(error, ssl.SSLError):
        word = (error.reason or "no reason given").replace("_", " ").lower()
        if "alert" in word:
            alert = word.partition("alert ")[2]
            clocks = "; compare the clocks, here and there" if "expired" in alert else ""
            return f"it refuses our certificate ({alert}){clocks}"
        return f"it does not speak TLS 1.3 with us ({word})"
    if isinstance(error, OSError):
        return error.strerror or "the connection ended"
    return str(error)


# --- the side that is called ----------------------------------------------------------------


Admit = Callable[[bytes], None]  # told a verified certificate, DER; CloudError("denied")


def everybody(der: bytes) -> None:
    """Nobody was revoked."""


class Door:
    """The handshakes of one listener.  admit: who of those who prove themselves gets in.

    At most MAX_GREETED are under way: when one more knocks, the one that has taken the
    longest is given up, so that peers that do nothing keep no honest one out.
    """

    def __init__(
        self, context: ssl.SSLContext, admit: Admit = everybody, binding: bytes = b""
    ) -> None:
        self.use(context, binding)
        self._admit = admit
        self._threads = Threads()
        self._greeted: dict[trio.CancelScope, None] = {}  # the oldest first
        self._quiet_until = 0.0
        self._unsaid = 0  # refusals since the last line about one

    def use(self, context: ssl.SSLContext, binding: bytes) -> None:
        """Show another certificate from now on.  binding: of proofs to it (cap25519)."""
        self.binding = binding
        context.num_tickets = 0  # sessions are not resumed, so nothing is sent for that
        self._context = context

    async def greet(self, raw: sockets.socket, name: str) -> tuple[ssl.SSLSocket, str] | None:
        """The socket in TLS and the node at its other end, "" for a stranger; None if it was
        refused.

        raw: just accepted, closed here if it comes to nothing.  name: where it is from.
        """
        scope = trio.CancelScope(deadline=trio.current_time() + GREET_TIME)
        if len(self._greeted) >= MAX_GREETED:
            oldest = next(iter(self._greeted))
            del self._greeted[oldest]
            oldest.cancel()
        self._greeted[scope] = None
        with scope:
            found = await self._greet(raw, name)
        self._greeted.pop(scope, None)
        if scope.cancelled_caught:
            late = trio.current_time() >= scope.deadline
            self._refused(name, "it took too long" if late else "too many knock at once")
            return None
        return found

    async def _greet(self, raw: sockets.socket, name: str) -> tuple[ssl.SSLSocket, str] | None:
        sock: ssl.SSLSocket | None = None
        try:
            lively(raw)
            sock = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            await handshake(sock, self._threads)
            shown = shown_by(sock)
            if not shown:
                return sock, ""
            self._admit(shown)
            return sock, peer_name(shown)[2]
        except (OSError, CloudError) as error:
            self._refused(name, reason(error))
            if sock is not None:
                await _farewell(sock)
        except BaseException:
            (sock or raw).close()
            raise
        raw.close()
        return None

    def _refused(self, name: str, why: str) -> None:
        """Say so in the log, at most once in LOG_EVERY however many there are."""
        now = trio.current_time()
        self._unsaid += 1
        if now < self._quiet_until:
            return
        more = f", and {self._unsaid - 1} others" if self._unsaid > 1 else ""
        log.warning("a handshake from %s refused: %s%s", name, why, more)
        self._quiet_until, self._unsaid = now + LOG_EVERY, 0


async def _farewell(sock: ssl.SSLSocket) -> None:
    """Close it, and let the peer read why it was refused: closed over what it sent
    meanwhile, the connection would be reset and the alert lost."""
    with trio.move_on_after(FAREWELL), contextlib.suppress(OSError):
        plain = sockets.socket(fileno=sock.detach())
        with plain:
            plain.shutdown(sockets.SHUT_WR)
            while True:
                await trio.lowlevel.wait_readable(plain)
                if not plain.recv(RECORD):
                    return


class Secured(Connection):
    """A client in TLS.

    OpenSSL wants a send that it could not do given again, so what is not sent is kept as
    it is, and a record is what is sent at a time.
    """

    __slots__ = ()
    socket: ssl.SSLSocket

    def _make_room(self, sock: sockets.socket) -> None:
        """The system makes as much as the way to a node can carry, which may be long: with
        SEND_ROOM no more than 4 MB/s would go over one of 100 ms."""

    def receive(self) -> bytes:
        data = b""
        for _ in range(RECEIVE):
            try:
                more = self.socket.read(RECORD)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if data:
                    return data
                raise BlockingIOError from None
            data = data + more if data else more
            if len(more) < RECORD and not self.socket.pending():
                break
        return data

    def _transmit(self, out: Buffers, size: int) -> int:
        sent = 0
        if size <= JOINED:
            out[:] = [b"".join(out)]  # what is to be sent again must be in one piece again
        for part in out:
            count = send_some(self.socket, memoryview(part))
            sent += count
            if count < len(part):
                break
        return sent


def send_some(sock: ssl.SSLSocket, data: memoryview) -> int:
    """Send what goes without waiting; the number of bytes.  Raises OSError."""
    sent = 0
    while sent < len(data):
        try:
            sent += sock.write(data[sent : sent + RECORD])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            break
    return sent


# --- the side that calls --------------------------------------------------------------------


class Broken(trio.BrokenResourceError):
    """The connection is lost; `why` says how the other side ended it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Stream(trio.abc.Stream):
    """A connected TLS socket as a trio stream for one reader and one writer."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.socket = sock
        self.more = True  # whether there may be something to receive already

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self.more:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:  # an answer is mostly all there is
            await self._wait(trio.lowlevel.wait_readable)
        while True:
            data = self.receive_now()
            if data is not None:
                return data
            await self._wait(trio.lowlevel.wait_readable)

    def receive_now(self) -> bytes | None:
        """What has come, at most a record; None for nothing, b"" at the end.  Raises trio's
        errors."""
        try:
            data = self.socket.read(RECORD)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError) as error:  # ValueError: it was closed here
            raise self._broken(error) from error
        self.more = len(data) == RECORD or self.socket.pending() > 0
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send_now(rest) :]
            if rest:
                await self._wait(trio.lowlevel.wait_writable)

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what goes without waiting; the number of bytes, the rest of which is to
        be sent next.  Raises trio's errors."""
        try:
            return send_some(self.socket, memoryview(data))
        except (OSError, ValueError) as error:
            raise self._broken(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def aclose(self) -> None:
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    async def _wait(self, ready: Any) -> None:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError
        await ready(self.socket)

    def _broken(self, error: Exception) -> Exception:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError()
        return Broken(reason(error))


async def dial(
    host: str,
    port: int,
    context: ssl.SSLContext,
    node: str,
    threads: Threads,
    admit: Admit = everybody,
) -> Stream:
    """A connection in TLS to the node of that name, or with "" to whichever is there.

    Raises CloudError: `unreachable` where nobody answers or the other side refuses,
    `denied` where who answers is not that node of this cloud, `proto` where it speaks no TLS.
    """
    there = f"{node} at {host}:{port}" if node else f"{host}:{port}"
    try:
        found = await trio.open_tcp_stream(host, port)
    except OSError as error:
        why = error.strerror or "nobody answers"
        raise CloudError("unreachable", f"{there}: {why}") from None
    raw = sockets.socket(fileno=found.socket.detach())
    try:
        lively(raw)
        sock = context.wrap_socket(raw, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise
    try:
        await handshake(sock, threads)
        proved = node_of(sock)
        admit(shown_by(sock))
        if node not in ("", proved):
            raise CloudError("denied", f"{host}:{port} is node {proved}, not {node}")
    except BaseException as error:
        sock.close()
        if not isinstance(error, OSError):
            raise
        kind = "denied" if isinstance(error, ssl.SSLCertVerificationError) else "unreachable"
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            kind = "proto"
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in UNTIMELY:
            wrong = await _clocks(host, port, threads)
            if wrong is not None:
                raise CloudError(kind, f"{there}: {wrong}", "compare the clocks: date -u") from None
        raise CloudError(kind, f"{there}: {reason(error)}") from None
    return Stream(sock)


async def _clocks(host: str, port: int, threads: Threads) -> str | None:
    """What is to be said of a node whose certificate is not for this moment; None if it does
    not show it any more.  It is read over a connection that proves nothing."""
    try:
        stream = await dial(host, port, stranger_context(None), "", threads)
        async with stream:
            there = proof(shown_by(stream.socket))
    except CloudError:
        return None
    here = time.time()
    if here < there.made:
        late = span(there.made - here)
        return (
            f"this machine's clock is at least {late} behind that of {there.node}, whose"
            f" certificate was made {when(there.made)}; here it is {when(here)} (UTC)"
        )
    return (
        f"the certificate of {there.node} ran out {when(there.ends)}, and here it is"
        f" {when(here)} (UTC): either this machine's clock is ahead, or that node could not"
        " renew it"
    )
