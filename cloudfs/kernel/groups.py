"""One verb for many objects: in which order, how far it has come, and how it ends.  Pure.

A run has an item for each object.  Those whose order does not matter go at once, at most
MOST of them; `after` (kernel/verbs.py) makes one wait until others are over, or, for verbs
that end something, those others wait for it.  A failure ends the run, once those under way
are over, unless it was told to go on.

    waiting → going → done | failed      driver: take(), began; over()
    waiting → skipped                    nothing was to be done for it
    waiting → left                       the run ended before it came to it
    going   → unsure                     the daemon died meanwhile; the exchange of a move
                                         (departing.py) sees to it that the object is whole

An item needs keys and gives keys: a key is open while an item that gives it is not over,
and an item is ready once none of its keys is open.  So an order by app costs no more than
one by id: n objects after an app of m make n + m keys, not n·m pairs.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import lifecycle, query
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.query import ORDERS
from cloudfs.kernel.verb import Verb, find

MOST = 4  # objects of one run at a time
LARGEST = 4096  # objects of one run
BACKWARDS = frozenset({"stop", "kill", "wipe"})  # what depends on others goes first
MOVES = frozenset({"move", "undo", "drain"})

STATES = {
    "waiting": "it is not its turn yet",
    "going": "the verb was given to it and is not done yet",
    "done": "done",
    "failed": "why tells the reason",
    "skipped": "nothing was to be done, why tells the reason",
    "left": "the run ended before its turn",
    "unsure": "the node was restarted meanwhile; look at the object's status",
}
OVER = frozenset({"done", "failed", "skipped", "left", "unsure"})


@dataclass(frozen=True, slots=True)
class Member:
    """An object of a group, as the node that conducts the run knows it."""

    id: str
    node: str
    state: str
    app: str = ""
    after: tuple[str, ...] = ()  # ids, and app=NAME


@dataclass(slots=True)
class Item:
    """One object in a run.  source: its node when the run began; target: where it is after
    it.  line: what is written to its ctl.  expected: where an undo must find it, or ""."""

    id: str
    line: str
    source: str = ""
    target: str = ""
    state: str = "waiting"
    seconds: float = 0.0
    why: str = ""
    expected: str = ""
    needs: list[str] = field(default_factory=list)
    gives: list[str] = field(default_factory=list)
    since: float = 0.0  # when it began, on the driver's clock

    def record(self, now: float) -> str:
        """Its line of progress."""
        seconds = now - self.since if self.state == "going" else self.seconds
        pairs = {"id": self.id, "state": self.state, "from": self.source, "to": self.target}
        return ndb.record({**pairs, "seconds": round(seconds, 3), "why": self.why}) + "\n"


class Order:
    """Which items may go, by what they need of each other."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = {item.id: item for item in items}
        self._open = Counter(key for item in self._items.values() for key in item.gives)
        self._waits: dict[str, list[str]] = defaultdict(list)
        self._blocked: dict[str, int] = {}
        self.ready: deque[str] = deque()
        for item in self._items.values():
            needs = [key for key in item.needs if self._open[key]]
            for key in needs:
                self._waits[key].append(item.id)
            self._blocked[item.id] = len(needs)
            if not needs:
                self.ready.append(item.id)

    def over(self, id: str) -> None:
        """An item is over: those that waited for no other are ready."""
        for key in self._items[id].gives:
            self._open[key] -= 1
            if not self._open[key]:
                for other in self._waits.pop(key, ()):
                    self._blocked[other] -= 1
                    if not self._blocked[other]:
                        self.ready.append(other)


def stuck(items: Sequence[Item]) -> list[Item]:
    """The items that would wait for each other for ever, and those that wait for them."""
    order, left = Order(items), {item.id: item for item in items}
    while order.ready:
        id = order.ready.popleft()
        del left[id]
        order.over(id)
    return list(left.values())


class Run:
    """One verb on its way through a group."""

    def __init__(
        self, group: str, verb: str, user: str, items: Sequence[Item], keep: bool, started: float
    ) -> None:
        self.group = group  # the directory under /cloud whose ctl was written
        self.verb = verb  # as anybody may see it
        self.user = user  # who wrote it
        self.keep = keep  # go on after a failure
        self.items = {item.id: item for item in items}
        self.state = "running"  # done, failed, cancelled or interrupted
        self.started = started  # seconds since 1970
        self.seconds = 0.0
        self.since = 0.0  # when it began, on the driver's clock
        self.why = ""
        self.kind = "io"  # of the error that tells of its end
        self.bell = Bell()  # rings at every change
        self.changes: list[str] = []  # ids, in the order in which their items changed
        self._stopping = ""
        self._going = 0
        self._order = Order(items)
        for item in items:
            if item.state in OVER:
                self._order.over(item.id)

    @property
    def moves(self) -> bool:
        """Whether it takes objects to other nodes, which `undo` can bring back."""
        return self.verb.split()[0] in MOVES

    def take(self, now: float) -> list[Item]:
        """The items that are to begin now; they are going then."""
        found: list[Item] = []
        ready = self._order.ready
        while ready and not self._stopping and self._going < MOST:
            item = self.items[ready.popleft()]
            if item.state == "waiting":
                item.state, item.since = "going", now
                self._going += 1
                self._changed(item)
                found.append(item)
        if not self._going and self.state == "running":
            self._end(now)
        return found

    def over(
        self, item: Item, state: str, now: float, why: str = "", target: str = "", kind: str = "io"
    ) -> None:
        """An item that was going is done, failed or skipped.  kind: of the error."""
        if state == "failed" and not any(one.state == "failed" for one in self.items.values()):
            self.kind = kind
        item.state, item.why, item.target = state, why, target or item.target
        item.seconds = now - item.since
        self._going -= 1
        self._order.over(item.id)
        if state == "failed" and not self.keep and not self._stopping:
            self._stopping = f"{item.id}: {why}"
        self._changed(item)

    def cancel(self, why: str) -> None:
        """Begin nothing more."""
        if self.state == "running":
            self._stopping = self._stopping or why
            self.why, self.kind = self.why or why, "again"
            self.bell.ring()

    def interrupt(self, why: str) -> None:
        """The daemon that conducted it has died."""
        self.state, self.why = "interrupted", why
        for item in self.items.values():
            if item.state in ("waiting", "going"):
                item.state = "unsure" if item.state == "going" else "left"

    def _end(self, now: float) -> None:
        for item in self.items.values():
            if item.state == "waiting":
                item.state = "left"
                self._changed(item)
        count = self.count()
        self.state = "cancelled" if self.why else "failed" if count["failed"] else "done"
        if count["failed"] and not self.why:
            first = next(item for item in self.items.values() if item.state == "failed")
            self.why = f"{first.id}: {first.why}"
        self.seconds = now - self.since
        self.bell.ring()

    def _changed(self, item: Item) -> None:
        self.changes.append(item.id)
        self.bell.ring()

    def count(self) -> Counter[str]:
        """How many items are in each state."""
        return Counter(item.state for item in self.items.values())

    # --- as text and as a record ----------------------------------------------------------

    def line(self, now: float) -> str:
        """The group's own line of progress."""
        count = self.count()
        seconds = now - self.since if self.state == "running" else self.seconds
        pairs: dict[str, object] = {
            "group": self.group,
            "state": self.state,
            "verb": self.verb,
            "total": len(self.items),
            **{state: count[state] for state in ("done", "failed", "skipped")},
            "left": count["waiting"] + count["left"] + count["unsure"],
            "by": self.user,
            "started": round(self.started, 3),
            "seconds": round(seconds, 3),
            "why": self.why,
        }
        return ndb.record(pairs) + "\n"

    def text(self, now: float) -> str:
        """All of progress."""
        return self.line(now) + "".join(item.record(now) for item in self.items.values())

    def to_record(self) -> dict[str, Any]:
        """What outlives the daemon, but for the items."""
        kept = ("group", "verb", "user", "keep", "state", "started", "seconds", "why")
        return {name: getattr(self, name) for name in kept}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], items: Sequence[Item]) -> Run:
        group, verb, user = record["group"], record["verb"], record["user"]
        run = cls(group, verb, user, items, record["keep"], record["started"])
        run.state, run.seconds, run.why = record["state"], record["seconds"], record["why"]
        return run


def item_record(item: Item) -> dict[str, Any]:
    """What outlives the daemon of an item."""
    return asdict(item)


# --- from a line to a run ---------------------------------------------------------------------


def read(verbs: Mapping[str, Verb], line: str) -> tuple[Verb, list[str], bool] | None:
    """The verb of a line, its arguments, and whether -k stood before them; None for an empty
    line.  Raises CloudError where an object would not take it."""
    words = ndb.words(line)
    keep = words[1:2] == ["-k"]
    if keep:
        del words[1]
    found = find(verbs, " ".join(map(ndb.quote, words)))
    return None if found is None else (*found, keep)


def plan(
    verb: Verb,
    args: Sequence[str],
    members: Sequence[Member],
    nodes: Mapping[str, Mapping[str, object]],
    keep: bool,
    lasting: bool,
) -> list[Item]:
    """The items of a run.

    nodes: the attributes of each node, by which a move to where expressions hold leaves out
    those who are there.  lasting: whether the verb takes a running object's memory along, so
    that one which is stopped is a failure and one which has ended is not.  Raises CloudError
    where members are to come after each other; keep makes their order no matter.
    """
    if len(members) > LARGEST:
        raise CloudError(
            "toobig",
            f"{len(members)} objects are too many for one line, {LARGEST} is the most",
            "take a smaller group, as one of view/by-label",
        )
    line = " ".join([verb.name, *map(ndb.quote, args)])
    there = _there(verb, args, nodes)
    items = []
    for member in members:
        item = Item(member.id, line, member.node)
        _set_order(item, member, verb.name in BACKWARDS)
        fits = not verb.states or member.state in verb.states | lifecycle.PASSING
        if not fits and not (lasting and member.state in lifecycle.ALIVE):
            item.state, item.why = "skipped", f"it is {member.state}"
        elif member.node in there:
            item.state, item.why, item.target = "skipped", "it is there already", member.node
        items.append(item)
    for item in stuck(items):
        if not keep:
            raise _circle(stuck(items))
        item.needs = []
    return items


def back(run: Run) -> list[Item]:
    """The items of a run that undoes a run of moves, the last one first."""
    return [
        Item(
            item.id,
            f"move {ndb.quote(item.source)}",
            source=item.target or item.source,
            expected=item.target if item.state == "done" else "",
            needs=item.gives,
            gives=item.needs,
        )
        for item in reversed(list(run.items.values()))
        if item.state in ("done", "unsure", "failed") and item.source
    ]


def named(args: Sequence[str]) -> str:
    """The node that a move or a copy names, "" where expressions are given."""
    words = [word for word in args if word[:1] != "-"] or [""]
    return "" if set(words[0]) & set("=<>!") else words[0]


def _there(verb: Verb, args: Sequence[str], nodes: Mapping[str, Mapping[str, object]]) -> set[str]:
    """The nodes at which nothing is to be moved."""
    if verb.name != "move":
        return set()
    if node := named(args):
        return {node}
    exprs = [query.parse(arg) for arg in args if arg[:1] != "-"]
    if any(expr.op in ORDERS or expr.relative for expr in exprs):
        return set()
    return {name for name, has in nodes.items() if all(query.meets(e, has) for e in exprs)}


def _set_order(item: Item, member: Member, backwards: bool) -> None:
    own = [member.id, *([f"app={member.app}"] if member.app else [])]
    others = [word for word in member.after if word not in own]
    item.needs, item.gives = (own, others) if backwards else (others, own)


def _circle(items: list[Item]) -> CloudError:
    ids = " ".join(item.id for item in items[:4])
    return CloudError(
        "bad",
        f"after: {len(items)} objects are to come after each other: {ids}",
        "write after without words to the ctl of one, or give the verb -k",
    )
