"""/cloud/factotum: each caller's own, where one has logged in on this node with it.

The directory is the same for all, so that no mount mixes up two users' files; whose factotum it is
is decided when a file is opened.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from cloudfs.errors import CloudError
from cloudfs.tree import numbers
from cloudfs.tree.api import OREAD, Cues, Handle, Node, Wait, Who
from cloudfs.tree.files import Row
from cloudfs.tree.handles import Text
from cloudfs.tree.space import Attach
from cloudfs.tree.table import TableDir
from cloudfs.wait import then

DOC = """\
Your factotum, which proves who you are.  The files are empty until you log in on this node:
cloudfs login USER.  Keys are better added by cloudfs keys: what is written here passes through
the node.
"""


class Agents(Protocol):
    """The factotums of those who have logged in here."""

    def reach(self, who: Who) -> Node | Wait[Node] | None:
        """The root of the caller's own; None where there is none."""


class Own(Row):
    """A file of the caller's factotum."""

    def open(self, subject: Agents, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        root = subject.reach(at.who)
        if root is None:
            if mode & 3 == OREAD:  # who reads a whole tree reads on
                return Text("")
            raise CloudError(
                "absent", "you have not logged in on this node", "type: cloudfs login USER"
            )
        file = then(root, lambda found: found.walk(self.name, at, cues))
        return then(file, partial(self._open, mode, at, cues))

    def _open(self, mode: int, at: Attach, cues: Cues, node: Node) -> Handle | Wait[Handle]:
        return node.open(mode, at, cues)


TABLE = (
    Own("ctl", 0o666, "Keys without their secrets; verbs of factotum(4)."),
    Own("rpc", 0o666, "A conversation for each open."),
    Own("proto", 0o444, "The protocols that it speaks."),
    Own("confirm", 0o666, "Uses of keys that wait for your word."),
    Own("needkey", 0o666, "Keys that were wanted and are not there."),
    Own("log", 0o444, "What it did."),
)


def directory(agents: Agents, owner: str, started: float) -> Node:
    return TableDir("factotum", TABLE, agents, numbers.FACTOTUM, owner, lambda: started, doc=DOC)
