"""What this node knows of the objects that others run, and all objects in arrangements.

Only the node that runs an object speaks for it (DESIGN §3.6).  What it tells is kept
here as it came, one record an object; while nobody hears that node, its objects are
shown as lost.  For a moment two nodes speak for one that moves, and what they say comes in
any order: who was decided on last is believed, else who told last, and what the other says
counts again once that one says no more.  What others tell of it (hearsay) counts only of nodes that
are not heard here themselves, since nobody else would tell that it is over.  Pure: no clock but
the caller's, no I/O.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.stamp import Stamp
from cloudfs.kernel import lifecycle
from cloudfs.kernel.object import ID, Object
from cloudfs.kernel.objects import Objects

VIEWS = ("node", "app", "user", "cluster", "state", "label")
MAX_SEEN = 1 << 18  # objects of other nodes that are kept
NAME_MAX = 255  # bytes; of a longer name, Linux refuses the whole listing
MAX_LEFT = 1024  # objects of which it is remembered who spoke for them last
TOLD = ("id", "state", "user", "app", "runtime", "pid", "started", "exit", "why", "after", "epoch")

Key = tuple[str, str]  # an arrangement and a value in it


class Seen:
    """An object of another node, as that node told of it last.

    told: its record's attributes; at: when that node told it, None for hearsay; lost: whether
    its node is not heard of any more.
    """

    __slots__ = ("at", "id", "keys", "labels", "lost", "node", "told", "user")

    def __init__(self, node: str, told: dict[str, str], at: Stamp | None = None) -> None:
        self.at = at
        self.id = told["id"]
        self.user = told.get("user", "none")
        self.node = node
        self.told = {name: told.get(name, "") for name in TOLD}
        self.labels = {k[6:]: v for k, v in told.items() if k.startswith("label.")}
        self.lost = False
        self.keys: set[Key] = set()

    @property
    def epoch(self) -> int:
        """How often its node was decided on (availability.py)."""
        text = self.told["epoch"]
        return int(text) if text.isdecimal() and len(text) < 16 else 0

    def says(self) -> tuple[object, ...]:
        return self.told, self.labels, self.lost

    @property
    def state(self) -> str:
        return "lost" if self.lost and self.told["state"] != "exited" else self.told["state"]

    def status(self, age: float) -> str:
        """Its status as far as it is known here, and how many seconds ago that was."""
        known = {**self.told, "state": self.state, "node": self.node, "age": round(age, 1)}
        order = ("id", "state", "node", "user", "app", "runtime", "pid", "started", "exit", "why")
        return ndb.record([*((name, known[name]) for name in order), ("age", known["age"])]) + "\n"


def summary(made: Object) -> str:
    """What a node tells others of an object of its own: a record without its newline."""
    pairs: dict[str, object] = {
        "id": made.id,
        "state": made.state,
        "user": made.user,
        "app": made.app,
        "runtime": made.runtime,
        "pid": made.running.pid if made.running else "",
        "started": round(made.started, 3) if made.started else "",
        "exit": lifecycle.ended_how(made.exit),
        "why": made.why[:200],
    }
    if made.after:
        pairs["after"] = " ".join(made.after)
    pairs.update((f"label.{name}", value) for name, value in made.labels.items())
    if made.tenure:
        pairs["epoch"] = made.tenure["epoch"]
    return ndb.record(pairs)


class Catalog:
    """All objects: those of this node (`objects`) and those that others told of.

    `cluster_of(node)` names a node's cluster, "" where that is not known; `gone(node)` is
    whether nobody hears of it; `near(node)` whether what it tells comes here by itself.
    """

    def __init__(
        self,
        objects: Objects,
        cluster_of: Callable[[str], str],
        gone: Callable[[str], bool] = lambda node: False,
        near: Callable[[str], bool] = lambda node: False,
    ) -> None:
        self.objects = objects
        self.seen: dict[str, Seen] = {}
        self.left: OrderedDict[str, Seen] = OrderedDict()  # of whom nobody speaks any more
        self._besides: dict[str, dict[str, Seen]] = {}  # id → node → what is not believed now
        self.changed = time.time()
        self._cluster_of = cluster_of
        self._gone = gone
        self.near = near
        self._moves = 0
        self._index: dict[str, dict[str, dict[str, Seen]]] = {view: {} for view in VIEWS}

    @property
    def version(self) -> tuple[int, int, int]:
        """Changes whenever a listing of an arrangement would."""
        return self._moves, self.objects.version, self.objects.moves

    @property
    def comings(self) -> tuple[int, int]:
        """Changes whenever a listing of all objects would."""
        return self._moves, self.objects.version

    # --- hearing ----------------------------------------------------------------------

    def put(self, node: str, record: str, at: Stamp | None = None, by: str = "") -> None:
        """A node tells of an object of its own.  at: as for Seen; by: of hearsay, who says so.
        Raises CloudError or KeyError for what is no such record; the caller drops it."""
        told = ndb.parse(record)
        if not ID.fullmatch(told["id"]):
            raise CloudError("bad", "no object is called that")
        old = self.seen.get(told["id"])
        if node == self.objects.node or (at is None and self._speaks(node, old)):
            return
        if old is None and len(self.seen) >= MAX_SEEN:
            return
        new = Seen(node, told, at)
        said = self._unsay(node, new.id)
        believed = old is None or old.node == node or self._over(new, old, by)
        if at is None and said is not None:
            new = said  # it has told that itself
        new.lost = self._gone(node)
        if old is not None and old.node != node:
            less = old if believed else new
            if less.at is not None and (less.id in self._besides or len(self._besides) < MAX_SEEN):
                self._besides.setdefault(less.id, {})[less.node] = less
        if not believed:
            return
        if old is not None and old.node == node and old.says() == new.says():
            old.at = new.at
        else:
            self._show(new)

    def _speaks(self, node: str, shown: Seen | None) -> bool:
        """Whether a node tells of its objects itself, or has of this one."""
        return self.near(node) or (
            shown is not None and shown.node == node and shown.at is not None
        )

    def _over(self, new: Seen, old: Seen, by: str = "") -> bool:
        """Whether what one node tells is believed rather than what another told before."""
        if new.epoch != old.epoch:
            return new.epoch > old.epoch
        if self._gone(new.node) != self._gone(old.node):
            return self._gone(old.node)
        if old.at is None:
            return True
        if new.at is None:
            return old.node == by or not self.near(old.node)
        return new.at > old.at

    def deny(self, node: str, id: str) -> None:
        """A node that does not tell of itself has no such object."""
        found = self.seen.get(id)
        if found is not None and found.node == node and found.at is None:
            self._hide(found)
            self._fall_back(id)

    def hearsay(self) -> list[Seen]:
        """What is known of nodes that are not heard here."""
        return [found for found in self.seen.values() if found.at is None]

    def drop(self, node: str, id: str) -> None:
        """A node tells that an object of its own is gone."""
        found = self.seen.get(id)
        if found is None or found.node != node:
            self._unsay(node, id)
            return
        self._hide(found)
        self._fall_back(id)
        if id not in self.seen:
            self.left[id] = found
            if len(self.left) > MAX_LEFT:
                self.left.popitem(last=False)

    def node_is(self, node: str, state: str) -> None:
        """A node's state as membership has it: its objects are lost while it is gone, and
        forgotten once it has left."""
        for id in [id for id, others in self._besides.items() if node in others]:
            if state == "left":
                self._unsay(node, id)
            elif state != "gone":
                self._fall_back(id)
        for found in list(self._index["node"].get(node, {}).values()):
            # One that others told of before: it tells of its objects itself now.
            if state == "left" or (found.at is None and self.near(node)):
                self._hide(found)
                self._fall_back(found.id)
                continue
            was, found.lost = found.lost, state == "gone"
            keys = self._keys(found)  # its cluster may have been unknown
            if keys != found.keys:
                self._move(found, keys)
            if was != found.lost:
                self._fall_back(found.id)

    def _show(self, new: Seen) -> None:
        old = self.seen.get(new.id)
        if old is not None:
            self._move(old, set())
        self.left.pop(new.id, None)
        self.seen[new.id] = new
        self._move(new, self._keys(new))

    def _hide(self, found: Seen) -> None:
        del self.seen[found.id]
        self._move(found, set())

    def _fall_back(self, id: str) -> None:
        """Believe the best of the others that speak for it rather than what is believed now,
        if it is better."""
        shown = self.seen.get(id)
        best: Seen | None = None
        for one in self._besides.get(id, {}).values():
            if not self._gone(one.node) and (best is None or self._over(one, best)):
                best = one
        if best is None:
            return
        stands = None if shown is None or shown.lost else shown
        if stands is not None and (stands.at is None or not self._over(best, stands)):
            return
        self._unsay(best.node, id)
        best.lost = False
        if shown is not None and shown.at is not None:
            self._besides.setdefault(id, {})[shown.node] = shown
        self._show(best)

    def _unsay(self, node: str, id: str) -> Seen | None:
        """Forget what a node told that is not believed now; what it was."""
        others = self._besides.get(id, {})
        found = others.pop(node, None)
        if found is not None and not others:
            del self._besides[id]
        return found

    # --- looking ----------------------------------------------------------------------

    def find(self, id: str) -> Seen | None:
        """An object of another node; one of our own is not here."""
        found = self.seen.get(id)
        return None if found is None or id in self.objects.all else found

    def others(self) -> Iterator[Seen]:
        """Every object of another node."""
        return (found for id, found in self.seen.items() if id not in self.objects.all)

    def values(self, view: str) -> list[str]:
        """The values that some object has in an arrangement, sorted."""
        return sorted(self._index[view].keys() | self._own(view).keys())

    def holds(self, view: str, value: str) -> bool:
        return value in self._index[view] or value in self._own(view)

    def group(self, view: str, value: str) -> dict[str, Object | Seen]:
        """The objects that have a value in an arrangement, by id."""
        found: dict[str, Object | Seen] = {
            id: seen
            for id, seen in self._index[view].get(value, {}).items()
            if id not in self.objects.all
        }
        found.update(self._own(view).get(value, {}))
        return found

    def member(self, view: str, value: str, id: str) -> Object | Seen | None:
        """The object of that id if it has a value in an arrangement."""
        found = self._own(view).get(value, {}).get(id)
        if found is not None or id in self.objects.all:
            return found
        return self._index[view].get(value, {}).get(id)

    def _own(self, view: str) -> dict[str, dict[str, Object]]:
        if view in self.objects.index:
            return self.objects.index[view]
        name = self.objects.node if view == "node" else self._cluster_of(self.objects.node)
        return {name: self.objects.all} if self.objects.all else {}

    def _keys(self, seen: Seen) -> set[Key]:
        keys = {("node", seen.node), ("user", seen.user), ("state", seen.state)}
        cluster = self._cluster_of(seen.node)
        if cluster:
            keys.add(("cluster", cluster))
        if seen.told["app"]:
            keys.add(("app", seen.told["app"]))
        keys |= {("label", f"{name}={value}") for name, value in seen.labels.items()}
        return {key for key in keys if usable(key[1])}

    def _move(self, seen: Seen, keys: set[Key]) -> None:
        self._moves += 1
        self.changed = time.time()
        for view, value in seen.keys - keys:
            group = self._index[view][value]
            del group[seen.id]
            if not group:
                del self._index[view][value]
        for view, value in keys - seen.keys:
            self._index[view].setdefault(value, {})[seen.id] = seen
        seen.keys = keys


def usable(name: str) -> bool:
    """Whether a word of another node may be a file name here."""
    plain = name.isprintable() and "/" not in name and name[:1] != "."
    return plain and 0 < len(name) <= 129 and len(name.encode()) <= NAME_MAX
