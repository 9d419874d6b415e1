"""What the nodes of a net say of each other and of objects, read from their files, and how
soon it must agree with what is true: the bounds of the promise, in one place.

A machine that others share may stand still for seconds, so CI allows twice the time; run by
hand, the tests hold the promise itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect

SLACK = 2.0 if os.environ.get("CI") else 1.0
JOIN = 30.0 * SLACK  # seconds until nodes that start together all know each other
MANY = 60.0 * SLACK  # the same for thirty on two cores
GONE = 10.0 * SLACK  # until a node that was killed is gone everywhere
SILENT = 15.0 * SLACK  # until one that was stopped is, or one that was cut off
AGREE = 10.0 * SLACK  # until all agree after a fault has ended
OWN = 2.0 * SLACK  # for anything that concerns one's own side only
FAR = 2.5 * SLACK  # for an operation on a node that does not answer: its deadline, and a bit
LIST = 2.0 * SLACK  # for a listing, whatever has failed; it waits for nobody

UP = ("alive", "drained")

Record = dict[str, str]


def records(node: Machine, pattern: str, seconds: float = FAR) -> dict[str, Record]:
    """The records in the files that match below a node's mount, by the name of their
    directory; one that cannot be read now is left out.  All are read at once, since each
    may wait for a node that does not answer."""
    line = (
        f'for f in "$cloud"/{pattern}; do '
        '{ r=$(cat "$f" 2>/dev/null) && echo "$f $r"; } & done; wait'
    )
    found = {}
    for text in node.sh(line, seconds=seconds + 2).splitlines():
        path, _, record = text.partition(" ")
        if record:
            found[path.split("/")[-2]] = ndb.parse(record)
    return found


def age(record: Record) -> float:
    """How old what a record says is, in seconds; a node speaks of its own without an age."""
    return float(record.get("age") or 0)


def nodes(node: Machine) -> dict[str, Record]:
    """What a node says of all nodes."""
    return records(node, "nodes/*/status")


def objects(node: Machine) -> dict[str, Record]:
    """What a node says of all objects."""
    return records(node, "proc/*/status", seconds=5)


def view(node: Machine) -> dict[str, str]:
    """The state of every node, as one sees it."""
    return {name: record["state"] for name, record in nodes(node).items()}


def agree(net: Net, wanted: Mapping[str, str | tuple[str, ...]], at: Iterable[Machine]) -> None:
    """All of `at` see these states."""
    for name, seen in net.each(view, at).items():
        for other, state in wanted.items():
            allowed = (state,) if isinstance(state, str) else state
            assert seen.get(other) in allowed, (
                f"{name} sees {other} as {seen.get(other)}, not {' or '.join(allowed)}; all: {seen}"
            )


def all_up(net: Net, at: Iterable[Machine] | None = None) -> None:
    """All of `at` see each other as up."""
    at = list(net if at is None else at)
    agree(net, {node.name: UP for node in at}, at)


def settle(net: Net, seconds: float = JOIN) -> Net:
    """Wait until all see all."""
    eventually(lambda: all_up(net), seconds)
    return net


def see(net: Net, id: str, at: Iterable[Machine] | None = None, **wanted: str) -> None:
    """All of `at` find the object by its id, with these values in its status."""
    for name, record in net.each(lambda node: node.status("proc", id, "status"), at).items():
        for key, value in wanted.items():
            expect(record.get(key), value, f"{key} of {id} as {name} sees it ({record})")


def within(seconds: float, began: float, what: str) -> None:
    """Raise if it took longer.  began: by time.monotonic()."""
    took = time.monotonic() - began
    assert took < seconds, f"{what} took {took:.2f} s, not {seconds:g}"
