"""This machine's directory in /cloud/nodes."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import balance, budget, ceilings, query
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.kernel.machine import Machine, Party
from cloudfs.kernel.runs import Runs
from cloudfs.kernel.verb import Verb, find, help_of, table
from cloudfs.tree import enrol, introduce, numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Ctl, Log, Row, Value
from cloudfs.tree.handles import Following, Text
from cloudfs.tree.hold import hold
from cloudfs.tree.place import place
from cloudfs.tree.proc import Proc
from cloudfs.tree.progress import Progress
from cloudfs.tree.space import Attach
from cloudfs.tree.table import TableDir

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
        [
            enrol.file_of(machine),
            introduce.file_of(machine),
        ],
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
    budget.need_none(at.who, "price")
    price = query.number(args[0])
    if price is None:
        raise CloudError("bad", f"price: {args[0][:40]!r} is no number", "write: price 0.05")
    machine.set_price(price)


def _most(machine: Machine, args: list[str], at: Attach) -> None:
    """The most that an object of anybody but the node's owner may have here, whatever its
    own limit, and how many of one user run at once; none lifts."""
    machine.set_most(ceilings.read(args, machine.most))


def _drain(machine: Machine, args: list[str], at: Attach) -> None:
    """Take no new objects until undrain, and move those that run here to other nodes, each to
    where it fits best, as far as they can be moved: progress tells how that goes.  After -s
    they stay.  The words say why."""
    stay = args[:1] == ["-s"]
    args = args[1:] if stay else args
    why = " ".join(args) or f"by {at.who.user}"
    if len(why) > 200 or not why.isprintable():
        raise CloudError("bad", "drain: the reason is one line of at most 200 letters")
    machine.drain(why)
    if not stay and machine.runs is not None:
        machine.runs.drain(at.who)


def _undrain(machine: Machine, args: list[str], at: Attach) -> None:
    """Take new objects again, and move no more of them away."""
    machine.undrain()
    _, group = _runs(machine)
    if machine.runs is not None and machine.runs.goes_on(group):
        machine.runs.cancel(group, at.who)


def _undo(machine: Machine, args: list[str], at: Attach) -> None:
    """Undrain, and bring back those that drain has moved away; progress tells how that goes."""
    _undrain(machine, args, at)
    runs, group = _runs(machine)
    if runs is not None and runs.can_undo(group):
        runs.undo(group, at.who)


def _runs(machine: Machine) -> tuple[Runs | None, str]:
    return machine.runs, f"nodes/{machine.name}"


def _balance(machine: Machine, args: list[str], at: Attach) -> None:
    """Have objects that can be moved leave this node by themselves where it is busier than load
    (0.9: of its processors, cores or memory) or costs more than another, if their place would be
    better by gain (0.2), and none twice within rest (600) seconds; events tell each choice and
    its reason.  It is off unless it is turned on."""
    machine.set_balance(balance.read(args))


def _init(machine: Machine, args: list[str], at: Attach) -> Wait[None]:
    """Begin a cloud: its root key and this cluster's authority are made in the state
    directory.  Where root.key of a cloud is there already, begin a cluster of that."""
    cloud, cluster = (*args, "", "")[:2]
    return _party(machine).init(cloud, cluster)


def _join(machine: Machine, args: list[str], at: Attach) -> Wait[None]:
    """Join the cloud of a join file: write join and the file's line.  A node that has its
    certificate already joins with addresses of any nodes of the cloud."""
    if args[0].startswith("cloud="):
        return _party(machine).join_by(" ".join(args))
    return _party(machine).join(args)


def _revoke(machine: Machine, args: list[str], at: Attach) -> None:
    """Take a node's place in the cloud away, at once and for good."""
    _party(machine).revoke(args[0], (*args, "")[1])


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
    Verb("init [CLOUD [CLUSTER]]", 0, 2, _init),
    Verb("join FILE|HOST:PORT...", 1, 16, _join),
    Verb("revoke NODE [CLUSTER]", 1, 2, _revoke),
    Verb("leave", 0, 0, _leave),
    Verb("drain [-s] [WHY...]", 0, None, _drain),
    Verb("undrain", 0, 0, _undrain),
    Verb("undo", 0, 0, _undo),
    Verb("balance on|off [load=N] [gain=N] [rest=N]", 1, 4, _balance),
    Verb("label K=V...", 1, None, _label),
    Verb("price N", 1, 1, _price),
    Verb("most cpu=N mem=N pids=N time=N running=N", 1, None, _most),
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
    cloud), cluster, since when it serves, its load, free memory, what no object holds, balance
    (on with its numbers, or off), and why it is drained or alone."""
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
        "balance": str(machine.balance),
        "why": machine.outside or machine.drained,
    }
    return ndb.record(pairs) + "\n"


def _addr(machine: Machine, at: Attach) -> str:
    """Where it serves 9P, an address a line."""
    return "".join(f"{address}\n" for address in machine.addresses)


def _cluster(machine: Machine, at: Attach) -> str:
    """The cluster it is in."""
    return f"{machine.cluster}\n"


def _cert(machine: Machine, at: Attach) -> str:
    """What the node's certificate says: its names, the id of its key, when it was made, is
    renewed and ends (seconds since 1970), and whether the node makes them itself (issuer)."""
    pairs = machine.party.certificate() if machine.party else {}
    return f"{ndb.record(pairs)}\n" if pairs else ""


def _revoked(machine: Machine, at: Attach) -> str:
    """The nodes that lost their place: name, cluster and since when."""
    found = machine.party.revoked() if machine.party else []
    return "".join(f"{ndb.record(pairs)}\n" for pairs in found)


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


def _read_most(machine: Machine, at: Attach) -> str:
    """What an object of anybody but the owner may have here: cpu in cores, mem in bytes,
    pids, time in seconds, and running, of one user at once; empty is no bound."""
    return ndb.record(machine.most.pairs()) + "\n"


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
    Value("cert", 0o444, _cert),
    Value("revoked", 0o444, _revoked),
    enrol.Invitation(),
    Value("arch", 0o444, _arch),
    Value("os", 0o444, _os),
    Value("cpus", 0o444, _cpus),
    Value("load", 0o444, _load),
    Value("cpu", 0o444, _cpu),
    Value("mem", 0o444, _mem),
    Value("disk", 0o444, _disk),
    Value("uptime", 0o444, _uptime),
    Value("most", 0o444, _read_most),
    Value("price", 0o644, _read_price, lambda m, line, at: _price(m, [line.strip()], at)),
    Value("labels", 0o644, _read_labels, lambda m, line, at: _label(m, ndb.words(line), at)),
    Progress(_runs),
    Log("events", 0o444, _events),
)
