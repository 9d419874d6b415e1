"""enrol and invite: how certificates are asked for, and join files made.

`enrol` is all that strangers see of a node, and is walked to and not listed in the node's own
directory: read it to learn whom you talk to, write a question, read the answer
(factotum/enrol.py).  `invite` is for the node's owner.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import query
from cloudfs.kernel.machine import Machine, Party
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Row
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File, TableDir
from cloudfs.wait import then

MOST = 16 << 10  # bytes of a question
DAY = 86400.0

DOC = """\
A node of a cloud, as those see it who have proved nothing.
"""


class Told(Handle):
    """What `first` says until something is written, and then the answer to it.

    A shell that writes and reads through one descriptor goes on reading where it stopped
    writing: what is read begins wherever the first read after a write does.
    """

    __slots__ = ("_act", "_base", "_data", "_first")

    def __init__(self, first: Callable[[], str], act: Callable[[str], str | Wait[str]]) -> None:
        self._first = first
        self._act = act
        self._data: bytes | None = None
        self._base: int | None = None

    def read(self, offset: int, count: int) -> bytes:
        if self._data is None:
            self._data = self._first().encode()
        if self._base is None:
            self._base = offset
        at = max(0, offset - self._base)
        return self._data[at : at + count]

    def write(self, offset: int, data: bytes | memoryview) -> int | Wait[int]:
        size = len(data)
        if size > MOST:
            raise CloudError("toobig", f"a question has at most {MOST} bytes")

        def answered(text: str) -> int:
            self._data, self._base = text.encode(), None
            return size

        return then(self._act(ndb.text_line(bytes(data).rstrip(b"\n"))), answered)


class Enrolment(Row):
    """The file `enrol`.  strange: whether it is strangers who see it."""

    def __init__(self, strange: bool) -> None:
        doc = "Read: whose node this is.  Write: what a join file or certificate entitles to."
        super().__init__("enrol", 0o666, doc)
        self.strange = strange

    def open(self, subject: Machine, mode: int, at: Attach, cues: Cues) -> Handle:
        party = _party(subject)
        return Told(party.greeting, partial(party.enrol, self.strange))


class Invitation(Row):
    """The file `invite`."""

    def __init__(self) -> None:
        doc = "Write [for=1d] [uses=1], read through the same descriptor a new join file."
        super().__init__("invite", 0o600, doc)

    def open(self, subject: Machine, mode: int, at: Attach, cues: Cues) -> Handle:
        return Told(lambda: "", partial(_invite, subject))


def _invite(machine: Machine, line: str) -> str:
    pairs = {"for": "1d", "uses": "1"}
    for word in ndb.words(line):
        name, value = ndb.pair(word, "for=TIME or uses=N")
        if name not in pairs:
            raise CloudError("bad", f"invite: no {name[:40]!r}", "write: for=1d uses=1")
        pairs[name] = value
    life, uses = query.seconds(pairs["for"]), query.number(pairs["uses"])
    if life is None or uses is None or uses != int(uses):
        raise CloudError("bad", f"invite: {line[:80]!r} cannot be used", "write: for=1d uses=1")
    return _party(machine).invite(life, int(uses))


def file_of(machine: Machine) -> Node:
    """The file in the node's own directory."""
    return File(Enrolment(False), machine, numbers.ENROL, machine.owner, lambda: machine.changed)


def for_strangers(machine: Machine) -> TableDir:
    """All that they see."""
    rows = [Enrolment(True)]
    at = numbers.STRANGERS
    return TableDir("/", rows, machine, at, machine.owner, lambda: machine.started, (), DOC)


def _party(machine: Machine) -> Party:
    if machine.party is None:
        raise CloudError("unreachable", "this node is in no cloud")
    return machine.party
