"""What this node keeps of objects of others that are to survive their nodes: its promises
(availability.py) and their images.  Told by proc/hold (tree/hold.py), whose lines are

  begin|hold ID EPOCH OWNER SERIES PATIENCE VOTERS NEWEST AT ENOUGH
  may|take ID EPOCH OWNER SERIES
  drop ID EPOCH OWNER SERIES [keep]       keep: its images stay, a new series comes
  image ID EPOCH NUMBER NODE AGE          read it from NODE; done once it is whole here

VOTERS and AT are names with commas, or -.  A caller acts for itself: what is kept is kept
of an object of the caller, whatever others tell of one with that id.

Images are under `kept` of the state directory, of each object a directory: the images by
their numbers, one that is not whole with a dot before it, and beside them the output up to
the newest, which grows with each.  An image counts as whole once every file has the hash
that its `sums` say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import images, pieces
from cloudfs.kernel.availability import Claim, News, Promise, answer, recall, superfluous
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.object import ID
from cloudfs.kernel.pieces import Fetch
from cloudfs.wait import Wait

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)

MOST, MOST_OF_USER = 4096, 1024  # objects of which something is kept
READ = 10.0  # seconds for a piece
QUIET = 30.0  # seconds without any of it after which an image is given up
REMEMBER = 3600.0  # seconds for which a dropped series is remembered
SLACK = 1 << 20  # bytes of dropped output beyond which it is read anew
SPEC, STREAMS = "spec", "streams"  # files of such an image: how to run it, and its output


class Held:
    """Of one object.  whole: number → when it was made, on this node's clock."""

    def __init__(self, user: str, id: str, home: Path, promise: Promise) -> None:
        self.user, self.id, self.home = user, id, home
        self.promise = promise
        self.news = News()
        self.whole: dict[int, float] = {}
        self.failed: set[int] = set()  # those that could not be restored here
        self.heard = 0.0  # from its owner
        self.since = 0.0  # of its promise
        self.why = ""  # why it was not taken over
        self.bell = Bell()
        self.fetching = False

    @property
    def newest(self) -> int:
        """The last image from which it could go on here, 0 for none."""
        return max(self.whole.keys() - self.failed, default=0)


class Holding:
    """All that one node keeps of others'.

    found(held): told of each that has an image now, to look after it.  over(id, user,
    promise): told when another than this node was agreed to that owns it now.
    """

    def __init__(self, objects: Objects, home: Path) -> None:
        self._objects = objects
        self.home = home
        self.all: dict[tuple[str, str], Held] = {}
        self.found: Callable[[Held], None] = lambda held: None
        self.over: Callable[[str, str, Promise], None] = lambda id, user, promise: None

    def load(self) -> None:
        """What an earlier daemon kept.  Blocks for a moment."""
        now = self._objects.host.clock()
        for user, id, record in list(self._objects.records.all_held()):
            held = Held(user, id, self._home(user, id), recall(record["promise"], now))
            held.since = now
            age = max(0.0, time.time() - record["told"])
            held.whole = {
                int(name): now - age
                for name in (os.listdir(held.home) if held.home.is_dir() else [])
                if name.isdecimal()
            }
            for path in held.home.glob(".*"):
                images.remove(path)
            self.all[user, id] = held
        known = {held.home for held in self.all.values()}
        for path in self.home.iterdir() if self.home.is_dir() else []:
            if path not in known:
                images.remove(path)

    def watch(self) -> None:
        """Look after what is here; to be called once tasks can run."""
        for held in self.all.values():
            if held.whole:
                self.found(held)

    def _home(self, user: str, id: str) -> Path:
        return self.home / hashlib.sha256(f"{user}/{id}".encode()).hexdigest()[:32]

    # --- promises ---------------------------------------------------------------------

    def claim(self, user: str, id: str, claim: Claim, news: News | None = None) -> None:
        """Agree to a claim, or raise Refused or CloudError("full")."""
        held = self.all.get((user, id))
        now = self._objects.host.clock()
        promise = answer(held.promise if held else None, claim, now)
        if claim.verb == "may":
            return
        if held is None:
            self._need_room(user, now)
            held = self.all[user, id] = Held(user, id, self._home(user, id), promise)
        before = held.promise
        held.promise = promise
        if promise.record() != before.record() or not held.heard:
            held.since = now
            self._keep(held)
        held.heard = now
        if news is not None:
            held.news, held.why = news, ""
            self._remove_old(held)
            if promise.owner == self._objects.node and news.newest > max(held.whole, default=0):
                self.drop_images(user, id)  # others have later ones of it
        held.bell.ring()
        if promise.phase == "held" and promise.owner != self._objects.node:
            self.over(id, user, promise)

    def lapse(self, user: str, id: str) -> None:
        """What was promised to this node itself it needs no more."""
        held = self.all.get((user, id))
        if held is not None and held.promise.owner == self._objects.node:
            held.promise = replace(held.promise, until=self._objects.host.clock())

    def _need_room(self, user: str, now: float) -> None:
        mine = 0
        for (owner, id), held in list(self.all.items()):
            if held.promise.phase == "dropped" and now - held.since > REMEMBER:
                self._forget(owner, id)
            else:
                mine += owner == user
        if len(self.all) >= MOST or mine >= MOST_OF_USER:
            raise CloudError("full", f"node {self._objects.node} keeps enough objects of others")

    def _forget(self, user: str, id: str) -> None:
        held = self.all.pop((user, id))
        self._objects.records.drop_held(user, id)
        self._objects.spawn(_in_thread, images.remove, held.home)

    def _keep(self, held: Held) -> None:
        record = {"promise": held.promise.record(), "told": time.time()}
        self._objects.records.put_held(held.user, held.id, record)

    def drop_images(self, user: str, id: str) -> None:
        """Nobody takes the object over any more."""
        held = self.all.get((user, id))
        if held is not None and held.whole:
            held.whole.clear()
            self._objects.spawn(_in_thread, images.remove, held.home)

    # --- images -----------------------------------------------------------------------

    def fetch(
        self, user: str, id: str, epoch: int, number: int, node: str, age: float
    ) -> Wait[None]:
        """Read an image of an object of this user from the node that owns it."""
        held = self.all.get((user, id))
        promise = held.promise if held else None
        if held is None or promise is None or (promise.epoch, promise.owner) != (epoch, node):
            raise CloudError("absent", f"image: this node holds no object {id[:32]} of {node}")
        if word := self._objects.host.images_word():
            raise CloudError("unsupported", f"node {self._objects.node}: {word}")
        if held.fetching:
            raise CloudError("busy", f"image: one of object {id} is on its way")
        if number in held.whole:
            return Wait(trio.lowlevel.checkpoint)
        made = self._objects.host.clock() - age
        held.fetching = True

        async def run() -> None:
            try:
                await self._fetch(held, number, node)
                if held.promise.phase == "dropped":
                    raise CloudError("absent", "image: it was dropped meanwhile")
                held.whole[number] = made
                self._keep(held)
            finally:
                held.fetching = False
                await trio.to_thread.run_sync(images.remove, held.home / f".{number}")
            self._remove_old(held)
            held.bell.ring()
            self.found(held)

        return Wait(run)

    async def _fetch(self, held: Held, number: int, node: str) -> None:
        handover = self._objects.handover
        if handover is None:
            raise CloudError("unsupported", "this node is in no cloud")
        reach = handover.cloud.reach(node, held.user, READ)
        path = f"proc/{held.id}/checkpoint/{images.KEPT}{number}"
        folder = held.home / f".{number}"

        def begin() -> None:
            held.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.home.chmod(0o711)
            images.fresh(folder, 0)

        async def get(name: str) -> bytes:
            return await reach.read(f"{path}/{name}")

        await trio.to_thread.run_sync(begin)
        fetch = Fetch(folder, lambda: reach.bulk(path))
        done = [False]

        async def work(scope: trio.CancelScope) -> None:
            await fetch.run()
            (folder / "sums").write_bytes(await get("sums"))
            await trio.to_thread.run_sync(images.check, folder)
            await self._streams(held, folder, get, fetch)
            done[0] = True
            scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, nursery.cancel_scope)
                nursery.start_soon(_give_up, fetch, nursery.cancel_scope)
        except ExceptionGroup as group:
            raise _first(group) from None
        if not done[0]:
            raise CloudError("timeout", f"nothing of its image came for {QUIET:g} s")
        os.rename(folder, held.home / str(number))

    async def _streams(
        self, held: Held, folder: Path, get: Callable[[str], Awaitable[bytes]], fetch: Fetch
    ) -> None:
        """Its output up to this image: what is new of it, if there is some already."""
        for name, (dropped, size) in streams(folder).items():
            path, part = held.home / name, held.home / f".{name}"
            have = path.stat() if path.exists() else None
            old = have.st_size if have else 0
            kept = have.st_blocks * 512 if have else 0
            anew = old > size or old < dropped or kept > 2 * (size - dropped) + SLACK
            start, path_to_write = (dropped, part) if anew else (old, path)
            if anew:
                part.unlink(missing_ok=True)
            for offset in range(start, size, pieces.PIECE):
                count = min(pieces.PIECE, size - offset)
                packed = await get(pieces.piece_name(name, offset, count))
                await trio.to_thread.run_sync(_put, path_to_write, packed, offset, count)
                fetch.done += count
            if path_to_write is part:
                part.touch(mode=0o600)
                os.rename(part, path)

    def _remove_old(self, held: Held) -> None:
        for number in superfluous(held.whole.keys(), held.news.enough):
            del held.whole[number]
            held.failed.discard(number)
            self._objects.spawn(_in_thread, images.remove, held.home / str(number))


def streams(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each stream the first byte that is kept and its size, as an image tells that may
    come from anywhere.  Raises CloudError("bad")."""
    try:
        told: dict[str, Any] = json.loads((folder / STREAMS).read_text()[:4096])
        found = {str(name): (int(pair[0]), int(pair[1])) for name, pair in told.items()}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CloudError("bad", f"the image does not tell of its output: {error}") from None
    if found.keys() - {*images.STREAMS}:
        raise CloudError("bad", "the image tells of output that there is not")
    if not all(0 <= dropped <= size < 1 << 50 for dropped, size in found.values()):
        raise CloudError("bad", "the image does not tell of its output")
    return found


def unfold(held: Held, number: int, home: Path) -> Path:
    """Make an object's directory from an image, with its output up to then; where the image
    is in it.  Blocks."""
    images.remove(home)
    folder = home / "checkpoint" / images.MOVING
    folder.parent.mkdir(mode=0o700, parents=True)
    shutil.copytree(held.home / str(number), folder, copy_function=os.link)
    for name, (_, size) in streams(folder).items():
        if (held.home / name).exists():
            _copy_sparse(held.home / name, home / name, size)
    return folder


def _copy_sparse(source: Path, target: Path, size: int) -> None:
    """The first bytes of a file, its hole at the beginning too."""
    with source.open("rb") as old, target.open("wb") as new:
        os.fchmod(new.fileno(), 0o600)
        new.truncate(size)
        try:
            at = os.lseek(old.fileno(), 0, os.SEEK_DATA)
        except OSError:  # all of it is a hole
            return
        while at < size:
            data = os.pread(old.fileno(), min(pieces.PIECE, size - at), at)
            if not data:
                return
            os.pwrite(new.fileno(), data, at)
            at += len(data)


def _put(path: Path, packed: bytes, offset: int, size: int) -> None:
    data = pieces.unpack(packed, size)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


async def _give_up(fetch: Fetch, scope: trio.CancelScope) -> None:
    while True:
        before = fetch.done
        await trio.sleep(QUIET)
        if fetch.done == before:
            scope.cancel()


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _in_thread(work: Callable[..., None], *args: object) -> None:
    await trio.to_thread.run_sync(work, *args)


# --- as lines -------------------------------------------------------------------------


def names(words: Iterable[str]) -> str:
    """Names as one word."""
    return ",".join(words) or "-"


def claim_line(id: str, claim: Claim, news: News | None = None, keep: bool = False) -> str:
    """The line that asks another node for its agreement."""
    words: list[object] = [claim.verb, id, claim.epoch, claim.owner, claim.series]
    if claim.verb in ("begin", "hold"):
        news = news or News()
        words += [f"{claim.patience:g}", names(claim.voters)]
        words += [news.newest, names(news.at), news.enough]
    elif keep:
        words.append("keep")
    return " ".join(ndb.quote(str(word)) for word in words)


def image_line(id: str, epoch: int, number: int, node: str, age: float) -> str:
    return f"image {id} {epoch} {number} {node} {age:.3f}"


def whole(word: str, most: int = 1 << 60) -> int:
    """A number of a line; CloudError("bad")."""
    if not (word.isascii() and word.isdecimal()) or len(word) > 19 or int(word) > most:
        raise CloudError("bad", f"hold: {word[:30]!r} is no number")
    return int(word)


def listed(word: str, most: int) -> tuple[str, ...]:
    """The names of a word; CloudError("bad")."""
    found = () if word == "-" else tuple(word.split(","))
    if len(found) > most or not all(0 < len(name) <= 64 for name in found):
        raise CloudError("bad", f"hold: {word[:60]!r} are no names")
    return found


def seconds(word: str, least: float, most: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise CloudError("bad", f"hold: {word[:30]!r} are no seconds")
    return value


def split(args: Sequence[str]) -> tuple[str, int, str, int]:
    """id, epoch, owner and series, with which every claim begins."""
    id, epoch, owner, series = args[:4]
    if not ID.fullmatch(id) or not 0 < len(owner) <= 64:
        raise CloudError("bad", f"hold: {id[:32]!r} is no id")
    return id, whole(epoch, 1 << 40), owner, whole(series, 1 << 40)
