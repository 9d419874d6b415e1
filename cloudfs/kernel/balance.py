"""Which of its objects a busy or dear node moves away, where to, and why not.  Pure.

Each node decides for its own objects; nobody sees the whole.  What it goes by:

  share      how much of a node is taken, of four kinds: `load` by processor, `cpu` and `mem`
             that objects hold, memory `used`; 1 is all of it
  busy       a share that is beyond `load` for a while, surely: of the load, which is noise,
             the forecast (forecast.py) less its error.  It ends CALM below
  gain       the share that the object leaves, less that which it finds with itself in it; of
             what is noise the worse end of either.  Of the price: the part that is saved
  cost       seconds that it stands still, by the measured way there and the memory it uses

An object moves if its node is busy and it has a part in that, or if the price is lower there;
if gain >= `gain`; if it does not make the other node busy, nor finds it worse in any other kind;
and if the gain over `rest`, the time that it stays there at least, is WORTH times the cost.
Of those that may, the one goes that brings most relief.  What comes to a node leaves it CALM
below where it would begin to shed, so two nodes never play ball; and the price counts only
where it is lower by `gain`, so never back.

Herds: what is told is some seconds old, and a load is an average over a minute, so many nodes
may see the same idle one.  So a node tells what has come and gone and is not in its load yet
(`load.coming`); each chooses of two good nodes drawn by lot the better one (Mitzenmacher, The
power of two choices, IEEE TPDS 12, 2001, whose loads are old as well); if there are more busy
nodes than good ones it takes its turn by lot, so that about one goes to each in a slot; it
moves one object at a time and then waits; and the other's reservation has the last word.

All times follow from `rest`, so that a policy is three numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import placement
from cloudfs.kernel.forecast import Forecast
from cloudfs.kernel.placement import Attributes, Wish
from cloudfs.kernel.query import number

CALM = 0.1  # below `load`: where a busy node stops to shed, and no object makes another one busier
NEAR = 0.1  # another kind's share may be so much worse where the object goes: it is noise
PART = 0.02  # of a machine: an object with less has no part in its being busy
WORTH = 2.0  # times the cost, that a gain over `rest` has to be
RATE = 10e6  # bytes a second of a way that nobody has measured
OLD = 20.0  # seconds after which what a node told is no ground to move there
SMOOTH = 0.2  # what a new value counts in the mean of what a node tells of its load
ENOUGH = 3  # values of it, before it is believed
TURN = 0.5  # objects that are to come to a good node in one slot, on average
NEWS = 5.0  # seconds that they take to hear of it
MINUTE = 60.0  # seconds that a load is an average over
CLOSE = 0.1  # nodes whose gain is so near the best are as good
MOST_THINGS, MOST_TRIED, MOST_NODES = 64, 8, 32  # that are looked at in one turn
KNOWN = 4096  # nodes whose load is followed

# Times as parts of `rest`.
STAND = 1 / 40  # a share is beyond before the node is busy; and between two moves
SLOT = 1 / 120  # between two turns
YOUNG = 1 / 20  # an object has run, before it is worth a move
AGAIN = 1 / 4  # before one that a node refused is tried again

COMING = "load.coming"  # attribute: see `coming`
KINDS = "load", "cpu", "mem", "used"
WORDS = {
    "load": "processes by processor",
    "cpu": "part of the cores that objects hold",
    "mem": "part of the memory that objects hold",
    "used": "part of the memory in use",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """load: the share beyond which a node is busy.  gain: the least by which an object's
    place must be better.  rest: seconds between two moves of one object, at least."""

    on: bool = False
    load: float = 0.9
    gain: float = 0.2
    rest: float = 600.0

    def __str__(self) -> str:
        if not self.on:
            return "off"
        return f"on load={self.load:g} gain={self.gain:g} rest={self.rest:g}"


BOUNDS = {"load": (0.05, 1000.0), "gain": (0.01, 10.0), "rest": (1.0, 1e6)}


def read(words: Sequence[str]) -> Policy:
    """The policy that the words `on|off [load=N] [gain=N] [rest=N]` say; CloudError("bad")."""
    if words[0] not in ("on", "off") or (words[0] == "off" and len(words) > 1):
        raise CloudError("bad", f"balance: {' '.join(words)[:80]}", "write: balance on, or off")
    found: dict[str, float] = {}
    for word in words[1:]:
        name, text = ndb.pair(word, "load=N, gain=N or rest=N")
        value = number(text)
        if name not in BOUNDS:
            raise CloudError("bad", f"balance: no {name[:40]!r}", f"it has {' '.join(BOUNDS)}")
        low, high = BOUNDS[name]
        if value is None or not low <= value <= high:
            raise CloudError("bad", f"balance: {word[:80]!r}", f"a number from {low:g} to {high:g}")
        found[name] = value
    return Policy(words[0] == "on", **found)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that runs here.  cores: of processor time that it uses; mem: bytes in use;
    since: when it began here, and whether it came from elsewhere; fixed: why it cannot or
    must not be moved, or ""."""

    id: str
    wish: Wish
    cores: float = 0.0
    mem: float = 0.0
    since: float = -math.inf
    came: bool = False
    fixed: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided: busy or calm (the node itself), moves or stays (an object)."""

    what: str
    why: str
    id: str = ""
    node: str = ""
    gain: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to decide by.  here, nodes: attributes, of this node and of others with
    their age; load: what to expect of the own load; cost(node, bytes): seconds for a move
    there, and how wrong that may be."""

    now: float
    here: Attributes
    load: Forecast | None
    things: Sequence[Thing]
    nodes: Mapping[str, Attributes]
    cost: Callable[[str, float], tuple[float, float]]


@dataclass(slots=True)
class Told:
    """The load that another node tells: its mean and variance, the new counting most."""

    mean: float
    square: float = 0.0
    count: int = 1

    def add(self, value: float) -> None:
        off = value - self.mean
        self.mean += SMOOTH * off
        self.square += SMOOTH * (off * off - self.square)
        self.count += 1

    @property
    def high(self) -> float:
        return self.mean + math.sqrt(self.square)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a node has to offer to an object: a choice, or why it is none, in a word and in a
    sentence.  net: its gain less its cost; relief: what this node is rid of."""

    net: float
    word: str
    why: str
    choice: Choice | None = None
    relief: float = 0.0

    @property
    def key(self) -> tuple[float, float]:
        """By which the best of several is chosen."""
        return round(self.relief, 1), self.net


@dataclass(slots=True)
class _Node:
    """Another node in one look."""

    has: Attributes
    shares: dict[str, float]
    told: Told | None


class Balance:
    """The memory of one node's decisions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy: set[str] = set()  # kinds
        self._beyond: dict[str, float] = {}  # kind → since when
        self._told: dict[str, Told] = {}
        self._said: dict[str, tuple[str, float]] = {}  # id → why it stays, in a word; when
        self._next = -math.inf  # when a move may begin
        self._refused: dict[str, float] = {}  # id → when it may be tried again

    def look(self, policy: Policy, look: Look) -> list[Choice]:
        """What to do now: at most one choice moves."""
        self._follow({**look.nodes, self.name: look.here})
        if not policy.on:
            self.busy.clear()
            self._beyond.clear()
            self._said.clear()
            return []
        found = self._weigh(policy, look)
        ids = {thing.id for thing in look.things}
        self._said = {id: said for id, said in self._said.items() if id in ids}
        self._refused = {id: when for id, when in self._refused.items() if id in ids}
        dear = _of(look.here, "price") > 0
        if (self.busy or dear) and look.now >= self._next:
            found += self._choose(policy, look)
        return found

    def began(self, policy: Policy, now: float) -> None:
        """A move has begun: no other for a while."""
        self._next = now + STAND * policy.rest

    def refused(self, policy: Policy, id: str, now: float) -> None:
        """A move has failed: not this object again for a while."""
        self._refused[id] = now + AGAIN * policy.rest

    # --- how busy -------------------------------------------------------------------------

    def _follow(self, nodes: Mapping[str, Attributes]) -> None:
        if len(self._told) > KNOWN:
            self._told = {name: told for name, told in self._told.items() if name in nodes}
        for name, has in nodes.items():
            if _of(has, "age") > OLD:
                self._told.pop(name, None)
                continue
            value = _of(has, "load") / (_of(has, "cpus") or 1.0)
            if name in self._told:
                self._told[name].add(value)
            elif len(self._told) < KNOWN:
                self._told[name] = Told(value)

    def _weigh(self, policy: Policy, look: Look) -> list[Choice]:
        """Of which kinds this node is busy, where that has changed."""
        found = []
        have, sure = shares(look.here), dict(shares(look.here))
        if look.load is None:
            have["load"] = sure["load"] = 0.0
        else:
            cpus = _of(look.here, "cpus") or 1.0
            have["load"] = (look.load.value + _coming(look.here)) / cpus
            sure["load"] = have["load"] - look.load.error / cpus
        for kind in KINDS:
            if sure[kind] <= policy.load:
                self._beyond.pop(kind, None)
            elif kind not in self.busy:
                since = self._beyond.setdefault(kind, look.now)
                if look.now - since >= STAND * policy.rest:
                    self.busy.add(kind)
                    why = f"{kind} is {have[kind]:.2f}, beyond {policy.load:g} ({WORDS[kind]})"
                    found.append(Choice("busy", why))
            if kind in self.busy and have[kind] <= policy.load - CALM:
                self.busy.remove(kind)
                found.append(Choice("calm", f"{kind} is {have[kind]:.2f}"))
        return found

    # --- what moves ---------------------------------------------------------------------------

    def _choose(self, policy: Policy, look: Look) -> list[Choice]:
        nodes = self._some(look)
        best, tried, good = None, 0, 0
        stays: dict[str, tuple[str, str]] = {}
        for thing in self._greatest(look):
            word, why = self._bound(policy, look, thing)
            if not word:
                place, many = self._best(policy, look, thing, nodes)
                word, why, tried, good = place.word, place.why, tried + 1, max(good, many)
                if place.choice is not None and (best is None or place.key > best.key):
                    best = place
            if word:
                stays[thing.id] = word, why
            if tried >= MOST_TRIED:
                break
        found = self._say(policy, look.now, stays)
        if best is not None and best.choice is not None and self._turn(policy, look, good, nodes):
            self._said.pop(best.choice.id, None)
            found.append(best.choice)
        return found

    def _some(self, look: Look) -> dict[str, _Node]:
        """Nodes of which something fresh is known; in a large cloud others each time."""
        names = [name for name, has in look.nodes.items() if _of(has, "age") <= OLD]
        if len(names) > MOST_NODES:
            slot = str(math.floor(look.now))
            names = sorted(names, key=lambda name: _lot(self.name, name, slot))[:MOST_NODES]
        return {name: self._node(name, look.nodes[name]) for name in names}

    def _node(self, name: str, has: Attributes) -> _Node:
        found = _Node(has, shares(has), self._told.get(name))
        if found.told is not None:
            found.shares["load"] = found.told.high + _coming(has) / (_of(has, "cpus") or 1.0)
        return found

    def _say(
        self, policy: Policy, now: float, stays: Mapping[str, tuple[str, str]]
    ) -> list[Choice]:
        """What is new of why objects stay; not each wavering of one."""
        found = []
        for id, (word, why) in stays.items():
            said, when = self._said.get(id, ("", -math.inf))
            if said != word and now - when >= STAND * policy.rest:
                self._said[id] = word, now
                found.append(Choice("stays", why, id))
        return found

    def _turn(self, policy: Policy, look: Look, good: int, nodes: Mapping[str, _Node]) -> bool:
        """Whether this node may go to one of so many good ones, or leaves it to others."""
        rivals, price = 1, _of(look.here, "price")
        for other in nodes.values():
            dear = not self.busy and _of(other.has, "price") >= price
            rivals += dear or any(other.shares[kind] > policy.load for kind in self.busy)
        slot = math.floor(look.now / max(NEWS, SLOT * policy.rest))
        return _lot(self.name, str(slot)) < (1.0 if rivals == 1 else TURN * good / rivals)

    def _greatest(self, look: Look) -> list[Thing]:
        """Those with the greatest part in what is busy first."""

        def part(thing: Thing) -> float:
            parts = parts_of(thing, look.here)
            return max((parts[kind] for kind in self.busy), default=thing.cores)

        return sorted(look.things, key=part, reverse=True)[:MOST_THINGS]

    def _bound(self, policy: Policy, look: Look, thing: Thing) -> tuple[str, str]:
        """A word and a sentence for why it stays whatever other nodes there are."""
        if thing.fixed:
            return "fixed", thing.fixed
        here = look.now - thing.since
        if thing.came and here < policy.rest:
            return "rests", f"it came {here:.0f} s ago, and rests for {policy.rest:g} s"
        if here < YOUNG * policy.rest:
            return "young", f"it began {here:.0f} s ago"
        if look.now < self._refused.get(thing.id, -math.inf):
            return "refused", "a move of it has just failed"
        return "", ""

    def _best(
        self, policy: Policy, look: Look, thing: Thing, nodes: Mapping[str, _Node]
    ) -> tuple[_Place, int]:
        """The place for an object, or why there is none; and how many are good."""
        if not nodes:
            return _Place(0.0, "none", "no other node is heard of"), 0
        found = [self._place(policy, look, thing, name, nodes[name]) for name in nodes]
        good = [one for one in found if one.choice is not None]
        if not good:
            return max(found, key=lambda one: one.net), 0
        top = max(one.net for one in good)
        close = [one for one in good if one.net >= top - CLOSE]
        slot = str(math.floor(look.now))
        close.sort(key=lambda one: _lot(self.name, thing.id, one.why, slot))
        return max(close[:2], key=lambda one: one.net), len(good)

    def _place(self, policy: Policy, look: Look, thing: Thing, node: str, other: _Node) -> _Place:
        """What a node has to offer to an object."""
        has, here, there = other.has, shares(look.here), dict(other.shares)
        if other.told is None or other.told.count < ENOUGH:
            return _Place(-9.0, "unknown", f"too little is known of {node} yet")
        if text := placement.against(dataclasses.replace(thing.wish, on="", spread=""), has):
            return _Place(-10.0, "none", f"{node} will not do: {text}")
        cpus, doubt = _of(look.here, "cpus") or 1.0, 0.0
        # What others tell lags behind, so it is held against what this node told as late: or
        # a load that rises or falls on both alike would look like a difference.
        own = self._told.get(self.name) or Told(here["load"])
        high, late = own.high + _coming(look.here) / cpus, own.mean
        if look.load is not None:
            late = min(late, look.load.value / cpus)
            doubt = look.load.error / cpus
        here["load"] = late + _coming(look.here) / cpus
        more, less = parts_of(thing, has), parts_of(thing, look.here)
        calm = policy.load - CALM
        gain, relief, why = -math.inf, 0.0, "it has no part in what is busy here"
        for kind in KINDS:
            there[kind] += more[kind]
            has_part = kind in self.busy and less[kind] >= PART
            worse = NEAR + (max(high, here[kind]) if kind == "load" else here[kind])
            if there[kind] > (calm if has_part else max(calm, worse)):
                why = f"{node} would be busy: {kind} would be {there[kind]:.2f}"
                return _Place(-8.0 - there[kind], "busy", why)
            by = here[kind] - there[kind] - (doubt if kind == "load" else 0.0)
            if has_part and by > gain:
                gain, relief = by, min(less[kind], here[kind] - calm)
                why = f"{kind} is {here[kind]:.2f} here and would be {there[kind]:.2f} at {node}"
        price, its = _of(look.here, "price"), number(has.get("price"))
        if price > 0 and its is not None and 0 <= its < price and (price - its) / price > gain:
            gain, relief = (price - its) / price, max(relief, less["load"], less["cpu"])
            why = f"the price is {price:g} here and {its:g} at {node}"
        if gain < policy.gain:
            text = f"{why}, a gain of less than {policy.gain:g}" if gain > -math.inf else why
            return _Place(max(gain, 0.0) - policy.gain - 1.0, "gain", text)
        cost = sum(look.cost(node, thing.mem))
        net = gain - WORTH * cost / policy.rest
        if net <= 0:
            text = f"{why}, but it would stand still for {cost:.1f} s"
            return _Place(max(net, -0.9), "cost", text)
        return _Place(net, "", why, Choice("moves", why, thing.id, node, gain, cost), relief)


def coming(changes: Mapping[str, tuple[float, float]], now: float) -> float:
    """What has come and is not in the load yet, less what has gone and still is, in processes.

    changes: of each object that came or went, when and how many cores it uses, negative if it
    went.
    """
    return sum(cores * math.exp((when - now) / MINUTE) for when, cores in changes.values())


def shares(has: Attributes) -> dict[str, float]:
    """How much of a node is taken, by kind."""
    cpus, memory = _of(has, "cpus") or 1.0, _of(has, "mem.total")
    return {
        "load": _of(has, "load") / cpus,
        "cpu": 1 - _of(has, "cpu.unreserved", cpus) / cpus,
        "mem": 1 - _of(has, "mem.unreserved", memory) / memory if memory else 0.0,
        "used": 1 - _of(has, "mem.free", memory) / memory if memory else 0.0,
    }


def parts_of(thing: Thing, has: Attributes) -> dict[str, float]:
    """What an object takes of a node, by kind."""
    cpus, memory = _of(has, "cpus") or 1.0, _of(has, "mem.total")
    return {
        "load": thing.cores / cpus,
        "cpu": thing.wish.want.cores / cpus,
        "mem": thing.wish.want.mem / memory if memory else 0.0,
        "used": thing.mem / memory if memory else 0.0,
    }


def way(
    latency: tuple[float, float] | None, rate: tuple[float, float] | None, size: float
) -> tuple[float, float]:
    """Seconds to move so many bytes, and how wrong that may be.

    latency, rate: seconds there and back, and bytes a second there, each with its standard
    error; None where they were never measured.
    """
    seconds, doubt = latency or (0.1, 0.1)
    speed, error = rate or (RATE, RATE)
    speed = max(speed, 1.0)
    # Some turns there and back: the offer, the image, the word to go on.
    return 4 * seconds + size / speed, 4 * doubt + size / speed * min(1.0, error / speed)


def _of(has: Attributes, name: str, default: float = 0.0) -> float:
    value = has.get(name)
    if isinstance(value, float | int):
        return value
    found = number(value)
    return default if found is None else found


def _coming(has: Attributes) -> float:
    """What a node tells of `coming`, as far as it may be true."""
    cpus = _of(has, "cpus") or 1.0
    return max(-min(cpus, _of(has, "load")), min(4 * cpus, _of(has, COMING)))


def _lot(*words: str) -> float:
    """A number from 0 to 1 that is the same for the same words."""
    digest = hashlib.blake2b("/".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / (1 << 64)
