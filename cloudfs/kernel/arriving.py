"""Objects that come from another node with their memory: that node's half is departing.py.

  arrive [anew]             last line of an offer (offer.py): hold what it wants, and wait;
                            anew: no image of its memory will come, its program starts anew
  fetch ID TOKEN NODE [OF]  read its image from checkpoint/ of the object (or of OF) at that node;
                            done once all of it is here and is what it was there
  receive ID TOKEN NODE     read its memory from there while it runs, and let it wait here
  revive ID TOKEN [down=N] [qemu=N]
                            let it go on here; done once it runs.  It has stood still for so
                            many seconds until this line was sent; the event `moved` has the sum
  withdraw ID TOKEN [whole] as for an offer

Until `revive` it is in no table of this node: over there it runs, or is frozen.  From
then on it has a record, so that a daemon that comes back knows that it may run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import images, starting
from cloudfs.kernel.handover import UNSURE
from cloudfs.kernel.images import Manifest
from cloudfs.kernel.object import Object
from cloudfs.kernel.pieces import Fetch
from cloudfs.kernel.reserve import wanted
from cloudfs.kernel.step import reached
from cloudfs.kernel.stream import fetch
from cloudfs.node.api import Exit, Image, Running
from cloudfs.wait import Wait

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)

WAIT = 30.0  # seconds for which one that is here, or is expected, waits for the next word
READ = 10.0  # seconds for a piece
MOST = 64  # at a time


class Arrival:
    """One that is on its way here."""

    def __init__(self, made: Object) -> None:
        self.made = made
        self.source = ""  # the node at which its image is
        self.until = 0.0
        self.scope: trio.CancelScope | None = None  # while its image is fetched
        self.manifest: Manifest | None = None  # once all of it is here
        self.running: Running | None = None  # one that was received, and waits
        self.receiving = False


class Arrivals:
    """Those that are on their way to this node, by id."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.all: dict[str, Arrival] = {}

    def expect(self, made: Object, anew: bool = False) -> None:
        """Hold for an object what it wants.  Raises CloudError where it cannot come."""
        objects = self._objects
        if len(self.all) >= MOST:
            raise CloudError("full", f"{MOST} objects are on their way to this node already")
        objects.need_new(made)
        word = objects.host.images_word(made.runtime)
        if word and not anew:
            raise CloudError("unsupported", f"node {objects.node}: {word}")
        objects.runtime_for(made)
        objects.reserve.hold(made.id, wanted(made.limits))
        found = self.all[made.id] = Arrival(made)
        self._wait(found)
        objects.spawn(self._expire, found)
        reached(objects.node, "expected")

    def _wait(self, found: Arrival) -> None:
        found.until = trio.current_time() + WAIT

    async def _expire(self, found: Arrival) -> None:
        while self.all.get(found.made.id) is found:
            left = found.until - trio.current_time()
            if left <= 0 and found.scope is None:
                self.drop(found.made.id)
                return
            await trio.sleep(max(left, 1.0))

    def of(self, id: str, token: str) -> Arrival | None:
        """The one of that offer."""
        found = self.all.get(id)
        return found if found is not None and found.made.offer == token else None

    def need(self, id: str, token: str) -> Arrival:
        found = self.of(id, token)
        if found is None:
            raise CloudError("absent", f"there is no such offer of object {id[:32]} any more")
        return found

    def drop(self, id: str) -> None:
        """It does not come.  What is here of it goes."""
        found = self.all.pop(id, None)
        if found is None:
            return
        if found.scope is not None:
            found.scope.cancel()
        self._objects.reserve.release(id)
        if found.running is None and not found.receiving:
            images.remove(found.made.home)
        elif not found.receiving:
            self._objects.spawn(self._end, found.made, found.running)

    async def _end(self, made: Object, running: Running | None) -> None:
        """What was received does not go on."""
        if running is not None:
            with contextlib.suppress(CloudError):
                running.kill("it did not come")
            await running.ended()
        await trio.to_thread.run_sync(self._objects.remove_home, made.id, made.home)

    def receive(self, id: str, token: str, node: str) -> Wait[None]:
        """Let it wait here with its memory, which comes from a node where it runs."""
        found, objects = self.need(id, token), self._objects
        rest = self.fetch(id, token, node)  # what a machine is to receive it
        assert objects.handover is not None
        reach = objects.handover.cloud.reach(node, found.made.user, READ)
        path = f"proc/{id}/checkpoint/{images.MOVING}"

        async def run() -> None:
            await rest.run()
            made, manifest = found.made, found.manifest
            found.manifest = None
            if manifest is None or manifest.runtime != objects.runtime_for(made):
                raise CloudError("bad", "receive: the image is of another runtime")
            made.argv, made.runtime = manifest.argv, manifest.runtime
            image = Image(made.home / "checkpoint" / images.MOVING, manifest.ran)
            told = starting.told(objects, made, made.argv)
            found.receiving = True
            try:
                with trio.CancelScope() as found.scope:
                    with trio.CancelScope(shield=True):  # it keeps its own time
                        running = found.running = await objects.host.receive(told, image)
                    await fetch(lambda name: reach.read(f"{path}/{name}"), running.feed)
                    return
            except ExceptionGroup as group:
                raise first_of(group) from None
            finally:
                found.scope, found.receiving = None, False
                self._wait(found)
                if self.all.get(id) is not found:  # it was dropped meanwhile
                    objects.spawn(self._end, made, found.running)
            raise CloudError("interrupted", "receive: it was given up")

        return Wait(run)

    def fetch(self, id: str, token: str, node: str, of: str = "") -> Wait[None]:
        """Read its image at a node; of: the object that it is a copy of."""
        found, handover = self.need(id, token), self._objects.handover
        if handover is None or found.scope is not None:
            raise CloudError("busy", f"fetch: the image of {id} is on its way")
        found.source = node
        reach = handover.cloud.reach(node, found.made.user, READ)
        path = f"proc/{of or id}/checkpoint/{images.MOVING}"
        folder = images.fresh(found.made.home / "checkpoint" / images.MOVING, 0)
        told = partial(reached, self._objects.node)
        fetch = Fetch(folder, lambda: reach.bulk(path), told)

        async def run() -> None:
            # One of another zone is known once it was asked for.
            await handover.nodes(dataclasses.replace(found.made.wish(), on=node))
            try:
                with trio.CancelScope() as found.scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_give_up, fetch, nursery.cancel_scope)
                        reached(self._objects.node, "fetch")
                        found.manifest = await fetch.run()
                        reached(self._objects.node, "fetched")
                        nursery.cancel_scope.cancel()
            except ExceptionGroup as group:
                raise first_of(group) from None
            finally:
                found.scope = None
                self._wait(found)
            if found.manifest is None:
                raise CloudError("timeout", f"nothing of its image came for {WAIT:g} s")

        return Wait(run)

    def revive(self, id: str, token: str, still: Mapping[str, float] | None = None) -> Wait[None]:
        """Let it go on here.  still: as Running.still."""
        objects, found = self._objects, self.need(id, token)
        made, manifest = found.made, found.manifest
        if manifest is None:
            raise CloudError("bad", f"revive: the image of {id} is not here")
        if manifest.runtime != objects.runtime_for(made):
            raise CloudError("bad", f"revive: the image is of runtime {manifest.runtime}")
        del self.all[id]
        made.argv, made.runtime = manifest.argv, manifest.runtime
        made.bring(manifest.created, manifest.usage())
        made.prefer, made.spread = manifest.prefer, manifest.spread
        made.came = "elsewhere"
        folder = made.home / "checkpoint" / images.MOVING
        for name in images.STREAMS:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).rename(made.home / name)
        reached(objects.node, "revive")
        objects.enter(made)
        objects.become(made, "restore")
        reached(objects.node, "restore")
        done = trio.Event()
        failed: list[CloudError] = []
        image, since = Image(folder, manifest.ran, manifest.anew), trio.current_time()
        so_far = found.running, still or {}, since
        objects.spawn(self._revive, made, image, found.source, *so_far, failed, done)

        async def run() -> None:
            await done.wait()
            if failed:
                raise failed[0]

        return Wait(run)

    async def _revive(
        self,
        made: Object,
        image: Image,
        source: str,
        running: Running | None,
        still: Mapping[str, float],
        since: float,
        failed: list[CloudError],
        done: trio.Event,
    ) -> None:
        # In a task of its own: whoever asked may be cut off, it goes on all the same.
        objects = self._objects
        failed.append(CloudError("again", "this node is stopping", "try again"))
        try:
            if running is not None:
                await objects.host.go_on(running, image)
            else:
                told = starting.told(objects, made, made.argv)
                running = await objects.host.restore(told, image)
            reached(objects.node, "restored")
        except Exception as fault:
            if not isinstance(fault, CloudError):
                log.exception("object %s cannot go on", made.id)
            error = fault if isinstance(fault, CloudError) else CloudError("io", str(fault))
            # Not of a kind that could mean that no answer came: it surely does not run.
            kind = "unsupported" if error.kind in UNSURE else error.kind
            failed[:] = [CloudError(kind, error.why, error.fix)]
            objects.leave(made)
            if running is not None:
                await self._end(made, running)
            images.remove(made.home)
        else:
            if image.anew:
                made.why = f"restarted, since it could not be moved from {source}"
            starting.begun(objects, made, running)
            more = {"from": source}
            if "down" in still:
                down = still["down"] + trio.current_time() - since
                more |= {name: f"{seconds:.3f}" for name, seconds in still.items()}
                more["down"] = f"{down:.3f}"
            made.events.add("restarted" if image.anew else "moved", **more)
            objects.keep(made)
            reached(objects.node, "begun")
            failed.clear()
            await trio.to_thread.run_sync(images.remove, image.dir)
        finally:
            done.set()

    async def find(self, made: Object) -> None:
        """After a restart: one that was about to go on here does, or never did."""
        objects = self._objects
        while made.state == "restoring":
            try:
                found = objects.host.adopt(made.id, made.home)
            except CloudError as error:
                if error.kind != "busy":
                    raise
                await trio.sleep(1.0)  # its keeper is at it
                continue
            if found is None:
                objects.leave(made)
                await trio.to_thread.run_sync(objects.remove_home, made.id, made.home)
            elif isinstance(found, Exit):
                await objects.ended(made, found)
            else:
                folder = made.home / "checkpoint" / images.MOVING
                await objects.host.go_on(found, Image(folder, 0.0))
                starting.begun(objects, made, found)
                await trio.to_thread.run_sync(images.clear, made.home)


async def _give_up(fetch: Fetch, scope: trio.CancelScope) -> None:
    """End a fetch of which nothing comes any more."""
    while True:
        before = fetch.done
        await trio.sleep(WAIT)
        if fetch.done == before:
            scope.cancel()


def first_of(error: Exception) -> Exception:
    """The first error of the groups that nurseries make of them."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def line(verb: str, made: Object, *more: str) -> str:
    """A line about an arrival, as proc/place takes it."""
    return " ".join([verb, made.id, made.offer, *map(ndb.quote, more)])
