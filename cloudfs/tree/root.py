"""/cloud itself."""

from __future__ import annotations

import time
from collections.abc import Iterable

import cloudfs
from cloudfs.errors import CloudError
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.kernel.verb import Verb, find, help_of, table
from cloudfs.tree import numbers
from cloudfs.tree.api import Node, Wait
from cloudfs.tree.files import Ctl, Log, Value
from cloudfs.tree.space import Attach
from cloudfs.tree.table import TableDir

DOC = """\
The cloud as files.  In any directory, cat help tells what it holds.

  proc/   every object: a program that runs, ran or will run
  nodes/  every machine
  net/    what the network costs, from this node
  query/  the nodes that meet conditions: ls query/arch=x86_64/near=NODE
  view/   the same objects by user, application, state and label
  factotum/   your own keys, once you have logged in
  secstore/  users, groups, and their sealed keys

Path elements that no directory lists hold for the rest of a path:
  .follow       files that can block or follow do: cat /cloud/.follow/proc/ID/stdout
  .MaxTime=5    seconds that a remote operation may take
  .fresh        no aged answers

Verbs of ctl, which change the name space of this mount or connection:
"""


def root(events: KernelLog, owner: str, more: Iterable[Node], hidden: Iterable[Node] = ()) -> Node:
    """The root directory, with these directories in it, the hidden ones not listed."""
    started = time.time()
    doc = DOC + help_of(VERBS.values())
    return TableDir("/", TABLE, events, numbers.ROOT, owner, lambda: started, more, doc, hidden)


def _bind(at: Attach, args: list[str]) -> Wait[None] | None:
    """Make NEW appear at OLD: in its place, before (-b) or after (-a) what is there;
    with -c files made there are made in NEW."""
    flags = ""
    while args and args[0].startswith("-"):
        flags += args.pop(0)[1:]
    if len(args) != 2:
        raise CloudError("bad", "bind: wants two paths", "write: bind [-abc] NEW OLD")
    return at.space.bind(at, args[0], args[1], flags)


def _unmount(at: Attach, args: list[str]) -> None:
    """Undo the bind of NEW on OLD, or all on OLD."""
    at.space.unmount(at, args[0] if len(args) == 2 else None, args[-1])


VERBS = table(
    Verb("bind [-abc] NEW OLD", 2, 5, _bind),
    Verb("unmount [NEW] OLD", 1, 2, _unmount),
)


def act(at: Attach, line: str) -> Wait[None] | None:
    """One line written to ctl, or of a name space that is rebuilt."""
    found = find(VERBS, line)
    return found[0].run(at, found[1]) if found else None


def _ctl(events: KernelLog, at: Attach) -> str:
    """Read: the verbs it takes.  Write: a verb and its arguments a line."""
    return "".join(f"{verb.usage}\n" for verb in VERBS.values())


def _act(events: KernelLog, line: str, at: Attach) -> Wait[None] | None:
    return act(at, line)


def _err(events: KernelLog, at: Attach) -> str:
    """Why you were last refused something, and what to do; the newest last."""
    lines = at.space.errors.of(at.who.user)
    return "".join(
        f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(when))} {text}\n"
        for when, text in lines
    )


def _ns(events: KernelLog, at: Attach) -> str:
    """The lines that rebuild this name space when written to ctl."""
    return "".join(f"{line}\n" for line in at.space.lines())


def _events(events: KernelLog) -> KernelLog:
    """What happened to objects and nodes.  Under .follow a read waits for more."""
    return events


def _user(events: KernelLog, at: Attach) -> str:
    """Who you are here."""
    return f"{at.who.user}\n"


def _version(events: KernelLog, at: Attach) -> str:
    """The version of this daemon."""
    return f"cloudfs {cloudfs.__version__}\n"


TABLE = (
    Ctl("ctl", 0o666, _ctl, _act),
    Value("err", 0o444, _err),
    Value("ns", 0o444, _ns),
    Log("events", 0o444, _events),
    Value("user", 0o444, _user),
    Value("version", 0o444, _version),
)
