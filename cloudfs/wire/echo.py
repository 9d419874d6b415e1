"""Probes to other nodes: by datagrams where they come through, else within the connection.

Each node that is probed has its file `net/probe` held open, which keeps the connection; a
probe is then one small message each way.  Datagrams are first tried beside: only once a pong
came back are they trusted to, and when a few in a row stay out, the connection is asked whether
it is the node or only they that are lost.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from time import monotonic

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import ORDWR, Who
from cloudfs.tree.probe import NUMBER, itself
from cloudfs.wire import tls
from cloudfs.wire.call import Call
from cloudfs.wire.datagrams import Asking, Datagrams
from cloudfs.wire.far import reach
from cloudfs.wire.file import File
from cloudfs.wire.imports import Pool

WAIT = 2.0  # seconds for a pong
OPEN = 3.0  # seconds to open the file, connected to first if need be
IDLE = 30.0  # seconds that the file of a node that is no reference stays open
LOST = 4  # datagrams in a row without a pong until the connection is asked
AGAIN = 4.0, 64.0  # seconds, at first and at most, until lost datagrams are tried again
PATH = ("net", "probe")
OFFERED, PONG = 256, 64  # bytes at most

log = logging.getLogger(__name__)


class Line:
    """The open file of one node, and the way beside it."""

    def __init__(self, file: File, asking: Asking | None) -> None:
        self.file = file
        self.asking = asking
        self.proved = False  # whether datagrams come through
        self.lost = 0  # in a row
        self.try_at = 0.0  # when datagrams are tried again
        self.pause = AGAIN[0]  # seconds until that
        self.used = monotonic()
        self._number = 0

    async def ping(self, data: bytes) -> tuple[float, bytes]:
        """Seconds there and back, and the pong's data.  Raises CloudError."""
        self.used = monotonic()
        if self.asking is not None and self.proved:
            found = await self.asking.ping(data, WAIT)
            if found is not None:
                self.lost = 0
                return found
            self.lost += 1
            if self.lost < LOST:
                raise CloudError("timeout", f"no answer within {WAIT:g} s")
            self.proved = False
        if self.asking is not None and monotonic() >= self.try_at:
            self.try_at, self.pause = monotonic() + self.pause, min(2 * self.pause, AGAIN[1])
            return await self._both(self.asking, data)
        return await self._within(data)

    async def _both(self, asking: Asking, data: bytes) -> tuple[float, bytes]:
        """A ping each way; the datagram's time is the better one."""
        found: list[tuple[float, bytes]] = []

        async def beside() -> None:
            answer = await asking.ping(data, WAIT)
            if answer is not None:
                self.proved, self.lost, self.pause = True, 0, AGAIN[0]
                found.append(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
            within = await self._within(data)
            # What goes beside is there about as soon, if at all.
            nursery.cancel_scope.deadline = trio.current_time() + 0.5 + within[0]
        return found[0] if found else within

    async def _within(self, data: bytes) -> tuple[float, bytes]:
        self._number += 1
        head, file = self._number.to_bytes(NUMBER, "big"), self.file
        write = Call("Twrite", file.fid, 0, head + data)
        _, (pong,) = await file.client.together((write, Call("Tread", file.fid, 0, PONG)), WAIT)
        with contextlib.suppress(CloudError):  # this side has its time already
            await file.client.together((Call("Twrite", file.fid, 0, head),), WAIT)
        if pong[:NUMBER] != head:
            raise CloudError("proto", f"{file.client.name} answered another probe")
        return write.took, bytes(pong[NUMBER:])

    def close(self) -> None:
        self.file.drop()
        if self.asking is not None:
            self.asking.close()


class Echo:
    """See kernel/measure.py's `Carrier`.  node: this one."""

    def __init__(self, node: str, pool: Pool, datagrams: Datagrams) -> None:
        self._who = Who(itself(node), None)
        self._pool = pool
        self._datagrams = datagrams
        self._lines: dict[str, Line] = {}
        self._opening: dict[str, trio.Event] = {}
        self._kept: Collection[str] = ()

    async def ping(self, node: str, data: bytes) -> tuple[float, bytes]:
        line = await self._line(node)
        try:
            return await line.ping(data)
        except CloudError:
            if line.file.client.why:
                self._close(node, line)
            raise

    def keep(self, nodes: Collection[str]) -> None:
        self._kept = nodes
        self._tidy()

    def _tidy(self) -> None:
        now = monotonic()
        for node, line in list(self._lines.items()):
            if node not in self._kept and now - line.used >= IDLE:
                self._close(node, line)

    def _close(self, node: str, line: Line) -> None:
        line.close()
        if self._lines.get(node) is line:
            del self._lines[node]

    async def _line(self, node: str) -> Line:
        """The open file of a node; all who want it wait for the same attempt."""
        while node in self._opening:
            await self._opening[node].wait()
        line = self._lines.get(node)
        if line is not None:
            if not line.file.client.why:
                return line
            self._close(node, line)
        self._tidy()
        over = self._opening[node] = trio.Event()
        try:
            with trio.move_on_after(OPEN):
                line = self._lines[node] = await self._open(node)
                return line
        finally:
            del self._opening[node]
            over.set()
        raise CloudError("timeout", f"node {node} did not answer within {OPEN:g} s")

    async def _open(self, node: str) -> Line:
        root = await self._pool.root(node, self._who)
        file, (opened, (offered,)) = await reach(
            root,
            PATH,
            lambda file: [file.to_open(ORDWR), Call("Tread", file.fid, 0, OFFERED)],
            OPEN,
        )
        file.opened(*opened)
        text = bytes(offered).decode(errors="replace")
        host = host_of(file)
        return Line(file, self._datagrams.ask(text, host) if host else None)


def host_of(file: File) -> str:
    """The address, in numbers, of the machine at the other end."""
    stream = file.client.stream
    return str(stream.socket.getpeername()[0]) if isinstance(stream, tls.Stream) else ""
