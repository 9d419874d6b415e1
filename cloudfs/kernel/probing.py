"""Which peer is probed next, and when.  Pure: the clock is the caller's.

A node has few references and asks them in turn, one each PERIOD with jitter, so that probes of
many nodes never fall in step (RFC 2330, 11.1.1).  Probes on demand and those that settle a doubt
go first, with a gap between them and a bounded queue, so that nobody makes a node a source of
floods.  A peer that does not answer is asked less and less often.

The references are chosen so that no peer can choose itself, and so that churn moves few of them:
by rendezvous hash (Thaler and Ravishankar 1998) some of the own cluster, which are trusted, and
some of all; and some of the nearest, since with near ones alone or far ones alone coordinates are
worse than with both (Dabek et al., SIGCOMM 2004, 4.2).

Once the first rounds have given the node a place, one background probe in EXPLORE, and at first
one in two, goes to a stranger that seems near (nearest.likeness).  It is no reference; but so a
node comes to know, measured, the few that really stand beside it, which coordinates cannot tell,
and a search that asks it starts there.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from cloudfs.errors import CloudError
from cloudfs.kernel.coordinate import CHOSEN

PERIOD = 0.75  # seconds between background probes: each of 16 references every 12 s
JITTER = 0.25  # part of the period by which each one is early or late
GAP = 0.1  # seconds between probes on demand
QUEUE = 64  # probes on demand that wait
COUNT = 32  # probes that one demand may ask for
AGAIN = 2  # probes that settle whether a peer's way has changed
REST = 8  # rounds that a peer without answers is left out, at most
HOME = 4  # references of the own cluster
NEAR = 4  # references out of the nearest
EXPLORE = 3  # one background probe in so many is spent on a stranger,
NEW = 16, 120  # but none of the first so many, and one in two up to so many
STRANGERS = 64  # that wait to be explored


def references(
    node: str,
    peers: Iterable[tuple[str, str]],
    cluster: str,
    near: Sequence[str] = (),
    count: int = CHOSEN,
) -> dict[str, bool]:
    """The peers to probe, each with whether it is trusted, being of this node's cluster.

    peers: (node, cluster) of all; read once and not kept.  near: the nearest, best first.
    """
    home: list[tuple[bytes, str]] = []
    far: list[tuple[bytes, str]] = []
    close = [name for name in near if name != node][:NEAR]
    skip = {node, *close}
    clusters: dict[str, str] = {}
    for name, where in peers:
        if name in skip:
            clusters[name] = where
            continue
        (home if where == cluster else far).append((_rank(node, name), name))
    at_home = heapq.nsmallest(HOME, home)
    left = max(0, count - len(close) - len(at_home))
    # Those of the own cluster fill up where there are few others.
    rest = [(rank, name, False) for rank, name in far]
    rest += [(rank, name, True) for rank, name in home if (rank, name) not in at_home]
    chosen = {name: clusters[name] == cluster for name in close if name in clusters}
    chosen |= {name: True for _, name in at_home}
    chosen |= {name: trusted for _, name, trusted in heapq.nsmallest(left, rest)}
    return dict(list(chosen.items())[:count])


def _rank(node: str, peer: str) -> bytes:
    text = f"{node} {peer}".encode()
    return hashlib.blake2b(text, digest_size=8, person=b"cloudfs probe").digest()


@dataclass(frozen=True, slots=True)
class Probe:
    """Whom to probe, and why: reference, explore or demand."""

    peer: str
    why: str


class Schedule:
    """Says who is probed when.  seed: of the jitter and the order."""

    def __init__(self, seed: int | str, period: float = PERIOD) -> None:
        self._dice = random.Random(f"probing {seed}")  # noqa: S311 - no secret
        self._period = period
        self._peers: list[str] = []
        self._order: list[str] = []  # in which the last round asked
        self._round: list[str] = []  # who is still to be asked in this round, the next one last
        self._rest: dict[str, tuple[int, int]] = {}  # peer: rounds left out, of how many
        self._wanted: OrderedDict[str, int] = OrderedDict()  # peer: probes on demand left
        self._strangers: list[str] = []  # to be explored, the next one last
        self._turns = 0  # background probes so far
        self._background = -1.0  # when the next one is due
        self._demand = -1.0

    def keep(self, peers: Iterable[str]) -> None:
        """These are the references from now on."""
        self._peers = list(dict.fromkeys(peers))
        known = set(self._peers)
        self._round = [peer for peer in self._round if peer in known]
        self._rest = {peer: rest for peer, rest in self._rest.items() if peer in known}

    def explore(self, strangers: Iterable[str]) -> None:
        """Probe these once each, in this order, in place of those given before."""
        self._strangers = list(dict.fromkeys(islice(strangers, STRANGERS)))[::-1]

    @property
    def exploring(self) -> int:
        """Strangers that are still to be probed; at 0 the driver may look for more."""
        return len(self._strangers)

    def demand(self, peer: str, count: int = 1) -> None:
        """Probe a peer `count` times soon.  CloudError: "bad" count, "toomany" wait already."""
        if not 1 <= count <= COUNT:
            raise CloudError("bad", f"{count} probes", f"ask for 1 to {COUNT}")
        if sum(self._wanted.values()) + count > QUEUE:
            raise CloudError(
                "toomany", "too many probes wait already", "try again in a few seconds"
            )
        self._wanted[peer] = self._wanted.get(peer, 0) + count

    def doubt(self, peer: str) -> None:
        """The last time of a peer was strange: ask again soon, unless that is so already."""
        if peer not in self._wanted and sum(self._wanted.values()) + AGAIN <= QUEUE:
            self._wanted[peer] = AGAIN

    def answered(self, peer: str) -> None:
        """A probe came back."""
        self._rest.pop(peer, None)

    def missed(self, peer: str) -> None:
        """A probe did not: a reference rests twice as many rounds as before."""
        if peer in self._peers:
            _, last = self._rest.get(peer, (0, 0))
            rounds = min(REST, max(1, last * 2))
            self._rest[peer] = (rounds, rounds)

    def due(self, now: float) -> float | None:
        """Seconds until `next` has a peer; None: not before something is asked for."""
        times = []
        if self._wanted:
            times.append(self._demand)
        if self._peers or self._strangers:
            times.append(self._background)
        return max(0.0, min(times) - now) if times else None

    def next(self, now: float) -> Probe | None:
        """The probe to send now, or None."""
        if self._wanted and now >= self._demand:
            self._demand = now + GAP
            peer, left = self._wanted.popitem(last=False)
            if left > 1:
                self._wanted[peer] = left - 1  # to the end: each in turn
            return Probe(peer, "demand")
        if (self._peers or self._strangers) and now >= self._background:
            # Late calls are not made up for: probes never come in bursts.
            self._background = now + self._period * self._dice.uniform(1 - JITTER, 1 + JITTER)
            self._turns += 1
            if self._strangers and (self._explores() or not self._peers):
                return Probe(self._strangers.pop(), "explore")
            return self._turn()
        return None

    def _explores(self) -> bool:
        """Whether this turn is a stranger's."""
        none, often = NEW
        return self._turns > none and self._turns % (2 if self._turns <= often else EXPLORE) == 0

    def _turn(self) -> Probe | None:
        """The next reference of this round that does not rest."""
        for _ in range((REST + 1) * len(self._peers)):
            if not self._round:
                self._round = self._next_round()[::-1]
            peer = self._round.pop()
            left, of = self._rest.get(peer, (0, 0))
            if left == 0:
                return Probe(peer, "reference")
            self._rest[peer] = (left - 1, of)
        return None

    def _next_round(self) -> list[str]:
        """The order of the last round, some neighbours changed: the order of all nodes is
        different and drifts, and yet nobody waits much longer than a round for its turn."""
        known, before = set(self._peers), set(self._order)
        order = [peer for peer in self._order if peer in known]
        for peer in self._peers:
            if peer not in before:
                order.insert(self._dice.randint(0, len(order)), peer)
        for index in range(self._dice.randrange(2), len(order) - 1, 2):
            if self._dice.random() < 0.5:
                order[index : index + 2] = order[index + 1], order[index]
        self._order = order
        return order
