"""introduce of a node's own directory: where a node asks for its place in the cloud.

It is walked to and not listed: write "CLUSTER NAME", read the answer (kernel/introduce.py).
"""

from __future__ import annotations

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.machine import Machine, Party
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Row
from cloudfs.tree.handles import Text
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File
from cloudfs.wait import then


class Introduction(Row):
    """The file."""

    def __init__(self) -> None:
        super().__init__("introduce", 0o666, "Write CLUSTER NAME, read where that node belongs.")

    def open(self, subject: Machine, mode: int, at: Attach, cues: Cues) -> Handle:
        return Asked(subject.party)


def file_of(machine: Machine) -> Node:
    """The file in the node's own directory."""
    at = numbers.INTRODUCE
    return File(Introduction(), machine, at, machine.owner, lambda: machine.changed)


class Asked(Text):
    """One question and its answer."""

    __slots__ = ("_party",)

    def __init__(self, party: Party | None) -> None:
        super().__init__("")
        self._party = party

    def write(self, offset: int, data: bytes | memoryview) -> int | Wait[int]:
        words = ndb.words(ndb.text_line(bytes(data).rstrip(b"\n")))
        if len(words) != 2:
            raise CloudError("bad", "introduce: wants two words", "write: CLUSTER NAME")
        size = len(data)

        def answered(text: str) -> int:
            self.data = text.encode()
            return size

        return then(self._party.introduce(*words) if self._party else "", answered)
