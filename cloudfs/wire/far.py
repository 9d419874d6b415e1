"""Where far files are: what remote.py asks of a connection, or of a pool of them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import Who
from cloudfs.wait import Done, Soon, Wait
from cloudfs.wire.call import Answers, Asking, Call
from cloudfs.wire.client import Client
from cloudfs.wire.file import File
from cloudfs.wire.messages import MAX_WALK

if TYPE_CHECKING:
    from cloudfs.wire.remote import RemoteNode

T = TypeVar("T")

READY = 0.25  # seconds that a file read at the end of a walk waits to be opened
MAX_READY = 32
ROOM = 1024  # what walks found that is kept for each far tree


class Turns:
    """How many operations are under way at once; the others wait for their turn."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting = trio.lowlevel.ParkingLot()

    def take(self) -> bool:
        """A turn, if one is free, which is to be given back; those who wait have none."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def give(self) -> None:
        if self._waiting:
            self._waiting.unpark()  # it has the turn now
        else:
            self._free += 1

    async def __aenter__(self) -> None:
        if not self.take():
            await self._waiting.park()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.give()


class Turn(Soon[T]):
    """What is asked in one of the turns.

    ask(): what to wait for, None where it cannot be asked yet.  later: the same as a
    coroutine function, for that case and where no turn is free.
    """

    __slots__ = ("_ask", "_asked", "_later", "_turns")

    def __init__(
        self,
        turns: Turns,
        ask: Callable[[], T | Wait[T] | None],
        later: Callable[[], Awaitable[T]],
    ) -> None:
        self._turns = turns
        self._ask = ask
        self._later = later

    def start(self, done: Done) -> None:
        if not self._turns.take():
            done(Wait(self._later), None)
            return
        try:
            asked = self._ask()
        except Exception as error:
            self._turns.give()
            done(None, error)
            return
        if isinstance(asked, Soon):
            self._asked = asked
            asked.start(partial(self._ended, done))
        else:
            self._turns.give()
            done(Wait(self._later), None)

    def _ended(self, done: Done, result: T | Wait[T], error: Exception | None) -> None:
        self._turns.give()
        done(result, error)

    def stop(self) -> None:
        self._turns.give()
        self._asked.stop()


class Found:
    """What walks found of a far tree, by user and path, and until when it holds.

    keep: for how many seconds, 0 for not at all.  ready: files that were opened and read
    at the end of a walk, for an open that follows it.  A change made from here makes all
    of it void, so that who writes sees what became of it.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.found: dict[tuple[str, ...], tuple[float, RemoteNode]] = {}
        self.ready: dict[tuple[str, ...], tuple[float, File, bytes]] = {}

    def keep_found(self, key: tuple[str, ...], node: RemoteNode) -> None:
        if self.keep:
            if len(self.found) >= ROOM:
                self.found.clear()
            self.found[key] = monotonic() + self.keep, node

    def forget_found(self) -> None:
        self.found.clear()
        self.tidy(math.inf)

    def keep_ready(self, key: tuple[str, ...], file: File, head: bytes) -> None:
        old = self.ready.pop(key, None)
        if old is not None:
            old[1].drop()
        self.tidy(monotonic())
        self.ready[key] = monotonic() + READY, file, head

    def take_ready(self, key: tuple[str, ...]) -> tuple[File, bytes] | None:
        found = self.ready.pop(key, None)
        if found is None:
            return None
        until, file, head = found
        if monotonic() < until and not file.client.why:
            return file, head
        file.drop()
        return None

    def tidy(self, now: float) -> None:
        """Close the ready files that nobody came for; the oldest stand first."""
        while self.ready:
            key = next(iter(self.ready))
            if self.ready[key][0] > now and len(self.ready) < MAX_READY:
                break
            self.ready.pop(key)[1].drop()


class Far(Protocol):
    """A far tree.

    salt: what its qids are mixed with here, since other trees have the same numbers.
    ordered: whether it is certainly a node's.
    limit: seconds for an operation where no cue says it, None for the client's own.
    turns, followers: of operations that have their time, and of reads that may take for
    ever.
    """

    salt: int
    ordered: bool
    limit: float | None
    turns: Turns
    followers: Turns
    keep: float
    found: dict[tuple[str, ...], tuple[float, RemoteNode]]
    ready: dict[tuple[str, ...], tuple[float, File, bytes]]

    def keep_found(self, key: tuple[str, ...], node: RemoteNode) -> None: ...

    def forget_found(self) -> None: ...

    def keep_ready(self, key: tuple[str, ...], file: File, head: bytes) -> None: ...

    def take_ready(self, key: tuple[str, ...]) -> tuple[File, bytes] | None: ...

    def known(self, who: Who) -> File | None:
        """The tree's root as who sees it, where that is there and a node's."""

    async def root(self, who: Who) -> File:
        """The tree's root as who sees it, connected to first if need be."""

    def late(self, limit: float) -> CloudError:
        """The error for an operation that was not done in that time."""


class Direct(Found):
    """The tree of one connection, which is one caller's."""

    salt = 0
    limit: float | None = None

    def __init__(self, client: Client) -> None:
        super().__init__(0.0)
        self.client = client
        self.ordered = client.node
        self.turns = Turns(1 << 16)
        self.followers = self.turns

    def known(self, who: Who) -> File | None:
        return self.client.root if self.client.node and not self.client.why else None

    async def root(self, who: Who) -> File:
        return self.client.root

    def late(self, limit: float) -> CloudError:
        return too_late(self.client.name, limit)


def too_late(name: str, limit: float) -> CloudError:
    """The error for what was not done in time."""
    return CloudError(
        "timeout",
        f"{name} did not answer within {limit:g} s",
        "for more time begin the path with .MaxTime=SECONDS",
    )


def ordered(root: File) -> bool:
    """Whether requests that build on each other can be sent together."""
    return root.client.node


async def reach(
    root: File,
    names: Sequence[str],
    calls: Callable[[File], list[Call]],
    limit: float | None,
    spare: int = 0,
    told: bool = False,
) -> tuple[File, Answers]:
    """The file at a path from root, and the answers to what is asked about it, all in one
    round trip where the server is a node.

    The file is to be let go of, and has `limit` for each operation.  spare: see
    Client.together.  told: whether why there is no such file is worth a message.  Raises
    CloudError.
    """
    client = root.client
    if not client.node:
        file = await client.walk(names, start=root, deadline=limit)
        file.deadline = limit
        try:
            return file, await client.together(calls(file), limit, spare)
        except BaseException:
            file.drop()
            raise
    asking, reached = reaching(root, names, calls, limit or client.deadline, spare, told)
    return reached(await asking.run())


def reaching(
    root: File,
    names: Sequence[str],
    calls: Callable[[File], list[Call]],
    seconds: float,
    spare: int = 0,
    told: bool = False,
    late: Callable[[], CloudError] | None = None,
) -> tuple[Asking[Answers], Callable[[Answers], tuple[File, Answers]]]:
    """The same where the server is a node: what to ask, at once, and what makes of the
    answers what `reach` gives.  seconds, late: see Client.asking."""
    client = root.client
    file = File(client, client.new_fid(), root.qid, (*root.path, *names))
    file.deadline = math.inf  # who uses it has a time for all that is done
    walks = _walks(root, file, names, told)
    asking = client.asking([*walks, *calls(file)], seconds, spare, late)
    return asking, partial(_reached, file, len(walks))


def _reached(file: File, walks: int, answers: Answers) -> tuple[File, Answers]:
    walked = answers[0][0] if walks == 1 else [qid for (qids,) in answers[:walks] for qid in qids]
    file.walked = walked
    if walked:
        file.qid = walked[-1]
    return file, answers[walks:]


def _walks(root: File, file: File, names: Sequence[str], told: bool) -> list[Call]:
    """The walks to a path.  told: the last name has one of its own, since a walk is told
    only why its first name fails."""
    if len(names) <= MAX_WALK and not told:
        return [Call("Twalk", root.fid, file.fid, names, makes=file.fid, steps=len(names))]
    before, last = (names[:-1], names[-1:]) if told else (names, names[:0])
    steps = [before[at : at + MAX_WALK] for at in range(0, len(before), MAX_WALK)]
    first, *rest = [*steps, *([last] if last else ())] or [[]]
    return [
        Call("Twalk", root.fid, file.fid, first, makes=file.fid, steps=len(first)),
        *(Call("Twalk", file.fid, file.fid, step) for step in rest),
    ]
