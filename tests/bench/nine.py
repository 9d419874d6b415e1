"""A 9P2000.L client of a few lines that waits for each answer: it sets a bench up, and
sends what no good client would."""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import TracebackType

NOFID = 0xFFFFFFFF
TLOPEN, RLERROR, TLOCK, TVERSION, TATTACH, TFLUSH = 12, 7, 52, 100, 104, 108
TWALK, TREAD, TWRITE, TCLUNK = 110, 116, 118, 120


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<H", len(data)) + data


def frame(kind: int, tag: int, body: bytes) -> bytes:
    return struct.pack("<IBH", 7 + len(body), kind, tag) + body


class Nine:
    """One connection to a unix socket, attached with fid 0.

    Raises OSError with the server's errno where it answers Rlerror.
    """

    def __init__(self, address: str, msize: int = 65536, timeout: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.iounit = msize - 24
        self.call(TVERSION, struct.pack("<I", msize) + text("9P2000.L"), 0xFFFF)
        name = text("root" if os.getuid() == 0 else "user")
        body = struct.pack("<II", 0, NOFID) + name + text("") + struct.pack("<I", os.getuid())
        self.call(TATTACH, body)

    def __enter__(self) -> Nine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, kind: int, tag: int, body: bytes) -> None:
        self.socket.sendall(frame(kind, tag, body))

    def receive(self) -> tuple[int, int, bytes]:
        """The next reply: type, tag, body."""
        size, kind, tag = struct.unpack("<IBH", self._exactly(7))
        return kind, tag, self._exactly(size - 7)

    def call(self, kind: int, body: bytes, tag: int = 0) -> bytes:
        self.send(kind, tag, body)
        answer, _, rest = self.receive()
        if answer == RLERROR:
            number = struct.unpack_from("<I", rest)[0]
            raise OSError(number, f"{os.strerror(number)} in answer to a message of type {kind}")
        if answer != kind + 1:
            raise OSError(errno.EPROTO, f"a reply of type {answer} to a message of type {kind}")
        return rest

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.socket.recv(min(count, 1 << 20))
            if not part:
                raise OSError(errno.ECONNRESET, "the server hung up")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def walk(self, path: str, fid: int) -> None:
        names = [name for name in path.split("/") if name]
        body = struct.pack("<IIH", 0, fid, len(names)) + b"".join(map(text, names))
        if struct.unpack_from("<H", self.call(TWALK, body))[0] != len(names):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def open(self, path: str, flags: int, fid: int = 1) -> None:
        self.walk(path, fid)
        self.call(TLOPEN, struct.pack("<II", fid, flags))

    def clunk(self, fid: int = 1) -> None:
        self.call(TCLUNK, struct.pack("<I", fid))

    def lock(self, fid: int = 1) -> bool:
        """Lock all of an open file for writing; False if another has a lock on it."""
        body = struct.pack("<IBIQQI", fid, 1, 0, 0, 0, os.getpid()) + text("nine")
        return self.call(TLOCK, body)[0] == 0

    def read(self, path: str) -> bytes:
        """The whole of a file."""
        self.open(path, os.O_RDONLY)
        data = b""
        while part := self.receive_data(len(data)):
            data += part
        self.clunk()
        return data

    def read_once(self, path: str) -> bytes:
        """The first read of a file, for those where each read is a question."""
        self.open(path, os.O_RDONLY)
        data = self.receive_data()
        self.clunk()
        return data

    def receive_data(self, offset: int = 0) -> bytes:
        """One read of the open file."""
        return self.call(TREAD, struct.pack("<IQI", 1, offset, self.iounit))[4:]

    def write(self, path: str, data: bytes) -> None:
        """One write of data at offset 0."""
        self.open(path, os.O_WRONLY)
        self.call(TWRITE, struct.pack("<IQI", 1, 0, len(data)) + data)
        self.clunk()
