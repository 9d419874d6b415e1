"""The engine: what crosses machines, other than 9P itself, within one zone (DESIGN §9).

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        engine.publish("nodes/n1", record)
        with engine.subscribe("nodes/*") as heard:
            async for sample in heard: ...
        answer = await engine.ask("free/*", timeout=1.0)

What is published is soft state of its publisher: every member that subscribes, now or
later, gets the latest value of each key while the publisher lives, however the links fare
in between.  A key has one publisher; where two use the same one the last stamp wins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.stamp import Stamp

MAX_VALUE = 1 << 20  # bytes of one value, or of one question
MAX_KEYS = 1 << 16  # keys that one engine publishes

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """A key's value as of that stamp.  gone: it was withdrawn, and value is empty."""

    key: str
    value: bytes
    stamp: Stamp
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A node came into the zone or went."""

    node: str
    joined: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """One value of an answer, and the node that gave it."""

    key: str
    value: bytes
    node: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back in time.  whole: all that were asked have answered.  nodes: those that
    did, with or without replies.  failed: what went wrong at those that could not."""

    replies: list[Reply]
    whole: bool
    nodes: frozenset[str]
    failed: dict[str, str]


def check_size(value: bytes) -> bytes:
    """The value itself; raises CloudError("toobig")."""
    if len(value) > MAX_VALUE:
        raise CloudError("toobig", f"a value has at most {MAX_VALUE} bytes, this has {len(value)}")
    return value


# handler(key, payload): key is what was asked for, an expression perhaps.
Handler = Callable[[str, bytes], Awaitable[list[tuple[str, bytes]]]]


class Closer(Protocol):
    """Something that goes on until it is closed."""

    def close(self) -> None: ...


class Subscription(Protocol[T_co]):
    """What comes, in order, for one task to iterate.  Closing it ends the iteration; drain
    takes all that waits, at once.

    lost: how many told samples were dropped because they came faster than they were taken.
    """

    @property
    def lost(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def __aiter__(self) -> AsyncIterator[T_co]: ...
    def drain(self) -> Sequence[T_co]: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """A node's membership in one zone.  Keys and expressions are checked (fabric.keys): each
    call raises CloudError("bad") for one that is none."""

    node: str
    zone: str

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; `started` once usable.

        Raises CloudError where that cannot be: `busy` for an address in use, `bad` for keys
        that cannot be read or an address that is none.
        """

    def reopen(self, seeds: Sequence[str]) -> None:
        """Look for members at these addresses too, which nobody here is connected to."""

    def now(self) -> Stamp:
        """A stamp above all that this node gave or heard."""

    def members(self) -> frozenset[str]:
        """Who is here, this node included: a hint, up to a lease late."""

    def watch(self) -> Subscription[Change]:
        """First who is there, then who comes and goes."""

    def publish(self, key: str, value: bytes) -> None:
        """Set the key's value.  Raises CloudError: `toobig`, `toomany`."""

    def withdraw(self, key: str) -> None:
        """The key is no more; nothing if it was not published."""

    def tell(self, key: str, value: bytes) -> None:
        """Say it once to who listens now; it may be lost.  Raises CloudError: `toobig`."""

    def subscribe(self, keyexpr: str, own: bool = False) -> Subscription[Sample]:
        """What is published and told under keys of the expression, by this node too.  own: of
        keys KIND/NODE/… only what that node says."""

    def serve(self, keyexpr: str, handler: Handler) -> Closer:
        """Answer what is asked under the expression; the same question may come twice."""

    async def ask(
        self,
        selector: str,
        payload: bytes = b"",
        *,
        timeout: float,
        want: int | frozenset[str] | None = None,
    ) -> Answer:
        """Ask those who serve the selector, an expression.

        timeout: seconds, after which what has come is the answer.  want: the nodes to ask,
        or how many that serve it must answer; None: every member must, if only to say that
        it serves nothing of the kind.  Raises CloudError: `toobig`, `unreachable` while the
        engine does not run.
        """
