"""Probes as datagrams: cheaper and more exact than within a connection, and as authentic.

The node that is to be probed hands over an id, a key and its port through the TLS connection
(tree/probe.py).  Each datagram is

    kind 1 | id 8 | number 8 | sealed by ChaCha20-Poly1305: a probe's data, or nothing

whose nonce is the kind and the number, and which is authentic with its head.  There are three:
ping, pong and answer; the last two have the ping's number.  Pings are taken once each and in
order, the others only where they are due, so nothing can be played again; who does not have the
key gets no reply, and no reply is longer than what asked for it.

Times are the kernel's for what comes in, so a busy loop makes no way longer on the side that
measures.  Datagrams of other kinds, those of trains.py, pass through the same socket.
"""

from __future__ import annotations

import errno
import logging
import os
import socket as sockets
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import clock_gettime_ns, monotonic

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.probe import Answering

PING, PONG, ANSWER = 1, 2, 3
MOST = 256  # bytes of a datagram that are looked at
BUFFER = 1 << 20  # bytes that may wait in the kernel
OFFERS = 4096  # keys handed out that hold, the oldest of which make room
OUTSTANDING = 16  # pings of one key whose answer has no answer yet
RATE, BURST = 16.0, 32.0  # pings of one key that are answered: a second, and at once
TURN = 64  # datagrams taken before other tasks get their turn
SO_TIMESTAMPNS = 35  # Linux, asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h
UNABLE = (errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT)  # to cut up
_HEAD = struct.Struct(">B8sQ")
_NONCE = struct.Struct(">IQ")
_STAMP = struct.Struct("qq")
_SIZE = struct.Struct("H")
_REALTIME = 0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Key:
    """What both ends of one way share."""

    id: bytes
    cipher: ChaCha20Poly1305

    def seal(self, kind: int, number: int, data: bytes) -> bytes:
        head = _HEAD.pack(kind, self.id, number)
        return head + self.cipher.encrypt(_NONCE.pack(kind, number), data, head)

    def open(self, kind: int, number: int, datagram: bytes) -> bytes | None:
        """The data of a datagram; None where it was not sealed with this key."""
        head, sealed = datagram[: _HEAD.size], datagram[_HEAD.size :]
        try:
            return self.cipher.decrypt(_NONCE.pack(kind, number), sealed, head)
        except InvalidTag:
            return None


@dataclass(slots=True)
class Offer:
    """A key that was handed to a node, which may probe with it."""

    node: str
    key: Key
    last: int = 0  # number of the newest ping
    sent: OrderedDict[int, tuple[bytes, float]] = field(default_factory=OrderedDict)
    room: float = BURST
    filled: float = 0.0

    def takes(self, now: float) -> bool:
        """Whether one more ping may be answered."""
        self.room = min(BURST, self.room + (now - self.filled) * RATE)
        self.filled = now
        if self.room < 1:
            return False
        self.room -= 1
        return True


class Asking:
    """This node's side of a key that another one handed out."""

    def __init__(self, datagrams: Datagrams, key: Key, address: tuple[str, int]) -> None:
        self.key = key
        self.address = address
        self.waiting: dict[int, tuple[float, trio.Event]] = {}
        self.answers: dict[int, tuple[float, bytes]] = {}
        self._datagrams = datagrams
        self._number = 0

    async def ping(self, data: bytes, seconds: float) -> tuple[float, bytes] | None:
        """Seconds there and back and the pong's data; None without a pong in time."""
        self._number += 1
        number, came = self._number, trio.Event()
        frame = self.key.seal(PING, number, data)
        self.waiting[number] = clock_gettime_ns(_REALTIME) / 1e9, came
        try:
            self._datagrams.send(frame, self.address)
            with trio.move_on_after(seconds):
                await came.wait()
        finally:
            del self.waiting[number]
        return self.answers.pop(number, None)

    def close(self) -> None:
        self._datagrams.forget(self)


class Datagrams:
    """The one socket of a node.  It offers nothing and asks nothing before `listen`."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._socket: sockets.socket | None = None
        self._cuts = True  # whether the kernel cuts up what is sent as one
        # What takes datagrams of other kinds: the bytes, the time, from where.
        self.others: dict[int, Callable[[bytes, float, tuple[str, int]], bool]] = {}
        self._offers: OrderedDict[bytes, Offer] = OrderedDict()
        self._asking: dict[tuple[bytes, tuple[str, int]], Asking] = {}
        self.refused = 0  # datagrams that were not what they should be

    def listen_near(self, host: str, port: int) -> None:
        """Take that port, or any: others are told which it is."""
        if not self.listen(host, port):
            self.listen(host, 0)

    def listen(self, host: str, port: int) -> bool:
        """Take a port; False, with its reason in the log, where that cannot be."""
        try:
            found = sockets.getaddrinfo(host, port, type=sockets.SOCK_DGRAM)
            sock = sockets.socket(found[0][0], sockets.SOCK_DGRAM)
        except OSError as error:
            log.warning("no datagrams at %s:%d: %s", host, port, error.strerror)
            return False
        try:
            sock.setblocking(False)
            sock.setsockopt(sockets.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, BUFFER)
            sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, BUFFER)
            sock.bind(found[0][4])
        except OSError as error:
            sock.close()
            log.warning("no datagrams at %s:%d: %s", host, port, error.strerror)
            return False
        self._socket = sock
        return True

    async def run(self) -> None:
        """Answer until cancelled."""
        sock = self._socket
        if sock is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                self._drain(sock)
        finally:
            self._socket = None
            sock.close()

    @property
    def port(self) -> int:
        """Where they come; 0 for nowhere."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    def send_all(self, frames: Sequence[bytes], address: tuple[str, int]) -> None:
        """Send frames of one size at once: in one call where the kernel cuts them up."""
        if self._socket is not None and self._cuts and len(frames) > 1:
            how = [(sockets.IPPROTO_UDP, UDP_SEGMENT, _SIZE.pack(len(frames[0])))]
            try:
                self._socket.sendmsg([b"".join(frames)], how, 0, address)
                return
            except OSError as error:
                self._cuts = error.errno not in UNABLE
        for frame in frames:
            self.send(frame, address)

    def send(self, frame: bytes, address: tuple[str, int]) -> None:
        """What does not go now is lost, as datagrams may be."""
        if self._socket is not None:
            try:
                self._socket.sendto(frame, address)
            except OSError as error:
                log.debug("a datagram to %s: %s", address, error.strerror)

    # --- keys ---------------------------------------------------------------------------------

    def offer(self, node: str) -> str:
        """A new key for a node, as it is handed over; "" where datagrams cannot come."""
        if self._socket is None:
            return ""
        id, secret = os.urandom(8), ChaCha20Poly1305.generate_key()
        self._offers[id] = Offer(node, Key(id, ChaCha20Poly1305(secret)))
        if len(self._offers) > OFFERS:
            self._offers.popitem(last=False)
        return ndb.record({"port": self.port, "id": id.hex(), "key": secret.hex()})

    def withdraw(self, offered: str) -> None:
        """A key that was handed over holds no more."""
        if offered:
            self._offers.pop(bytes.fromhex(ndb.parse(offered)["id"]), None)

    def ask(self, offered: str, host: str) -> Asking | None:
        """The use of a key that the node at a host handed over; None where it is none.
        host: a number, not a name."""
        if self._socket is None or not offered:
            return None
        try:
            pairs = ndb.parse(offered)
            id, secret, port = bytes.fromhex(pairs["id"]), pairs["key"], int(pairs["port"])
            key = Key(id, ChaCha20Poly1305(bytes.fromhex(secret)))
        except (CloudError, KeyError, ValueError):
            return None
        if len(id) != 8 or not 0 < port < 1 << 16:
            return None
        made = self._asking[id, (host, port)] = Asking(self, key, (host, port))
        return made

    def forget(self, asking: Asking) -> None:
        self._asking.pop((asking.key.id, asking.address), None)

    # --- what comes ---------------------------------------------------------------------------

    def _drain(self, sock: sockets.socket) -> None:
        for _ in range(TURN):
            try:
                data, more, _, address = sock.recvmsg(MOST, 64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # what the network says of one sent before
                log.debug("datagrams: %s", error.strerror)
                continue
            if not self._take(data, _stamp(more), address[:2]):
                self.refused += 1

    def _take(self, data: bytes, at: float, address: tuple[str, int]) -> bool:
        """One datagram that came at a time.  Whether it was what it should be."""
        if len(data) < _HEAD.size:
            return False
        kind, id, number = _HEAD.unpack_from(data)
        other = self.others.get(kind)
        if other is not None:
            return other(data, at, address)
        if kind == PONG:
            asking = self._asking.get((id, address))
            return asking is not None and self._pong(asking, number, data, at)
        offer = self._offers.get(id)
        if offer is None:
            return False
        if kind == PING:
            return self._ping(offer, number, data, address)
        return kind == ANSWER and self._answer(offer, number, data, at)

    def _ping(self, offer: Offer, number: int, data: bytes, address: tuple[str, int]) -> bool:
        if number <= offer.last:
            return False
        ping = offer.key.open(PING, number, data)
        if ping is None or not offer.takes(monotonic()):
            return False
        try:
            pong = self._answering.pong(ping)
        except CloudError:
            return False
        offer.last = number
        if len(offer.sent) >= OUTSTANDING:
            offer.sent.popitem(last=False)
        frame = offer.key.seal(PONG, number, pong)
        offer.sent[number] = ping, clock_gettime_ns(_REALTIME) / 1e9
        self.send(frame, address)
        return True

    def _pong(self, asking: Asking, number: int, data: bytes, at: float) -> bool:
        waiting = asking.waiting.get(number)
        pong = asking.key.open(PONG, number, data) if waiting is not None else None
        if waiting is None or pong is None or number in asking.answers:
            return False
        self.send(asking.key.seal(ANSWER, number, b""), asking.address)
        sent, came = waiting
        asking.answers[number] = at - sent, pong
        came.set()
        return True

    def _answer(self, offer: Offer, number: int, data: bytes, at: float) -> bool:
        if number not in offer.sent or offer.key.open(ANSWER, number, data) is None:
            return False
        ping, sent = offer.sent.pop(number)
        self._answering.answered(offer.node, ping, at - sent)
        return True


def _stamp(more: list[tuple[int, int, bytes]]) -> float:
    """When the kernel received a datagram, in seconds of the machine's clock."""
    for level, kind, data in more:
        if level == sockets.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            return float(seconds) + float(nanoseconds) / 1e9
    return clock_gettime_ns(_REALTIME) / 1e9
