"""Directories as tables: each is a list of rows and looks like what it holds.

OBJECT = (
    Value("status", 0o444, status),
    Blocking("wait", 0o444, ended, until_end),
    …
)
TableDir("6vq2…", OBJECT, made, …)
"""

from __future__ import annotations

import stat as stats
from collections.abc import Callable, Iterable
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, Cues, DirHandle, Entries, Handle, Node, Stat, Wait
from cloudfs.tree.files import Row, Value
from cloudfs.tree.space import Attach
from cloudfs.wait import then


class File(Node):
    """A row of a table, about one subject."""

    __slots__ = ("changed", "row", "subject")

    def __init__(
        self, row: Row, subject: Any, qid: int, uid: str, changed: Callable[[], float]
    ) -> None:
        self.row = row
        self.subject = subject
        self.name, self.mode, self.qid, self.uid, self.gid = row.name, row.mode, qid, uid, uid
        self.changed = changed

    def stat(self) -> Stat:
        length = self.row.length(self.subject)
        return Stat(self.name, self.qid, self.mode, length, self.changed(), self.uid, self.gid)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return self.row.open(self.subject, mode, at, cues)

    def wstat(self, changes: dict[str, Any], at: Attach) -> None:
        """Truncating is what shells do before they write: nothing to do here."""
        if set(changes) - {"length", "mtime", "atime"} or changes.get("length"):
            raise CloudError("refused", "the attributes of this file cannot be changed")


class TableDir(Node):
    """A directory made of rows, of the nodes `more`, and of `hidden` ones, which can be
    walked to and are not listed.

    number: a qid number of its own; its files get the next `len(rows)`, so numbers of
    tables lie 256 apart.
    """

    __slots__ = ("_entries", "_hidden", "_made", "_rows", "changed", "subject")

    def __init__(
        self,
        name: str,
        rows: Iterable[Row],
        subject: Any,
        number: int,
        uid: str,
        changed: Callable[[], float],
        more: Iterable[Node] = (),
        doc: str = "",
        hidden: Iterable[Node] = (),
    ) -> None:
        self.name, self.mode, self.qid, self.uid, self.gid = name, 0o555 | DMDIR, number, uid, uid
        self.subject = subject
        self.changed = changed
        self._rows = table(tuple(rows), doc)
        self._made: dict[str, Node] = {node.name: node for node in more}
        self._hidden = {node.name: node for node in hidden}
        self._entries: Entries | None = None

    def give_group(self, gid: str) -> None:
        """Let this group have what the group bits of the rows allow."""
        if gid != self.gid:
            self.gid = gid
            for node in self._made.values():
                if isinstance(node, File):
                    node.gid = gid

    def stat(self) -> Stat:
        return Stat(self.name, self.qid, self.mode, 0, self.changed(), self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        return self._row(name)

    def file(self, name: str) -> Node:
        """The file of a row."""
        return self._row(name)

    def _row(self, name: str) -> Node:
        found = self._made.get(name)
        return self._make(name) if found is None else found

    def _make(self, name: str) -> Node:
        row, index = self._rows.get(name, (None, 0))
        if row is None:
            if name in self._hidden:
                return self._hidden[name]
            raise CloudError("absent")
        number = self.qid + 1 + index
        made = self._made[name] = File(row, self.subject, number, self.uid, self.changed)
        made.gid = self.gid
        return made

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        if self._entries is None:
            for name in self._rows:
                self._row(name)
            self._entries = Entries(dict(sorted(self._made.items())))
        return DirHandle(self._entries)


class LiveDir(TableDir):
    """A table with more files that come and go: `find(name, at, cues)` gives one or raises,
    `every()` all of them, `version()` changes whenever that would give others.  Before a
    listing `refresh(cues)` may have to hear from other nodes."""

    __slots__ = ("_seen", "every", "find", "refresh", "version")

    def __init__(
        self,
        name: str,
        rows: Iterable[Row],
        subject: Any,
        number: int,
        uid: str,
        changed: Callable[[], float],
        *,
        find: Callable[[str, Attach, Cues], Node | Wait[Node]],
        every: Callable[[], dict[str, Node]],
        version: Callable[[], object],
        refresh: Callable[[Cues], Wait[Any] | None] = lambda cues: None,
        doc: str = "",
        hidden: Iterable[Node] = (),
    ) -> None:
        super().__init__(name, rows, subject, number, uid, changed, (), doc, hidden)
        self.find = find
        self.every = every
        self.version = version
        self.refresh = refresh
        self._seen: object = None

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        own = name in self._rows or name in self._hidden
        return self._row(name) if own else self.find(name, at, cues)

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        return then(self.refresh(cues), lambda _: self._open())

    def _open(self) -> Handle:
        now = self.version()
        if self._entries is None or self._seen != now:
            nodes = {name: self._row(name) for name in self._rows}
            self._entries, self._seen = Entries(nodes | self.every()), now
        return DirHandle(self._entries)


_TABLES: dict[tuple[tuple[Row, ...], str], dict[str, tuple[Row, int]]] = {}


def table(rows: tuple[Row, ...], doc: str) -> dict[str, tuple[Row, int]]:
    """name → (row, index) of a table, its help file included; made once for each table
    and doc, of which a program has but a few."""
    found = _TABLES.get((rows, doc))
    if found is None:
        every = (*rows, Value("help", 0o444, _help_of(rows, doc)))
        found = _TABLES[rows, doc] = {row.name: (row, index) for index, row in enumerate(every)}
    return found


def _help_of(rows: tuple[Row, ...], doc: str) -> Callable[[Any, Attach], str]:
    width = max((len(row.name) for row in rows), default=4)
    head = f"{doc.strip()}\n\n" if doc else ""
    text = head + "".join(
        f"{row.name:{width}}  {stats.filemode(row.mode & 0o777)[1:]}  {row.doc}\n" for row in rows
    )

    def read(subject: Any, at: Attach) -> str:
        """What the files of this directory are."""
        return text

    return read
