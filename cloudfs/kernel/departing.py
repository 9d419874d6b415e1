"""Objects that go to another node with their memory: the other half is arriving.py.

    here                                          there
    running → moving
      proc/place: object ID TOKEN … arrive    →   what it wants is held
      (proc/place: receive ID TOKEN NODE       →   reads its memory from here, while it runs)
      dump: it is frozen, and its image written to checkpoint/; meanwhile
      proc/place: fetch ID TOKEN NODE         →   reads the image from here as it is written
      keep a record: placed=NODE
      proc/place: revive ID TOKEN             →   restoring, running
    killed where it is frozen, gone from this table; `moved` says where

The line in brackets is for virtual machines without a disk: their memory is sent while they
run (stream.py), and the image is of the rest.

Never two that run.  What is here stays frozen from the dump to the end, so that until
`revive` is sent any fault means that it goes on here, at once and by no restore.  Once it
is sent there are the three ends that handover.py tells of: done; refused, and it goes on
here; no answer, and it is lost, frozen, until that node tells whether it runs there.

One that starts anew (`move -r`) goes the same way: it is frozen and never dumped, its image
has its output and a sandbox's own files, and over there its program starts.  That is told
as `restarted`, and never as moved.

Nothing of an image is synced to disk, here or there, so no disk is waited for while it is
frozen: after a power cut the frozen processes are gone as well, and no image is gone on from
that was not read whole by the daemon that restores it.  The record with `placed` is written
before `revive` is sent; that a daemon which is killed finds it takes no sync either.

A daemon that comes back finds one that was moving by its record: without `placed` it goes
on, with it it is one without an answer.

A machine that fails takes along what is frozen on it.  Without `placed` the object has then
ended ("its keeper died"), with it it is lost until the other node tells: there it goes on,
or it has ended everywhere, and `restore` brings it back from what it kept.  Where the other
machine fails after `revive` and before this node has heard of it, it goes on here.
"""

from __future__ import annotations

import copy
import dataclasses
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import images, placement, query
from cloudfs.kernel.arriving import first_of, line
from cloudfs.kernel.dumps import MARGIN, Dumps
from cloudfs.kernel.handover import UNSURE
from cloudfs.kernel.images import Manifest
from cloudfs.kernel.object import Object, new_id
from cloudfs.kernel.offer import lines_of, withdraw_line
from cloudfs.kernel.step import reached
from cloudfs.kernel.stream import Stream
from cloudfs.node.api import Exit, Running
from cloudfs.wait import Wait

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

OFFER, WITHDRAW = 3.0, 2.0  # seconds for these steps
CARRY, REVIVE = 3600.0, 180.0  # at most, for an image to be read, and to go on
QUIET = 15.0  # seconds after which a node that asks for no more of an image is given up
SAID = 5.0  # seconds for the reason why an image was given up
MOST_COPIES = 64


class Departures(Dumps):
    """Those of one node's objects that go elsewhere with their memory."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        self._scopes: dict[str, trio.CancelScope] = {}  # of those whose image is carried

    # --- verbs ------------------------------------------------------------------------

    def move(self, made: Object, words: Sequence[str], anew: bool = False) -> Wait[None]:
        """Have it go on at a node, or at the best that meets expressions.  anew: where it
        cannot with its memory, have its program start anew there."""
        self._need_others(made, words, anew=anew)
        self._objects.become(made, "move")
        return self._task(made, self._move_or_restart if anew else self._move, made, list(words))

    def copy(self, made: Object, words: Sequence[str]) -> Wait[None]:
        """Have as many copies go on elsewhere, each a new object of its own."""
        count = 1
        if len(words) > 1 and words[-1].isascii() and words[-1].isdigit():
            *words, last = words
            count = int(last)
        if not 1 <= count <= MOST_COPIES:
            raise CloudError("bad", f"copy: 1 to {MOST_COPIES} copies at a time")
        self._need_others(made, words)
        self._objects.become(made, "move")
        return self._task(made, self._copy, made, list(words), count)

    def interrupt(self, made: Object) -> None:
        """Give up a move of it as long as no node was told to let it go on."""
        if made.id in self._scopes:
            self._scopes[made.id].cancel()

    def _need_others(self, made: Object, words: Sequence[str], anew: bool = False) -> None:
        objects = self._objects
        if objects.handover is None:
            raise CloudError("unsupported", "this node is in no cloud", "see: cloudfs join --help")
        word = objects.host.images_word(made.runtime)
        if word and not anew:
            raise CloudError("unsupported", word)
        node = _node(words)
        if node == objects.node:
            raise CloudError("exists", f"it is on node {node} already")
        if node and not objects.handover.knows(node):
            raise placement.unknown(node)

    # --- the exchange -----------------------------------------------------------------

    async def _choose(self, made: Object, words: list[str], copy: bool = False) -> list[str]:
        """Nodes that may take it, best first.  copy: they are asked when its image is made."""
        objects, handover = self._objects, self._objects.handover
        assert handover is not None
        node = _node(words)
        wish = dataclasses.replace(made.wish(), on=node)
        if not node:
            terms = tuple(map(query.parse, words))
            wants = [term for term in terms if term.op != "sort"]
            sorts = [term for term in terms if term.op == "sort"]
            wish = dataclasses.replace(
                wish, require=(*wish.require, *wants), prefer=(*sorts, *wish.prefer)
            )
        try:
            nodes = await handover.nodes(wish, ask=not copy)
            nodes.pop(objects.node, None)
            return placement.order(wish, nodes, objects.node)[:8]
        except CloudError as error:  # of a word that nobody wrote here
            raise CloudError(error.kind, error.why.removeprefix("on: "), error.fix) from None

    async def _move_or_restart(self, made: Object, words: list[str]) -> None:
        """Move it; where that fails since it cannot be dumped, or no image be restored, do
        the same once more with its files alone."""
        word = self._objects.host.images_word(made.runtime)
        error = CloudError("unsupported", word)
        if not word or made.runtime == "vm":
            try:
                await self._move(made, words, again=True)
                return
            except CloudError as found:
                final = made.state != "running" or made.runtime == "vm"
                if found.kind != "unsupported" or final:
                    raise
                error = found
            self._objects.become(made, "move")
        await self._move(made, words, error.why or error.text)

    async def _move(
        self, made: Object, words: list[str], why: str = "", again: bool = False
    ) -> None:
        """why: why it starts anew there, "" for one that goes on.  again: whether another
        offer may follow one that fails."""
        handover, running = self._objects.handover, made.running
        assert handover is not None
        assert running is not None
        folder = made.home / "checkpoint" / images.MOVING
        refusals: list[tuple[str, CloudError]] = []
        node = ""
        try:
            await self._objects.guards.pause(made)
            for node in await self._choose(made, words):
                try:
                    await self._offer(made, node, anew=bool(why))
                    break
                except CloudError as error:
                    refusals.append((node, error))
            else:
                raise _refused(refusals)
            reached(self._objects.node, "offered")
            with trio.CancelScope() as self._scopes[made.id]:
                if running.streams and not why:
                    await self._live(made, running, node, folder)
                carry = partial(self._carry, made, made, node)
                await self._image(made, running, folder, carry, anew=bool(why))
            if self._scopes.pop(made.id).cancelled_caught:
                raise CloudError("interrupted", "it was killed while it moved")
        except BaseException as error:
            self._scopes.pop(made.id, None)
            why = str(error) if isinstance(error, CloudError) else ""
            self.stay(made, why)
            if made.offer and node:
                back = (made, node, withdraw_line(made))
                if again and isinstance(error, CloudError):
                    await handover.take_back(*back)
                else:
                    self._objects.spawn(handover.take_back, *back)
            images.remove(folder)
            raise
        try:
            await self._commit(made, node, why)
        finally:
            images.remove(folder)

    async def _offer(self, made: Object, node: str, anew: bool = False) -> None:
        made.offer = new_id()
        self._objects.keep(made)
        reached(self._objects.node, "offer")
        await self._write(made, node, "\n".join(_lines(made, node, anew)), OFFER)

    async def _image(
        self,
        made: Object,
        running: Running,
        folder: Path,
        carry: Callable[[], Awaitable[None]] | None = None,
        anew: bool = False,
    ) -> None:
        """An image of it with its output so far, to be read by another node; carry: to do so
        from the beginning of the dump on.  anew: see _dump."""
        await self._room(made, folder)
        failed: list[CloudError] = []
        over = trio.Event()
        make = partial(self._make, made, running, folder, anew)

        async def tried(work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
            try:
                await work()
            except CloudError as error:
                if work is not make and error.kind == "absent":
                    # What cannot be made is removed before it is said why.
                    with trio.move_on_after(SAID):
                        await over.wait()
                failed.append(error)
                scope.cancel()
            finally:
                if work is make:
                    over.set()

        try:
            async with trio.open_nursery() as nursery:
                if carry is not None:
                    nursery.start_soon(tried, carry, nursery.cancel_scope)
                nursery.start_soon(tried, make, nursery.cancel_scope)
        except ExceptionGroup as group:  # of what failed while it was cut off
            fault = first_of(group)
            if not isinstance(fault, CloudError):
                raise
            failed.append(fault)
        if failed:
            raise failed[0]

    async def _make(self, made: Object, running: Running, folder: Path, anew: bool) -> None:
        manifest = await self._dump(made, running, folder, anew)
        for name in images.STREAMS:
            if (made.home / name).exists():
                (folder / name).hardlink_to(made.home / name)
                manifest.dropped[name] = self._objects.dropped(made, name)
        images.describe(folder, manifest)
        made.bell.ring()
        reached(self._objects.node, "dumped")

    async def _live(self, made: Object, running: Running, node: str, folder: Path) -> None:
        """Send its memory while it runs; it stands still at the end, there as here."""
        await trio.to_thread.run_sync(images.fresh, folder, MARGIN)
        ours, theirs = socket.socketpair()
        stream = made.stream = Stream(ours)
        described = trio.Event()

        def ready() -> None:
            ran = max(0.0, time.time() - made.started)
            manifest = Manifest(made.argv, made.runtime, ran, made.created, {})
            images.describe(folder, manifest)
            described.set()

        async def carry() -> None:
            await described.wait()
            await self._carry(made, made, node, "receive")

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry)
                await running.send(folder, theirs.detach(), ready)
        except ExceptionGroup as group:
            raise first_of(group) from None
        finally:
            made.stream = None
            stream.close()
            theirs.close()

    async def _carry(self, made: Object, of: Object, node: str, verb: str = "fetch") -> None:
        """Have a node read the image, for as long as it goes on reading."""
        of.fetched = trio.current_time()
        more = () if made is of else (of.id,)
        text = line(verb, made, self._objects.node, *more)
        errors = [CloudError("timeout", f"node {node} has stopped reading its image")]

        async def read(scope: trio.CancelScope) -> None:
            try:
                await self._write(made, node, text, CARRY)
                errors.clear()
            except CloudError as error:
                errors[0] = error
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, nursery.cancel_scope)
            nursery.start_soon(_until_quiet, of, nursery.cancel_scope)
        if errors:
            raise errors[0]

    async def _commit(self, made: Object, node: str, why: str) -> None:
        objects, handover = self._objects, self._objects.handover
        assert handover is not None
        reached(objects.node, "carried")
        made.placed = node
        objects.keep(made)  # before it is sent: a daemon that comes back must know of it
        reached(objects.node, "commit")
        try:
            still = made.running.still if made.running is not None else {}
            told = [f"{name}={seconds:.6f}" for name, seconds in still.items()]
            await self._write(made, node, line("revive", made, *told), REVIVE)
        except CloudError as error:
            if error.kind in UNSURE:
                handover.lose(made, f"node {node} was told to let it go on and has not answered")
                raise CloudError(
                    "timeout", made.why, "it is lost until that node is heard of"
                ) from None
            if not await handover.withdraw(made, node):
                self.stay(made, f"node {node}: {error.why or error.text}")
                raise CloudError(error.kind, f"node {node}: {error.why or error.text}", error.fix)
        reached(objects.node, "committed")
        event, more = ("restarted", {"why": why}) if why else ("moved", {})
        objects.events.add(event, id=made.id, user=made.user, app=made.app, to=node, **more)
        handover.gone(made, node)
        reached(objects.node, "gone")

    async def _write(self, made: Object, node: str, text: str, seconds: float) -> None:
        handover = self._objects.handover
        assert handover is not None
        await handover.write(node, made.user, text, seconds)

    async def _copy(self, made: Object, words: list[str], count: int) -> None:
        """Copies are objects without processes here, offered like others."""
        handover, running = self._objects.handover, made.running
        assert handover is not None
        assert running is not None
        folder = made.home / "checkpoint" / images.MOVING
        try:
            chosen = await self._choose(made, words, copy=True)
            await self._image(made, running, folder)
        finally:
            self.stay(made)
        try:
            for number in range(count):
                first = number % len(chosen)
                await self._one_copy_at(made, [*chosen[first:], *chosen[:first]])
        finally:
            images.remove(folder)

    async def _one_copy_at(self, made: Object, nodes: Sequence[str]) -> None:
        """A copy at the first of these nodes that has room: where another of the same image runs
        in a sandbox, its uids are taken."""
        for node in nodes[:-1]:
            try:
                return await self._one_copy(made, node)
            except CloudError as error:
                if error.kind != "full":
                    raise
        await self._one_copy(made, nodes[-1])

    async def _one_copy(self, made: Object, node: str) -> None:
        twin = Object.from_record(new_id(), made.to_record(), 0, made.home)
        twin.offer, twin.placed = new_id(), ""
        await self._write(twin, node, "\n".join(_lines(twin, node)), OFFER)
        try:
            await self._carry(twin, made, node)
            await self._write(twin, node, line("revive", twin), REVIVE)
        except BaseException:
            handover = self._objects.handover
            assert handover is not None
            self._objects.spawn(handover.take_back, twin, node, withdraw_line(twin))
            raise
        made.events.add("copied", id=twin.id, node=node)
        self._objects.keep(made)

    # --- after a restart --------------------------------------------------------------

    async def find(self, made: Object) -> None:
        """One that was moving or checkpointing when an earlier daemon ended."""
        objects = self._objects
        for one in images.unfinished(made.home):
            while objects.host.dumping(one):  # noqa: ASYNC110
                await trio.sleep(0.1)  # what is at it would freeze it once more
        found = objects.host.adopt(made.id, made.home)
        if made.placed and (found is None or isinstance(found, Exit)):
            self._seek(made)  # frozen it ended with this machine: only there it may go on
        elif isinstance(found, Exit):
            await objects.ended(made, found)
        elif found is None:
            made.why = "the node was restarted"
            objects.become(made, "lose", why=made.why)
        else:
            made.running, made.started = found, found.started
            objects.spawn(objects.watch, made)
            if made.placed:
                self._seek(made)
            else:
                self.stay(made, "this node was restarted")
        await trio.to_thread.run_sync(images.clear, made.home)

    def _seek(self, made: Object) -> None:
        """Ask the node that an earlier daemon had told to let it go on."""
        handover = self._objects.handover
        assert handover is not None
        if made.state == "lost":
            handover.seek(made)
        else:
            why = f"node {made.placed} was told to let it go on, and this one was restarted"
            handover.lose(made, why)


def _lines(made: Object, node: str, anew: bool = False) -> list[str]:
    """The lines that offer it to a node, be it on another by an earlier wish."""
    there = copy.copy(made)
    there.on = node if made.on else ""
    *lines, _ = lines_of(there)
    return [*lines, "arrive anew" if anew else "arrive"]


async def _until_quiet(made: Object, scope: trio.CancelScope) -> None:
    while (left := made.fetched + QUIET - trio.current_time()) > 0:  # noqa: ASYNC110
        await trio.sleep(left)
    scope.cancel()


def _node(words: Sequence[str]) -> str:
    """The node that is named, "" where expressions are given."""
    return words[0] if len(words) == 1 and not set(words[0]) & set("=<>!") else ""


def _refused(refusals: list[tuple[str, CloudError]]) -> CloudError:
    said = ", ".join(f"{node}: {error.why or error.text}" for node, error in refusals)
    kinds = {error.kind for _, error in refusals}
    fix = refusals[0][1].fix if len(refusals) == 1 else ""
    return CloudError(kinds.pop() if len(kinds) == 1 else "unreachable", said, fix)
