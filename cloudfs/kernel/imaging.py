"""Images of one object for other nodes to keep: made again and again, and read by those.

An image stays on this node's disk while somebody reads it or it is the newest.  The object
stands still for as long as the dump takes; it waits for no reader.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import availability, images
from cloudfs.kernel.availability import Copies, News, Tenure
from cloudfs.kernel.holding import SPEC, STREAMS, image_line
from cloudfs.kernel.object import Object, anywhere, new_id
from cloudfs.kernel.offer import lines_of

if TYPE_CHECKING:
    from cloudfs.kernel.guarding import Guard

LOOK, LOOK_FOR_MORE = 30.0, 5.0  # seconds between looks for better members, and where some lack
LONGEST = 300.0  # seconds between two attempts at an image
CARRY = 3600.0  # seconds for an image to be read, while its reader lives
AGAIN, LAST_AGAIN = 1.0, 30.0  # seconds before an image that failed is offered again, doubling


class Shot:
    """An image on this node's disk.  at: when it was begun; size: bytes."""

    def __init__(self, number: int, folder: Path, at: float, size: int) -> None:
        self.number, self.folder, self.at, self.size = number, folder, at, size
        self.readers = 0


class Imaging:
    """The images of a guarded object.  Times are of the host's clock."""

    def __init__(self, guard: Guard, copies: Copies) -> None:
        self.copies = copies
        self.shot: Shot | None = None  # the newest
        self.problem = ""  # why there is no newer image
        self.pause = 0.0  # seconds for which it stood still for the last one
        self._guard = guard
        self._objects = guard.guards.objects
        self._clock = self._objects.host.clock
        self._shots: list[Shot] = []
        self._number = 0
        self._looked = -math.inf
        self._asked = guard.terms

    async def run(self) -> None:
        guard, made = self._guard, self._guard.made
        failures = 0
        while True:
            began = self._clock()
            if made.state == "running" and not guard.leaving and not guard.fenced:
                try:
                    await self._image()
                    failures, self.problem = 0, ""
                except CloudError as error:
                    failures += 1
                    self._failed(str(error))
            await self._until(began, failures)
            while self._all_busy():
                await guard.wait(1.0)

    def _failed(self, why: str) -> None:
        if self.problem != why:
            self.problem = why
            self._guard.made.events.add("unprotected", why=why)
            self._objects.keep(self._guard.made)

    async def _until(self, began: float, failures: int) -> None:
        """Wait until the next is due."""
        guard, made = self._guard, self._guard.made
        await trio.lowlevel.checkpoint()
        asked = guard.terms
        while True:
            every = guard.terms.checkpoint
            if failures:
                every = max(every, min(every * 2**failures, LONGEST))
            begins = guard.tenure is None and not guard.leaving and not failures
            first = begins and made.state == "running"
            left = began + every - self._clock()
            if left <= 0 or first or guard.terms != asked:
                return
            with trio.move_on_after(left):
                await made.bell.wait()

    def _all_busy(self) -> bool:
        """Whether whoever holds images reads the last one still."""
        tenure, shot = self._guard.tenure, self.shot
        return tenure is not None and shot is not None and 0 < shot.readers >= tenure.holders

    async def _image(self) -> None:
        """One, and before it a choice of members, where it is time for that."""
        guard, found = self._guard, None
        new = guard.tenure is None or guard.terms != self._asked
        self._asked = guard.terms
        lacks = guard.tenure is not None and guard.tenure.holders < guard.terms.replicas
        if new or self._clock() - self._looked >= (LOOK_FOR_MORE if lacks else LOOK):
            self._looked = self._clock()
            found = await guard.plan()
            if guard.tenure is None and not found[0]:
                raise CloudError("unreachable", "there is no other node that could keep its image")
        if guard.made.state != "running" or guard.leaving:
            return  # it is on its way elsewhere, or has ended
        self.shot = await self._snapshot()
        self._shots.append(self.shot)
        self.tidy()
        if found is not None:
            guard.choose(found)
        guard.ring()

    def news(self, tenure: Tenure) -> News:
        """What members are told of them."""
        silent = {name for name, kind in self._guard.trouble if kind == "hold"}
        return self.copies.news(tenure.members[: tenure.holders], silent)

    async def _snapshot(self) -> Shot:
        objects, guard, made = self._objects, self._guard, self._guard.made
        number = max(self._number + 1, availability.first_of(guard.epoch) + 1)
        folder = made.home / "checkpoint" / f"{images.KEPT}{number}"
        at = self._clock()
        try:
            manifest, sizes = await objects.departures.snapshot(made, folder, lambda: guard.fenced)
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

    async def feed(self, tenure: Tenure, member: str) -> None:
        """Have a member read the newest image, again and again."""
        guard, pause = self._guard, AGAIN
        while True:
            shot = self.shot
            known = member in tenure.grants and not guard.leaving
            if shot is None or not known or self.copies.whole.get(member, 0) >= shot.number:
                await guard.wait()
                continue
            shot.readers += 1
            try:
                await self._carry(tenure, member, shot)
            except CloudError as error:
                guard.fails(member, "image", error)
                await trio.sleep(pause)
                pause = min(2 * pause, LAST_AGAIN)
            else:
                pause = AGAIN
                guard.trouble.pop((member, "image"), None)
                self.copies.put(member, shot.number)
                guard.made.touch()
                guard.ring()
            finally:
                shot.readers -= 1
                self.tidy()

    async def _carry(self, tenure: Tenure, member: str, shot: Shot) -> None:
        """Have it read, as long as the member shows that it lives."""
        made, guards = self._guard.made, self._guard.guards
        age = self._clock() - shot.at
        line = image_line(made.id, tenure.epoch, shot.number, self._objects.node, age)
        errors = [CloudError("timeout", f"node {member} has stopped reading its image")]

        async def read(scope: trio.CancelScope) -> None:
            try:
                await guards.write(member, made.user, line, CARRY)
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
        patience = 2 * tenure.patience
        while (left := tenure.grants[member] + patience - self._clock()) > 0:  # noqa: ASYNC110
            await trio.sleep(min(left, patience))
        scope.cancel()

    def tidy(self, everything: bool = False) -> None:
        """Remove the images that nobody reads and that are not the newest, or all."""
        for shot in list(self._shots):
            if not everything and (shot is self.shot or shot.readers):
                continue
            self._shots.remove(shot)
            self._objects.spawn(_remove, shot.folder)


def _spec(made: Object) -> list[str]:
    """The lines that make it anew elsewhere."""
    there = anywhere(made)
    there.offer = new_id()
    *lines, _ = lines_of(there)
    return lines


async def _remove(path: Path) -> None:
    await trio.to_thread.run_sync(images.remove, path)


def remove_old(place: Path) -> None:
    """Remove what an earlier guard has left."""
    for path in place.glob(f"{images.KEPT}*"):
        images.remove(path)
