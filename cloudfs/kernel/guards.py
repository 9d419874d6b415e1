"""All guarded objects of one node (guarding.py), and what is to be told of those that were.

What ends, is wiped or moves away has its series dropped, so that nobody restarts it; that
is remembered, and told until a majority knows, and for a while to the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import availability
from cloudfs.kernel.availability import Claim, Copies, Promise, Tenure, Terms, agreed
from cloudfs.kernel.guarding import LIVE, Guard, taken
from cloudfs.kernel.holding import claim_line
from cloudfs.kernel.object import Object
from cloudfs.kernel.placement import Wish

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

PAUSE = 5.0  # seconds for the voters of one that is to move, or to start again, to let go
LONGEST = 30.0  # seconds between two times that members are told of what ended
SEEK = 3.0  # seconds between two questions about a member that cannot be reached
FORGET = 3600.0  # seconds for which those that do not answer are told


class Guards:
    """The guards of one node's objects, by id."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.all: dict[str, Guard] = {}
        self._releases: dict[str, dict[str, Any]] = {}
        self._sought: dict[str, float] = {}  # node → when others were asked where it is

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
        return max(0.001, guard.tenure.until())

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
        self.objects.holding.lapse(made.user, made.id)
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

    async def told(self, made: Object) -> None:
        """Wait until nobody restarts one that was killed; CloudError where that may be."""
        if made.id in self.all or made.id in self._releases:
            try:
                await self.freed(made)
            except CloudError:
                why = "it ended here, but too few of the nodes that could restart it know"
                raise CloudError("timeout", why, "they are told once they answer") from None

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
            pause = min(2 * pause, LONGEST)
        if self._releases.get(id) is record:
            self._forget(id)

    # --- asking others ------------------------------------------------------------------

    async def write(self, node: str, user: str, line: str, seconds: float) -> None:
        handover = self.objects.handover
        if handover is None:
            raise CloudError("unsupported", "this node is in no cloud")
        try:
            await handover.write(node, user, line, seconds, "proc/hold")
        except CloudError as error:
            if error.kind == "unreachable":
                self._seek(node)
            raise

    def _seek(self, node: str) -> None:
        """One of another zone stays taken for gone until somebody asks about it."""
        now = self.objects.host.clock()
        if now - self._sought.get(node, -SEEK) >= SEEK:
            self._sought[node] = now
            self.objects.spawn(self._ask_about, node)

    async def _ask_about(self, node: str) -> None:
        handover = self.objects.handover
        if handover is not None:
            with contextlib.suppress(CloudError):
                await handover.nodes(Wish(on=node))

    async def tell(self, member: str, user: str, id: str, claim: Claim) -> None:
        await self.votes(user, id, claim, [member])

    async def votes(
        self, user: str, id: str, claim: Claim, voters: Iterable[str], seconds: float = 3.0
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


async def _remove_home(objects: Objects, made: Object) -> None:
    await trio.to_thread.run_sync(objects.remove_home, made.id, made.home)
