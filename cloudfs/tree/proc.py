"""/cloud/proc: every object, each a directory that is the table OBJECT below."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import budget, lifecycle, verbs
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.kernel.moved import stale
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.verb import help_of
from cloudfs.node.api import Usage
from cloudfs.tree import numbers
from cloudfs.tree.api import NOBODY, Cues, Node, Wait
from cloudfs.tree.files import Blocking, Ctl, Log, Pipe, Row, Stream, Value
from cloudfs.tree.images import Checkpoints
from cloudfs.tree.onward import Onward
from cloudfs.tree.space import Attach
from cloudfs.tree.table import LiveDir, TableDir
from cloudfs.wait import settle

DOC = """\
Every object, each a directory of its own.

  id=$(cat /cloud/proc/clone)
  echo exec sleep 60 > /cloud/proc/$id/ctl
  cat /cloud/proc/$id/status
  echo kill > /cloud/proc/$id/ctl

States:
""" + "".join(f"  {state:9} {doc}\n" for state, doc in lifecycle.STATES.items())
DOC += "\nWhat takes an object from one state to the next:\n"
DOC += "".join(
    f"  {state:9} {event:13} {into}\n" for (state, event), into in lifecycle.TRANSITIONS.items()
)

OBJECT_DOC = "One object.  Verbs of ctl:\n" + help_of(verbs.OBJECT.values())


class Proc:
    """The functions behind the table, with the services they need.  host: where others
    reach this node.  bill: what an object has cost, signed by this node."""

    def __init__(
        self,
        objects: Objects,
        price: Callable[[], float],
        host: Callable[[], str] = str,
        bill: Callable[[Object], str] = lambda made: "",
    ) -> None:
        self.objects = objects
        self.price = price
        self.host = host
        self.bill = bill
        self.rows = self._table()
        self._dirs: dict[str, TableDir] = {}

    # --- nodes

    def dir_of(self, made: Object) -> TableDir:
        """The directory of an object; the same Node as long as the object is there."""
        found = self._dirs.get(made.id)
        if found is None or found.subject is not made:
            if len(self._dirs) > 2 * len(self.objects.all) + 64:
                self._dirs = {i: d for i, d in self._dirs.items() if i in self.objects.all}
            found = self._dirs[made.id] = TableDir(
                made.id,
                self.rows,
                made,
                numbers.of_object(made.number),
                made.user,
                lambda: made.changed,
                [Checkpoints(made, self.objects)],
                doc=OBJECT_DOC,
            )
        found.give_group(made.group or made.user)
        return found

    def own(self, hidden: Iterable[Node] = ()) -> LiveDir:
        """The objects of this node: proc in its own directory, with files not listed."""
        objects = self.objects
        return LiveDir(
            "proc",
            (),
            objects,
            numbers.NODE_PROC,
            objects.owner,
            lambda: objects.changed,
            find=self._own,
            every=lambda: {id: self.dir_of(made) for id, made in objects.all.items()},
            version=lambda: objects.version,
            doc="The objects that run on this node.",
            hidden=hidden,
        )

    def _own(self, id: str, at: Attach, cues: Cues) -> TableDir:
        try:
            return self.dir_of(self.objects.get(id, at.who))
        except CloudError:
            if node := self.objects.moved_to(id):
                raise stale(id, node) from None
            raise

    def clone(self, objects: Objects, at: Attach) -> str:
        """A new object's id, the reader's.  It goes when its session ends or after a
        minute, unless exec comes."""
        if at.who.user == NOBODY.user:  # else all who are nobody would share them
            raise CloudError("denied", "nobody has objects", "log in: cloudfs login USER")
        at.who.admit(op="new", app="")
        return objects.promise(at.who, at.space, at.space.lines())

    # --- the table of one object

    def _table(self) -> tuple[Row, ...]:
        objects = self.objects
        over = objects.until_end

        def onward(row: Blocking | Log | Stream) -> Row:
            return Onward(row, self._went)

        return (
            Ctl("ctl", 0o660, self._ctl, self._act),
            Value("status", 0o444, self._status),
            Value("args", 0o444, _args),
            Value("env", 0o440, _env),
            Value("cwd", 0o444, _cwd),
            Value("exe", 0o444, _exe),
            onward(Blocking("wait", 0o444, _wait, over)),
            onward(Log("note", 0o660, _notes, over, self._post)),
            Pipe("stdin", 0o220, self._stdin),
            onward(Stream("stdout", 0o440, _stdout, objects.dropped, objects.grown)),
            onward(Stream("stderr", 0o440, _stderr, objects.dropped, objects.grown)),
            Value("limits", 0o444, _limits),
            Value("spec", 0o444, _spec),
            Value("usage", 0o444, _usage),
            Value("cost", 0o444, self._cost),
            Value("bill", 0o440, self._bill),
            Value("node", 0o444, self._node),
            Value("app", 0o444, _app),
            Value("labels", 0o444, _labels),
            Value("pids", 0o444, _pids),
            Value("ns", 0o444, _ns),
            Value("availability", 0o444, self._availability),
            onward(Log("events", 0o444, _events, over)),
        )

    def _ctl(self, made: Object, at: Attach) -> str:
        """Read: the id and the verbs it takes.  Write: a verb and its arguments a line."""
        return f"{made.id}\n" + "".join(f"{verb.usage}\n" for verb in verbs.OBJECT.values())

    def _act(self, made: Object, line: str, at: Attach) -> Wait[None] | None:
        return verbs.act(self.objects, made, line, at.who)

    def _went(self, made: Object) -> str | None:
        return self.objects.moved_to(made.id) if made.state == "gone" else None

    def _post(self, made: Object, line: str, at: Attach) -> Wait[None] | None:
        return verbs.post(self.objects, made, line.strip(), at.who)

    def _stdin(self, made: Object, data: bytes) -> int | Wait[int]:
        """Its standard input, open until `close stdin` is written to ctl."""
        if made.state in ("moving", "checkpointing"):
            return Wait(partial(self._stdin_later, made, data))
        if node := self._went(made):
            raise stale(made.id, node)
        return made.need_running().write_stdin(data)

    async def _stdin_later(self, made: Object, data: bytes) -> int:
        while made.state in ("moving", "checkpointing"):
            await made.bell.wait()
        return await settle(self._stdin(made, data))

    def _status(self, made: Object, at: Attach) -> str:
        """One record: what it is and does.  addr is the host at which others reach what it
        serves, started in seconds since 1970, cpu in seconds, mem in bytes, exit a code or a
        signal's name; availability only where it is on."""
        used = made.usage()
        if made.told[0] is not used or made.told[1] != made.changed:
            made.told = used, made.changed, self._status_text(made, used)
        return made.told[2]

    def _status_text(self, made: Object, used: Usage) -> str:
        pairs = {
            "id": made.id,
            "state": made.state,
            "node": made.placed or self.objects.node,
            "user": made.user,
            "app": made.app,
            "runtime": made.runtime,
            "addr": "" if made.placed or made.net == "none" else self.host(),
            "pid": made.running.pid if made.running else "",
            "started": round(made.started, 3) if made.started else "",
            "cpu": round(used.user + used.sys, 3),
            "mem": used.mem,
            "exit": lifecycle.ended_how(made.exit),
            **({"availability": self.objects.guards.word(made)} if made.availability else {}),
            "why": made.why,
        }
        return ndb.record(pairs) + "\n"

    def _availability(self, made: Object, at: Attach) -> str:
        """Whether it survives its node: what was asked for, or off; then its epoch, the
        newest image that is whole somewhere and its age (seconds), size (bytes), for how long
        it stood still for the last (pause), for how long it may run on (lease); and of each
        node its part, whether it votes, its image and when it answered last."""
        return self.objects.guards.table(made)

    def _cost(self, made: Object, at: Attach) -> str:
        """What it has cost so far and costs an hour at this node's price of a core-hour."""
        used = made.usage()
        total = (used.user + used.sys) / 3600 * self.price()
        hour = budget.hourly(made.limits, self.price()) if made.state == "running" else 0.0
        return ndb.record({"total": total, "hour": hour}) + "\n"

    def _bill(self, made: Object, at: Attach) -> str:
        """What its stay at this node has cost so far, signed by the node (cloudfs bill); empty
        where the node is in no cloud."""
        return self.bill(made)

    def _node(self, made: Object, at: Attach) -> str:
        """The node it runs on."""
        return f"{made.placed or self.objects.node}\n"


def _args(made: Object, at: Attach) -> str:
    """The program and its arguments, quoted, on one line."""
    return " ".join(map(ndb.quote, made.argv)) + "\n" if made.argv else ""


def _env(made: Object, at: Attach) -> str:
    """What was added to its environment, a NAME=VALUE a line."""
    return "".join(f"{ndb.quote(f'{name}={value}')}\n" for name, value in made.env.items())


def _cwd(made: Object, at: Attach) -> str:
    """Its working directory."""
    return f"{made.link('cwd') or made.dir}\n"


def _exe(made: Object, at: Attach) -> str:
    """The file of the program that runs."""
    return f"{made.link('exe')}\n"


def _wait(made: Object, at: Attach) -> str:
    """How it ended; empty while it runs.  Under .follow a read waits for the end."""
    end = made.exit
    if end is None or made.state != "exited":
        return "" if made.state != "lost" else ndb.record({"why": made.why}) + "\n"
    pairs = {
        "pid": end.pid,
        "code": end.code,
        "signal": lifecycle.signal_name(end.signal),
        "user": end.user,
        "sys": end.sys,
        "real": end.real,
        "why": end.why,
    }
    return ndb.record(pairs) + "\n"


def _notes(made: Object) -> KernelLog:
    """The notes posted to it; write one to post it.  Under .follow a read waits."""
    return made.notes


def _events(made: Object) -> KernelLog:
    """What happened to it.  Under .follow a read waits for more."""
    return made.events


def _stdout(made: Object) -> Path:
    """What it wrote so far, at any offset.  Under .follow a read waits for more."""
    return made.home / "stdout"


def _stderr(made: Object) -> Path:
    """What it wrote to standard error so far, as stdout."""
    return made.home / "stderr"


def _limits(made: Object, at: Attach) -> str:
    """Its limits: cpu in cores, mem in bytes, pids, time in seconds; empty is none."""
    has = made.limits
    pairs = {"cpu": has.cpu, "mem": has.mem, "pids": has.pids, "time": has.time}
    return ndb.record(pairs) + "\n"


def _spec(made: Object, at: Attach) -> str:
    """How it is to be run, as ctl was told: runtime and net (empty until exec: the node's
    own choice), restart, nice, dir, after, and of the node that is to run it on, spread,
    require and prefer."""
    pairs = {
        "runtime": made.runtime,
        "net": made.net if made.runtime == "sandbox" else "",
        "restart": made.restart,
        "nice": made.nice,
        "availability": " ".join(f"{name}={n:g}" for name, n in made.availability.items()),
        "dir": made.dir,
        "after": " ".join(made.after),
        "on": made.on,
        "spread": made.spread,
        "require": " ".join(map(ndb.quote, made.require)),
        "prefer": " ".join(map(ndb.quote, made.prefer)),
    }
    return ndb.record(pairs) + "\n"


def _usage(made: Object, at: Attach) -> str:
    """What it has used: cpu in seconds, memory in bytes and byte-seconds, I/O in bytes."""
    used = made.usage()
    pairs = {
        "user": used.user,
        "sys": used.sys,
        "mem": used.mem,
        "peak": used.mem_peak,
        "memseconds": used.mem_seconds,
        "read": used.read,
        "written": used.written,
        "pids": used.pids,
    }
    return ndb.record(pairs) + "\n"


def _app(made: Object, at: Attach) -> str:
    """The application it belongs to."""
    return f"{made.app}\n"


def _labels(made: Object, at: Attach) -> str:
    """Its labels, a NAME=VALUE a line."""
    return "".join(f"{ndb.quote(f'{name}={value}')}\n" for name, value in made.labels.items())


def _pids(made: Object, at: Attach) -> str:
    """Its processes: pid, parent, command line."""
    if made.running is None:
        return ""
    rows = made.running.pids()
    return "".join(f"{pid:8} {parent:8} {command}\n" for pid, parent, command in rows)


def _ns(made: Object, at: Attach) -> str:
    """The lines that rebuild its name space."""
    return "".join(f"{line}\n" for line in made.binds)
