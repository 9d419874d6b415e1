"""One object of this node that is to survive it: its lease, its members, its fence.

    running, `availability` set
      an image of it, and a choice of members (availability.py's plan)
      begin → each member, and again as `hold` while it lives      proc/hold (holding.py)
      image → those that hold images, one after the other, each the newest there is
    every `checkpoint` seconds the next image (imaging.py)

A lease that a majority agreed to is given on to the object's keeper, which freezes it when
that runs out, also if this daemon is dead or stopped; here it is `fenced` then, until a
majority answers again, or one says that another node took over: then it goes from here.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import availability, placement
from cloudfs.kernel.availability import Claim, Copies, Plan, Tenure, Terms, agreed
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.holding import claim_line
from cloudfs.kernel.imaging import Imaging, remove_old
from cloudfs.kernel.object import Object, anywhere

if TYPE_CHECKING:
    from cloudfs.kernel.guards import Guards

log = logging.getLogger(__name__)

LIVE = frozenset({"running", "stopped", "checkpointing", "fenced", "restoring"})
REPLACE = 30.0  # seconds after which a member that fails is replaced, if there is another
_TOLD = re.compile(r"in epoch ([0-9]{1,13}) of node (\S{1,64})$")


def told_epoch(error: CloudError) -> tuple[int, str]:
    """The epoch and the owner of a refusal; 0 and "" where it tells of none."""
    match = _TOLD.search(error.why)
    return (int(match[1]), match[2]) if match else (0, "")


def taken(error: CloudError) -> str:
    """The node that took the object over for sure, "" if a refusal does not say that."""
    sure = error.kind == "stale" and "it was taken over" in error.why
    return told_epoch(error)[1] if sure else ""


class Guard:
    """One object.  Times are of the host's clock."""

    def __init__(self, guards: Guards, made: Object, tenure: Tenure | None, copies: Copies) -> None:
        self.guards, self.made, self.tenure = guards, made, tenure
        self._objects = guards.objects
        self._clock = guards.objects.host.clock
        self.resumed = self._clock()
        self.trouble: dict[tuple[str, str], tuple[float, str]] = {}  # since when, and what
        self.fenced = made.state == "fenced"
        self.leaving = ""  # why its series is dropped
        self.left = trio.Event()
        self.gone = False  # to another node: nothing is to be dropped
        self._next: Plan | None = None  # whom it is to have
        self._dropped: set[str] = set()
        self._seen = int(made.tenure.get("epoch", 0))
        self._told: tuple[object, float] = (None, -1.0)  # what the keeper of whom was told
        self._bell = Bell()
        self.images = Imaging(self, copies)
        self.scope = trio.CancelScope()

    @property
    def terms(self) -> Terms:
        return Terms(**self.made.availability) if self.made.availability else Terms()

    def ring(self) -> None:
        self._bell.ring()

    @property
    def epoch(self) -> int:
        """Of its tenure, or of the next if it has none."""
        return self.tenure.epoch if self.tenure else self._seen + 1

    async def wait(self, seconds: float = math.inf) -> None:
        """Wait until something changes, at most for so long."""
        with trio.move_on_after(seconds):
            await self._bell.wait()

    async def run(self) -> None:
        """Until it ends, is gone or is to be guarded no more."""
        await trio.to_thread.run_sync(remove_old, self.made.home / "checkpoint")
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    for work in (self.images.run, self._fencing, self._tenures, self._until_over):
                        nursery.start_soon(work)
        except Exception:
            log.exception("guarding object %s", self.made.id)
            await trio.sleep(1.0)  # and then anew
        self.images.tidy(everything=True)
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
                    nursery.start_soon(self.images.feed, tenure, member)
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
                self._refused(tenure, member, error)
            else:
                if tenure is not self.tenure:
                    return
                self.trouble.pop((member, "hold"), None)
                if verb == "drop":
                    self._let_go(tenure, member)
                else:
                    tenure.granted(member, asked)
                self._granted(tenure)
            left = asked + tenure.renew - self._clock()
            if verb == "drop" and member in self._dropped:
                left = math.inf
            with trio.move_on_after(max(0.1, left)):
                while self._verb(tenure, member) == verb or verb == "begin":
                    await self._bell.wait()

    async def _claim(self, tenure: Tenure, member: str, verb: str) -> None:
        made, me = self.made, self._objects.node
        claim = Claim(verb, tenure.epoch, me, tenure.series, tenure.voters, tenure.patience)
        keep = self._next is not None and member in self._next[0][: self._next[2]]
        if member == me:
            await trio.lowlevel.checkpoint()
            self._objects.holding.claim(made.user, made.id, claim, self.images.news(tenure))
            return
        line = claim_line(made.id, claim, self.images.news(tenure), keep)
        await self.guards.write(member, made.user, line, tenure.patience / 3)

    def fails(self, member: str, what: str, error: CloudError) -> None:
        """Note that a member does not hold, or has not got an image, since when, and why."""
        since, _ = self.trouble.get((member, what), (self._clock(), ""))
        self.trouble[member, what] = since, str(error)

    def _let_go(self, tenure: Tenure, member: str) -> None:
        """A member agrees to nobody any more in this series."""
        tenure.dropped(member)
        self._dropped.add(member)

    def _refused(self, tenure: Tenure, member: str, error: CloudError) -> None:
        self.fails(member, "hold", error)
        epoch, owner = told_epoch(error)
        self._seen = max(self._seen, epoch)
        mine = (epoch, owner) == (tenure.epoch, self._objects.node)
        if tenure is not self.tenure:
            return
        if mine and "it was dropped" in error.why:  # for an earlier daemon, or a move that failed
            self._let_go(tenure, member)
            self._granted(tenure)
        elif owner := taken(error):
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
            if self._next is not None and not self.leaving:
                self._change(tenure)
            else:
                self._has_left()  # and where nobody wanted that, a new series begins
            return
        self._apply()

    def force(self) -> None:
        """A person says that those who do not answer are lost for good: begin anew."""
        self._next = None
        self._has_left()

    # --- the fence --------------------------------------------------------------------

    def _apply(self) -> None:
        """Tell its keeper until when it may run, and let it run if it may."""
        tenure = self.tenure
        if tenure is None:
            return
        until = tenure.until()
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
                self.images.problem = str(error)

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
                await self.wait(1.0)
                self._apply()
                continue
            until = tenure.until()
            if until > now:
                self._apply()
                await self.wait(min(until - now, 1.0))
            elif now - self.resumed < tenure.patience / 3 and until == -math.inf:
                await trio.sleep(0.1)  # its keeper has its lease from an earlier daemon
            else:
                if not self.fenced:
                    self._fence()
                await self._retake(tenure)
                await self.wait(availability.STEP)

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
        new = replace(tenure, epoch=epoch, since=-math.inf, grants={})
        for voter in found:
            new.granted(voter, asked)
        self._become(new)
        self._granted(new)

    # --- the choice of members ----------------------------------------------------------

    def choose(self, found: Plan) -> None:
        """Have these members, if they are others than those of now."""
        tenure = self.tenure
        if tenure is None:
            self._begin(found)
            return
        holders = set(tenure.members[: tenure.holders])
        same = (set(found[1]), set(found[0][: found[2]])) == (set(tenure.voters), holders)
        if not same or tenure.patience != self.terms.patience:
            self._next = found
            self.ring()

    async def plan(self) -> Plan:
        """A choice of members as it would be made now.  Raises CloudError."""
        objects, made, terms = self._objects, self.made, self.terms
        if objects.handover is None:
            raise CloudError("unsupported", "this node is in no cloud", "see: cloudfs join --help")
        wish = anywhere(made).wish()
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

    def _begin(self, found: Plan) -> None:
        members, voters, holders = found
        epoch = self._seen + 1
        now = self._clock()
        tenure = Tenure(epoch, epoch, voters, members, holders, self.terms.patience, since=now)
        self.resumed = -math.inf
        self.images.copies.keep(members)
        self.trouble = {key: one for key, one in self.trouble.items() if key[0] in members}
        self._lease(tenure.until())  # before anybody hears of it
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

    # --- what it looks like -------------------------------------------------------------

    def word(self) -> str:
        """In a few words, for status."""
        tenure, terms = self.tenure, self.terms
        if tenure is None:
            return f"none: {self.images.problem or 'its first image is being made'}"
        news = self.images.news(tenure)
        last = sum(number == news.newest for number in self.images.copies.whole.values())
        copies = f"{last if news.newest else 0} of {terms.replicas} copies"
        if tenure.holders < terms.replicas:
            copies += f", as only {tenure.holders} other nodes could keep one"
        if len(tenure.voters) < 3:
            copies += "; with two nodes none can tell that the other is lost: see recover"
        problem = self.images.problem
        return f"{copies}; {problem}" if problem else copies

    def table(self) -> str:
        """What it agreed on with whom, for the file."""
        tenure, now, images = self.tenure, self._clock(), self.images
        if tenure is None:
            return ndb.record({"epoch": self._seen, "why": images.problem}) + "\n"
        shot, news = images.shot, images.news(tenure)
        lines: list[dict[str, Any]] = [
            {
                "epoch": tenure.epoch,
                "newest": news.newest,
                "enough": news.enough,
                "age": round(now - shot.at, 3) if shot else "",
                "size": shot.size if shot else "",
                "pause": round(images.pause, 4),
                "lease": round(tenure.until() - now, 3),
                "why": images.problem,
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
                    "image": images.copies.whole.get(member, "") if place else "",
                    "age": "" if heard is None or heard == math.inf else round(now - heard, 3),
                    "why": why[0] if why else "",
                }
            )
        return "".join(ndb.record(line) + "\n" for line in lines)
