"""Trains of datagrams between two nodes, by which one measures the ways to and from the other.

The other node opens a session by handing over an id, a key and its port within the TLS
connection (tree/train.py).  All datagrams begin with

    kind 1 | id 8 | train 2 | number 2 | length 2 | data | tag 8

whose tag is that of a keyed hash, BLAKE2b's, over all before it.  Trains have numbers that
grow, their cars numbers below the length.  There are three kinds:

    car   data: proof 8.  Filled up to CAR bytes.  The proof is made by chance, and in the last
          car only: who knows it, had the last car.
    got   data: cars 2 | nanoseconds 8 | proof 8 | cookie 8.  The answer to a train: how many
          came, in which time after the first clump.  Sent when the last one came or no more do.
    send  data: cookie 8.  Asks for a train of that length.  The cookie is one that a `got`
          brought to that address, so nobody can have trains sent to anyone else.

Who has no key gets no answer.  A session is bounded in trains, bytes and time, and so are the
sessions of one node and of all.  Times of what comes are the kernel's, so a busy loop changes
nothing; and a train leaves in one system call where the kernel cuts it up (UDP_SEGMENT).
"""

from __future__ import annotations

import errno
import hmac
import logging
import math
import os
import socket as sockets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from time import clock_gettime_ns

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.bandwidth import (
    CAR,
    CAR_ON_WIRE,
    LONGEST,
    MOST,
    SPAN,
    Measuring,
    Rate,
    Spread,
    believed,
    bound,
    spread,
)

KIND_CAR, KIND_GOT, KIND_SEND = 4, 5, 6
LIFE = 30.0  # seconds of a session
SESSIONS = 4  # that others may have here at a time
GAP = 2.0  # seconds between the beginnings of two of one node
EACH_MINUTE = 20  # sessions of all nodes
PINGS = 3  # single cars, for the time there and back
TRAINS = 64  # of one session, each way
QUIET = 0.25  # seconds after which the rest of a train is lost
PATIENCE = 0.8  # seconds for an answer, besides the ways there and back
UNKNOWN, KNOWN = 2.0, 4 * SPAN  # and besides what the train may take, before and after the first
MISSES = 3  # answers in a row that stay out: nothing comes through
ALL = 20.0  # seconds for a measurement
READ = 256  # bytes of a datagram that are looked at
TURN = 64  # datagrams taken before other tasks get their turn
BUFFER = 1 << 20  # bytes that may wait in the kernel
SO_TIMESTAMPNS = 35  # Linux, asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h
_HEAD = struct.Struct(">B8sHHH")
_GOT = struct.Struct(">HQ8s8s")
_STAMP = struct.Struct("qq")
_SIZE = struct.Struct("H")
_TAG = 8
_NOTHING = bytes(8)
_REALTIME = 0

Address = tuple[str, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Both:
    """What was measured: bytes/s there and back; sent: bytes on the wire, both ways."""

    there: Rate | None
    back: Rate | None
    sent: int


@dataclass(slots=True)
class Key:
    """What both ends of a session share."""

    id: bytes
    secret: bytes

    def frame(self, kind: int, train: int, number: int, length: int, data: bytes) -> bytes:
        text = _HEAD.pack(kind, self.id, train, number, length) + data
        return text + self._tag(text)

    def open(self, frame: bytes, size: int) -> bytes | None:
        """The data of a frame, which has so many bytes; None where the tag is wrong."""
        end = _HEAD.size + size
        text, tag = frame[:end], frame[end : end + _TAG]
        return text[_HEAD.size :] if hmac.compare_digest(tag, self._tag(text)) else None

    def train(self, train: int, length: int, proof: bytes) -> list[bytes]:
        """The cars of a train."""
        cars = [self.frame(KIND_CAR, train, n, length, _NOTHING) for n in range(length - 1)]
        cars.append(self.frame(KIND_CAR, train, length - 1, length, proof))
        filling = os.urandom(CAR - len(cars[0]))  # which nobody can press together
        return [car + filling for car in cars]

    def _tag(self, text: bytes) -> bytes:
        return blake2b(text, key=self.secret, digest_size=_TAG).digest()


class Arriving:
    """A train that comes."""

    def __init__(self, number: int, length: int) -> None:
        self.number = number
        self.length = length
        self.proof = _NOTHING
        self.over = False
        self.more = trio.Event()  # set with each car
        self._stamps: list[float] = []
        self._last = -1

    @property
    def came(self) -> int:
        return len(self._stamps)

    def take(self, number: int, proof: bytes, at: float) -> None:
        """A car; one that another has overtaken is left out."""
        if self.over or not self._last < number < self.length:
            return
        self._last = number
        self._stamps.append(at)
        if number == self.length - 1:
            self.proof, self.over = proof, True
        self.more.set()

    async def end(self) -> None:
        """Until it is over, or nothing came for a while."""
        while not self.over:
            self.more = trio.Event()
            with trio.move_on_after(QUIET) as waited:
                await self.more.wait()
            self.over = self.over or waited.cancelled_caught

    def spread(self) -> Spread | None:
        return spread(self._stamps)


@dataclass(slots=True)
class Session:
    """What another node may do here.  cookie: for who gets what is sent to `address`."""

    node: str
    key: Key
    until: float
    room: int = MOST + PINGS * CAR_ON_WIRE  # bytes that may still be sent
    last: int = -1  # number of the newest train that came
    asked: int = -1  # and of the newest that was asked for
    trains: int = 0
    arriving: Arriving | None = None
    cookie: bytes = b""
    address: Address = ("", 0)


@dataclass(slots=True)
class Asking:
    """This node's side of a session of another's."""

    key: Key
    address: Address
    answers: dict[int, tuple[float, bytes]] = field(default_factory=dict)
    came: trio.Event = field(default_factory=trio.Event)
    arriving: Arriving | None = None
    train: int = 0
    cookie: bytes = b""
    shortest: float = math.inf  # seconds for a single car there and its answer back


class Trains:
    """Both sides of all sessions of a node, and their socket."""

    def __init__(self) -> None:
        self._socket: sockets.socket | None = None
        self._sessions: dict[bytes, Session] = {}
        self._begun: list[float] = []  # when sessions began, in the last minute
        self._of: dict[str, float] = {}  # when that of a node did
        self._asking: dict[tuple[bytes, Address], Asking] = {}
        self._nursery: trio.Nursery | None = None
        self._cuts = True  # whether the kernel cuts trains up
        self.refused = 0  # datagrams that were not what they should be

    def listen(self, host: str, port: int = 0) -> bool:
        """Take a port; False, with its reason in the log, where that cannot be."""
        try:
            family, _, _, _, at = sockets.getaddrinfo(host, port, type=sockets.SOCK_DGRAM)[0]
            sock = sockets.socket(family, sockets.SOCK_DGRAM)
        except OSError as error:
            log.warning("no trains at %s: %s", host, error.strerror)
            return False
        try:
            sock.setblocking(False)
            for option, value in (
                (SO_TIMESTAMPNS, 1),
                (sockets.SO_RCVBUF, BUFFER),
                (sockets.SO_SNDBUF, BUFFER),
            ):
                sock.setsockopt(sockets.SOL_SOCKET, option, value)
            sock.bind(at)
        except OSError as error:
            sock.close()
            log.warning("no trains at %s: %s", host, error.strerror)
            return False
        self._socket = sock
        return True

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer, and hear answers, until cancelled."""
        sock = self._socket
        if sock is None:
            task_status.started()
            return
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    self._drain(sock)
        finally:
            self._socket = self._nursery = None
            sock.close()

    # --- sessions for others ------------------------------------------------------------------

    def offer(self, node: str) -> str:
        """A session for a node, as it is handed over.  Raises CloudError("again") where that
        would be too many, "unsupported" where no datagrams can come."""
        if self._nursery is None or self._socket is None:
            raise CloudError("unsupported", "this node takes no datagrams")
        now = trio.current_time()
        self._sessions = {id: s for id, s in self._sessions.items() if s.until > now}
        self._begun = [at for at in self._begun if at > now - 60]
        self._of = {name: at for name, at in self._of.items() if at > now - GAP}
        if len(self._sessions) >= SESSIONS or len(self._begun) >= EACH_MINUTE or node in self._of:
            why = "its ways are being measured by others, or were just now"
            raise CloudError("again", why, "try again in some seconds")
        self._begun.append(now)
        self._of[node] = now
        key = Key(os.urandom(8), os.urandom(32))
        self._sessions[key.id] = Session(node, key, now + LIFE)
        port = self._socket.getsockname()[1]
        return ndb.record({"port": port, "id": key.id.hex(), "key": key.secret.hex()})

    def withdraw(self, offered: str) -> None:
        """A session that was handed over is over."""
        self._sessions.pop(bytes.fromhex(ndb.parse(offered)["id"]), None)

    def _drain(self, sock: sockets.socket) -> None:
        for _ in range(TURN):
            try:
                data, more, _, address = sock.recvmsg(READ, 64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # what the network says of one sent before
                log.debug("trains: %s", error.strerror)
                continue
            if not self.take(data, _stamp(more), address[:2]):
                self.refused += 1

    def take(self, frame: bytes, at: float, address: Address) -> bool:
        """A datagram that came at a time.  Whether it was what it should be."""
        if len(frame) < _HEAD.size:
            return False
        kind, id, train, number, length = _HEAD.unpack_from(frame)
        asking = self._asking.get((id, address))
        if asking is not None:
            if kind == KIND_GOT:
                return _heard(asking, train, frame, at)
            return kind == KIND_CAR and _arrives(asking, train, number, frame, at)
        session = self._sessions.get(id)
        if session is None or session.until < trio.current_time():
            return False
        if kind == KIND_CAR:
            return self._car(session, train, number, length, frame, at, address)
        return kind == KIND_SEND and self._send_it(session, train, length, frame, address)

    def _car(
        self,
        session: Session,
        train: int,
        number: int,
        length: int,
        frame: bytes,
        at: float,
        address: Address,
    ) -> bool:
        proof = session.key.open(frame, 8)
        if proof is None or not 0 < length <= LONGEST:
            return False
        arriving = session.arriving
        if train > session.last:
            if session.trains >= TRAINS or self._nursery is None:
                return False
            session.trains += 1
            session.last = train
            arriving = session.arriving = Arriving(train, length)
            self._nursery.start_soon(self._settle, session, arriving, address)
        if arriving is None or arriving.number != train or arriving.length != length:
            return False
        arriving.take(number, proof, at)
        if arriving.over and number == length - 1:
            self._answer(session, arriving, address)
        return True

    async def _settle(self, session: Session, arriving: Arriving, address: Address) -> None:
        """Answer a train whose end was lost."""
        await arriving.end()
        self._answer(session, arriving, address)

    def _answer(self, session: Session, arriving: Arriving, address: Address) -> None:
        if session.arriving is not arriving:
            return  # it was answered
        session.arriving = None
        if session.address != address:
            session.address, session.cookie = address, os.urandom(8)
        found = arriving.spread()
        spent = 0 if found is None else round(found.seconds * 1e9)
        # How many came after the first clump, in how many nanoseconds.
        cars = arriving.came if found is None else found.size // CAR_ON_WIRE
        data = _GOT.pack(cars, spent, arriving.proof, session.cookie)
        self._send(
            session.key.frame(KIND_GOT, arriving.number, arriving.came, arriving.length, data),
            address,
        )

    def _send_it(
        self, session: Session, train: int, length: int, frame: bytes, address: Address
    ) -> bool:
        cookie = session.key.open(frame, 8)
        if (
            cookie is None
            or not session.cookie
            or not hmac.compare_digest(cookie, session.cookie)
            or session.address != address
            or train <= session.asked
            or not 0 < length <= LONGEST
            or length * CAR_ON_WIRE > session.room
        ):
            return False
        session.asked = train
        session.room -= length * CAR_ON_WIRE
        self._send_all(session.key.train(train, length, os.urandom(8)), address)
        return True

    # --- measuring ----------------------------------------------------------------------------

    async def measure(self, offered: str, host: str) -> Both:
        """Measure the ways to and from the node at a host (a number, not a name), in the
        session that it handed over.  Raises CloudError."""
        asking = self._ask(offered, host)
        self._asking[asking.key.id, asking.address] = asking
        there, back = Measuring(), Measuring()
        try:
            with trio.move_on_after(ALL):
                await self._ping(asking)
                claim = await self._there(asking, there)
                await self._back(asking, back)
                sent = there.sent + back.sent + PINGS * CAR_ON_WIRE
                return Both(claim, back.rate(), sent)
        finally:
            del self._asking[asking.key.id, asking.address]
        raise CloudError("timeout", f"measuring took longer than {ALL:g} s")

    def _ask(self, offered: str, host: str) -> Asking:
        try:
            pairs = ndb.parse(offered)
            id, secret = bytes.fromhex(pairs["id"]), bytes.fromhex(pairs["key"])
            port = int(pairs["port"])
        except (CloudError, KeyError, ValueError):
            raise CloudError("proto", "the other node opened no session for trains") from None
        if len(id) != 8 or len(secret) != 32 or not 0 < port < 1 << 16:
            raise CloudError("proto", "the other node opened no session for trains")
        if self._nursery is None:
            raise CloudError("unsupported", "this node sends no datagrams")
        return Asking(Key(id, secret), (host, port))

    async def _ping(self, asking: Asking) -> None:
        """The time that a single car takes."""
        for _ in range(PINGS):
            found = await self._one(asking, 1, KNOWN)
            if found is not None and found.proved and found.seconds > 0:
                asking.shortest = min(asking.shortest, found.seconds)
        if asking.shortest == math.inf:
            host, port = asking.address
            why = f"no datagram came through to {host} port {port} and back"
            raise CloudError("unreachable", why, "have UDP between nodes let through")

    async def _there(self, asking: Asking, way: Measuring) -> Rate | None:
        """Send trains; what the other node says of them, as far as the own clock allows."""
        seen: list[Spread] = []
        misses = 0
        while misses < MISSES and (length := way.next()):
            found = await self._one(asking, length, KNOWN if way.trains else UNKNOWN)
            misses = 0 if found is not None else misses + 1
            if found is None:
                way.took(None, length, 0)
            elif not found.proved or found.train is None:
                way.took(None, length, found.came)
            else:
                way.took(found.train, length, found.came)
                passed = (length - 1) * CAR_ON_WIRE
                seen.append(Spread(passed, found.seconds))
        rate = way.rate()
        return None if rate is None else bound(rate, seen, asking.shortest)

    async def _one(self, asking: Asking, length: int, takes: float) -> Answer | None:
        """Send a train, which takes so many seconds at most; the answer to it, None where
        none came."""
        asking.train += 1
        number, proof = asking.train, os.urandom(8)
        cars = asking.key.train(number, length, proof)
        asking.came = trio.Event()
        start = clock_gettime_ns(_REALTIME) / 1e9
        self._send_all(cars, asking.address)
        with trio.move_on_after(_patience(asking) + takes):
            while number not in asking.answers:
                await asking.came.wait()
                asking.came = trio.Event()
        if number not in asking.answers:
            return None
        at, frame = asking.answers.pop(number)
        came = _HEAD.unpack_from(frame)[3]
        after, nanoseconds, had, asking.cookie = _GOT.unpack_from(frame, _HEAD.size)
        train = believed(after * CAR_ON_WIRE, nanoseconds / 1e9) if after < length else None
        return Answer(at - start, train, min(came, length), hmac.compare_digest(had, proof))

    async def _back(self, asking: Asking, way: Measuring) -> None:
        """Have trains sent here."""
        misses = 0
        while misses < MISSES and (length := way.next()):
            asking.train += 1
            arriving = asking.arriving = Arriving(asking.train, length)
            ask = asking.key.frame(KIND_SEND, asking.train, 0, length, asking.cookie)
            arriving.more = trio.Event()
            self._send(ask, asking.address)
            with trio.move_on_after(_patience(asking)):
                await arriving.more.wait()
            if arriving.came:
                await arriving.end()
            misses = 0 if arriving.came else misses + 1
            way.took(arriving.spread(), length, arriving.came)
        asking.arriving = None

    # --- sending ------------------------------------------------------------------------------

    def _send(self, frame: bytes, address: Address) -> None:
        """What does not go now is lost, as datagrams may be."""
        if self._socket is not None:
            try:
                self._socket.sendto(frame, address)
            except OSError as error:
                log.debug("a datagram to %s: %s", address, error.strerror)

    def _send_all(self, cars: Sequence[bytes], address: Address) -> None:
        """All at once, where that can be done."""
        if self._socket is None:
            return
        if self._cuts and len(cars) > 1:
            how = [(sockets.IPPROTO_UDP, UDP_SEGMENT, _SIZE.pack(CAR))]
            try:
                self._socket.sendmsg([b"".join(cars)], how, 0, address)
                return
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT):
                    self._cuts = False  # an old kernel, or a card that cannot
        for car in cars:
            self._send(car, address)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a train: seconds from its sending to the answer; what the other node
    says of it, and whether it proved to have had the last car."""

    seconds: float
    train: Spread | None
    came: int
    proved: bool


def _patience(asking: Asking) -> float:
    """Seconds for the way there and back."""
    return PATIENCE + (0.0 if asking.shortest == math.inf else 2 * asking.shortest)


def _heard(asking: Asking, train: int, frame: bytes, at: float) -> bool:
    """An answer to a train."""
    if train != asking.train or train in asking.answers:
        return False
    if asking.key.open(frame, _GOT.size) is None:
        return False
    asking.answers[train] = at, frame
    asking.came.set()
    return True


def _arrives(asking: Asking, train: int, number: int, frame: bytes, at: float) -> bool:
    """A car of a train that was asked for."""
    arriving = asking.arriving
    if arriving is None or arriving.number != train:
        return False
    proof = asking.key.open(frame, 8)
    if proof is None:
        return False
    arriving.take(number, proof, at)
    return True


def _stamp(more: list[tuple[int, int, bytes]]) -> float:
    """When the kernel received a datagram, in seconds of the machine's clock."""
    for level, kind, data in more:
        if level == sockets.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            return float(seconds) + float(nanoseconds) / 1e9
    return clock_gettime_ns(_REALTIME) / 1e9
