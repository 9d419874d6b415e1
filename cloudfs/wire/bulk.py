"""Many files of another node read in bulk: in a thread, over a connection of its own.

    here                                    there
    Tversion, Tattach to its own directory
    Twalk to the folder
    in each of WINDOW slots, again and again:
      Tclunk (of the one before), Twalk to a file, Topen, Tread
                                        →   Rclunk, Rwalk, Ropen, Rread

What comes is decrypted and put where it belongs by the thread, so that a gigabyte takes
little from the loop's other work, and small requests to the same node wait behind none of
it.  A file is read by one Tread: what does not fit a frame is cut off.  When whoever asked
is cancelled the socket is shut down, which ends the thread.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import trio

from cloudfs.errors import CloudError, from_errno
from cloudfs.factotum import p9any
from cloudfs.wire import tls
from cloudfs.wire.codec import HEAD, HEAD_SIZE, BadMessage, codec
from cloudfs.wire.messages import MAX_WALK, NODES, NOFID, NOTAG, READ_HEAD
from cloudfs.wire.ops import OWN
from cloudfs.wire.prove import STEPS as STEPS_OF_PROOF

FRAME = 1 << 20  # bytes of a frame asked for
AFID = 0x7FFFFFFF  # of a proof; far from those of slots
WINDOW = 4  # files under way
ROOT, FOLDER, FIRST = 0, 1, 2  # fids; the last is that of the first slot
STEPS = ("Rclunk", "Rwalk", "Ropen", "Rread")  # of a slot; its tags are its fid * 4 and on

Take = Callable[[str, memoryview], None]


class Bulk:
    """A connection over which files of one folder are read.

    stream: to the node of that name, this object's from now on.  user: as whom.  folder:
    the names on the way from its own directory.  seconds: that it may be silent while it
    owes an answer.  threads: how many there may be for this, apart from those for what is
    short.  talk: proves that this node acts for the user, where that is to be proved.
    """

    def __init__(
        self,
        stream: tls.Stream,
        node: str,
        user: str,
        folder: Sequence[str],
        seconds: float,
        threads: trio.CapacityLimiter | None = None,
        talk: p9any.Client | None = None,
    ) -> None:
        self._socket: ssl.SSLSocket = stream.socket
        self._socket.settimeout(seconds)
        self._name = f"node {node}"
        self._threads = threads
        self._user = user
        self._talk = talk
        self._folder = list(folder)
        self._codec = codec("u")
        self._buffer = memoryview(b"")  # the body of the last message; b"" before the first
        self._over = False  # whether the thread has ended
        self._used: set[int] = set()  # slots whose fid is to be let go of

    async def read(self, names: Iterator[str], take: Take) -> None:
        """Read files.  take: is given each as it comes, its name and what is in it, which
        holds for as long as take runs; it is called in a thread, and so is names.

        Raises CloudError: what the node said, `timeout`, `unreachable`, `proto`, or what
        take raised.  The connection is of no use then.
        """
        failed: list[Exception] = []
        self._over = False

        def work() -> None:
            try:
                self._read(names, take)
            except Exception as error:
                failed.append(error)  # as it is: a nursery would wrap it

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_off)
            await trio.to_thread.run_sync(work, limiter=self._threads)
            self._over = True
            nursery.cancel_scope.cancel()
        if failed:
            raise failed[0]

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    async def _cut_off(self) -> None:
        """End the thread when whoever asked is cancelled."""
        try:
            await trio.sleep_forever()
        finally:
            if not self._over:
                with contextlib.suppress(OSError):  # that of TLS changes what the thread uses
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    # --- in the thread --------------------------------------------------------------------

    def _read(self, names: Iterator[str], take: Take) -> None:
        try:
            if not self._buffer:
                self._begin()
            self._read_all(names, take)
        except TimeoutError:
            raise CloudError("timeout", f"{self._name} does not answer") from None
        except BadMessage as error:
            raise CloudError("proto", f"{self._name} does not speak 9P: {error.why}") from None
        except OSError as error:
            raise CloudError("unreachable", f"{self._name}: {tls.reason(error)}") from None

    def _begin(self) -> None:
        encode, send = self._codec.encode, self._socket.sendall
        self._buffer = memoryview(bytearray(FRAME))
        send(encode["Tversion"](NOTAG, FRAME, NODES))
        if self._answer("Rversion", NOTAG) != (FRAME, NODES):
            raise BadMessage("it speaks another one")
        afid = self._prove(self._talk) if self._talk is not None else NOFID
        send(encode["Tattach"](0, ROOT, afid, self._user, OWN, NOFID))
        self._answer("Rattach", 0)
        assert len(self._folder) <= MAX_WALK
        send(encode["Twalk"](0, ROOT, FOLDER, self._folder))
        (qids,) = self._answer("Rwalk", 0)
        if len(qids) < len(self._folder):
            raise CloudError("absent", f"{self._name} has no {'/'.join(self._folder)}")

    def _prove(self, talk: p9any.Client) -> int:
        """The conversation on an afid (wire/prove.py); its number."""
        encode, send = self._codec.encode, self._socket.sendall
        send(encode["Tauth"](0, AFID, self._user, OWN, NOFID))
        self._answer("Rauth", 0)
        for _ in range(STEPS_OF_PROOF):
            if talk.state == "done":
                break
            message = talk.read()
            if message:
                send(encode["Twrite"](0, AFID, 0, message))
                self._answer("Rwrite", 0)
            else:
                send(encode["Tread"](0, AFID, 0, p9any.MOST))
                (data,) = self._answer("Rread", 0)
                talk.write(bytes(data))
        return AFID

    def _read_all(self, names: Iterator[str], take: Take) -> None:
        reading: dict[int, str] = {}  # slot → the file's name
        for slot in range(FIRST, FIRST + WINDOW):
            self._ask(slot, names, reading)
        while reading:
            slot, data = self._next(reading)
            name = reading.pop(slot)
            self._ask(slot, names, reading)
            take(name, data)

    def _ask(self, slot: int, names: Iterator[str], reading: dict[int, str]) -> None:
        name = next(names, None)
        if name is None:
            return
        encode, tag = self._codec.encode, slot * 4
        frames = [encode["Tclunk"](tag, slot)] if slot in self._used else []
        frames += [
            encode["Twalk"](tag + 1, FOLDER, slot, [name]),
            encode["Topen"](tag + 2, slot, 0),
            encode["Tread"](tag + 3, slot, 0, FRAME - READ_HEAD),
        ]
        self._used.add(slot)
        reading[slot] = name
        self._socket.sendall(b"".join(frames))

    def _next(self, reading: dict[int, str]) -> tuple[int, memoryview]:
        """The next file that has come: its slot, and what is in it."""
        while True:
            number, tag, body = self._message()
            slot, step = divmod(tag, 4)
            if slot not in reading:
                raise BadMessage(f"an answer to tag {tag}, which asked nothing")
            if STEPS[step] != self._codec.name.get(number):
                self._fields(number, body, STEPS[step])
            if STEPS[step] == "Rread":
                if int.from_bytes(body[:4], "little") != len(body) - 4:
                    raise BadMessage("an Rread of another size than it says")
                return slot, body[4:]

    def _answer(self, wanted: str, tag: int) -> tuple[Any, ...]:
        number, told, body = self._message()
        if told != tag:
            raise BadMessage(f"an answer to tag {told}, which asked nothing")
        return self._fields(number, body, wanted)

    def _fields(self, number: int, body: memoryview, wanted: str) -> tuple[Any, ...]:
        """The fields of a message; of an error and of all that is not wanted it is raised."""
        name, fields = self._codec.body(number, bytes(body), 0, len(body))
        if name == "Rerror":
            error = from_errno(fields[1])
            error.why, _, error.fix = fields[0].partition("\n")
            raise error
        if name != wanted:
            raise BadMessage(f"{name} where {wanted} was to come")
        return fields

    def _message(self) -> tuple[int, int, memoryview]:
        """Number, tag and body of the next message; the body lies in _buffer."""
        size, number, tag = HEAD.unpack(self._receive(HEAD_SIZE))
        if not HEAD_SIZE <= size <= FRAME:
            raise BadMessage(f"a frame of {size} bytes")
        return number, tag, self._receive(size - HEAD_SIZE)

    def _receive(self, size: int) -> memoryview:
        data, at = self._buffer[:size], 0
        while at < size:
            count = self._socket.recv_into(data[at:])
            if not count:
                raise CloudError("unreachable", f"{self._name} closed the connection")
            at += count
        return data
