"""The verbs of an object's ctl file: one row and one small function each."""

from __future__ import annotations

import dataclasses
import math
import os
import signal as signals
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import availability, budget, lifecycle, placement, query
from cloudfs.kernel.object import ID, Object
from cloudfs.kernel.reserve import wanted
from cloudfs.kernel.verb import Verb, find, table
from cloudfs.node.api import Limits
from cloudfs.wait import Wait, settle
from cloudfs.who import Who

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

SETUP = frozenset({"new"})
ALWAYS = frozenset({*lifecycle.STATES} - {"placing", "moving"})
# After these it costs something, now or when it ends or its node does.
PAID = frozenset({"exec", "start", "move", "copy", "restore", "restart", "availability"})
LASTING = frozenset({"move", "copy", "checkpoint", "restore"})  # may take as long as an image
MAX_ENV = 256  # variables of one object
MAX_LABELS = 64
MAX_NOTE = 256  # bytes
MAX_AFTER = 16  # words

# The notes of Plan 9 that are signals on Linux (notify(2), unix signals of APE).
NOTES = {
    "interrupt": signals.SIGINT,
    "hangup": signals.SIGHUP,
    "alarm": signals.SIGALRM,
    "kill": signals.SIGKILL,
}

RUNTIMES = {
    "process": "plain fork and exec, for the node's owner",
    "sandbox": "runc: own processes, users and file system view; the default where it works",
    "vm": "a virtual machine, by QEMU",
}


def act(objects: Objects, made: Object, line: str, who: Who) -> Wait[None] | None:
    """One line written to the object's ctl."""

    found = find(OBJECT, line)
    if found is None:
        return None
    verb, args = found
    who.admit(op=verb.name, app=made.app)
    if verb.name == "exec" and "'" not in line:
        args = unquoted_script(args)
    if made.state == "gone" and objects.handover is not None and objects.moved_to(made.id):
        budget.need_none(who, "what another node is to do")
        return objects.handover.pass_on(made, line, who)
    if made.state not in verb.states:
        brief = made.state == "checkpointing" and bool(made.availability)
        soon = "running" in verb.states and (brief or verb.name not in LASTING)
        if soon and made.state in lifecycle.PASSING:
            return Wait(partial(_once_passed, objects, made, line, who))
        fits = " or ".join(state for state in lifecycle.STATES if state in verb.states)
        raise CloudError(
            "busy", f"{verb.name}: object {made.id} is {made.state}", f"it works while {fits}"
        )
    if verb.name in PAID:
        run = partial(verb.run, objects, made, args, who)
        result = budget.charged(made, who, run, objects.keep, after=verb.name == "copy")
    else:
        result = verb.run(objects, made, args, who)
    if result is None:
        objects.keep(made)
    return result


async def _once_passed(objects: Objects, made: Object, line: str, who: Who) -> None:
    """Do a line that an object takes while it runs, wherever that will be."""
    while made.state in lifecycle.PASSING:
        await made.bell.wait()
    await settle(act(objects, made, line, who))


def unquoted_script(args: list[str]) -> list[str]:
    """args as they were meant before a shell took their quotes away.

    `echo exec sh -c 'date; sleep 9' > ctl` writes a line without quotes, so where a
    shell's -c is followed by several words and nothing is quoted, they are its script.
    """
    shells = ("sh", "bash", "dash", "ksh", "rc", "zsh")
    if len(args) > 3 and args[1] == "-c" and os.path.basename(args[0]) in shells:
        return [*args[:2], " ".join(args[2:])]
    return args


def _exec(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """Run a program, with these words as its arguments; no shell looks at them.  After an
    unquoted `sh -c` the rest of the line is the script.  With runtime vm the words describe
    the machine: kernel=FILE initrd=FILE append=TEXT (of the kernel, console=ttyS0 if it is
    left out) and disk=FILE, raw or qcow2.  The files are opened with your rights and never
    written; what the guest writes to its disk is kept with the object."""
    return objects.execute(made, args)


def _dir(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """The directory it starts in, as the runtime sees it."""
    if not args[0].startswith("/"):
        raise CloudError("bad", f"dir: {args[0]!r} is not an absolute path", "begin it with /")
    made.dir = args[0]


def _env(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Set variables of its environment."""
    new = dict(ndb.pair(arg, "NAME=VALUE") for arg in args)
    if len(made.env | new) > MAX_ENV:
        raise CloudError("toomany", f"env: an object has at most {MAX_ENV} variables")
    made.env |= new


LIMITS: dict[str, tuple[type, str]] = {
    "cpu": (float, "cores"),
    "mem": (int, "bytes"),
    "pids": (int, "processes and threads"),
    "time": (float, "seconds of real time"),
}


def read_limits(args: Sequence[str], old: Limits) -> Limits:
    """old with what the words `name=N` change; `name=none` takes a limit away."""
    found: dict[str, float | int | None] = {}
    for arg in args:
        name, text = ndb.pair(arg, "cpu=N, mem=N, pids=N or time=N")
        if name not in LIMITS:
            raise CloudError("bad", f"no limit {name[:40]!r}", f"limits: {' '.join(LIMITS)}")
        kind, unit = LIMITS[name]
        value = None if text == "none" else query.number(text)
        if text != "none" and (value is None or value <= 0 or value > 1e18):
            raise CloudError("bad", f"{arg[:80]}: wants {unit}, a number above 0 (or none)")
        if value is not None and kind is int and value != math.floor(value):
            raise CloudError("bad", f"{arg[:80]}: wants a whole number of {unit}")
        found[name] = None if value is None else kind(value)
    return dataclasses.replace(old, **found)  # type: ignore[arg-type]


def _limit(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Limit cpu (cores), mem (bytes), pids, time (seconds since its start); none lifts.
    From its start to its end the node holds so many cores and bytes for it."""
    new = read_limits(args, made.limits)
    word = objects.host.limits_word()
    if word and any(not arg.startswith("time=") for arg in args):
        raise CloudError("unsupported", f"limit: {word}")
    most = objects.most_for(made.user)
    most.check(new)
    if made.state != "new":
        budget.need(new, who.budget, objects.attributes)
    objects.reserve.change(made.id, wanted(new))
    try:
        if made.running is not None and made.state in lifecycle.ALIVE:
            made.running.set_limits(most.under(new))
    except CloudError:
        objects.reserve.change(made.id, wanted(made.limits))
        raise
    made.limits = new


def _on(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Run it on that node."""
    _name(args[0], "on")
    if args[0] != objects.node and not (objects.handover and objects.handover.knows(args[0])):
        raise placement.unknown(args[0])
    made.on = args[0]


def _require(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Only run it on a node that meets every expression, as cpus>=2 arch=x86_64: = or !=
    a word, or < <= > >= a number, of node cluster arch cpus load cpu.idle (cores) mem.free
    mem.total disk.free (bytes) price label.NAME rtt(NODE) (seconds)."""
    exprs = query.parse_all(args, objects.attributes())
    for expr in exprs:
        if expr.op in query.ORDERS:
            raise CloudError("bad", f"require: {expr} is no condition", f"write: prefer {expr}")
    made.require = [str(expr) for expr in exprs]


def _prefer(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Among nodes that will do take one that meets these, or the first by sort=ATTRIBUTE
    (sort=-ATTRIBUTE: the last), or the nearest to another by near=NODE."""
    exprs = query.parse_all(args, objects.attributes())
    if any(expr.op == "count" for expr in exprs):
        raise CloudError("bad", "prefer: an object runs on one node", "leave out count=")
    made.prefer = [str(expr) for expr in exprs]


def _spread(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Run it where the fewest others of its user and app are, that spread alike: on
    nodes with the same value of an attribute, as cluster or node or label.rack."""
    made.spread = query.parse(f"{args[0]}=1").attr


def _after(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Where a verb is given to a whole group (ctl in view/by-...), it comes after those: ids,
    or app=NAME for all of an application; before them for stop, kill and wipe.  Without
    words it comes after nothing."""
    if len(args) > MAX_AFTER:
        raise CloudError("toomany", f"after: at most {MAX_AFTER} words")
    for word in args:
        kind, equals, name = word.partition("=")
        if equals and kind == "app":
            _name(name, "after")
        elif not ID.fullmatch(word):
            raise CloudError("bad", f"after: {word[:70]!r}", "write an id, or app=NAME")
        if " " in word:
            raise CloudError("bad", f"after: {word[:70]!r} holds a blank", "write its ids")
    made.after = args


def _name(word: str, what: str) -> str:
    # A label's directory is called name=value, in at most 255 bytes.
    size, plain = len(word.encode()), "/" not in word and word[:1] != "." and word.isprintable()
    if not plain or not 0 < size <= 120 or len(word) > 64:
        fix = "use 1 to 64 letters of 120 bytes at most, no / among them and no . before them"
        raise CloudError("bad", f"{what}: {word[:70]!r} cannot be a name", fix)
    return word


def _app(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """The application it belongs to."""
    if args[0] == "help":
        raise CloudError("bad", "app: 'help' cannot be a name", "view/by-app has a file help")
    made.app = _name(args[0], "app")


def _label(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Give it labels; an empty value takes one away."""
    labels = dict(made.labels)
    for arg in args:
        name, value = ndb.pair(arg, "NAME=VALUE")
        if value:
            labels[_name(name, "label")] = _name(value, "label")
        else:
            labels.pop(name, None)
    if len(labels) > MAX_LABELS:
        raise CloudError("toomany", f"label: an object has at most {MAX_LABELS} labels")
    made.labels = labels


def _group(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Members of this group may read, write to and end it as its owner may; the owner's own name
    takes that back."""
    if who.user != made.user and not who.boss:
        raise CloudError("denied", f"group: object {made.id} is {made.user}'s to share")
    budget.need_none(who, "group")
    if _name(args[0], "group") == "none":
        raise CloudError("bad", "group: none is who has not logged in", "write a group's name")
    made.group = args[0]


def _runtime(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """process: plain fork and exec, for the node's owner.  sandbox: isolated by runc;
    net=none gives it no network.  vm: a virtual machine without a network, whose serial
    console is its stdin and stdout, and in which `mount -t 9p -o trans=virtio cloud DIR` shows
    its name space; limit mem is what memory it has, limit cpu how many processors.  stop
    pauses it, signal TERM presses its power button, kill takes its power away."""
    name, *options = args
    if name not in RUNTIMES:
        raise CloudError("bad", f"no runtime {name[:40]!r}", f"runtimes: {' '.join(RUNTIMES)}")
    net = "host"
    for option in options:
        key, value = ndb.pair(option, "net=host or net=none")
        if key != "net" or value not in ("host", "none") or name != "sandbox":
            raise CloudError("bad", f"runtime {name}: {option!r}", "sandbox takes net=host|none")
        net = value
    if name == "vm" and made.availability:
        raise _no_survival()
    made.runtime, made.net = name, net


def _no_survival() -> CloudError:
    return CloudError(
        "unsupported",
        "availability: a virtual machine does not survive its node by itself",
        "keep images of it: checkpoint NAME",
    )


def _restart(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """What happens when it ends by itself: never, on-failure or always."""
    if args[0] not in lifecycle.RESTARTS:
        raise CloudError(
            "bad", f"restart: {args[0][:40]!r}", "write: restart never|on-failure|always"
        )
    made.restart = args[0]


def _stop(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """Freeze every process of it."""
    return objects.stop(made)


def _start(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """Let a stopped one go on, or run the program of one that ended again."""
    return objects.start(made)


def _kill(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """End every process of it, those that left their parent too."""
    return objects.kill(made, f"killed by {who.user}", who)


def _note(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """Post a note: its file note has it, and interrupt, hangup, alarm, kill are signals."""
    return post(objects, made, " ".join(args), who)


def post(objects: Objects, made: Object, text: str, who: Who) -> Wait[None] | None:
    """Post a note to a running object."""
    running = made.need_running()
    if len(text.encode()) > MAX_NOTE or not text.isprintable() or not text:
        raise CloudError("bad", f"a note is 1 to {MAX_NOTE} bytes of one line")
    made.notes.add("note", user=who.user, text=text)
    if text == "kill":
        objects.kill(made, f"killed by {who.user}")
    elif text in NOTES:
        return running.signal(NOTES[text])
    return None


def _signal(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """Send its first process a signal, as TERM or 15."""
    text = args[0].upper()
    known = {word: s for s in signals.Signals for word in (s.name, s.name[3:], str(s.value))}
    found = known.get(text)
    if found is None:
        raise CloudError("bad", f"signal: no signal {args[0][:40]!r}", "write: signal TERM")
    return made.need_running().signal(found)


def _nice(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Its priority, 19 the least, 0 the usual, below 0 for the node's owner only."""
    value = query.number(args[0])
    if value is None or value != int(value) or not -20 <= value <= 19:
        raise CloudError("bad", f"nice: {args[0][:40]!r}", "write a whole number from -20 to 19")
    if value < 0 and not who.boss:
        raise CloudError("refused", "nice: below 0 is for the node's owner")
    if made.running is not None and made.state in lifecycle.ALIVE:
        made.running.set_nice(int(value))
    made.nice = int(value)


def _close(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Close its standard input: the program reads an end of file."""
    if args[0] != "stdin":
        raise CloudError("bad", f"close: {args[0][:40]!r} cannot be closed", "write: close stdin")
    made.need_running().close_stdin()


def _move(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None]:
    """Have it go on, with its memory, at that node or at the best that meets every
    expression (see require).  It runs on here where that cannot be, and the error says why.
    With -r one of which no image can be made, or restored, is ended here and its program
    started anew there, with its output and files; events then say restarted."""
    anew = args[0] == "-r"
    if anew and len(args) == 1:
        raise CloudError("bad", "move: no node is named", "write: move -r NODE|EXPR...")
    return objects.departures.move(made, args[anew:], anew)


def _copy(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None]:
    """Have N copies of it, one if no number is given, go on at that other node or at those that
    meet every expression; each is an object of its own, and their ids are in events.  A sandbox's
    image brings its uids along, so that a node has room for one of it."""
    return objects.departures.copy(made, args)


def _checkpoint(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None]:
    """Keep an image of it in checkpoint/NAME (last if no name is given); it runs on."""
    return objects.departures.checkpoint(made, _name(args[0] if args else "last", "checkpoint"))


def _restore(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None]:
    """Have it go on from the image checkpoint/NAME, in place of what runs.  For the node's
    owner also from a directory /PATH of the node, as one fetched with cp -r; then it may
    be new."""
    if made.placed:
        raise CloudError("busy", f"node {made.placed} was told to run it, and may still do so")
    if args[0].startswith("/"):
        if not who.boss:
            raise CloudError("refused", "restore: a directory is for the node's owner")
        return objects.departures.restore(made, Path(args[0]))
    if made.state == "new":
        raise CloudError("absent", "restore: a new object has no images", "restore /PATH")
    return objects.departures.restore(made, made.home / "checkpoint" / _name(args[0], "restore"))


def _availability(objects: Objects, made: Object, args: list[str], who: Who) -> None:
    """Have it survive its node: an image of it every checkpoint=N seconds (10) goes to
    replicas=N other nodes (2), in other clusters where there are any, and once its node was
    not heard of for patience=N seconds (9) one of them goes on with the newest.  What it did
    since is lost.  It is frozen itself where too few of them answer.  off ends that."""
    if args == ["off"]:
        made.availability = {}
        if made.state in lifecycle.OVER:
            objects.guards.release(made)
        return
    terms = dataclasses.asdict(availability.terms(args))
    if made.runtime == "vm":
        raise _no_survival()
    made.availability = terms


def _wipe(objects: Objects, made: Object, args: list[str], who: Who) -> Wait[None] | None:
    """Remove an object that has ended, with its output."""
    return objects.wipe(made)


_LIVE = frozenset({"running", "stopped"})
_ENDED = frozenset({"new", "exited", "lost"})

OBJECT = table(
    Verb("exec CMD ARG...", 1, None, _exec, SETUP),
    Verb("dir PATH", 1, 1, _dir, SETUP),
    Verb("env K=V...", 1, None, _env, SETUP),
    Verb("limit cpu=N mem=N pids=N time=N", 1, None, _limit, ALWAYS),
    Verb("on NODE", 1, 1, _on, SETUP),
    Verb("require EXPR...", 1, None, _require, SETUP),
    Verb("prefer EXPR...", 1, None, _prefer, SETUP),
    Verb("spread ATTRIBUTE", 1, 1, _spread, SETUP),
    Verb("after ID|app=NAME...", 0, None, _after, ALWAYS),
    Verb("app NAME", 1, 1, _app, ALWAYS),
    Verb("label K=V...", 1, None, _label, ALWAYS),
    Verb("group NAME", 1, 1, _group, ALWAYS),
    Verb("runtime process|sandbox|vm", 1, 2, _runtime, SETUP),
    Verb("restart never|on-failure|always", 1, 1, _restart, ALWAYS),
    Verb("nice N", 1, 1, _nice, ALWAYS),
    Verb("availability off|checkpoint=N replicas=N", 1, 3, _availability, ALWAYS),
    Verb("stop", 0, 0, _stop, frozenset({"running"})),
    Verb("start", 0, 0, _start, frozenset({"stopped", "exited", "lost"})),
    Verb("kill", 0, 0, _kill, _LIVE | lifecycle.PASSING | {"new", "exited", "fenced"}),
    Verb("note TEXT...", 1, None, _note, _LIVE),
    Verb("signal NAME", 1, 1, _signal, _LIVE),
    Verb("close stdin", 1, 1, _close, _LIVE),
    Verb("move [-r] NODE|EXPR...", 1, None, _move, frozenset({"running"})),
    Verb("copy NODE|EXPR... [N]", 1, None, _copy, frozenset({"running"})),
    Verb("checkpoint [NAME]", 0, 1, _checkpoint, frozenset({"running"})),
    Verb("restore NAME|/PATH", 1, 1, _restore, _LIVE | _ENDED),
    Verb("wipe", 0, 0, _wipe, _ENDED),
)
