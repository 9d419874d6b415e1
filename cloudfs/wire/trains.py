"""Trains of datagrams between two nodes, by which one measures the ways to and from the other.

They pass between the sockets of datagrams.py.  The other node opens a session by handing over
an id, a key and its port within the TLS connection (tree/train.py).  All datagrams begin with

    kind 1 | id 8 | train 2 | number 2 | length 2 | data | tag 8

whose tag is that of a keyed hash, BLAKE2b's, over all before it.  Trains have numbers that
grow, their cars numbers below the length.  There are three kinds:

    car   data: proof 8.  Filled up to CAR bytes.  The proof is made by chance, and in the last
          car only: who knows it, had the last car.
    got   data: proof 8 | cookie 8 | stamps 4 each.  The answer to a train, which has as its
          number how many cars came: when they did, in TICKs since the first.  Sent when the
          last one came, or when no more do; then the proof is zeros.
    send  data: cookie 8.  Asks for a train of that length.  The cookie is one that a `got`
          brought to that address, so nobody can have trains sent to anyone else.

Who has no key gets no answer.  A session is bounded in trains, bytes and time, and so are the
sessions of one node and of all.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from time import clock_gettime_ns

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.api import OREAD, Who
from cloudfs.tree.probe import itself
from cloudfs.tree.train import CAR, LONGEST, ROOM
from cloudfs.wire.call import Call
from cloudfs.wire.datagrams import Datagrams
from cloudfs.wire.echo import host_of
from cloudfs.wire.far import reach
from cloudfs.wire.imports import Pool

KIND_CAR, KIND_GOT, KIND_SEND = 4, 5, 6
LIFE = 30.0  # seconds of a session
SESSIONS = 4  # that others may have here at a time
GAP = 2.0  # seconds between the beginnings of two of one node
EACH_MINUTE = 20  # sessions of all nodes
TRAINS = 64  # of one session, that come here
QUIET = 0.25  # seconds after which the rest of a train is lost
TICK = 1e-7  # seconds
OPEN = 3.0  # seconds to open the file, connected to first if need be
PATH = ("net", "train")
OFFERED = 256  # bytes at most
_HEAD = struct.Struct(">B8sHHH")
_TAG = 8
_NOTHING = bytes(8)
_MOST_TICKS = 2**32 - 1
_REALTIME = 0

Address = tuple[str, int]


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
        self.stamps: list[float] = []
        self._last = -1

    def take(self, number: int, proof: bytes, at: float) -> None:
        """A car; one that another has overtaken is left out."""
        if self.over or not self._last < number < self.length:
            return
        self._last = number
        self.stamps.append(at)
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


@dataclass(slots=True)
class Session:
    """What another node may do here.  cookie: for who gets what is sent to `address`."""

    node: str
    key: Key
    until: float
    room: int = ROOM  # cars that may still be sent
    last: int = -1  # number of the newest train that came
    asked: int = -1  # and of the newest that was asked for
    trains: int = 0
    arriving: Arriving | None = None
    cookie: bytes = b""
    address: Address = ("", 0)


class Asking:
    """This node's side of a session of another's; see kernel/gauge.py's `Session`."""

    def __init__(self, datagrams: Datagrams, key: Key, address: Address) -> None:
        self.key = key
        self.address = address
        self._datagrams = datagrams
        self._train = 0
        self._cookie = bytes(8)
        self._answer: tuple[float, int, bytes] | None = None  # of this train: when, cars, data
        self._came = trio.Event()
        self._arriving: Arriving | None = None

    async def send(self, length: int, seconds: float) -> tuple[float, list[float], bool] | None:
        """Send a train.  After how long the answer came; when the other node says that the
        cars did; whether it proved that it had the last one.  None: no answer in time."""
        self._train += 1
        proof = os.urandom(8)
        cars = self.key.train(self._train, length, proof)
        self._answer, self._came = None, trio.Event()
        start = clock_gettime_ns(_REALTIME) / 1e9
        self._datagrams.send_all(cars, self.address)
        with trio.move_on_after(seconds):
            await self._came.wait()
        if self._answer is None:
            return None
        at, count, data = self._answer
        had, self._cookie = data[:8], data[8:16]
        stamps = [tick * TICK for tick in struct.unpack(f">{count}I", data[16:])]
        return at - start, stamps[:length], hmac.compare_digest(had, proof)

    async def fetch(self, length: int, seconds: float) -> list[float]:
        """Have a train sent here, of which the first car comes within so many seconds; when
        its cars came."""
        self._train += 1
        arriving = self._arriving = Arriving(self._train, length)
        ask = self.key.frame(KIND_SEND, self._train, 0, length, self._cookie)
        self._datagrams.send(ask, self.address)
        with trio.move_on_after(seconds):
            await arriving.more.wait()
        if arriving.stamps:
            await arriving.end()
        self._arriving = None
        return arriving.stamps

    def take(self, kind: int, train: int, number: int, frame: bytes, at: float) -> bool:
        """A datagram of the other node.  Whether it was what it should be."""
        if kind == KIND_GOT:
            if train != self._train or self._answer is not None or number > LONGEST:
                return False
            data = self.key.open(frame, 16 + 4 * number)
            if data is None:
                return False
            self._answer = at, number, data
            self._came.set()
            return True
        arriving = self._arriving
        if kind != KIND_CAR or arriving is None or arriving.number != train:
            return False
        proof = self.key.open(frame, 8)
        if proof is None:
            return False
        arriving.take(number, proof, at)
        return True


class Trains:
    """Both sides of all sessions of a node, which is called `node`."""

    def __init__(self, node: str, pool: Pool, datagrams: Datagrams) -> None:
        self._who = Who(itself(node), None)
        self._pool = pool
        self._datagrams = datagrams
        datagrams.others.update(dict.fromkeys((KIND_CAR, KIND_GOT, KIND_SEND), self._take))
        self._sessions: dict[bytes, Session] = {}
        self._begun: list[float] = []  # when sessions began, in the last minute
        self._of: dict[str, float] = {}  # when that of a node did
        self._asking: dict[tuple[bytes, Address], Asking] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- sessions for others ------------------------------------------------------------------

    def offer(self, node: str) -> str:
        """A session for a node, as it is handed over.  Raises CloudError("again") where that
        would be too many, "unsupported" where no datagrams can come."""
        if self._nursery is None or not self._datagrams.port:
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
        port = self._datagrams.port
        return ndb.record({"port": port, "id": key.id.hex(), "key": key.secret.hex()})

    def withdraw(self, offered: str) -> None:
        """A session that was handed over is over."""
        self._sessions.pop(bytes.fromhex(ndb.parse(offered)["id"]), None)

    def _take(self, frame: bytes, at: float, address: Address) -> bool:
        """A datagram that came at a time.  Whether it was what it should be."""
        if len(frame) < _HEAD.size:
            return False
        kind, id, train, number, length = _HEAD.unpack_from(frame)
        asking = self._asking.get((id, address))
        if asking is not None:
            return asking.take(kind, train, number, frame, at)
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
        if proof is None or not number < length <= LONGEST:
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
        count, first = len(arriving.stamps), arriving.stamps[0]
        ticks = [min(max(round((at - first) / TICK), 0), _MOST_TICKS) for at in arriving.stamps]
        data = arriving.proof + session.cookie + struct.pack(f">{count}I", *ticks)
        answer = session.key.frame(KIND_GOT, arriving.number, count, arriving.length, data)
        self._datagrams.send(answer, address)

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
            or length > session.room
        ):
            return False
        session.asked = train
        session.room -= length
        cars = session.key.train(train, length, os.urandom(8))
        self._datagrams.send_all(cars, address)
        return True

    # --- measuring ----------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self, node: str) -> AsyncIterator[Asking]:
        """A session of another node.  Raises CloudError."""
        root = await self._pool.root(node, self._who)
        file, (opened, (offered,)) = await reach(
            root,
            PATH,
            lambda file: [file.to_open(OREAD), Call("Tread", file.fid, 0, OFFERED)],
            OPEN,
        )
        file.opened(*opened)
        try:
            with self.asking(bytes(offered).decode(errors="replace"), host_of(file)) as asking:
                yield asking
        finally:
            file.drop()

    @contextmanager
    def asking(self, offered: str, host: str) -> Iterator[Asking]:
        """This side of a session that the node at a host (a number, not a name) handed over.
        Raises CloudError."""
        try:
            pairs = ndb.parse(offered)
            id, secret = bytes.fromhex(pairs["id"]), bytes.fromhex(pairs["key"])
            port = int(pairs["port"])
        except (CloudError, KeyError, ValueError):
            raise CloudError("proto", "the other node opened no session for trains") from None
        if len(id) != 8 or len(secret) != 32 or not 0 < port < 1 << 16:
            raise CloudError("proto", "the other node opened no session for trains")
        if self._nursery is None or not self._datagrams.port:
            raise CloudError("unsupported", "this node sends no datagrams")
        made = Asking(self._datagrams, Key(id, secret), (host, port))
        self._asking[id, made.address] = made
        try:
            yield made
        finally:
            del self._asking[id, made.address]
