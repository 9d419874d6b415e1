"""A cloud in virtual time: the real cores, and a network that loses, delays and cuts.

An engine is modelled as Zenoh's peers behave (docs: the design's §9): sessions of a zone
connect by the endpoints they were given, which they try for ever, and by what those they
are connected to tell; they lose each other a lease after a cut, a kill or a stop; a newcomer
gets the latest value of every key.  A value that is on its way when a link is cut is lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from cloudfs.kernel import beats
from cloudfs.kernel.beats import TICK, Ask, Enter, Exit, Publish, Withdraw
from tests.sim.clock import Clock
from tests.sim.machine import RETRY, Node, Session

LEASE = 2.5  # seconds until an engine sees that a connection is dead
REMEMBER = 60.0  # seconds for which a lost peer is tried again that is no seed


class Net(Clock):
    """All nodes and the time.  loss: share of messages; delay: seconds, from and to."""

    def __init__(
        self, seed: int = 0, *, loss: float = 0.0, delay: tuple[float, float] = (0.001, 0.05)
    ) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.loss = loss
        self.delay = delay
        self.nodes: dict[str, Node] = {}
        self.cuts: set[tuple[str, str]] = set()  # (from, to), places
        self._endpoints: dict[tuple[str, str], Session] = {}  # by (place, zone)

    def boot(self, ahead: float = 0.0) -> int:
        return int((1_000_000 + self.now + ahead) * 1e6) + next(self._count)

    # --- nodes ---------------------------------------------------------------------------

    def start(
        self,
        name: str,
        cluster: str = "c",
        seeds: Iterable[str] = (),
        *,
        key: str = "",
        ahead: float = 0.0,
        **attributes: object,
    ) -> Node:
        node = Node(self, name, cluster, seeds, key, ahead)
        self.nodes[node.place] = node
        node.member.set_record({"cpus": 4, "load": 0.5, "arch": "x86_64", **attributes}, node.now)
        self.later(self.random.random() * TICK, lambda: self._tick(node))
        return node

    def kill(self, node: Node) -> None:
        """kill -9, or the power goes."""
        node.up = False
        for session in list(node.sessions.values()):
            self._close(session, LEASE)

    def stop(self, node: Node) -> None:
        """SIGSTOP."""
        node.stopped = True
        for session in node.sessions.values():
            for peer in list(session.peers.values()):
                self.later(
                    LEASE, lambda s=session, p=peer: self._drop_if(s, p, lambda: node.stopped)
                )

    def go_on(self, node: Node) -> None:
        """SIGCONT: the tick comes first, then what was received meanwhile."""
        node.stopped = False

    def restart(self, node: Node, *, key: str | None = None) -> Node:
        """The same node once more, with the same key or with another."""
        self.kill(node)
        seeds = [*node.member.seeds] or [n.member.address for n in self.nodes.values() if n.up][:2]
        own = node.place.partition("@")[2]
        return self.start(
            node.name, node.member.cluster, seeds, key=own if key is None else key, ahead=node.ahead
        )

    def cut(self, some: Iterable[Node], others: Iterable[Node], *, both: bool = True) -> None:
        """Cut the links from some nodes to others, or both ways."""
        others = list(others)
        for one in some:
            for other in others:
                if one is not other:
                    self.cuts.add((one.place, other.place))
                    if both:
                        self.cuts.add((other.place, one.place))
                    self._watch(one, other)

    def heal(self) -> None:
        self.cuts.clear()

    def _watch(self, one: Node, other: Node) -> None:
        for session in one.sessions.values():
            peer = session.peers.get(other.place)
            if peer is not None:
                self.later(
                    LEASE,
                    lambda s=session, p=peer: self._drop_if(
                        s, p, lambda: not self.linked(one, other)
                    ),
                )

    def linked(self, one: Node, other: Node) -> bool:
        pair = (one.place, other.place)
        return not self.cuts or (pair not in self.cuts and pair[::-1] not in self.cuts)

    # --- the driver of one node ----------------------------------------------------------

    def _tick(self, node: Node) -> None:
        if not node.up:
            return
        if not node.stopped:
            self._do(node, node.member.tick(node.now))
            if node.inbox:
                inbox, node.inbox = node.inbox, {}
                for (zone, key), (value, stamp) in inbox.items():
                    self._do(node, node.member.heard(zone, key, value, stamp, node.now))
            for session in list(node.sessions.values()):
                if self.now - session.tried >= RETRY:
                    session.tried = self.now
                    self._connect_all(session)
        self.later(TICK, lambda: self._tick(node))

    def _do(self, node: Node, actions: Iterable[beats.Action]) -> None:
        for action in actions:
            if isinstance(action, Publish):
                session = node.sessions[action.zone]
                stamp = (self.now, next(self._count))
                session.kept[action.key] = (action.value, stamp)
                self._send(session, action.key, action.value, stamp)
            elif isinstance(action, Withdraw):
                session = node.sessions[action.zone]
                session.kept.pop(action.key, None)
                self._send(session, action.key, None, (self.now, next(self._count)))
            elif isinstance(action, Enter):
                self._enter(node, action)
            elif isinstance(action, Exit):
                self._close(node.sessions.pop(action.zone), 0.05)
            elif isinstance(action, Ask):
                self._ask(node, action.address)
            else:
                node.events.append((self.now, action))

    def _enter(self, node: Node, action: Enter) -> None:
        old = node.sessions.get(action.zone)
        if old is not None:
            self._close(old, 0.05)
        session = Session(node, action.zone)
        if old is not None:
            session.kept = dict(old.kept)
        session.seeds = tuple(seed.rpartition(":")[0] for seed in action.seeds)
        node.sessions[action.zone] = session
        self._endpoints[node.place, action.zone] = session
        self.later(self.random.uniform(0.05, 0.3), lambda: self._connect_all(session))

    def _ask(self, node: Node, address: str) -> None:
        other = self.nodes.get(address.rpartition(":")[0])
        asker = node.member

        def answer() -> None:
            text = ""
            if other is not None and other.up and not other.stopped and self.linked(node, other):
                text = other.member.introduction(asker.cluster, asker.name, other.now)
            if node.up and not node.stopped:
                self._do(node, asker.introduced(text, node.now))

        reachable = (
            other is not None and other.up and not other.stopped and self.linked(node, other)
        )
        self.later(2 * self.random.uniform(*self.delay) if reachable else 2.0, answer)

    # --- the engines ---------------------------------------------------------------------

    def _connect_all(self, session: Session) -> None:
        if not session.open or session.node.stopped:
            return
        for place in session.seeds:
            if place not in session.peers:
                self._connect(session, place)
        for place, end in list(session.lost.items()):
            if place in session.peers or self.now > end:
                del session.lost[place]
            else:
                self._connect(session, place)

    def _connect(self, one: Session, place: str) -> None:
        other = self._endpoints.get((place, one.zone))
        if other is None or other is one or not other.open or not one.open or place in one.peers:
            return
        if other.node.stopped or not self.linked(one.node, other.node):
            return
        told = [*one.peers], [*other.peers]
        for a, b in ((one, other), (other, one)):
            a.peers[b.node.place] = b
            self._hint(a, b, True)
            for key, (value, stamp) in b.kept.items():
                self._deliver([a], b, key, value, stamp)
        for session, names in ((other, told[0]), (one, told[1])):
            for name in names:
                if name not in session.peers and name != session.node.place:
                    self.later(
                        self.random.uniform(0.01, 0.2),
                        lambda s=session, n=name: self._connect(s, n),
                    )

    def _close(self, session: Session, seconds: float) -> None:
        session.open = False
        if self._endpoints.get((session.node.place, session.zone)) is session:
            del self._endpoints[session.node.place, session.zone]
        for peer in list(session.peers.values()):
            self.later(seconds, lambda p=peer: self._drop(p, session))

    def _drop_if(self, one: Session, other: Session, still: Callable[[], bool]) -> None:
        if still():
            self._drop(one, other)
            self._drop(other, one)

    def _drop(self, one: Session, other: Session) -> None:
        """One sees that it lost the other."""
        place = other.node.place
        if one.peers.get(place) is other:
            del one.peers[place]
            one.lost[place] = self.now + REMEMBER
            if one.open:
                self._hint(one, other, False)

    def _hint(self, one: Session, other: Session, joined: bool) -> None:
        node = one.node
        if node.up and not node.stopped:
            self._do(node, node.member.hint(one.zone, other.node.name, joined, node.now))

    def _send(self, session: Session, key: str, value: bytes | None, stamp: object) -> None:
        self._deliver(list(session.peers.values()), session, key, value, stamp)

    def _deliver(
        self, to: list[Session], by: Session, key: str, value: bytes | None, stamp: object
    ) -> None:
        size = len(key) + len(value or b"")
        by.node.sent += size * len(to)
        by.node.messages += len(to)
        if self.loss:
            to = [one for one in to if self.random.random() >= self.loss]
        # Half of it at one time and half at another, so that orders differ.
        for part in (to[::2], to[1::2]):
            if part:
                self.later(
                    self.random.uniform(*self.delay),
                    lambda p=part: self._arrive(p, by, key, value, stamp, size),
                )

    def _arrive(
        self,
        to: list[Session],
        by: Session,
        key: str,
        value: bytes | None,
        stamp: object,
        size: int,
    ) -> None:
        zone, place, cuts = by.zone, by.node.place, self.cuts
        for session in to:
            node = session.node
            if not node.up or not session.open or (cuts and (place, node.place) in cuts):
                continue
            node.received += size
            node.heard += 1
            if node.stopped or node.inbox:
                node.inbox[zone, key] = (value, stamp)
                continue
            actions = node.member.heard(zone, key, value, stamp, node.now)
            if actions:
                self._do(node, actions)
