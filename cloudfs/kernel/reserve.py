"""What a node has promised to its objects: cores and bytes of memory.  Pure.

An object holds what its `limit cpu` and `limit mem` say, from its start to its end;
without a limit it holds nothing.  A hold with an end (`until`) is for an object that
another node wants to place here: it goes by itself if no exec comes.

The one rule: what is held together is at most what the node offers.  Only `count`,
for objects that an earlier daemon left running, may go beyond it, where the machine
has become smaller meanwhile; then nothing more is taken until enough has ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloudfs.errors import CloudError
from cloudfs.node.api import Limits

MICRO = 1_000_000  # parts of a core: whole numbers add up without an error
MANY = 1 << 62  # what a node offers that does not say


@dataclass(frozen=True, slots=True)
class Amount:
    """cpu in millionths of a core, mem in bytes."""

    cpu: int = 0
    mem: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.mem + other.mem)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.cpu - other.cpu, self.mem - other.mem)

    def within(self, other: Amount) -> bool:
        """Whether the other has room for it."""
        return self.cpu <= other.cpu and self.mem <= other.mem

    @property
    def cores(self) -> float:
        return self.cpu / MICRO


def amount(cores: float, mem: float) -> Amount:
    """From cores and bytes, rounded up."""
    return Amount(math.ceil(cores * MICRO), math.ceil(mem))


def wanted(limits: Limits) -> Amount:
    """What an object with these limits holds."""
    return amount(limits.cpu or 0.0, limits.mem or 0)


NOTHING = Amount()
UNBOUNDED = Amount(MANY, MANY)


class Reserve:
    """The holds of one node, by object id.  Times are seconds of one clock."""

    def __init__(self, offer: Amount = UNBOUNDED) -> None:
        self.offer = offer
        self._holds: dict[str, tuple[Amount, float]] = {}  # amount, until
        self._sum = NOTHING

    @property
    def free(self) -> Amount:
        """What nobody holds; nothing is below 0."""
        left = self.offer - self._sum
        return Amount(max(0, left.cpu), max(0, left.mem))

    def held(self, id: str) -> Amount | None:
        """What an object holds; None if it has no hold, which is not a hold of nothing."""
        found = self._holds.get(id)
        return found[0] if found else None

    def hold(self, id: str, want: Amount, until: float = math.inf) -> None:
        """Hold so much for an object, in place of what it has; with no `until` for good.
        CloudError("full"), and nothing has changed, where there is no room."""
        had = self.held(id) or NOTHING
        left = self.offer - self._sum + had
        # What asks for nothing of a kind has room, even where too much is held.
        short = [
            text
            for want_one, left_one, text in (
                (want.cpu, left.cpu, f"{max(0, left.cpu) / MICRO:g} cores"),
                (want.mem, left.mem, f"{max(0, left.mem)} bytes of memory"),
            )
            if want_one > max(0, left_one)
        ]
        if short:
            fits = want.within(self.offer)
            raise CloudError(
                "full",
                f"this node has {' and '.join(short)} unreserved, not {want.cores:g} cores"
                f" and {want.mem} bytes",
                "wait until an object has ended" if fits else "ask for less: limit cpu=N mem=N",
            )
        self._set(id, want, until)

    def change(self, id: str, want: Amount) -> None:
        """Another amount for an object that has a hold; its end stays."""
        if id in self._holds:
            self.hold(id, want, self._holds[id][1])

    def count(self, id: str, want: Amount) -> None:
        """Hold for an object that runs already, whether there is room or not."""
        self._set(id, want, math.inf)

    def release(self, id: str) -> None:
        """Give back what an object holds, if anything."""
        found = self._holds.pop(id, None)
        if found is not None:
            self._sum -= found[0]

    def expire(self, now: float) -> list[str]:
        """Give back the holds whose end has come; whose they were."""
        over = [id for id, (_, until) in self._holds.items() if until <= now]
        for id in over:
            self.release(id)
        return over

    def _set(self, id: str, want: Amount, until: float) -> None:
        self.release(id)
        self._holds[id] = want, until
        self._sum += want
