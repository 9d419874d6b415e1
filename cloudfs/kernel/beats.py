"""What the members of a zone tell each other, and what a member's core asks its driver for.

Keys in a zone, each with its owner's newest value:

    beat/NAME    that NAME lives: small, every few seconds (`Beat`)
    node/NAME    its whole record, on change and rarely again
    zone/CHILD   in an inner zone: the digest of a child, by either of its delegates
    zone-news/CHILD  what of it changed since that was told whole
    rival/NAME   that another bears that name in another zone; told once (`claims`)
    up/ZONE      the size of a zone above, and whom to enter it by; delegates pass it down
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import zones

BEAT = 1.5  # seconds between two beats in the zone where a node is at home,
SLOW = 3.0  # and in the zones above, whose members their leaves watch as well
TICK = 0.5  # seconds between two calls of `Member.tick`, at most
LISTED = 12  # names in each list of a beat

Sight = tuple[str, int, int]  # name, boot and number of the last beat heard


@dataclass(frozen=True, slots=True)
class Beat:
    """One sign of life.  A list is empty unless something is wrong."""

    id: str  # the first 8 digits of the key's fingerprint
    boot: int
    seq: int  # counts the beats of one start
    leaf: str  # the zone where it is at home
    rev: int  # of its record as it is told in this zone
    sum: int = 0  # of the names of those it holds for living (`Roster.sum`)
    stand: str = ""  # the root or group where its cluster stands
    move: str = ""  # "split" or "merge" while the zone's nodes go to another
    bye: str = ""  # "left" the cloud, or "parted": only from this zone
    miss: tuple[str, ...] = ()  # whom it does not hear directly
    seen: tuple[Sight, ...] = ()  # whom it hears, of those that others miss
    want: tuple[str, ...] = ()  # whose record it has not got

    def text(self) -> bytes:
        pairs: dict[str, object] = {"id": self.id, "boot": self.boot, "seq": self.seq}
        pairs |= {"leaf": self.leaf, "rev": self.rev, "sum": self.sum}
        pairs |= {"stand": self.stand, "move": self.move, "bye": self.bye}
        pairs["miss"] = ",".join(self.miss)
        pairs["seen"] = ",".join(f"{name}:{boot}:{seq}" for name, boot, seq in self.seen)
        pairs["want"] = ",".join(self.want)
        return ndb.record((name, value) for name, value in pairs.items() if value != "").encode()


@lru_cache(1 << 10)
def beat(value: bytes) -> Beat:
    """A beat as it came; CloudError("bad") where it is none."""
    try:
        pairs = ndb.parse(ndb.text_line(value))
        lists = {
            name: tuple(pairs[name].split(",")[:LISTED]) if pairs.get(name) else ()
            for name in ("miss", "seen", "want")
        }
        seen = (entry.split(":") for entry in lists["seen"])
        return Beat(
            pairs["id"],
            int(pairs["boot"]),
            int(pairs["seq"]),
            pairs["leaf"],
            int(pairs["rev"]),
            int(pairs["sum"]),
            zones.check(pairs.get("stand", "")),
            pairs.get("move", ""),
            pairs.get("bye", ""),
            lists["miss"],
            tuple((name, int(boot), int(seq)) for name, boot, seq in seen),
            lists["want"],
        )
    except (KeyError, ValueError) as failure:
        raise CloudError("bad", f"no sign of life: {failure}") from None


# --- what the driver is to do --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Enter:
    """Open the engine of a zone by these endpoints (HOST:PORT); where it is open already,
    open it anew: nodes of the zone were seen that it is not connected to."""

    zone: str
    seeds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """Close the engine of a zone."""

    zone: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish a value in a zone; where the engine is not open yet, once it is."""

    zone: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Withdraw what was published under a key."""

    zone: str
    key: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Dial the node that serves 9P at an address, read its `introduction` of us and give it
    to `Member.introduced`; "" where that fails."""

    address: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A node of the own leaf, or this one, is in another state."""

    node: str
    old: str  # "" for one not known before
    new: str
    why: str


Action = Enter | Exit | Publish | Withdraw | Ask | Changed
