"""What another node's `proc/place` is told: an object that may come.

The file is in every node's own proc directory, where it is not listed.  A write is one
or more lines; each is done by itself, and the first that is refused ends the write with
the reason.  What is open belongs to one open file and to the caller that opened it.

  object ID TOKEN   first: an id (16 characters of base32) that this node does not know,
                    and a token of the same form, another one for each offer
  VERB ARG...       set it up: dir env limit on require prefer spread after app label group
                    runtime restart nice availability, as in proc/ID/ctl; bind [-abc] NEW OLD,
                    a line of its name space; epoch N, of its last availability; budget N,
                    what it may cost an hour (budget.py)
  hold              last: enter it as a new object of the caller, and hold the cpu and mem
                    that its limits say.  It goes after 20 s if no exec comes, and when
                    the caller's session ends.  Until this line nothing has happened.
  begin ID TOKEN CMD ARG...
                    run it: the exec of such an object, if it is still of that offer
                    ("absent" if not).  Its owner's exec in proc/ID/ctl does the same.
  withdraw ID TOKEN [whole]
                    remove it again, if it is of that offer.  Done too if there is no such
                    offer (any more): after it no begin of it can run anything here, be
                    it ever so late.  "busy" if it began, "again" while it begins.  whole:
                    who asks has it frozen; then it is removed too if it began and ended
                    as this machine failed.

An object that comes with its memory is offered with `arrive` in place of `hold`, and then
come `receive`, `fetch` and `revive` (kernel/arriving.py).

Refused are words that are no verb of these; more than 512 lines or 256 KiB by one open;
an id that is known ("exists"); a `require` that this node does not meet, and every object
while it is drained ("unreachable"); what it has no room for ("full"); more objects than a
user may have ("toomany"); a runtime that the caller may not use ("refused").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.object import ID, Object
from cloudfs.kernel.query import number
from cloudfs.kernel.verb import Verb, find, table
from cloudfs.kernel.verbs import OBJECT
from cloudfs.node.api import DIED, Exit
from cloudfs.wait import Wait
from cloudfs.who import Who

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

HOLD = 20.0  # seconds
MAX_LINES = 512
MAX_BYTES = 256 << 10
MAX_BINDS = 64
SETUP = (
    *("dir", "env", "limit", "on", "require", "prefer", "spread"),
    *("after", "app", "label", "group", "runtime", "restart", "nice", "availability"),
)


class Offer:
    """The lines of one open file; session: whose end takes along what was not begun."""

    def __init__(self, objects: Objects, who: Who, session: object) -> None:
        self.objects = objects
        self.who = who
        self.session = session
        self.made: Object | None = None
        self._lines = self._bytes = 0

    def line(self, line: str) -> Wait[None] | None:
        """One line; raises CloudError if it is refused."""
        self._lines += 1
        self._bytes += len(line.encode())
        if self._lines > MAX_LINES or self._bytes > MAX_BYTES:
            raise CloudError("toobig", f"place: at most {MAX_LINES} lines and {MAX_BYTES} bytes")
        found = find(VERBS, line)
        if found is None:
            return None
        result: Wait[None] | None = found[0].run(self, found[1])
        return result

    def need(self) -> Object:
        """The object that was begun."""
        if self.made is None:
            raise CloudError("bad", "place: there is no object yet", "begin with: object ID")
        return self.made


def _object(offer: Offer, args: list[str]) -> None:
    objects, (id, token) = offer.objects, args
    for word in args:
        if not ID.fullmatch(word):
            raise CloudError("bad", f"object: {word[:32]!r} is no id", "16 characters of base32")
    if id in objects.all:
        raise CloudError("exists", f"there is an object {id} on {objects.node} already")
    offer.made = Object(id, offer.who.user, objects.next_number(), objects.home / id)
    offer.made.offer, offer.made.budget = token, offer.who.budget


def _set_up(row: Verb) -> Verb:
    """The row of an object's verb, for one that is not in the table yet."""

    def run(offer: Offer, args: list[str]) -> None:
        row.run(offer.objects, offer.need(), args, offer.who)

    return Verb(row.usage, row.least, row.most, run)


def _bind(offer: Offer, args: list[str]) -> None:
    binds = offer.need().binds
    if len(binds) >= MAX_BINDS:
        raise CloudError("toomany", f"bind: at most {MAX_BINDS} lines")
    binds.append(" ".join(["bind", *map(ndb.quote, args)]))


def _epoch(offer: Offer, args: list[str]) -> None:
    if not args[0].isdecimal() or len(args[0]) > 12:
        raise CloudError("bad", f"epoch: {args[0][:20]!r} is no number")
    offer.need().tenure = {"epoch": int(args[0])}


def _budget(offer: Offer, args: list[str]) -> None:
    most = number(args[0])
    if most is None or not 0 <= most < 1e12:
        raise CloudError("bad", f"budget: {args[0][:20]!r} is no number from 0")
    own = offer.who.budget
    offer.need().budget = most if own is None else min(most, own)


def _hold(offer: Offer, args: list[str]) -> None:
    made = offer.need()
    made.session = offer.session
    offer.objects.take_in(made, HOLD)
    offer.made = None


def _arrive(offer: Offer, args: list[str]) -> None:
    if args not in ([], ["anew"]):
        raise CloudError("bad", f"arrive: {args[0][:32]!r}", "write: arrive [anew]")
    offer.objects.arrivals.expect(offer.need(), anew=bool(args))
    offer.made = None


def _fetch(offer: Offer, args: list[str]) -> Wait[None]:
    return offer.objects.arrivals.fetch(_arrival(offer, args), *args[1:])


def _receive(offer: Offer, args: list[str]) -> Wait[None]:
    return offer.objects.arrivals.receive(_arrival(offer, args), *args[1:])


def _revive(offer: Offer, args: list[str]) -> Wait[None]:
    still = {}
    for word in args[2:]:
        name, text = ndb.pair(word, "NAME=SECONDS")
        seconds = number(text)
        if name not in ("down", "qemu") or seconds is None or not 0 <= seconds < 1e9:
            raise CloudError("bad", f"revive: {word[:40]!r}")
        still[name] = seconds
    return offer.objects.arrivals.revive(_arrival(offer, args), args[1], still)


def _arrival(offer: Offer, args: list[str]) -> str:
    """The id of an arrival of the caller's."""
    made = offer.objects.arrivals.need(args[0], args[1]).made
    if made.user != offer.who.user and not offer.who.boss:
        raise CloudError("denied", f"place: object {made.id} is {made.user}'s")
    return made.id


def _offered(offer: Offer, id: str, token: str) -> Object | None:
    """The object of that offer, which must be the caller's."""
    made = offer.objects.all.get(id)
    if made is None or made.offer != token or not token:
        return None
    if made.user != offer.who.user and not offer.who.boss:
        raise CloudError("denied", f"place: object {made.id} is {made.user}'s")
    return made


def _begin(offer: Offer, args: list[str]) -> Wait[None]:
    id, token, *argv = args
    made = _offered(offer, id, token)
    if made is None or made.state != "new":
        raise CloudError("absent", f"begin: there is no such offer of object {id[:32]} any more")
    return offer.objects.execute(made, argv)


def _withdraw(offer: Offer, args: list[str]) -> Wait[None] | None:
    arrivals = offer.objects.arrivals
    id, token, *whole = args
    if whole not in ([], ["whole"]):
        raise CloudError("bad", f"withdraw: {whole[0][:32]!r}", "write: withdraw ID TOKEN [whole]")
    if arrivals.of(id, token) is not None:
        arrivals.drop(_arrival(offer, args))
        return None
    made = _offered(offer, id, token)
    if made is None:
        return None
    if made.state in ("starting", "restoring"):
        raise CloudError("again", f"withdraw: object {made.id} is starting", "ask again")
    if whole and _died_here(offer.objects, made):
        return offer.objects.wipe(made)
    if made.state != "new":
        raise CloudError("busy", f"withdraw: object {made.id} is {made.state}")
    offer.objects.leave(made)
    return None


def _died_here(objects: Objects, made: Object) -> bool:
    """Whether it did not end by itself or by anybody's wish: this machine failed."""
    if made.placed or made.asked:
        return False
    if made.state == "exited":
        return made.exit is not None and made.exit.why == DIED
    if made.state != "lost":
        return False
    try:
        found = objects.host.adopt(made.id, made.home)
    except CloudError:
        return False  # who knows
    return found is None or isinstance(found, Exit)


VERBS = table(
    Verb("object ID TOKEN", 2, 2, _object),
    *(_set_up(OBJECT[name]) for name in SETUP),
    Verb("bind [-abc] NEW OLD", 2, 3, _bind),
    Verb("epoch N", 1, 1, _epoch),
    Verb("budget N", 1, 1, _budget),
    Verb("hold", 0, 0, _hold),
    Verb("arrive [anew]", 0, 1, _arrive),
    Verb("fetch ID TOKEN NODE [OF]", 3, 4, _fetch),
    Verb("receive ID TOKEN NODE", 3, 3, _receive),
    Verb("revive ID TOKEN [down=N] [qemu=N]", 2, 4, _revive),
    Verb("begin ID TOKEN CMD ARG...", 3, None, _begin),
    Verb("withdraw ID TOKEN [whole]", 2, 3, _withdraw),
)


def lines_of(made: Object) -> Iterator[str]:
    """The lines that offer an object to another node."""
    limits = {
        name: value
        for name in ("cpu", "mem", "pids", "time")
        if (value := getattr(made.limits, name)) is not None
    }
    net = ["net=none"] if made.net == "none" else []
    rows: list[tuple[str, list[str]]] = [
        ("object", [made.id, made.offer]),
        ("dir", [made.dir] if made.dir else []),
        *(("env", [f"{name}={value}"]) for name, value in made.env.items()),
        ("limit", [f"{name}={value!r}" for name, value in limits.items()]),
        ("on", [made.on] if made.on else []),
        ("require", made.require),
        ("prefer", made.prefer),
        ("spread", [made.spread] if made.spread else []),
        ("after", made.after),
        ("app", [made.app] if made.app else []),
        *(("label", [f"{name}={value}"]) for name, value in made.labels.items()),
        ("runtime", [made.runtime, *net] if made.runtime else []),
        ("restart", [made.restart]),
        ("nice", [str(made.nice)] if made.nice else []),
        ("group", [made.group] if made.group else []),
        ("availability", [f"{name}={value:g}" for name, value in made.availability.items()]),
        ("budget", [] if made.budget is None else [repr(made.budget)]),
        ("epoch", [str(made.tenure["epoch"])] if made.tenure.get("epoch") else []),
    ]
    for verb, args in rows:
        if args:
            yield " ".join([verb, *map(ndb.quote, args)])
    yield from made.binds
    yield "hold"


def begin_line(made: Object, argv: list[str]) -> str:
    """The line that runs it."""
    return " ".join(["begin", made.id, made.offer, *map(ndb.quote, argv)])


def withdraw_line(made: Object) -> str:
    """The line that takes the offer back."""
    whole = " whole" if made.running is not None else ""
    return f"withdraw {made.id} {made.offer}{whole}"
