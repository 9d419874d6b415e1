"""/cloud/query: the nodes that meet what the path asks for."""

from __future__ import annotations

import re
import time
from functools import partial

from cloudfs.errors import CloudError
from cloudfs.kernel.finder import Answer, Finder
from cloudfs.kernel.query import ATTRIBUTES, Expr
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, Cues, DirHandle, Entries, Handle, Node, Stat, Wait
from cloudfs.tree.files import Row, Value
from cloudfs.tree.handles import Text
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File
from cloudfs.tree.whole import Whole
from cloudfs.wait import then

_OPERATOR = re.compile(r"[=<>!]")  # no name of a node holds one

DOC = """\
Nodes that meet conditions: each element of a path is one more, and the directory lists the
nodes that meet all, best first (ls -U; plain ls sorts by name).

  ls /cloud/query/arch=x86_64/mem.free\\>=4e9
  cat /cloud/query/near=paris-3/count=3/*/status
  cat /cloud/query/sort=-mem.free/.answer

  ATTRIBUTE op VALUE  op is = != < <= > >=; numbers are in base units, as 4e9 or 0.02
  rtt(NODE)<SECONDS   the time to a node and back; rtt alone is from here
  sort=ATTRIBUTE      the smallest first; sort=-ATTRIBUTE the greatest
  near=NODE           the nearest to that node first, without itself; a few are probed
  count=N             only list the best N

Walked to, and not listed:
  .answer             a record for each node: its figures, how they were got and how old
  help                this text

Without an order the nodes that are most idle come first.  Only nodes that live are found,
unless a condition is on state.  Attributes, and what a number of them is:
"""


def _help(subject: object, at: Attach) -> str:
    """How to ask."""
    rows = [*ATTRIBUTES.items(), ("label.NAME", "")]
    return DOC + "".join(f"  {name:15} {unit or 'text'}\n" for name, unit in rows)


class QueryDir(Node):
    """The nodes that meet some expressions; with none of them, where paths begin."""

    __slots__ = ("_exprs", "_finder", "_whole")

    def __init__(self, whole: Whole, finder: Finder, exprs: tuple[Expr, ...] = ()) -> None:
        words = list(map(str, exprs))
        self.name = words[-1] if words else "query"
        self.mode, self.qid = 0o555 | DMDIR, numbers.named("query", *words)
        self.uid = self.gid = whole.cloud.machine.owner
        self._whole = whole
        self._finder = finder
        self._exprs = exprs

    def stat(self) -> Stat:
        # A time that stands still, so that tar does not take it for changed.
        began = self._whole.cloud.machine.started
        return Stat(self.name, self.qid, self.mode, 0, began, self.uid, self.gid)

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        if _OPERATOR.search(name):
            exprs = self._finder.parse([*map(str, self._exprs), name])
            return QueryDir(self._whole, self._finder, exprs)
        if name == "help":
            return File(HELP, None, self.qid + 1, self.uid, time.time)
        if not self._exprs:
            raise CloudError(
                "absent", f"query: {name[:64]!r} is no expression", "write one, as arch=x86_64"
            )
        if name == ".answer":
            return File(Lines(self._finder), self._exprs, self.qid + 2, self.uid, time.time)
        return then(self._whole.find_node(name, at, cues), self._checked)

    def _checked(self, node: Node) -> Node:
        if not self._finder.holds(self._exprs, node.name):
            words = "/".join(map(str, self._exprs))
            raise CloudError("absent", f"node {node.name} does not meet {words}")
        return node

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        if not self._exprs:
            return DirHandle(Entries({}))
        return then(answer(self._finder, self._exprs, cues), self._listed)

    def _listed(self, found: Answer) -> Handle:
        nodes = ((each.node, self._whole.node_dir(each.node)) for each in found.found)
        return DirHandle(Entries({name: node for name, node in nodes if node is not None}))


class Lines(Row):
    """The answer to a query as records."""

    def __init__(self, finder: Finder) -> None:
        super().__init__(".answer", 0o444, "A record for each node that meets the query.")
        self.finder = finder

    def open(
        self, subject: tuple[Expr, ...], mode: int, at: Attach, cues: Cues
    ) -> Handle | Wait[Handle]:
        return then(answer(self.finder, subject, cues), lambda found: Text(text_of(found)))


def answer(finder: Finder, exprs: tuple[Expr, ...], cues: Cues) -> Answer | Wait[Answer]:
    """The answer to a query, at once where nobody has to be asked."""
    found = finder.at_once(exprs)
    if found is not None:
        return found
    return Wait(partial(finder.find, exprs, cues.max_time, fresh=cues.fresh))


def text_of(found: Answer) -> str:
    """An answer as a file's text."""
    return "".join(f"{line}\n" for line in found.lines())


HELP = Value("help", 0o444, _help)
