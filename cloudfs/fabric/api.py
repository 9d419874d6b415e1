"""What the rest of cloudfs knows of the engine that carries its soft state (DESIGN §9).

An `Engine` is one node's session in one zone: it tells who else is there, keeps each
node's published values with all others, tells things once, and asks many at a time.
Two engines have this face: `local` within one process, and `zenoh` between machines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cloudfs.fabric.stamp import Stamp
from cloudfs.fabric.subscription import Subscription

MAX_VALUE = 1 << 20  # bytes of a published value
MAX_KEY = 255  # bytes of a key


@dataclass(frozen=True, slots=True)
class Sample:
    """A value that a node published or told under a key; gone: it was withdrawn.
    stamp.node is who did."""

    key: str
    value: bytes
    stamp: Stamp
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A node was seen to join or leave the zone: a hint, never a verdict."""

    node: str
    joined: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to a question; node: who gave it."""

    key: str
    value: bytes
    node: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back in time; whole: whether everybody who was wanted answered."""

    replies: list[Reply]
    whole: bool


Handler = Callable[[str, bytes], Awaitable[list[tuple[str, bytes]]]]
Closer = Callable[[], None]


class Engine(Protocol):
    """One node's session in one zone.  Keys are words joined by "/"; in a keyexpr "*" is
    any one word and "**" any number of them.

    Nobody hears what it says itself.
    """

    node: str
    zone: str

    async def run(self, *, task_status: Any = ...) -> None:
        """Open, report started, serve until cancelled, close.  Reopens by itself."""

    def reopen(self, seeds: Sequence[str]) -> None:
        """Call these members too, whatever it takes."""

    def now(self) -> Stamp:
        """A stamp greater than all made or heard before."""

    def members(self) -> frozenset[str]:
        """The nodes that are seen in the zone, this one included."""

    def watch(self) -> Subscription[Change]:
        """Who joins and leaves, after those who are there already."""

    def publish(self, key: str, value: bytes) -> Stamp:
        """Have all others keep this value, those too who come later.  Never blocks."""

    def withdraw(self, key: str) -> None:
        """Take a published value back: who subscribed gets it once more as gone."""

    def tell(self, key: str, value: bytes) -> None:
        """Tell all who subscribe now, once; it may be lost.  Never blocks."""

    def subscribe(self, keyexpr: str) -> Subscription[Sample]:
        """The values of others, first those that they keep already."""

    def serve(self, keyexpr: str, handler: Handler) -> Closer:
        """Answer questions: handler(key asked, payload) gives (key, value) pairs.  One that
        raises gives no answer."""

    async def ask(
        self,
        selector: str,
        payload: bytes = b"",
        *,
        timeout: float,
        want: int | frozenset[str] | None = None,
    ) -> Answer:
        """Ask all nodes that serve a key which matches.  Ends once the wanted have answered
        (so many nodes, these nodes, or every other member), or after timeout seconds."""
