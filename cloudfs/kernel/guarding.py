"""Objects of this node that are to survive it: their leases and their images.

    running, `availability` set
      an image of it, and a choice of members (availability.py's plan)
      begin → each member, and again as `hold` while it lives      proc/hold (holding.py)
      image → those that hold images, one after the other, each the newest there is
    every `checkpoint` seconds the next image; it goes on at once, whoever reads it

A lease that a majority agreed to is given on to the object's keeper, which freezes it when
that runs out, also if this daemon is dead or stopped; here it is `fenced` then, until a
majority answers again, or one says that another node took over: then it goes from here.

What ends, is wiped or moves away has its series dropped, so that nobody restarts it; that
is remembered, and told until a majority knows.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import availability, images, placement
from cloudfs.kernel.availability import Claim, Copies, News, Promise, Tenure, Terms, agreed
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.holding import SPEC, STREAMS, claim_line, image_line
from cloudfs.kernel.object import Object, new_id
from cloudfs.kernel.offer import lines_of

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)

LIVE = frozenset({"running", "stopped", "checkpointing", "fenced", "restoring"})
REPLACE = 30.0  # seconds after which a member that fails is replaced, if there is another
LOOK = 30.0  # seconds between looks for better members
LONGEST = 300.0  # seconds between two attempts at an image
CARRY = 3600.0  # seconds for an image to be read, while its reader lives
AGAIN = 1.0  # seconds before an image that failed is offered again; doubles
PAUSE = 5.0  # seconds for the voters of one that is to move to let go
FORGET = 3600.0  # seconds for which members that do not answer are told of what ended
_TOLD = re.compile(r"in epoch ([0-9]{1,13}) of node (\S{1,64})$")


def told_epoch(error: CloudError) -> tuple[int, str]:
    """The epoch and the owner of a refusal; 0 and "" where it tells of none."""
    match = _TOLD.search(error.why)
    return (int(match[1]), match[2]) if match else (0, "")


def taken(error: CloudError) -> str:
    """The node that took the object over for sure, "" if a refusal does not say that."""
    sure = error.kind == "stale" and "it was taken over" in error.why
    return told_epoch(error)[1] if sure else ""


class Shot:
    """An image on this node's disk, as long as somebody reads it or it is the newest."""

    def __init__(self, number: int, folder: Path, at: float, size: int) -> None:
        self.number, self.folder, self.at, self.size = number, folder, at, size
        self.readers = 0


class Guard:
    """One object.  Times are of the host's clock."""

    def __init__(self, guards: Guards, made: Object, tenure: Tenure | None, copies: Copies) -> None:
        self.guards, self.made, self.tenure, self.copies = guards, made, tenure, copies
        self._objects = guards.objects
        self._clock = guards.objects.host.clock
        self.resumed = self._clock()
        self.shot: Shot | None = None
        self._shots: list[Shot] = []
        self.problem = ""  # why there is no newer image
        self.trouble: dict[tuple[str, str], tuple[float, str]] = {}  # since when, and what
        self.fenced = made.state == "fenced"
        self.leaving = ""  # why its series is dropped
        self.left = trio.Event()
        self.gone = False  # to another node: nothing is to be dropped
        self.pause = 0.0  # seconds for which it stood still for the last image
        self._next: tuple[tuple[str, ...], tuple[str, ...], int] | None = None  # a plan
        self._dropped: set[str] = set()
        self._seen = int(made.tenure.get("epoch", 0))
        self._number = 0
        self._looked = -math.inf
        self._told: tuple[object, float] = (None, -1.0)  # what the keeper of whom was told
        self._bell = Bell()
        self.scope = trio.CancelScope()

    @property
    def terms(self) -> Terms:
        return Terms(**self.made.availability) if self.made.availability else Terms()

    def ring(self) -> None:
        self._bell.ring()

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._bell.wait()

    async def run(self) -> None:
        """Until it ends, is gone or is to be guarded no more."""
        await trio.to_thread.run_sync(_remove_old, self.made.home / "checkpoint")
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    for work in (self._imaging, self._fencing, self._tenures, self._until_over):
                        nursery.start_soon(work)
        except Exception:
            log.exception("guarding object %s", self.made.id)
            await trio.sleep(1.0)  # and then anew
        self.shot = None
        self._tidy()
        self.guards.ended(self)  # not where the daemon stops

    async def _until_over(self) -> None:
        made = self.made
        while made.state in LIVE or made.state == "moving":
            if self.leaving and self.tenure is None:
                break
            if not made.availability and not self.leaving:
                self.leave("availability off")
            await made.bell.wait()
        self.scope.cancel()

    def leave(self, why: str) -> None:
        """Have its series dropped."""
        self.leaving = why
        if self.tenure is None:
            self._has_left()
        self.ring()

    def _has_left(self) -> None:
        self._become(None)
        if self.made.running is not None and self.made.state in LIVE | {"moving"}:
            self._lease(0.0)
            self._unfence()
        self.left.set()
        self.made.bell.ring()

    # --- members ----------------------------------------------------------------------

    def _become(self, tenure: Tenure | None) -> None:
        """Its tenure is this from now on, also for a daemon that comes back."""
        self.tenure = tenure
        self._dropped = set()
        epoch = max(self._seen, tenure.epoch if tenure else 0)
        self._seen = epoch
        self.made.tenure = {"epoch": epoch} if tenure is None else tenure.record()
        self._objects.keep(self.made)
        self.ring()

    async def _tenures(self) -> None:
        while True:
            tenure = self.tenure
            if tenure is None:
                await self._bell.wait()
                continue
            async with trio.open_nursery() as nursery:
                for member in (self._objects.node, *tenure.members):
                    nursery.start_soon(self._member, tenure, member)
                for member in tenure.members[: tenure.holders]:
                    nursery.start_soon(self._feed, tenure, member)
                while self.tenure is tenure:
                    await self._bell.wait()
                nursery.cancel_scope.cancel()

    def _verb(self, tenure: Tenure, member: str) -> str:
        if self.leaving or self._next is not None:
            return "drop"
        fresh = tenure.epoch == tenure.series and not self.made.tenure.get("established")
        missing = tenure.epoch == tenure.series and self.resumed < tenure.since
        return "begin" if member not in tenure.grants and (fresh or missing) else "hold"

    async def _member(self, tenure: Tenure, member: str) -> None:
        """Keep the agreement of one."""
        while True:
            asked, verb = self._clock(), self._verb(tenure, member)
            try:
                await self._claim(tenure, member, verb)
            except CloudError as error:
                self._refused(member, error)
            else:
                self.trouble.pop((member, "hold"), None)
                if verb == "drop":
                    tenure.dropped(member)
                    self._dropped.add(member)
                else:
                    tenure.granted(member, asked)
                self._granted(tenure)
            left = asked + self.terms.renew - self._clock()
            if verb == "drop" and member in self._dropped:
                left = math.inf
            with trio.move_on_after(max(0.1, left)):
                while self._verb(tenure, member) == verb or verb == "begin":
                    await self._bell.wait()

    async def _claim(self, tenure: Tenure, member: str, verb: str) -> None:
        made, terms = self.made, self.terms
        claim = Claim(
            verb, tenure.epoch, self._objects.node, tenure.series, tenure.voters, terms.patience
        )
        keep = self._next is not None and member in self._next[0]
        if member == self._objects.node:
            await trio.lowlevel.checkpoint()
            self._objects.holding.claim(made.user, made.id, claim, self.news())
            return
        line = claim_line(made.id, claim, self.news(), keep)
        await self.guards.write(member, made.user, line, terms.patience / 3)

    def news(self) -> News:
        """What members are told of images."""
        tenure = self.tenure
        if tenure is None:
            return News()
        silent = {name for name, kind in self.trouble if kind == "hold"}
        return self.copies.news(tenure.members[: tenure.holders], silent)

    def _refused(self, member: str, error: CloudError) -> None:
        self.trouble.setdefault((member, "hold"), (self._clock(), str(error)))
        epoch, _ = told_epoch(error)
        self._seen = max(self._seen, epoch)
        if owner := taken(error):
            self.superseded(owner)

    def superseded(self, owner: str) -> None:
        """Another node was agreed to that runs it now: what is here goes."""
        if not self.gone and owner != self._objects.node:
            self.gone = True
            self.scope.cancel()
            self.guards.give_up(self.made, owner)

    def _granted(self, tenure: Tenure) -> None:
        if tenure is not self.tenure:
            return
        if tenure.established() and not self.made.tenure.get("established"):
            self.made.tenure = {**tenure.record(), "established": True}
            self._objects.keep(self.made)
        if agreed(tenure.voters, self._dropped):
            if self.leaving:
                self._has_left()
                return
            if self._next is not None:
                self._change(tenure)
                return
        self._apply()

    # --- the fence --------------------------------------------------------------------

    def _apply(self) -> None:
        """Tell its keeper until when it may run, and let it run if it may."""
        tenure = self.tenure
        if tenure is None:
            return
        until = tenure.until(self.terms.bound)
        if until > self._clock():
            self._lease(0.0 if until == math.inf else until)
            self._unfence()

    def _lease(self, until: float) -> None:
        running = self.made.running
        if running is None or self._told == (running, until):
            return
        self._told = running, until
        try:
            running.lease(until)
        except CloudError as error:
            if error.kind != "absent":  # it has just ended
                self.problem = str(error)

    def _unfence(self) -> None:
        if self.fenced:
            self.fenced = False
            if self.made.state == "fenced" and self.made.running is not None:
                self.made.running.thaw()
                self.made.why = ""
                self._objects.become(self.made, "unfence")

    def _fence(self) -> None:
        made, now = self.made, self._clock()
        self.fenced = True
        if made.running is None:
            return
        self._lease(now)
        made.running.freeze()
        if made.state == "running":
            made.why = "no majority of the nodes that could restart it answers, so it is frozen"
            self._objects.become(made, "fence", why=made.why)

    async def _fencing(self) -> None:
        while True:
            tenure, now = self.tenure, self._clock()
            if tenure is None or self.made.running is None:
                await self._wait(1.0)
                self._apply()
                continue
            until = tenure.until(self.terms.bound)
            if until > now:
                self._apply()
                await self._wait(min(until - now, 1.0))
            elif now - self.resumed < self.terms.patience / 3 and until == -math.inf:
                await trio.sleep(0.1)  # its keeper has its lease from an earlier daemon
            else:
                if not self.fenced:
                    self._fence()
                await self._retake(tenure)
                await self._wait(availability.STEP)

    async def _retake(self, tenure: Tenure) -> None:
        """Members agreed to another, that did not get a majority: outbid it."""
        if self._seen <= tenure.epoch or self.leaving or self._next:
            return
        epoch = self._seen + 1
        made, guards = self.made, self.guards
        for verb in ("may", "take"):
            asked = self._clock()
            claim = Claim(verb, epoch, self._objects.node, tenure.series)
            found, errors = await guards.votes(made.user, made.id, claim, tenure.voters)
            for error in errors.values():
                self._seen = max(self._seen, told_epoch(error)[0])
            if tenure is not self.tenure or not agreed(tenure.voters, found):
                return
        new = Tenure(epoch, tenure.series, tenure.voters, tenure.members, tenure.holders)
        for voter in found:
            new.granted(voter, asked)
        self._become(new)
        self._granted(new)

    # --- images -----------------------------------------------------------------------

    async def _imaging(self) -> None:
        failures = 0
        while True:
            began = self._clock()
            made = self.made
            if made.state == "running" and not self.leaving and not self.fenced:
                try:
                    await self._image()
                    failures, self.problem = 0, ""
                except CloudError as error:
                    failures += 1
                    if self.problem != str(error):
                        self.problem = str(error)
                        made.events.add("unprotected", why=self.problem)
                        self._objects.keep(made)
            every = self.terms.checkpoint
            every = max(every, min(every * 2**failures, LONGEST)) if failures else every
            while (left := began + every - self._clock()) > 0:
                with trio.move_on_after(left):
                    await self.made.bell.wait()
                if made.state == "running" and self.tenure is None and not failures:
                    break
                every = min(every, self.terms.checkpoint) if not failures else every
            await trio.lowlevel.checkpoint()
            while self.shot is not None and self._all_busy():
                await self._wait(1.0)

    def _all_busy(self) -> bool:
        """Whether whoever holds images reads the last one still."""
        tenure = self.tenure
        if tenure is None or self.shot is None:
            return False
        return 0 < self.shot.readers >= tenure.holders

    async def _image(self) -> None:
        found = None
        if self.tenure is None or self._clock() - self._looked >= LOOK:
            self._looked = self._clock()
            found = await self._plan()
        if self.tenure is None and (found is None or not found[0]):
            self._looked = -math.inf
            raise CloudError("unreachable", "there is no other node that could keep its image")
        if self.made.state != "running" or self.leaving:
            return  # it is on its way elsewhere, or has ended
        shot = await self._snapshot()
        if self.tenure is None and found is not None:
            self._begin(found)
        elif found is not None and self.tenure is not None and self._better(found):
            self._next = found
            self.ring()
        self.shot = shot
        self._shots.append(shot)
        self._tidy()
        self.ring()

    def _better(self, found: tuple[tuple[str, ...], tuple[str, ...], int]) -> bool:
        tenure = self.tenure
        assert tenure is not None
        holders = set(tenure.members[: tenure.holders])
        return (set(found[1]), set(found[0][: found[2]])) != (set(tenure.voters), holders)

    async def _plan(self) -> tuple[tuple[str, ...], tuple[str, ...], int] | None:
        objects, made, terms = self._objects, self.made, self.terms
        if objects.handover is None:
            raise CloudError("unsupported", "this node is in no cloud", "see: cloudfs join --help")
        wish = _anywhere(made).wish()
        nodes = await objects.handover.nodes(wish)
        own = nodes.pop(objects.node, {})
        order: list[str] = []
        try:
            order = placement.order(wish, nodes, objects.node)
        except CloudError:
            log.debug("no node would do for %s", made.id)
        others = [(name, str(nodes[name].get("cluster", ""))) for name in order]
        has = self.tenure.members if self.tenure is not None else ()
        now = self._clock()
        bad = {name for (name, _), (since, _) in self.trouble.items() if now - since > REPLACE} & {
            *has
        }
        # One that is busy, or full, for a moment is no reason to leave it.
        others += [(name, "") for name in has if name not in dict(others) and name not in bad]
        cluster = str(own.get("cluster", ""))
        more = [name for name in nodes if name not in order]
        return availability.plan(objects.node, has, bad, others, cluster, terms.replicas, more)

    def _begin(self, found: tuple[tuple[str, ...], tuple[str, ...], int]) -> None:
        members, voters, holders = found
        epoch = self._seen + 1
        now = self._clock()
        tenure = Tenure(epoch, epoch, voters, members, holders, since=now)
        self.resumed = -math.inf
        self.copies.keep(members)
        self.trouble = {key: one for key, one in self.trouble.items() if key[0] in members}
        self._lease(now + self.terms.bound)  # before anybody hears of it
        self._become(tenure)
        self.made.events.add("guarded", epoch=epoch, nodes=",".join(members[:holders]))

    def _change(self, old: Tenure) -> None:
        """Of the old series a majority let go: begin the next."""
        assert self._next is not None
        found, self._next = self._next, None
        for member in set(old.members) - set(found[0]) - self._dropped:
            claim = Claim("drop", old.epoch, self._objects.node, old.series)
            self._objects.spawn(self.guards.tell, member, self.made.user, self.made.id, claim)
        self._begin(found)

    async def _snapshot(self) -> Shot:
        objects, made = self._objects, self.made
        epoch = self.tenure.epoch if self.tenure else self._seen + 1
        number = max(self._number + 1, availability.first_of(epoch) + 1)
        folder = made.home / "checkpoint" / f"{images.KEPT}{number}"
        at = self._clock()
        try:
            manifest, sizes = await objects.departures.snapshot(made, folder, lambda: self.fenced)
            self.pause = self._clock() - at
            (folder / SPEC).write_text("\n".join(_spec(made)) + "\n")
            (folder / STREAMS).write_text(json.dumps(sizes))
            images.describe(folder, manifest)
            await trio.to_thread.run_sync(images.sums, folder)
            for name in sizes:
                (folder / name).hardlink_to(made.home / name)
        except OSError as error:
            raise CloudError("io", f"its image cannot be kept: {error.strerror}") from None
        self._number = number
        return Shot(number, folder, at, manifest.size)

    async def _feed(self, tenure: Tenure, member: str) -> None:
        """Have a member read the newest image, again and again."""
        pause = AGAIN
        while True:
            shot = self.shot
            known = member in tenure.grants and not self.leaving
            if shot is None or not known or self.copies.whole.get(member, 0) >= shot.number:
                await self._bell.wait()
                continue
            shot.readers += 1
            try:
                await self._carry(tenure, member, shot)
            except CloudError as error:
                self.trouble.setdefault((member, "image"), (self._clock(), str(error)))
                await trio.sleep(pause)
                pause = min(2 * pause, REPLACE)
            else:
                pause = AGAIN
                self.trouble.pop((member, "image"), None)
                self.copies.put(member, shot.number)
                self.made.touch()
                self.ring()
            finally:
                shot.readers -= 1
                self._tidy()

    async def _carry(self, tenure: Tenure, member: str, shot: Shot) -> None:
        """Have it read, as long as the member shows that it lives."""
        made = self.made
        age = self._clock() - shot.at
        line = image_line(made.id, tenure.epoch, shot.number, self._objects.node, age)
        errors = [CloudError("timeout", f"node {member} has stopped reading its image")]

        async def read(scope: trio.CancelScope) -> None:
            try:
                await self.guards.write(member, made.user, line, CARRY)
                errors.clear()
            except CloudError as error:
                errors[0] = error
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, nursery.cancel_scope)
            nursery.start_soon(self._until_silent, tenure, member, nursery.cancel_scope)
        if errors:
            raise errors[0]

    async def _until_silent(self, tenure: Tenure, member: str, scope: trio.CancelScope) -> None:
        patience = 2 * self.terms.patience
        while (left := tenure.grants[member] + patience - self._clock()) > 0:  # noqa: ASYNC110
            await trio.sleep(min(left, patience))
        scope.cancel()

    def _tidy(self) -> None:
        """Remove the images that nobody reads and that are not the newest."""
        for shot in [one for one in self._shots if one is not self.shot and not one.readers]:
            self._shots.remove(shot)
            self._objects.spawn(_remove, shot.folder)

    # --- what it looks like -------------------------------------------------------------

    def word(self) -> str:
        """In a few words, for status."""
        tenure, terms = self.tenure, self.terms
        if tenure is None:
            return f"none: {self.problem or 'its first image is being made'}"
        news = self.news()
        last = sum(number == news.newest for number in self.copies.whole.values())
        copies = f"{last if news.newest else 0} of {terms.replicas} copies"
        if tenure.holders < terms.replicas:
            copies += f", as only {tenure.holders} other nodes could keep one"
        if len(tenure.voters) < 3:
            copies += "; with two nodes none can tell that the other is lost: see recover"
        return f"{copies}; {self.problem}" if self.problem else copies

    def table(self) -> str:
        """What it agreed on with whom, for the file."""
        tenure, now, terms = self.tenure, self._clock(), self.terms
        if tenure is None:
            return ndb.record({"epoch": self._seen, "why": self.problem}) + "\n"
        shot = self.shot
        lines: list[dict[str, Any]] = [
            {
                "epoch": tenure.epoch,
                "newest": self.news().newest,
                "enough": self.news().enough,
                "age": round(now - shot.at, 3) if shot else "",
                "size": shot.size if shot else "",
                "pause": round(self.pause, 4),
                "lease": round(tenure.until(terms.bound) - now, 3),
                "why": self.problem,
            }
        ]
        for place, member in enumerate((self._objects.node, *tenure.members)):
            role = "owner" if not place else "copy" if place <= tenure.holders else "witness"
            heard = tenure.grants.get(member)
            why = [what for (name, _), (_, what) in self.trouble.items() if name == member]
            lines.append(
                {
                    "node": member,
                    "role": role,
                    "votes": "yes" if member in tenure.voters else "no",
                    "image": self.copies.whole.get(member, "") if place else "",
                    "age": "" if heard is None or heard == math.inf else round(now - heard, 3),
                    "why": why[0] if why else "",
                }
            )
        return "".join(ndb.record(line) + "\n" for line in lines)


class Guards:
    """The guards of one node's objects, by id."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.all: dict[str, Guard] = {}
        self._releases: dict[str, dict[str, Any]] = {}

    def load(self) -> None:
        """Go on telling what an earlier daemon had to."""
        self._releases = dict(self.objects.records.get("releases", {}))
        for id in self._releases:
            self.objects.spawn(self._release, id)

    def look(self, made: Object) -> None:
        """An object has changed: guard it if it is to be guarded."""
        guard = self.all.get(made.id)
        if guard is not None:
            guard.ring()
        elif made.state in LIVE and made.running is not None and _wants(made):
            record = made.tenure
            tenure = availability.tenure(record) if "series" in record else None
            self.watch(made, tenure, Copies())

    def watch(self, made: Object, tenure: Tenure | None, copies: Copies) -> Guard:
        guard = self.all[made.id] = Guard(self, made, tenure, copies)
        self.objects.spawn(guard.run)
        return guard

    def ended(self, guard: Guard) -> None:
        made = guard.made
        if self.all.get(made.id) is guard:
            del self.all[made.id]
        if made.state in ("exited", "gone") and not guard.gone:
            self.release(made)
        elif made.state in LIVE:
            self.look(made)

    def lease(self, made: Object) -> float:
        """Until when it may run that is about to be restored, 0 for as long as it likes."""
        guard = self.all.get(made.id)
        if guard is None or guard.tenure is None:
            return 0.0
        return max(0.001, guard.tenure.until(guard.terms.bound))

    def fenced(self, made: Object) -> bool:
        guard = self.all.get(made.id)
        return guard is not None and guard.fenced

    def word(self, made: Object) -> str:
        """What status says; "" where nothing is wanted."""
        guard = self.all.get(made.id)
        if guard is not None:
            return guard.word()
        if not made.availability:
            return ""
        return "none: it does not run"

    def table(self, made: Object) -> str:
        guard = self.all.get(made.id)
        text = Terms(**made.availability).text() if made.availability else "off"
        return f"{text}\n" + (guard.table() if guard is not None else "")

    async def pause(self, made: Object) -> None:
        """Have nobody restart one that is about to move.  Raises CloudError if too few of
        those that could answer."""
        guard = self.all.get(made.id)
        if guard is None:
            return
        guard.leave("it moves")
        with trio.move_on_after(PAUSE):
            await guard.left.wait()
            return
        guard.leaving = ""
        guard.ring()
        raise CloudError(
            "timeout",
            "move: too few of the nodes that could restart it answer",
            f"try again, or first: echo availability off > /cloud/proc/{made.id}/ctl",
        )

    def over(self, id: str, user: str, promise: Promise) -> None:
        """Members here heard that a node owns an object that was of this one."""
        made = self.objects.all.get(id)
        release = self._releases.get(id)
        if release is not None and release["epoch"] < promise.epoch:
            self._forget(id)
        if made is None or made.user != user or made.tenure.get("epoch", 0) >= promise.epoch:
            return
        guard = self.all.get(id)
        if guard is not None:
            guard.superseded(promise.owner)
        elif "series" in made.tenure or release is not None:
            self.give_up(made, promise.owner)

    def give_up(self, made: Object, owner: str) -> None:
        """It is another node's."""
        made.events.add("superseded", node=owner)
        self.objects.events.add("superseded", id=made.id, user=made.user, node=owner)
        running = made.running
        if self.objects.handover is not None:
            self.objects.handover.gone(made, owner)
            if running is None:
                self.objects.spawn(_remove_home, self.objects, made)

    # --- what is to be dropped ------------------------------------------------------------

    def release(self, made: Object) -> None:
        """Have nobody restart one that has ended, or is gone."""
        if "series" in made.tenure:
            self._releases[made.id] = {"user": made.user, **made.tenure}
            self._keep()
            made.tenure = {"epoch": made.tenure["epoch"]}
            self.objects.keep(made)
            self.objects.spawn(self._release, made.id)

    def need_free(self, made: Object) -> None:
        """Raise CloudError("busy") where a program of it would not be the only one."""
        off = f"echo availability off > /cloud/proc/{made.id}/ctl"
        if "series" in made.tenure:
            why = "another node may go on with it from an image"
            raise CloudError("busy", why, f"first: {off}")
        if made.id in self._releases and not self._releases[made.id].get("agreed"):
            raise CloudError(
                "again", "those that could restart it were not all told that it ended", "try again"
            )

    async def freed(self, made: Object) -> None:
        """Wait until `need_free` raises nothing; it does after PAUSE seconds."""
        with trio.move_on_after(PAUSE):
            while made.id in self.all or (  # noqa: ASYNC110
                made.id in self._releases and not self._releases[made.id].get("agreed")
            ):
                await trio.sleep(0.05)
        self.need_free(made)

    def _keep(self) -> None:
        self.objects.records.set("releases", self._releases)

    def _forget(self, id: str) -> None:
        if self._releases.pop(id, None) is not None:
            self._keep()

    async def _release(self, id: str) -> None:
        record = self._releases.get(id)
        if record is None:
            return
        tenure, user = availability.tenure(record), record["user"]
        claim = Claim("drop", tenure.epoch, self.objects.node, tenure.series, tenure.voters)
        done: set[str] = set()
        end = self.objects.host.clock() + FORGET
        everybody = (self.objects.node, *tenure.members)
        pause = 1.0
        while self._releases.get(id) is record and self.objects.host.clock() < end:
            rest = [member for member in everybody if member not in done]
            found, errors = await self.votes(user, id, claim, rest)
            done |= {*found}
            made = self.objects.all.get(id)
            for error in errors.values():
                owner = taken(error)
                if owner and owner != self.objects.node:
                    self._forget(id)
                    if made is not None and made.user == user and made.state == "exited":
                        self.give_up(made, owner)
                    return
            if agreed(tenure.voters, done) and not record.get("agreed"):
                record["agreed"] = True
                self._keep()
            if len(done) == len(everybody):
                break
            await trio.sleep(pause)
            pause = min(2 * pause, REPLACE)
        if self._releases.get(id) is record:
            self._forget(id)

    # --- asking others ------------------------------------------------------------------

    async def write(self, node: str, user: str, line: str, seconds: float) -> None:
        handover = self.objects.handover
        if handover is None:
            raise CloudError("unsupported", "this node is in no cloud")
        await handover.write(node, user, line, seconds, "proc/hold")

    async def tell(self, member: str, user: str, id: str, claim: Claim) -> None:
        await self.votes(user, id, claim, [member])

    async def votes(
        self, user: str, id: str, claim: Claim, voters: Any, seconds: float = 3.0
    ) -> tuple[list[str], dict[str, CloudError]]:
        """Ask them all; who agreed, and what the others said."""
        found: list[str] = []
        errors: dict[str, CloudError] = {}

        async def ask(voter: str) -> None:
            try:
                if voter == self.objects.node:
                    self.objects.holding.claim(user, id, claim)
                    if claim.verb == "drop":
                        self.objects.holding.drop_images(user, id)
                else:
                    await self.write(voter, user, claim_line(id, claim), seconds)
                found.append(voter)
            except CloudError as error:
                errors[voter] = error

        async with trio.open_nursery() as nursery:
            for voter in voters:
                nursery.start_soon(ask, voter)
        return found, errors


def _wants(made: Object) -> bool:
    return bool(made.availability) or "series" in made.tenure


def _anywhere(made: Object) -> Object:
    """The same object, but for the node that it must run on: that is the one that is lost."""
    there = copy.copy(made)
    there.on = ""
    return there


def _spec(made: Object) -> list[str]:
    """The lines that make it anew elsewhere."""
    there = _anywhere(made)
    there.offer = new_id()
    *lines, _ = lines_of(there)
    return lines


async def _remove(path: Path) -> None:
    await trio.to_thread.run_sync(images.remove, path)


async def _remove_home(objects: Objects, made: Object) -> None:
    await trio.to_thread.run_sync(objects.remove_home, made.id, made.home)


def _remove_old(place: Path) -> None:
    """Remove what an earlier guard has left."""
    for path in place.glob(f"{images.KEPT}*"):
        images.remove(path)
