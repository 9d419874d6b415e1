"""probe of a node's directory `net`, by which other nodes measure the way here.

It is walked to and not listed, and only nodes of the cloud may open it, not their users.  A
first read hands over a key for datagrams (wire/datagrams.py), or nothing where they cannot come
here.  Then, for as long as it is open:

    write NUMBER 8, DATA   a ping; a read after it gives NUMBER and the pong's data
    write NUMBER 8         the answer to the pong, so that this side has a time as well

Numbers are of the asking side and grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from cloudfs.errors import CloudError
from cloudfs.tree.api import Cues, Handle
from cloudfs.tree.files import Row
from cloudfs.tree.space import Attach

NUMBER = 8  # bytes
OUTSTANDING = 16  # pings whose answer has no answer yet


def itself(node: str) -> str:
    """The user as whom a node comes on its own behalf; no user of a machine has such a name."""
    return f"node {node}"


class Answering(Protocol):
    """What pongs tell, and what takes their times (kernel/network.py)."""

    def pong(self, ping: bytes) -> bytes:
        """The answer to a probe's data; CloudError("bad")."""

    def answered(self, node: str, ping: bytes, seconds: float) -> None:
        """The node that sent it had the answer so many seconds after it left, both ways."""


class Offers(Protocol):
    """Keys for datagrams."""

    def offer(self, node: str) -> str: ...

    def withdraw(self, offered: str) -> None: ...


class Probe(Row):
    """The file.  offers: None where no datagrams can come."""

    def __init__(
        self,
        answering: Answering,
        offers: Offers | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__("probe", 0o666, "For other nodes, to measure the way here.")
        self.answering = answering
        self.offers = offers
        self.clock = clock

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        node = at.who.node
        if not node or at.who.user != itself(node):
            raise CloudError(
                "denied", "only other nodes may use this file", "see: cloudfs net --help"
            )
        return Probed(self, node)


class Probed(Handle):
    """The file, open for a node."""

    __slots__ = ("_data", "_node", "_of", "_offered", "_sent")

    def __init__(self, of: Probe, node: str) -> None:
        self._of = of
        self._node = node
        self._sent: dict[int, tuple[bytes, float]] = {}  # number → ping, when its pong was read
        self._offered = of.offers.offer(node) if of.offers is not None else ""
        self._data = self._offered.encode()

    def read(self, offset: int, count: int) -> bytes:
        return self._data[:count]

    def write(self, offset: int, data: bytes | memoryview) -> int:
        frame = bytes(data)
        number, ping = int.from_bytes(frame[:NUMBER], "big"), frame[NUMBER:]
        if len(frame) < NUMBER:
            raise CloudError("bad", "no ping")
        if ping:
            self._data = frame[:NUMBER] + self._of.answering.pong(ping)
            if len(self._sent) >= OUTSTANDING:
                del self._sent[next(iter(self._sent))]
            self._sent[number] = ping, self._of.clock()
        elif number in self._sent:
            ping, sent = self._sent.pop(number)
            self._of.answering.answered(self._node, ping, self._of.clock() - sent)
        return len(frame)

    def close(self) -> None:
        if self._of.offers is not None:
            self._of.offers.withdraw(self._offered)
