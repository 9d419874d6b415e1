"""/cloud/net/cs: a question is written and its answer read, on one open file, as at Plan 9's
connection server (cs(8))."""

from __future__ import annotations

from functools import partial

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import query
from cloudfs.kernel.finder import Answer, Finder
from cloudfs.kernel.verb import Verb, find, help_of, table
from cloudfs.tree.api import Cues, Handle, Wait
from cloudfs.tree.files import Row
from cloudfs.tree.query import answer, text_of
from cloudfs.tree.space import Attach
from cloudfs.wait import then


def _near(finder: Finder, args: list[str]) -> list[str]:
    """The node nearest to NODE, or with count=N the N nearest, of those that meet EXPR."""
    node, *more = args
    counted = any(word.startswith("count=") for word in more)
    return [f"near={node}", *more, *([] if counted else ["count=1"])]


def _query(finder: Finder, args: list[str]) -> list[str]:
    """The nodes that meet all expressions, the best first."""
    return args


VERBS = table(
    Verb("near NODE [count=N] [EXPR...]", 1, query.MAX_EXPRS, _near),
    Verb("query EXPR...", 1, query.MAX_EXPRS, _query),
)


class Cs(Row):
    """The file; its subject is not looked at."""

    def __init__(self, finder: Finder) -> None:
        super().__init__(
            "cs",
            0o666,
            "Write near NODE or query EXPR..., and read on: a line for each node, best first.",
        )
        self.finder = finder

    def open(self, subject: object, mode: int, at: Attach, cues: Cues) -> Handle:
        return Conversation(self.finder, cues)


class Conversation(Handle):
    """One open cs.  The write waits for the answer, and fails where there is none.

    Reads give the answer from its beginning wherever the file's offset stands after the
    write, a line each, then the end; a seek to 0 begins again.
    """

    __slots__ = ("_base", "_cues", "_data", "_finder")

    def __init__(self, finder: Finder, cues: Cues) -> None:
        self._finder = finder
        self._cues = cues
        self._data = help_of(VERBS.values()).encode()
        self._base: int | None = 0  # the offset at which the answer begins; None: at the next

    def write(self, offset: int, data: bytes | memoryview) -> int | Wait[int]:
        self._data, self._base = b"", None
        if len(data) > query.MAX_QUERY:
            raise CloudError("toobig", f"a question has at most {query.MAX_QUERY} bytes")
        lines = [line for line in ndb.text_line(bytes(data)).split("\n") if line.strip()]
        if len(lines) != 1:
            raise CloudError("bad", f"cs: one question a write, not {len(lines)}")
        found = find(VERBS, lines[0])
        assert found is not None
        verb, args = found
        exprs = self._finder.parse(verb.run(self._finder, args))
        return then(answer(self._finder, exprs, self._cues), partial(self._answered, len(data)))

    def _answered(self, count: int, found: Answer) -> int:
        self._data = text_of(found).encode()
        return count

    def read(self, offset: int, count: int) -> bytes:
        if self._base is None or offset < self._base:
            self._base = offset
        start = offset - self._base
        end = self._data.find(b"\n", start) + 1 or len(self._data)
        return self._data[start : min(end, start + count)]
