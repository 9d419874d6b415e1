"""Going on with objects whose nodes are lost, from the images that this node holds.

While their owners renew their promises here nothing happens.  Once one has run out, and
those of others whose turn is before this node's did nothing either, the voters are asked
whether they would agree, then to agree; with a majority the newest whole image goes on here
in a higher epoch, and whoever ran it hears of that before it runs on.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import availability, images, starting
from cloudfs.kernel.availability import Claim, Copies, Promise, Tenure, agreed
from cloudfs.kernel.guarding import told_epoch
from cloudfs.kernel.holding import SPEC, Held, unfold
from cloudfs.kernel.object import Object
from cloudfs.kernel.offer import Offer
from cloudfs.node.api import Image
from cloudfs.who import Who

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)

LONGEST = 10.0  # seconds between two attempts at most


class Failover:
    """What this node may restart."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._watched: set[int] = set()

    def look(self, held: Held) -> None:
        """There is an image of it here."""
        if id(held) not in self._watched:
            self._watched.add(id(held))
            self._objects.spawn(self._watch, held)

    async def _watch(self, held: Held) -> None:
        objects = self._objects
        pause = availability.STEP
        try:
            while objects.holding.all.get((held.user, held.id)) is held and held.whole:
                promise, now = held.promise, objects.host.clock()
                when = math.inf
                if promise.owner != objects.node and held.id not in objects.all:
                    when = availability.turn(held.id, objects.node, promise, held.news, held.newest)
                if when > now:
                    pause = availability.STEP
                    with trio.move_on_after(min(when - now, 5.0)):
                        await held.bell.wait()
                    continue
                try:
                    await self._take(held)
                except CloudError as error:
                    self._waits(held, str(error))
                    with trio.move_on_after(pause):
                        await held.bell.wait()
                    pause = min(2 * pause, LONGEST)
        finally:
            self._watched.discard(id(held))

    def _waits(self, held: Held, why: str) -> None:
        """Why it does not go on here; told once."""
        if held.why != why:
            held.why = why
            node = held.promise.owner
            self._objects.events.add("unrecovered", id=held.id, user=held.user, node=node, why=why)

    # --- agreement --------------------------------------------------------------------

    async def _take(self, held: Held) -> None:
        """Have it go on here if a majority agrees; CloudError with why not."""
        objects, promise = self._objects, held.promise
        self._made(held)  # raises where it could not run here
        epoch = promise.epoch + 1
        for verb in ("may", "take"):
            asked = objects.host.clock()
            found: list[str] = []
            for _ in range(2):  # once more where somebody agreed to a higher epoch
                claim = Claim(verb, epoch, objects.node, promise.series, (), promise.patience)
                found, errors = await objects.guards.votes(
                    held.user, held.id, claim, promise.voters
                )
                seen = max((told_epoch(error)[0] for error in errors.values()), default=0)
                if agreed(promise.voters, found) or seen < epoch or verb == "take":
                    break
                epoch = seen + 1
            if not agreed(promise.voters, found):
                raise CloudError(
                    "unreachable",
                    f"node {promise.owner} is not heard of, and {len(found)} of"
                    f" {len(promise.voters)} nodes agree that this one takes over",
                    f"if it is lost for good: echo recover {held.id}"
                    f" > /cloud/nodes/{objects.node}/ctl",
                )
        tenure = self._tenure(held, promise, epoch, promise.series, promise.voters)
        for voter in found:
            tenure.granted(voter, asked)
        if objects.node not in promise.voters:  # it is to hold by the same rules
            claim = Claim("take", epoch, objects.node, promise.series)
            objects.holding.claim(held.user, held.id, claim)
        await self._restart(held, tenure, promise.owner)

    def _tenure(
        self, held: Held, promise: Promise, epoch: int, series: int, voters: tuple[str, ...]
    ) -> Tenure:
        me = self._objects.node
        first = [name for name in held.news.at if name != me]
        members = (*first, *(n for n in promise.voters if n not in (me, *first)))
        return Tenure(epoch, series, voters, members, max(1, len(first)), promise.patience)

    async def recover(self, id: str) -> None:
        """Have it go on here because somebody says that its node is lost for good.
        Raises CloudError."""
        objects = self._objects
        guard = objects.guards.all.get(id)
        if guard is not None and guard.fenced:
            guard.force()
            return
        known = [held for (_, one), held in objects.holding.all.items() if one == id]
        held = next((one for one in known if one.newest), None)
        if held is None:
            raise CloudError("absent", f"recover: there is no whole image of object {id[:32]} here")
        promise, now = held.promise, objects.host.clock()
        if promise.phase == "dropped" or promise.owner == objects.node or id in objects.all:
            raise CloudError("busy", f"recover: object {id} is not lost")
        if now < promise.until:
            raise CloudError(
                "busy",
                f"recover: node {promise.owner} was heard of a moment ago",
                f"try again in {promise.until - now:.0f} s",
            )
        self._made(held)
        epoch = promise.epoch + 1
        tenure = self._tenure(held, promise, epoch, epoch, (objects.node,))
        tenure.since = now
        claim = Claim("begin", epoch, objects.node, epoch, tenure.voters, promise.patience)
        objects.holding.claim(held.user, id, claim)
        await self._restart(held, tenure, promise.owner)

    # --- restart ----------------------------------------------------------------------

    def _made(self, held: Held) -> Object:
        """The object as its image says; CloudError where it cannot run here."""
        objects, user = self._objects, held.user
        number = held.newest
        if not number:
            raise CloudError("io", "none of its images could be restored here")
        offer = Offer(objects, Who(user, None), None)
        try:
            text = (held.home / str(number) / SPEC).read_text()
        except OSError as error:
            held.failed.add(number)
            raise CloudError("io", f"its image cannot be read: {error.strerror}") from None
        for line in text.splitlines():
            offer.line(line)
        made = offer.need()
        if made.id != held.id:
            held.failed.add(number)
            raise CloudError("bad", "its image is of another object")
        objects.need_new(made)
        word = objects.host.images_word()
        if word:
            raise CloudError("unsupported", word)
        return made

    async def _restart(self, held: Held, tenure: Tenure, lost: str) -> None:
        objects, number = self._objects, held.newest
        made = self._made(held)
        began = objects.host.clock()
        copies = Copies()
        for name in held.news.at:
            if name != objects.node:
                copies.put(name, held.news.newest)
        entered = False
        try:
            folder = await trio.to_thread.run_sync(unfold, held, number, made.home)
            manifest = images.load(folder)
            objects.runtime_for(made)
            objects.reserve_for(made)
            made.argv, made.runtime = manifest.argv, manifest.runtime
            made.bring(manifest.created, manifest.usage())
            made.came, made.tenure = "elsewhere", tenure.record()
            objects.enter(made)
            entered = True
            objects.become(made, "restore")
            guard = objects.guards.watch(made, tenure, copies)
            guard.ring()
            launch = starting.told(objects, made, made.argv)
            running = await objects.host.restore(launch, Image(folder, manifest.ran))
        except Exception as fault:
            if not isinstance(fault, CloudError):
                log.exception("object %s cannot be restarted", held.id)
            held.failed.add(number)
            objects.reserve.release(held.id)
            if entered:
                failed = objects.guards.all.get(made.id)
                if failed is not None:
                    failed.gone = True
                    failed.scope.cancel()
                objects.leave(made)
            await trio.to_thread.run_sync(images.remove, made.home)
            raise fault if isinstance(fault, CloudError) else CloudError("io", str(fault)) from None
        age = round(objects.host.clock() - held.whole[number], 3)
        took = round(objects.host.clock() - began, 3)
        made.why = f"restarted from checkpoint {age:g} s old, as node {lost} was lost"
        starting.begun(objects, made, running)
        told = {"why": made.why, "node": objects.node, "lost": lost, "age": age, "took": took}
        made.events.add("restarted", **told)
        objects.events.add("restarted", id=made.id, user=made.user, app=made.app, **told)
        await trio.to_thread.run_sync(images.remove, folder)
