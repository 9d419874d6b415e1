"""The most that a node lets its users have, whatever they ask for.  Pure.

An object's own `limit` is its owner's to set and to lift; a ceiling is the node's.  What asks for
more is refused, what asks for nothing runs under the ceiling without holding so much for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import query
from cloudfs.node.api import Limits

UNITS = {
    "cpu": "cores",
    "mem": "bytes",
    "pids": "processes and threads",
    "time": "seconds of real time",
    "running": "objects of one user that run at once",
}
_WHOLE = frozenset({"mem", "pids", "running"})


@dataclass(frozen=True, slots=True)
class Most:
    """each: of one object.  running: objects of one user at once.  None is no ceiling."""

    each: Limits = field(default_factory=Limits)
    running: int | None = None

    def under(self, wanted: Limits) -> Limits:
        """The limits under which an object with these runs."""
        found = replace(wanted)
        for one in fields(Limits):
            pair = getattr(wanted, one.name), getattr(self.each, one.name)
            setattr(found, one.name, min((x for x in pair if x is not None), default=None))
        return found

    def check(self, wanted: Limits) -> None:
        """Raise CloudError("denied") where an object asks for more than it may have."""
        for one in fields(Limits):
            want, most = getattr(wanted, one.name), getattr(self.each, one.name)
            if want is not None and most is not None and want > most:
                raise CloudError(
                    "denied",
                    f"limit {one.name}={want:g}: this node lets an object have {most:g}"
                    f" {UNITS[one.name]} at most",
                    f"ask for less: limit {one.name}={most:g}",
                )

    def check_running(self, user: str, count: int) -> None:
        """Raise CloudError("full") where one more of a user's objects would be too many."""
        if self.running is not None and count >= self.running:
            raise CloudError(
                "full",
                f"{user} has {count} objects that run on this node, the most one may have",
                "wait until one has ended, or kill one",
            )

    def pairs(self) -> dict[str, float | None]:
        """By name, as `read` takes them."""
        return {name: self._of(name) for name in UNITS}

    def _of(self, name: str) -> float | None:
        found: float | None = self.running if name == "running" else getattr(self.each, name)
        return found


def read(words: Sequence[str], old: Most) -> Most:
    """old with what the words `name=N` change; `name=none` lifts a ceiling."""
    found = old.pairs()
    for word in words:
        name, text = ndb.pair(word, "cpu=N, mem=N, pids=N, time=N or running=N")
        if name not in UNITS:
            raise CloudError("bad", f"most: there is no {name[:40]!r}", f"it has {' '.join(UNITS)}")
        value = None if text == "none" else query.number(text)
        if text != "none" and (value is None or not 0 < value <= 1e18):
            raise CloudError("bad", f"{word[:80]}: wants {UNITS[name]}, a number above 0 (or none)")
        if value is not None and name in _WHOLE:
            if value != int(value):
                raise CloudError("bad", f"{word[:80]}: wants a whole number of {UNITS[name]}")
            value = int(value)
        found[name] = value
    return make(found)


def make(pairs: dict[str, float | None]) -> Most:
    """The ceilings of what `pairs` gave."""
    limits = {one.name: pairs.get(one.name) for one in fields(Limits)}
    running = pairs.get("running")
    return Most(Limits(**limits), None if running is None else int(running))  # type: ignore[arg-type]
