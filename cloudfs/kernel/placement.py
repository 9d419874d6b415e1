"""Which node an object goes to: what will do, and what is best.  Pure.

Nodes are given as name → attributes (`Machine.attributes()`, as each node last told
them), with `age`, the seconds since it did; a node's own have none.  Where a wish names
them, `rtt` and `rtt(NODE)` are there too, as the node that asks knows them.  `state` is
"alive" where it takes new objects.

What will do: the node of `on`; every expression of `require`; room for what `limit`
says, by what the node told last (not for `on`).  The target has the last word, so a
node that will do may still refuse; then the next one is asked.

What is best, the first that tells two nodes apart:
  1. `spread ATTRIBUTE`: the fewest siblings on nodes with the same value of it, then
     the fewest on the node itself;
  2. `prefer`: the most expressions met, then its `sort=` and `near=` in their order, the
     smallest first, nodes that do not tell the attribute last;
  3. the score below, in steps of a tenth;
  4. the node that asks; then a hash of the object's id and the node's name, so that
     many who place at once do not all choose the same node.

The score is the share of the machine that is idle, 0 to 1: the least of idle cores,
cores less load, unreserved cores (each by all cores) and unreserved memory (by all
memory); the older the news, the less it counts (half after 30 s, to nothing), and what
the node that asks sent there lately makes it less (sent.py).  That node itself gets HOME
more: an object stays where it was made unless another node has half a machine more to
spare, or its own has no idle tenth left and another has.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cloudfs.errors import CloudError
from cloudfs.kernel.query import ORDERS, Expr, meets, number, place
from cloudfs.kernel.reserve import NOTHING, Amount, amount

HOME = 0.5  # what being at home is worth, in shares of a machine
BUSY = 0.1  # a share of idle below which it is worth nothing
FLOOR = 0.2  # of a score, whatever was sent there: it may be the only node with room
HALF = 30.0  # seconds after which news count half

NONE: Mapping[str, float] = {}

Attributes = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Wish:
    """What an object asks of its node."""

    id: str = ""
    on: str = ""
    require: tuple[Expr, ...] = ()
    prefer: tuple[Expr, ...] = ()
    spread: str = ""  # an attribute
    want: Amount = field(default=NOTHING)


def order(
    wish: Wish,
    nodes: Mapping[str, Attributes],
    home: str,
    siblings: Iterable[str] = (),
    sent: Mapping[str, float] = NONE,
) -> list[str]:
    """The nodes that will do, best first.

    home: the node that asks.  siblings: the node of each other object that is spread
    with this one.  sent: by node, the part of it that went there lately.  Raises
    CloudError("unreachable") that says which term failed on how many nodes if none will do.
    """
    if wish.on and wish.on not in nodes:
        raise unknown(wish.on)
    asked = nodes
    if wish.on:  # there is no choice, and of its room that node itself knows better
        asked, wish = {wish.on: nodes[wish.on]}, replace(wish, want=NOTHING)
    good = [name for name, has in asked.items() if not _against(wish, has)]
    if not good:
        raise CloudError("unreachable", _why_none(wish, asked), "see: cloudfs help proc")
    on_node = Counter(name for name in siblings if name in nodes)
    on_value: Counter[str] = Counter()
    for name, count in on_node.items():
        on_value[_value(wish, nodes[name])] += count

    def rank(name: str) -> tuple[object, ...]:
        beside = on_value[_value(wish, nodes[name])], on_node[name]
        return *beside, *_rank(wish, name, nodes[name], name == home, sent.get(name, 0.0))

    return sorted(good, key=rank)


def against(wish: Wish, has: Attributes) -> str:
    """What of a wish a node does not satisfy, "" if it will do."""
    return ", ".join(f"{term} (it has {instead})" for term, instead in _against(wish, has))


def stays(wish: Wish, own: Attributes) -> bool:
    """Whether the node that asks is the best, whatever others there are."""
    free = not (wish.on or wish.require or wish.prefer or wish.spread)
    return free and not _against(wish, own) and score(own, True) >= 1.0


def told(wish: Wish) -> Wish:
    """What a node that was chosen can tell of it: without the terms that only the node
    that chose it can."""
    terms = tuple(term for term in wish.require if not term.relative)
    return replace(wish, require=terms)


def unknown(node: str) -> CloudError:
    """The error for a node that nobody knows."""
    return CloudError("unreachable", f"on: there is no node {node[:64]!r}", "see: ls /cloud/nodes")


def _value(wish: Wish, attributes: Attributes) -> str:
    """What `spread` compares: the attribute's value as text, "" if the node has none."""
    return str(attributes.get(wish.spread, "")) if wish.spread else ""


def score(attributes: Attributes, home: bool, sent: float = 0.0) -> float:
    """How well a node would do by its load, 0 to 1, and up to 1.5 at home.  sent: a part of it."""
    cpus = cpus_of(attributes)
    memory = _of(attributes, "mem.total", 0.0)
    shares = [
        _of(attributes, "cpu.idle", cpus) / cpus,
        (cpus - _of(attributes, "load", 0.0)) / cpus,
        _of(attributes, "cpu.unreserved", cpus) / cpus,
        _of(attributes, "mem.unreserved", memory) / memory if memory else 1.0,
    ]
    idle = max(0.0, min(1.0, *shares))
    if home:
        return idle + (HOME if idle >= BUSY else 0.0)
    age = max(0.0, _of(attributes, "age", 0.0))
    return idle * HALF / (HALF + age) * max(FLOOR, 1 / (1 + sent))


def cpus_of(attributes: Attributes) -> float:
    """How many processors a node says it has, 1 where it says nothing."""
    return _of(attributes, "cpus", 1.0) or 1.0


def _of(attributes: Attributes, name: str, default: float) -> float:
    found = number(attributes.get(name))
    return default if found is None else found


def _rank(wish: Wish, name: str, has: Attributes, home: bool, sent: float) -> tuple[object, ...]:
    met = sum(meets(expr, has) for expr in wish.prefer if expr.op not in ORDERS)
    sorts = [place(expr, has) for expr in wish.prefer if expr.op in ORDERS]
    lot = hashlib.blake2b(f"{wish.id}/{name}".encode(), digest_size=8).digest()
    return -met, sorts, -round(score(has, home, sent), 1), not home, lot


def _against(wish: Wish, has: Attributes) -> list[tuple[str, str]]:
    """What of the wish a node does not satisfy: (term, what it has instead)."""
    found = [
        (str(expr), str(has.get(expr.attr, "no such attribute")))
        for expr in wish.require
        if not meets(expr, has)
    ]
    cores, memory = _of(has, "cpu.unreserved", -1.0), _of(has, "mem.unreserved", -1.0)
    room = amount(max(0.0, cores), max(0.0, memory))
    if cores >= 0 and wish.want.cpu > room.cpu:
        found.append((f"limit cpu={wish.want.cores:g}", f"{cores:g} unreserved"))
    if memory >= 0 and wish.want.mem > room.mem:
        found.append((f"limit mem={wish.want.mem}", f"{memory:.0f} unreserved"))
    state = str(has.get("state", "alive"))
    if state != "alive":
        why = has.get("drained", "")
        found.append(("state=alive", f"{state}: {why}" if why else state))
    return found


def _why_none(wish: Wish, asked: Mapping[str, Attributes]) -> str:
    against = {name: _against(wish, has) for name, has in asked.items()}
    total = len(against)
    if total <= 1:
        terms = [f"{term} (it has {has})" for found in against.values() for term, has in found]
        where = f"node {next(iter(against))}" if wish.on else "no node"
        return f"{where} {'does not meet' if wish.on else 'meets'} {', '.join(terms) or 'this'}"
    counts = Counter(term for found in against.values() for term, _ in found)
    terms = [f"{term} fails on {count}" for term, count in counts.most_common()]
    return f"none of {total} nodes will do: {', '.join(terms)}"
