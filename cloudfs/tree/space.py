"""Name spaces: what one session sees, and the permission check on every operation.

A `Space` is the tree of one session (a 9P attach, a FUSE mount): a root and the
binds made in it.  An `Attach` is one caller's sight of a space; adapters call its
methods and nothing below it.  Binds are keyed by path, not by file as in Plan 9, so
that a tree bound into itself stays finite.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.api import (
    DMDIR,
    OEXEC,
    ORCLOSE,
    ORDWR,
    OREAD,
    OTRUNC,
    OWRITE,
    PLAIN,
    Cues,
    Handle,
    Node,
    R,
    Ref,
    Stat,
    W,
    Wait,
    Who,
    X,
    join,
)
from cloudfs.tree.permission import GroupsOf, allowed, no_groups
from cloudfs.tree.union import Union
from cloudfs.wait import settle as settle
from cloudfs.wait import then as then

MAX_NAME = 255  # bytes of one path element, as on Linux
SHORT = 63  # characters of a name that cannot have too many bytes
MAX_DEPTH = 64  # elements of one path
MAX_BINDS = 256  # of one name space
ERR_LINES = 16  # reasons kept for each user
ERR_USERS = 256
_PASS = DMDIR | X  # of a directory that everybody may search
_NEED = {OREAD: R, OWRITE: W, ORDWR: R | W, OEXEC: R | X}
_WORDS = {R: "read", W: "write", X: "search"}


_LOOKING = replace(PLAIN, look=True)
Walked = tuple[list[Node], Ref, CloudError | None]


def check_name(name: str) -> None:
    """Raise unless name may be one path element."""
    if not name or "/" in name or "\0" in name:
        raise CloudError("bad", f"{name!r} is no file name")
    if len(name) > MAX_NAME or len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        raise CloudError("toolong", f"a name has at most {MAX_NAME} bytes")


def cue(cues: Cues, name: str) -> Cues | None:
    """cues as the path element `name` changes them; None if it is no cue."""
    if cues is PLAIN and name == ".look":  # as nodes ask each other
        return _LOOKING
    if name == ".follow":
        return replace(cues, follow=True)
    if name == ".fresh":
        return replace(cues, fresh=True)
    if name == ".look":
        return replace(cues, look=True)
    if name.startswith(".MaxTime="):
        try:
            seconds = float(name[9:])
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= 3600:
            raise CloudError("bad", f"{name}: wants seconds, more than 0 and at most 3600")
        return replace(cues, max_time=seconds)
    return None


class ErrLog:
    """The last reasons that each user was refused something: the file /cloud/err."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lines: dict[str, deque[tuple[float, str]]] = {}

    def add(self, user: str, error: CloudError) -> None:
        lines = self._lines.pop(user, None) or deque(maxlen=ERR_LINES)
        lines.append((self._clock(), str(error)))
        self._lines[user] = lines  # the user heard last stands last
        if len(self._lines) > ERR_USERS:
            del self._lines[next(iter(self._lines))]

    def of(self, user: str) -> list[tuple[float, str]]:
        """(time, sentence) of the user's own last errors, oldest first."""
        return list(self._lines.get(user, ()))


@dataclass(slots=True)
class _Bind:
    flags: str  # "" replaces, else of "abc"
    new: tuple[str, ...]
    old: tuple[str, ...]
    node: Node  # what new was when it was bound
    under: Node  # what old was before anything was bound there


class Space:
    """The name space of one session."""

    def __init__(self, root: Node, errors: ErrLog | None = None, owner: str = "") -> None:
        self.root = root
        self.errors = errors or ErrLog()
        self.groups_of: GroupsOf = no_groups
        self.owner = owner  # who may bind; "" where every caller is the session's own
        self.mounts: dict[tuple[str, ...], Node] = {}
        self._binds: list[_Bind] = []

    def attach(self, who: Who) -> Attach:
        return Attach(self, who)

    def lines(self) -> list[str]:
        """The lines that rebuild this name space when written to its ctl, in order."""
        return [
            " ".join(["bind", *([f"-{b.flags}"] if b.flags else []), _cloud(b.new), _cloud(b.old)])
            for b in self._binds
        ]

    def bind(self, at: Attach, new: str, old: str, flags: str = "") -> Wait[None] | None:
        """Make `new` appear at `old`: in its place, or before (b) or after (a) it in a
        union; c lets files be made in it (bind(1)).  Raises if either is not there."""
        self._may_change(at)
        if set(flags) - set("abc") or {"a", "b"} <= set(flags):
            raise CloudError("bad", f"bind: flags -{flags}", "type: bind [-a|-b][c] NEW OLD")
        if len(self._binds) >= MAX_BINDS:
            raise CloudError("toomany", f"a name space holds at most {MAX_BINDS} binds")
        source, target = split(new), split(old)

        def finish(refs: tuple[Ref, Ref]) -> None:
            one, two = refs
            if (one.node.mode ^ two.node.mode) & DMDIR:
                raise CloudError("bad", f"bind: {new} and {old}: one is a directory, one is not")
            if set(flags) & set("ab") and not one.node.mode & DMDIR:
                raise CloudError("bad", f"bind: {new} is no directory, so it makes no union")
            under = next((b.under for b in self._binds if b.old == target), two.node)
            self._binds.append(_Bind(flags, source, target, one.node, under))
            self._rebuild(target)

        def second(one: Ref) -> Wait[None] | None:
            return then(at.find(target), lambda two: finish((one, two)))

        return then(at.find(source), second)

    def unmount(self, at: Attach, new: str | None, old: str) -> None:
        """Undo the binds of `new` on `old`, or all of those on `old`."""
        self._may_change(at)
        target, source = split(old), None if new is None else split(new)
        keep = [b for b in self._binds if b.old != target or source not in (None, b.new)]
        if len(keep) == len(self._binds):
            raise CloudError(
                "bad", f"unmount: nothing like that is bound on {old}", "see: cat /cloud/ns"
            )
        self._binds = keep
        self._rebuild(target)

    def _may_change(self, at: Attach) -> None:
        if self.owner and at.who.user != self.owner and not at.who.boss:
            raise CloudError(
                "refused",
                f"this name space is {self.owner}'s",
                "for one of your own type: cloudfs shell",
            )

    def changed(self) -> None:
        """Called after every change of the binds."""

    def _rebuild(self, target: tuple[str, ...]) -> None:
        self._remount(target)
        self.changed()

    def _remount(self, target: tuple[str, ...]) -> None:
        here = [b for b in self._binds if b.old == target]
        if not here:
            self.mounts.pop(target, None)
            return
        branches: list[tuple[Node, bool]] = [(here[0].under, False)]
        for b in here:
            branch = (b.node, "c" in b.flags)
            if "b" in b.flags:
                branches.insert(0, branch)
            elif "a" in b.flags:
                branches.append(branch)
            else:
                branches = [branch]
        alone = len(branches) == 1 and not branches[0][1]
        self.mounts[target] = branches[0][0] if alone else Union(branches)


class Attach:
    """One caller's sight of a space.  All that adapters call; see tree/api.py for Wait."""

    __slots__ = ("space", "who")

    def __init__(self, space: Space, who: Who) -> None:
        self.space = space
        self.who = who

    def root(self) -> Ref:
        return Ref(self.space.mounts.get((), self.space.root), (), PLAIN)

    def note(self, error: CloudError, path: Sequence[str]) -> CloudError:
        """Complete an error with its path and keep its reason for the caller's `err`: of one
        who comes by another node it is kept there, where the caller looks for it."""
        error.path = error.path or join(path)
        if error.why and not self.who.node:
            self.space.errors.add(self.who.user, error)
        return error

    def walk(self, ref: Ref, name: str) -> Ref | Wait[Ref]:
        """One step: a child, a cue, "." or ".."."""
        node = ref.node
        if not node.mode & DMDIR:
            raise CloudError("notdir")
        if not node.mode & X:
            self._need(node, X)
        if name[:1] == ".":
            if name == "..":
                return then(self.find(ref.path[:-1]), lambda up: Ref(up.node, up.path, ref.cues))
            if name == ".":
                return ref
            cues = cue(ref.cues, name)
            if cues is not None:
                return Ref(node, ref.path, cues)
        if len(name) > SHORT or not name or "/" in name or "\0" in name:
            check_name(name)
        path = (*ref.path, name)
        mounts = self.space.mounts
        if mounts and path in mounts:
            return Ref(mounts[path], path, ref.cues)
        if len(path) > MAX_DEPTH:
            raise CloudError("toolong", f"a path has at most {MAX_DEPTH} elements")
        child = node.walk(name, self, ref.cues)
        if isinstance(child, Wait):
            return then(child, partial(Ref, path=path, cues=ref.cues))
        return Ref(child, path, ref.cues)

    def walk_all(self, ref: Ref, names: Sequence[str]) -> Walked | Wait[Walked]:
        """As many steps as succeed: the files passed, where the last led if all did, and
        what stopped the walk (walk(5))."""
        done: list[Node] = []
        if names and names[0][:1] == ".":  # cues, as nodes have them in front
            for name in names:
                try:
                    cues = cue(ref.cues, name) if ref.node.mode & _PASS == _PASS else None
                except CloudError as error:
                    return done, ref, error
                if cues is None:
                    break
                ref = Ref(ref.node, ref.path, cues)
                done.append(ref.node)
        if not self.space.mounts and len(ref.path) + len(names) <= MAX_DEPTH:
            # The steps that need no closer look: nothing is bound, everybody may search,
            # no name has a dot.  Without a Ref and a path each they cost half.
            node, cues, first = ref.node, ref.cues, len(done)
            for name in names[first:] if first else names:
                if node.mode & _PASS != _PASS or not name.isalnum() or len(name) > SHORT:
                    break
                try:
                    child = node.walk(name, self, cues)
                except CloudError as error:
                    return done, ref, error
                if isinstance(child, Wait):
                    at = len(done)
                    here = Ref(node, (*ref.path, *names[first:at]), cues)
                    step = then(child, partial(Ref, path=(*here.path, name), cues=cues))
                    return self._walk_on(done, here, names[at:], step)
                done.append(child)
                node = child
            else:
                return done, Ref(node, (*ref.path, *names[first:]), cues), None
            if len(done) > first:
                ref = Ref(node, (*ref.path, *names[first : len(done)]), cues)
        for index in range(len(done), len(names)):
            try:
                found = self.walk(ref, names[index])
            except CloudError as error:
                return done, ref, error
            if isinstance(found, Wait):
                return self._walk_on(done, ref, names[index:], found)
            done.append(found.node)
            ref = found
        return done, ref, None

    def _walk_on(
        self, done: list[Node], ref: Ref, names: Sequence[str], step: Ref | Wait[Ref]
    ) -> Walked | Wait[Walked]:
        """Go on where the step to the first of the names, from ref, waits."""
        ahead = ref.node.ahead(names, self, ref.cues)
        if ahead is not None:  # after which the step may not wait any more
            step = then(ahead, partial(self._step, ref, names[0]))
        return then(step, partial(self._stepped, done, names), partial(self._stopped, done))

    def _step(self, ref: Ref, name: str, _: None) -> Ref | Wait[Ref]:
        return self.walk(ref, name)

    def _stepped(self, done: list[Node], names: Sequence[str], ref: Ref) -> Walked | Wait[Walked]:
        done = [*done, ref.node]
        if len(names) == 1:
            return done, ref, None
        return then(self.walk_all(ref, names[1:]), partial(_joined, done))

    def _stopped(self, done: list[Node], error: CloudError) -> Walked:
        return done, self.root(), error

    def find(self, path: Sequence[str]) -> Ref | Wait[Ref]:
        """The file at a path from the root of the name space; raises if not there."""

        def last(walked: Walked) -> Ref:
            _, ref, error = walked
            if error is not None:
                error.path = error.path or join(path)
                raise error
            return ref

        return then(self.walk_all(self.root(), path), last)

    def stat(self, ref: Ref) -> Stat | Wait[Stat]:
        return ref.node.stat()

    def open(self, ref: Ref, mode: int) -> Handle | Wait[Handle]:
        """Open for OREAD, OWRITE, ORDWR or OEXEC, or'ed with OTRUNC."""
        node = ref.node
        bits = _NEED[mode & 3] | (W if mode & OTRUNC else 0)
        if node.mode & bits != bits:
            self._need(node, bits)
        if node.mode & DMDIR:
            if bits & W:
                raise CloudError("isdir", "a directory cannot be written")
            if ref.cues.look:
                raise CloudError("again", "a directory is not listed before one asks for it")
        if mode & ORCLOSE:
            raise CloudError("refused", "no file here is removed by closing it")
        if self.who.powers is not None and node.remote:
            raise _restricted()
        return node.open(mode, self, ref.cues)

    def create(
        self, ref: Ref, name: str, perm: int, mode: int
    ) -> tuple[Ref, Handle] | Wait[tuple[Ref, Handle]]:
        """Make a child and open it."""
        if not ref.node.mode & DMDIR:
            raise CloudError("notdir")
        check_name(name)
        if name in (".", "..") or cue(ref.cues, name) is not None:
            raise CloudError("bad", f"{name!r} cannot be made")
        self._need(ref.node, W | X)
        made = ref.node.create(name, perm, mode, self, ref.cues)
        return then(made, lambda pair: (Ref(pair[0], (*ref.path, name), ref.cues), pair[1]))

    def remove(self, ref: Ref) -> Wait[None] | None:
        """Remove a file; the caller must be able to write its directory."""
        if not ref.path:
            raise CloudError("refused", "the root cannot be removed")

        def finish(parent: Ref) -> Wait[None] | None:
            self._need(parent.node, W | X)
            return ref.node.remove(self)

        return then(self.find(ref.path[:-1]), finish)

    def wstat(self, ref: Ref, changes: dict[str, Any]) -> Wait[None] | None:
        """Change attributes, all or none.  Truncating needs write permission; what
        only sets times does nothing, since `touch` and `cp -p` should not fail."""
        if not changes or set(changes) <= {"mtime", "atime"}:
            return None
        if set(changes) <= {"length", "mtime", "atime"}:
            self._need(ref.node, W)
        elif self.who.powers is not None and not self.who.boss:
            raise CloudError("refused", "a restricted token changes no attributes")
        elif self.who.user != ref.node.uid and not self.who.boss and not ref.node.remote:
            raise CloudError("refused", f"only the owner {ref.node.uid} may change attributes")
        return ref.node.wstat(changes, self)

    def _need(self, node: Node, bits: int) -> None:
        if self.who.powers is not None and node.remote:
            raise _restricted()
        if not allowed(self.who, node, bits, self.space.groups_of):
            asked = " and ".join(word for bit, word in _WORDS.items() if bits & bit)
            raise CloudError(
                "denied",
                f"{self.who.user} may not {asked} it, which is {node.uid}'s"
                f" with mode {node.mode & 0o777:o}",
            )


def _restricted() -> CloudError:
    return CloudError(
        "denied",
        "it is another node's, which would not know what your token is restricted to",
        "attach to that node itself",
    )


def _joined(done: list[Node], walked: Walked) -> Walked:
    more, ref, error = walked
    return [*done, *more], ref, error


def split(path: str) -> tuple[str, ...]:
    """The elements of an absolute path as users write it: /cloud/proc and /proc are
    the same place, since /cloud is where the tree is mounted by custom."""
    if not path.startswith("/"):
        raise CloudError("bad", f"{path!r} is not an absolute path", "begin it with /cloud/")
    parts = tuple(part for part in path.split("/") if part and part != ".")
    if ".." in parts:
        raise CloudError("bad", f"{path!r} goes up", "write the path without ..")
    return parts[1:] if parts[:1] == ("cloud",) else parts


def _cloud(path: Sequence[str]) -> str:
    return ndb.quote(join(("cloud", *path)))
