"""How a node finds its zone: it asks one that is known, and is told where to go.  Pure.

Any member answers the question "where does NAME of CLUSTER belong" with ndb lines:

    node=NAME leaf=paris.01 nodes=20      who answers, its leaf and how many are at home there
    enter=paris.0110 stand=.01            the leaf to enter, where the answerer knows it, and
                                          the group in which its cluster stands, if any
    peer=NAME zone=paris.01 addr=H:P      members of the zones that the answerer is in
    taken=NAME id=… boot=N cluster=paris  who lives under the asker's name (claims.py)
    ask=NAME addr=H:P                     where it does not know: who is nearer to knowing

As in DNS, the asker goes from one to the next until one knows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import claims, zones
from cloudfs.kernel.claims import Claim

PEERS = 40  # members of each zone that an introduction names: all of them
PATIENCE = 5.0  # seconds that one question may take
STEPS = 24  # questions of one round
PAUSE, LAST_PAUSE = 1.0, 15.0  # seconds between two rounds, doubling


@dataclass(slots=True)
class Introduction:
    """What a member said."""

    node: str
    leaf: str
    nodes: int
    enter: str | None = None
    stand: str = zones.ROOT
    peers: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # zone: name, addr
    taken: Claim | None = None  # of who lives under the asker's name
    ask: list[str] = field(default_factory=list)  # addresses


def parse(text: str) -> Introduction | None:
    """An introduction as it was read; None for nothing.  CloudError("bad") where it is none."""
    found: Introduction | None = None
    try:
        for line in text.splitlines():
            pairs = ndb.parse(line)
            if "node" in pairs:
                found = Introduction(pairs["node"], zones.check(pairs["leaf"]), int(pairs["nodes"]))
            elif found is None:
                raise CloudError("bad", "it does not say whose it is")
            elif "enter" in pairs:
                found.enter = zones.check(pairs["enter"])
                found.stand = zones.check(pairs.get("stand", zones.ROOT))
            elif "peer" in pairs:
                _port(pairs["addr"])
                zone = found.peers.setdefault(zones.check(pairs["zone"]), [])
                zone.append((pairs["peer"], pairs["addr"]))
            elif "taken" in pairs:
                found.taken = claims.of(pairs)
            elif "ask" in pairs:
                _port(pairs["addr"])
                found.ask.append(pairs["addr"])
    except (KeyError, ValueError) as failure:
        raise CloudError("bad", f"no introduction: {failure}") from None
    return found


def _port(address: str) -> None:
    host, _, number = address.rpartition(":")
    if not host or not number.isdigit():
        raise CloudError("bad", f"{address[:80]!r} is no HOST:PORT")


@dataclass(slots=True)
class Asking:
    """One question after another to one address after another."""

    queue: deque[str] = field(default_factory=deque)
    asked: set[str] = field(default_factory=set)
    waiting: str | None = None  # the address asked
    since: float = 0.0
    rounds: int = 0  # that ended without an answer
    again: float = -math.inf  # when the next round may begin
    heard: bool = False  # whether anybody answered

    def start(self, addresses: Iterable[str]) -> None:
        """Begin a round."""
        self.queue = deque(dict.fromkeys(addresses))
        self.asked = set()

    @property
    def idle(self) -> bool:
        return self.waiting is None and not self.queue

    def refer(self, addresses: Iterable[str]) -> None:
        """Ask these first."""
        fresh = [address for address in addresses if address not in self.asked]
        self.queue.extendleft(reversed(fresh))

    def step(self, now: float) -> str | None:
        """The address to ask now, if any; gives one up that does not answer."""
        if self.waiting is not None:
            if now - self.since < PATIENCE:
                return None
            self.waiting = None
        while self.queue and len(self.asked) < STEPS:
            address = self.queue.popleft()
            if address not in self.asked:
                self.asked.add(address)
                self.waiting, self.since = address, now
                return address
        self.queue.clear()
        return None

    def rest(self, now: float) -> None:
        """The round is over and brought nothing: wait, longer each time."""
        self.again = now + min(LAST_PAUSE, PAUSE * 2**self.rounds)
        self.rounds += 1
