"""A 9P server's tree as nodes of ours, so that it can be mounted, bound and passed on.

A node is a path on the far side; each operation walks there afresh, so nothing is kept
open for a node that nobody uses, and who asks is who the caller is.  Cues are walked on
the far side in front of the path: what blocks and how long it may take is decided where
the file is.

Between nodes an operation is one round trip.  A walk of many names is one; what it found
holds for a second; an open brings the beginning of the file with it.  So a second look at
nodes/N/proc/ID/status costs one, and so does the first when it comes by one walk.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import takewhile
from time import monotonic
from typing import Any, TypeVar

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import (
    DMDIR,
    OREAD,
    OTRUNC,
    PLAIN,
    Cues,
    DirHandle,
    Entries,
    Handle,
    Node,
    Stat,
    Wait,
    Who,
)
from cloudfs.tree.space import Attach
from cloudfs.wait import settle, then
from cloudfs.wire.call import Answers, Call
from cloudfs.wire.client import Client
from cloudfs.wire.codec import Qid
from cloudfs.wire.far import Direct, Far, Turn, ordered, reach, reaching
from cloudfs.wire.file import File
from cloudfs.wire.handle import Opening, RemoteHandle

KEEP = 1.0  # seconds that what a walk found holds
_NEVER = (0.0, None)
WRITABLE = 3  # bits of an open mode that say whether it reads or writes

T = TypeVar("T")


class RemoteNode(Node):
    """The file at a path of a far tree.

    stat: its attributes as they were when it was walked to, which hold until the time
    `until`.  who: for whom that was.
    """

    __slots__ = ("_far", "_names", "_stat", "_until", "_who")

    def __init__(
        self, far: Far, names: tuple[str, ...], stat: Stat, who: Who, until: float = 0.0
    ) -> None:
        self._far = far
        self._names = names
        self._who = who
        self.name = names[-1] if names else "/"
        self._take(stat, until)

    def _take(self, stat: Stat, until: float) -> None:
        stat.qid ^= self._far.salt
        self._stat = stat
        self._until = until
        self.mode, self.qid, self.uid, self.gid = stat.mode, stat.qid, stat.uid, stat.gid

    @property
    def remote(self) -> bool:
        return True

    async def _there(
        self, who: Who, cues: Cues, work: Callable[[File, float | None], Awaitable[T]]
    ) -> T:
        """work(the root as who sees it, seconds for each request), within the time that the
        cues give for all of it."""
        far = self._far
        limit = _limit(far, cues)
        with trio.move_on_after(limit):
            async with far.turns:
                root = await far.root(who)
                return await work(root, math.inf if ordered(root) or limit < math.inf else None)
        raise far.late(limit)

    def _trip(
        self,
        who: Who,
        cues: Cues,
        names: Sequence[str],
        calls: Callable[[File], list[Call]],
        finish: Callable[[tuple[File, Answers]], T | Wait[T]],
        failed: Callable[[CloudError], T | Wait[T]] | None = None,
        spare: int = 0,
        told: bool = False,
    ) -> Turn[T]:
        """finish(what `reach` gives) within the time that the cues give, or failed(why
        not): without a task where one round trip is all it takes."""
        how = who, cues, names, calls, finish, failed, spare, told
        return Turn(self._far.turns, partial(self._asks, *how), partial(self._waits, *how))

    def _asks(
        self,
        who: Who,
        cues: Cues,
        names: Sequence[str],
        calls: Callable[[File], list[Call]],
        finish: Callable[[tuple[File, Answers]], T | Wait[T]],
        failed: Callable[[CloudError], T | Wait[T]] | None,
        spare: int,
        told: bool,
    ) -> Wait[T] | None:
        far = self._far
        root = far.known(who)
        if root is None:
            return None
        limit = _limit(far, cues)
        late = partial(far.late, limit)
        asking, reached = reaching(root, names, calls, limit, spare, told, late)
        return then(asking, partial(_finished, finish, reached), failed)

    async def _waits(
        self,
        who: Who,
        cues: Cues,
        names: Sequence[str],
        calls: Callable[[File], list[Call]],
        finish: Callable[[tuple[File, Answers]], T | Wait[T]],
        failed: Callable[[CloudError], T | Wait[T]] | None,
        spare: int,
        told: bool,
    ) -> T:
        async def ask(root: File, limit: float | None) -> T:
            return await settle(finish(await reach(root, names, calls, limit, spare, told)))

        try:
            return await self._there(who, cues, ask)
        except CloudError as error:
            if failed is None:
                raise
            return await settle(failed(error))

    # --- attributes and walks -----------------------------------------------------------------

    def stat(self) -> Stat | Wait[Stat]:
        if monotonic() < self._until:
            return self._stat
        return self._trip(self._who, PLAIN, self._names, _stating, self._stated)

    def _stated(self, found: tuple[File, Answers]) -> Stat:
        file, (answer,) = found
        file.drop(False)
        self._take(file.stat_of(answer), monotonic() + self._far.keep)
        return self._stat

    def walk(self, name: str, at: Attach, cues: Cues) -> Node | Wait[Node]:
        who = at.who
        if not cues.fresh:  # what a walk found not long ago
            found = self._far.found.get((who.user, *self._names, name))
            if found is not None and monotonic() < found[0]:
                return found[1]
        names = [*_words(cues), *self._names, name]
        return self._trip(who, cues, names, _stating, partial(self._walked, name, who), told=True)

    def _keep(self, node: RemoteNode, who: Who) -> RemoteNode:
        self._far.keep_found((who.user, *node._names), node)
        return node

    def _walked(self, name: str, who: Who, found: tuple[File, Answers]) -> Node:
        file, (answer,) = found
        file.drop(False)
        stat, until = file.stat_of(answer), monotonic() + self._far.keep
        return self._keep(RemoteNode(self._far, (*self._names, name), stat, who, until), who)

    def ahead(self, names: Sequence[str], at: Attach, cues: Cues) -> Wait[None] | None:
        """Find all of the names in one round trip, and read the file at their end, which
        is mostly what a walk is for.  What is wrong with a name is told by the walk that
        comes to it."""
        plain = tuple(takewhile(lambda name: name[:1] != ".", names))
        if not plain or cues.fresh or not self._far.keep:
            return None
        asked = [*_words(cues), ".look", *self._names, *plain]
        calls, spare = (_stating, 0) if cues.follow else (_looking, 2)
        came = partial(self._came, plain, len(asked) - len(plain), at.who)
        return self._trip(at.who, cues, asked, calls, came, _quietly, spare)

    def _came(
        self, names: tuple[str, ...], before: int, who: Who, found: tuple[File, Answers]
    ) -> None:
        """Keep what a walk ahead found of these names, before which it walked others, and
        what it read of the file at their end."""
        far = self._far
        file, (answer, *read) = found
        path, now = self._names, monotonic()
        for name, qid in zip(names[:-1], file.walked[before:], strict=False):
            path = (*path, name)
            if far.found.get((who.user, *path), _NEVER)[0] < now:
                self._keep(RemoteNode(far, path, _guess(name, qid), who), who)
        node = RemoteNode(far, (*path, names[-1]), file.stat_of(answer), who, now + far.keep)
        self._keep(node, who)
        if len(read) == 2:
            file.opened(*read[0])
            far.keep_ready((who.user, *node._names), file, bytes(read[1][0]))
        else:
            file.drop(False)

    # --- opening ------------------------------------------------------------------------------

    def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
        if self._far.ready and _looks(mode, cues) and not cues.fresh:
            ready = self._far.take_ready((at.who.user, *self._names))
            if ready is not None:
                return RemoteHandle(self._far, *ready, _limit(self._far, cues))
        otherwise = partial(self._open, mode, at.who, cues)
        if self.mode & DMDIR or not self._far.ordered or not _looks(mode, cues):
            return Wait(partial(otherwise, True))
        names = self._names if cues is PLAIN else (*_words(cues), *self._names)
        return Opening(self._far, at.who, names, _limit(self._far, cues), otherwise)

    async def _open(self, mode: int, who: Who, cues: Cues, look: bool) -> Handle:
        """look: whether the beginning may be read at the same time."""

        async def ask(root: File, limit: float | None) -> Handle:
            if look and _looks(mode, cues) and ordered(root):
                try:
                    return await self._look(root, who, cues, limit)
                except CloudError as error:
                    if error.kind != "again":
                        raise
            file, (answer,) = await reach(
                root, [*_words(cues), *self._names], lambda file: [file.to_open(mode)], limit
            )
            file.opened(*answer)
            return await self._handle(file, who, cues)

        if mode & WRITABLE == OREAD:
            return await self._there(who, cues, ask)
        self._until = 0.0
        try:
            return await self._there(who, cues, ask)
        finally:
            self._far.forget_found()

    async def _look(self, root: File, who: Who, cues: Cues, limit: float | None) -> Handle:
        """Open a file and read its beginning at the same time."""
        look = [] if self.mode & DMDIR else [".look"]
        names = [*_words(cues), *look, *self._names]
        file, (opened, (data,)) = await reach(root, names, _reading, limit)
        file.opened(*opened)
        return await self._handle(file, who, cues, bytes(data))

    async def _handle(self, file: File, who: Who, cues: Cues, head: bytes | None = None) -> Handle:
        if not file.qid[0] & 0x80:
            if cues.follow:
                file.deadline = math.inf
            limit = math.inf if cues.follow else _limit(self._far, cues)
            return RemoteHandle(self._far, file, head, limit)
        until = monotonic() + self._far.keep
        nodes: dict[str, Node] = {}
        try:
            for name, qid, stat in await file.entries(head):
                path, known = (*self._names, name), stat or _guess(name, qid)
                node = RemoteNode(self._far, path, known, who, until if stat else 0.0)
                nodes[name] = self._keep(node, who) if stat else node
        finally:
            file.drop()
        return DirHandle(Entries(nodes))

    # --- changes ------------------------------------------------------------------------------

    def create(
        self, name: str, perm: int, mode: int, at: Attach, cues: Cues
    ) -> Wait[tuple[Node, Handle]]:
        return Wait(partial(self._create, name, perm, mode, at.who, cues))

    async def _create(
        self, name: str, perm: int, mode: int, who: Who, cues: Cues
    ) -> tuple[Node, Handle]:
        async def ask(root: File, limit: float | None) -> tuple[Node, Handle]:
            file, _ = await reach(root, [*_words(cues), *self._names], _no_calls, limit)
            try:
                await file.create(name, perm, mode)
                stat = await file.stat()
                node = RemoteNode(self._far, (*self._names, name), stat, who)
                return node, await node._handle(file, who, cues)
            except BaseException:
                file.drop()
                raise

        try:
            return await self._there(who, cues, ask)
        finally:
            self._far.forget_found()

    def remove(self, at: Attach) -> Wait[None]:
        return Wait(partial(self._remove, at.who))

    async def _remove(self, who: Who) -> None:
        async def ask(root: File, limit: float | None) -> None:
            file, _ = await reach(root, self._names, _no_calls, limit)
            await file.remove()

        try:
            await self._there(who, PLAIN, ask)
        finally:
            self._far.forget_found()

    def wstat(self, changes: dict[str, Any], at: Attach) -> Wait[None]:
        return Wait(partial(self._wstat, changes, at.who))

    async def _wstat(self, changes: dict[str, Any], who: Who) -> None:
        async def ask(root: File, limit: float | None) -> None:
            whole = ordered(root)

            def calls(file: File) -> list[Call]:
                return [file.to_wstat(changes)] if whole else []

            file, _ = await reach(root, self._names, calls, limit)
            try:
                if not whole:
                    await file.wstat(changes)
            finally:
                file.drop()

        try:
            await self._there(who, PLAIN, ask)
        finally:
            self._until = 0.0
            self._far.forget_found()


async def tree(client: Client) -> RemoteNode:
    """The node of a client's root."""
    return RemoteNode(Direct(client), (), await client.root.stat(), Who("none", None))


def _no_calls(file: File) -> list[Call]:
    return []


def _stating(file: File) -> list[Call]:
    return [file.to_stat()]


def _looking(file: File) -> list[Call]:
    return [file.to_stat(), *_reading(file)]


def _reading(file: File) -> list[Call]:
    """Open a file and read its beginning."""
    return [file.to_open(OREAD), Call("Tread", file.fid, 0, file.client.most)]


def _finished(
    finish: Callable[[tuple[File, Answers]], T],
    reached: Callable[[Answers], tuple[File, Answers]],
    answers: Answers,
) -> T:
    return finish(reached(answers))


def _quietly(error: CloudError) -> None:
    if error.kind in ("timeout", "unreachable"):
        raise error


def _limit(far: Far, cues: Cues) -> float:
    """Seconds for an operation, math.inf where the client itself says it."""
    if cues.max_time != PLAIN.max_time:
        return cues.max_time
    return math.inf if far.limit is None else far.limit


def _looks(mode: int, cues: Cues) -> bool:
    """Whether a file opened so may be read before its opener does."""
    return mode & WRITABLE == OREAD and not mode & OTRUNC and not cues.follow


def _words(cues: Cues) -> list[str]:
    """The path elements that ask the far side for the same."""
    words = []
    if cues.follow:
        words.append(".follow")
    if cues.fresh:
        words.append(".fresh")
    if cues.max_time != PLAIN.max_time:
        words.append(f".MaxTime={cues.max_time:g}")
    return words


def _guess(name: str, qid: Qid) -> Stat:
    """What a qid tells of a file; the far side checks permissions anyway."""
    mode = DMDIR | 0o555 if qid[0] & 0x80 else 0o444
    return Stat(name, qid[2], mode, 0, 0.0, "none", "none")
