"""Images of one node's objects, which stay here: made, kept, and gone back to.

While an image is written the object is frozen, in the state checkpointing or moving; then it goes
on at once, unless it is to go on elsewhere (departing.py).
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import images, lifecycle, starting
from cloudfs.kernel.images import Manifest
from cloudfs.kernel.object import Object, add
from cloudfs.node.api import Image, Running
from cloudfs.wait import Wait

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)

RESTORING = ".restoring"  # where an image is that is restored from elsewhere
SPARE = 1.1  # an image takes about so much of the memory in use, and MARGIN bytes
MARGIN = 32 << 20


class Dumps:
    """The images that objects of one node keep."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def checkpoint(self, made: Object, name: str) -> Wait[None]:
        """Keep an image of it, and let it go on."""
        have = images.kept(made.home)
        if len(have) >= images.MOST_KEPT and name not in have:
            raise CloudError(
                "toomany",
                f"it keeps {images.MOST_KEPT} images, the most it may",
                f"remove one: rmdir /cloud/proc/{made.id}/checkpoint/{have[0]}",
            )
        self._objects.become(made, "checkpoint")
        return self._task(made, self._checkpoint, made, name)

    def restore(self, made: Object, folder: Path) -> Wait[None]:
        """Have it go on from an image, in place of what runs of it."""
        manifest = images.load(folder)
        if made.state == "new":
            made.runtime = made.runtime or manifest.runtime
        if manifest.runtime != self._objects.runtime_for(made):
            raise CloudError("bad", f"restore: the image is of runtime {manifest.runtime}")
        return self._task(made, self._restore, made, folder, manifest)

    def _task(
        self, made: Object, work: Callable[..., Awaitable[None]], *args: object
    ) -> Wait[None]:
        """Whoever asks may be cut off, the work goes on."""
        done = trio.Event()
        failed = [CloudError("again", "this node is stopping", "try again")]

        async def run() -> None:
            try:
                await work(*args)
                failed.clear()
            except CloudError as error:
                failed[0] = error
            except Exception as fault:
                log.exception("object %s", made.id)
                failed[0] = CloudError("io", str(fault))
            finally:
                done.set()

        async def wait() -> None:
            await done.wait()
            if failed:
                raise failed[0]

        self._objects.spawn(run)
        return Wait(wait)

    async def _room(self, made: Object, folder: Path) -> None:
        """An empty directory with space for its image."""
        need = int(made.usage().mem * SPARE) + MARGIN
        await trio.to_thread.run_sync(images.fresh, folder, need)

    async def _dump(
        self, made: Object, running: Running, folder: Path, anew: bool = False
    ) -> Manifest:
        """An image of it in an empty directory, or if it is to start anew of its files; it
        stays frozen."""
        try:
            await (running.pack if anew else running.dump)(folder)
        except BaseException:
            images.remove(folder)
            raise
        used = dataclasses.asdict(add(made.used, running.usage()))
        ran = max(0.0, time.time() - made.started)
        return Manifest(
            *(made.argv, made.runtime, ran, made.created, used),
            *(list(made.prefer), made.spread),
            anew=anew,
        )

    async def _checkpoint(self, made: Object, name: str) -> None:
        objects, running = self._objects, made.running
        assert running is not None
        place = made.home / "checkpoint"
        folder = place / f".{name}"
        try:
            await self._room(made, folder)
            manifest = await self._dump(made, running, folder)
        finally:
            self.stay(made)
        images.describe(folder, manifest)
        await trio.to_thread.run_sync(images.sums, folder)
        images.remove(place / name)
        folder.rename(place / name)
        made.events.add("checkpoint", name=name, size=manifest.size)
        objects.keep(made)

    async def snapshot(
        self, made: Object, folder: Path, fenced: Callable[[], bool]
    ) -> tuple[Manifest, dict[str, tuple[int, int]]]:
        """An image of it for other nodes to keep, and of each stream what is kept, from where
        to where, up to it.  It goes on at once, but for where it may not run meanwhile."""
        objects, running = self._objects, made.running
        assert running is not None
        made.state = lifecycle.after(made.state, "checkpoint")
        objects.keep(made)
        try:
            await self._room(made, folder)
            manifest = await self._dump(made, running, folder)
            sizes = {
                name: (objects.dropped(made, name), (made.home / name).stat().st_size)
                for name in images.STREAMS
                if (made.home / name).exists()
            }
        finally:
            if made.state == "checkpointing" and made.running is not None:
                if not fenced():
                    made.running.thaw()
                made.state = lifecycle.after(made.state, "fence" if fenced() else "stay")
                objects.keep(made)
        return manifest, sizes

    def stay(self, made: Object, why: str = "") -> None:
        """It goes on here."""
        if made.state not in ("moving", "checkpointing", "lost") or made.running is None:
            return
        made.placed = ""
        rest = made.running.thaw()
        if rest is not None:
            self._objects.spawn(rest.run)
        self._objects.become(made, "stay", **({"why": why} if why else {}))

    async def _restore(self, made: Object, folder: Path, manifest: Manifest) -> None:
        objects = self._objects
        await trio.to_thread.run_sync(images.check, folder)
        own = made.home / "checkpoint" / RESTORING
        if not folder.is_relative_to(made.home):  # where all of it is the object's
            await trio.to_thread.run_sync(images.remove, own)
            own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await trio.to_thread.run_sync(shutil.copytree, folder, own)
            folder = own
        if made.running is not None:
            rest = objects.kill(made, "restored")
            if rest is not None:
                await rest.run()
        await objects.guards.freed(made)
        objects.reserve_for(made)
        made.argv, made.asked = manifest.argv, ""
        made.created = manifest.created
        objects.become(made, "restore")
        try:
            image = Image(folder, manifest.ran)
            running = await objects.host.restore(starting.told(objects, made, made.argv), image)
        except Exception as fault:
            made.why = str(fault)
            objects.become(made, "failed-again", why=made.why)
            raise
        finally:
            await trio.to_thread.run_sync(images.remove, own)
        starting.begun(objects, made, running)
