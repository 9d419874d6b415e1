"""train of a node's directory `net`, by which other nodes measure how much the way carries.

It is walked to and not listed, and only nodes of the cloud may open it, not their users.
Reading it gives a
session for trains of datagrams (wire/trains.py), which holds as long as the file is open.
"""

from __future__ import annotations

from typing import Any, Protocol

from cloudfs.errors import CloudError
from cloudfs.kernel import bandwidth
from cloudfs.tree.api import Cues, Handle
from cloudfs.tree.files import Row
from cloudfs.tree.handles import Text
from cloudfs.tree.probe import itself
from cloudfs.tree.space import Attach

CAR = bandwidth.CAR  # bytes of a datagram of a train
LONGEST = bandwidth.LONGEST  # cars of a train
ROOM = bandwidth.MOST // bandwidth.CAR_ON_WIRE  # cars that a session may have sent


class Sessions(Protocol):
    """What has the sessions."""

    def offer(self, node: str) -> str: ...

    def withdraw(self, offered: str) -> None: ...


class Train(Row):
    """The file.  sessions: None where no datagrams can come."""

    def __init__(self, sessions: Sessions | None) -> None:
        super().__init__("train", 0o444, "For other nodes, to measure what the way here carries.")
        self.sessions = sessions

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        node = at.who.node
        if not node or at.who.user != itself(node):
            raise CloudError("denied", "only other nodes may use this file", "see: cloudfs net")
        if self.sessions is None:
            raise CloudError("unsupported", "no datagrams can come to this node")
        return Taken(self.sessions, node)


class Taken(Text):
    """A session."""

    __slots__ = ("_offered", "_sessions")

    def __init__(self, sessions: Sessions, node: str) -> None:
        self._sessions = sessions
        self._offered = sessions.offer(node)
        super().__init__(f"{self._offered}\n")

    def close(self) -> None:
        self._sessions.withdraw(self._offered)
