"""This machine's directory in /cloud/nodes."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import query
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.kernel.machine import Machine, Party
from cloudfs.kernel.verb import Verb, find, help_of, table
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Ctl, Log, Row, Value
from cloudfs.tree.handles import Following, Text
from cloudfs.tree.hold import hold
from cloudfs.tree.introduce import Introduction
from cloudfs.tree.place import place
from cloudfs.tree.proc import Proc
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File, TableDir

AHEAD = (10, 30)  # seconds for which the load is foretold

DOC = """\
Every machine of the cloud, each a directory with what it is and how busy it is.
"""

NODE_DOC = """\
One machine.  Values are in seconds, bytes, bytes a second and fractions of 1.
Verbs of ctl, for the node's owner:
"""


class Feed(Protocol):
    """Lines for one reader, from when it began."""

    def take(self) -> list[str]: ...

    async def wait(self) -> None: ...

    def close(self) -> None: ...


class Tape(Protocol):
    """The messages that pass, as text (wire/trace.py)."""

    def subscribe(self) -> Feed: ...


def own(machine: Machine, proc: Proc, tape: Tape, *more: Node) -> TableDir:
    """This node's own directory, which others see as /cloud/nodes/NAME, with more in it."""
    machine.recover = proc.objects.failover.recover
    return TableDir(
        machine.name,
        (*TABLE, Trace(tape)),
        machine,
        numbers.SELF,
        machine.owner,
        lambda: machine.changed,
        [proc.own([place(proc.objects), hold(proc.objects)]), *more],
        NODE_DOC + help_of(VERBS.values()),
        [File(Introduction(), machine, numbers.INTRODUCE, machine.owner, lambda: machine.changed)],
    )


class Trace(Row):
    """The 9P messages of this node; only its owner may look."""

    def __init__(self, tape: Tape) -> None:
        super().__init__("trace", 0o400, "Under .follow the 9P messages as they pass; else empty.")
        self.tape = tape

    def open(self, subject: Machine, mode: int, at: Attach, cues: Cues) -> Handle:
        if not cues.follow:
            return Text("")
        feed = self.tape.subscribe()

        async def more() -> bytes:
            await feed.wait()
            return "".join(f"{line}\n" for line in feed.take()).encode()

        return Following(more, feed.close)


def _label(machine: Machine, args: list[str], at: Attach) -> None:
    """Give the node labels; an empty value takes one away."""
    pairs = dict(ndb.pair(arg, "NAME=VALUE") for arg in args)
    for word in (*pairs, *pairs.values()):
        if len(word) > 64 or "/" in word or not word.isprintable():
            fix = "use 1 to 64 letters, no / among them"
            raise CloudError("bad", f"label: {word[:70]!r} cannot be used", fix)
    machine.set_labels(pairs)


def _price(machine: Machine, args: list[str], at: Attach) -> None:
    """What a core-hour on this node costs."""
    price = query.number(args[0])
    if price is None:
        raise CloudError("bad", f"price: {args[0][:40]!r} is no number", "write: price 0.05")
    machine.set_price(price)


def _drain(machine: Machine, args: list[str], at: Attach) -> None:
    """Take no new objects until undrain; those that are here stay.  The words say why."""
    why = " ".join(args) or f"by {at.who.user}"
    if len(why) > 200 or not why.isprintable():
        raise CloudError("bad", "drain: the reason is one line of at most 200 letters")
    machine.drain(why)


def _undrain(machine: Machine, args: list[str], at: Attach) -> None:
    """Take new objects again."""
    machine.undrain()


def _join(machine: Machine, args: list[str], at: Attach) -> Wait[None]:
    """Join the cloud of the nodes at these addresses, any of it; its key must be in the
    state directory."""
    return _party(machine).join(args)


def _leave(machine: Machine, args: list[str], at: Attach) -> Wait[None]:
    """Leave the cloud; the objects of this node go on."""
    return _party(machine).leave()


def _recover(machine: Machine, args: list[str], at: Attach) -> Wait[None]:
    """Have an object go on here from the newest image that this node keeps of it, or one that
    is fenced here go on.  For where other nodes are lost for good, and too few are left to
    agree on that by themselves: it runs twice if that is wrong."""
    assert machine.recover is not None
    return Wait(partial(machine.recover, args[0]))


def _party(machine: Machine) -> Party:
    if machine.party is None:
        raise CloudError("unsupported", "this node knows no other nodes")
    return machine.party


VERBS = table(
    Verb("join HOST:PORT...", 1, 16, _join),
    Verb("leave", 0, 0, _leave),
    Verb("drain [WHY...]", 0, None, _drain),
    Verb("undrain", 0, 0, _undrain),
    Verb("label K=V...", 1, None, _label),
    Verb("price N", 1, 1, _price),
    Verb("recover ID", 1, 1, _recover),
)


def _ctl(machine: Machine, at: Attach) -> str:
    """Read: the node's name and the verbs it takes.  Write: a verb a line."""
    return f"{machine.name}\n" + "".join(f"{verb.usage}\n" for verb in VERBS.values())


def _act(machine: Machine, line: str, at: Attach) -> Wait[None] | None:
    found = find(VERBS, line)
    return found[0].run(machine, found[1], at) if found else None


def _status(machine: Machine, at: Attach) -> str:
    """One record: name, state (alive; drained takes no new objects; alone is not in its
    cloud), cluster, since when it serves, its load, free memory, what no object holds, and
    why it is drained or alone."""
    has = machine.attributes()
    pairs = {
        "name": machine.name,
        "state": "alone" if machine.outside else has["state"],
        "cluster": machine.cluster,
        "started": round(machine.started, 3),
        "cpus": has["cpus"],
        "load": has["load"],
        "free": has["mem.free"],
        "cpu.unreserved": has["cpu.unreserved"],
        "mem.unreserved": has["mem.unreserved"],
        "why": machine.outside or machine.drained,
    }
    return ndb.record(pairs) + "\n"


def _addr(machine: Machine, at: Attach) -> str:
    """Where it serves 9P, an address a line."""
    return "".join(f"{address}\n" for address in machine.addresses)


def _cluster(machine: Machine, at: Attach) -> str:
    """The cluster it is in."""
    return f"{machine.cluster}\n"


def _arch(machine: Machine, at: Attach) -> str:
    """The kind of processor, as uname -m has it."""
    return f"{machine.metrics.arch}\n"


def _os(machine: Machine, at: Attach) -> str:
    """The operating system: name and kernel."""
    return ndb.record(machine.metrics.os) + "\n"


def _cpus(machine: Machine, at: Attach) -> str:
    """How many processors it has."""
    return f"{machine.metrics.cpus}\n"


def _load(machine: Machine, at: Attach) -> str:
    """Processes that run or want to, on average over 1, 5 and 15 minutes; then what to
    expect of the first in 10 and 30 s, each with its error."""
    one, five, fifteen = machine.metrics.load()
    pairs: dict[str, object] = {"1min": one, "5min": five, "15min": fifteen}
    for seconds in AHEAD:
        expected = machine.load.ahead(seconds)
        if expected is not None:
            pairs[f"in{seconds}"] = round(max(0.0, expected.value), 3)
            pairs[f"in{seconds}.error"] = round(expected.error, 3)
    return ndb.record(pairs) + "\n"


def _cpu(machine: Machine, at: Attach) -> str:
    """How the processors spent the last seconds, in fractions of 1."""
    return ndb.record(machine.metrics.cpu()) + "\n"


def _mem(machine: Machine, at: Attach) -> str:
    """Memory and swap, in bytes."""
    return ndb.record(machine.metrics.mem()) + "\n"


def _disk(machine: Machine, at: Attach) -> str:
    """A line for each disk: where it is mounted, then its bytes."""
    return "".join(f"{ndb.quote(d.pop('path'))} {ndb.record(d)}\n" for d in machine.metrics.disk())


def _uptime(machine: Machine, at: Attach) -> str:
    """Seconds since the machine started."""
    return f"{ndb.show(machine.metrics.uptime())}\n"


def _read_price(machine: Machine, at: Attach) -> str:
    """What a core-hour costs; write a number to change it."""
    return f"{ndb.show(machine.price)}\n"


def _read_labels(machine: Machine, at: Attach) -> str:
    """The node's labels, a NAME=VALUE a line; write such lines to change them."""
    return "".join(f"{ndb.quote(f'{name}={text}')}\n" for name, text in machine.labels.items())


def _events(machine: Machine) -> KernelLog:
    """What happened on this node.  Under .follow a read waits for more."""
    return machine.events


TABLE = (
    Ctl("ctl", 0o644, _ctl, _act),
    Value("status", 0o444, _status),
    Value("addr", 0o444, _addr),
    Value("cluster", 0o444, _cluster),
    Value("arch", 0o444, _arch),
    Value("os", 0o444, _os),
    Value("cpus", 0o444, _cpus),
    Value("load", 0o444, _load),
    Value("cpu", 0o444, _cpu),
    Value("mem", 0o444, _mem),
    Value("disk", 0o444, _disk),
    Value("uptime", 0o444, _uptime),
    Value("price", 0o644, _read_price, lambda m, line, at: _price(m, [line.strip()], at)),
    Value("labels", 0o644, _read_labels, lambda m, line, at: _label(m, ndb.words(line), at)),
    Log("events", 0o444, _events),
)
