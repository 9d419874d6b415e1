"""Handing a new object over to the node that is to run it.

    here                                      the other node
    new → placing
      candidates, best first (placement.py)
      proc/place: object ID TOKEN … hold →    new, with what it wants held (offer.py)
      keep a record: placed=NODE
      proc/place: begin ID TOKEN CMD …   →    starting, running
    gone from this table; `moved` says where

Never two copies.  Until begin is sent any fault only means that the next candidate is
asked; what was held there goes by itself.  Once it is sent there are three ends:

- done: the object is that node's.
- refused, by an error of that node: nothing runs there, the object is new again here.
- no answer (an error of a kind in `UNSURE`): the object is lost here, and is never run
  elsewhere.  Here `seek` asks that node to withdraw the object, until it answers: what
  it withdrew, or does not know, can no more begin there, and is new again here; what
  began there is that node's.

A daemon that comes back finds an object whose begin may have been sent by its record,
and treats it as one without an answer.  Each offer has a token of its own, so that a
begin that comes late cannot meet a later offer of the same object to the same node.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import placement
from cloudfs.kernel.moved import Moved, group, told_by
from cloudfs.kernel.object import Object, new_id
from cloudfs.kernel.offer import begin_line, lines_of, withdraw_line
from cloudfs.kernel.pieces import Way
from cloudfs.kernel.placement import Attributes, Wish
from cloudfs.kernel.reserve import wanted
from cloudfs.kernel.sent import Sent
from cloudfs.kernel.verbs import LASTING, act
from cloudfs.node.api import DIED, Running
from cloudfs.wait import Wait, settle
from cloudfs.who import Who

if TYPE_CHECKING:
    from cloudfs.kernel.objects import Objects

log = logging.getLogger(__name__)

ASK, OFFER, COMMIT, WITHDRAW = 2.0, 3.0, 10.0, 2.0  # seconds for each step
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # seconds between two questions of `seek`
LATE = 3600.0  # seconds for which one stays new of which it was long unknown that it is
MOST = 8  # candidates that are asked
LINE, LONG = 10.0, 3600.0  # seconds for a line of ctl to be done elsewhere
HOPS = 8  # nodes that are asked for an object one after the other

# Kinds of error after which nobody knows whether a write was done: those that say that
# no answer came, and those that a node's answer may share with them.
UNSURE = frozenset({"timeout", "unreachable", "pipe", "stale", "interrupted", "proto", "io"})

# States in which an object surely has begun on the node that tells of it.
BEGUN = frozenset({"running", "stopped", "checkpointing", "moving", "exited"})


class Reach(Protocol):
    """The tree of another node, as one user."""

    async def read(self, path: str) -> bytes:
        """All of a file.  Raises as `write`."""

    async def write(self, path: str, text: str) -> None:
        """Write a file of that node's own directory ("proc/place") by one open, its
        lines in order, with one close.  Raises that node's own error as CloudError, its
        kind, why and fix kept; where no answer came one of a kind in `UNSURE`.  May be
        cancelled, which is a write without an answer."""

    def bulk(self, folder: str) -> AbstractAsyncContextManager[Way]:
        """A way on which many files of one of its directories can be read; see
        tree/imports.py."""


class Cloud(Protocol):
    """What the kernel needs of the other nodes."""

    def knows(self, node: str) -> bool:
        """False only where there is surely no such node."""

    def heard_of(self, node: str) -> bool:
        """Whether anybody told of such a node so far."""

    async def candidates(self, wish: Wish) -> Mapping[str, Attributes]:
        """Nodes that may do, each with its attributes and their `age` in seconds.  Those
        that are not alive are left out.  This node may be in it or not."""

    def reach(self, node: str, user: str, seconds: float) -> Reach:
        """The own tree of a node, to work on as that user, with so long for each step."""


class Handover:
    """The objects of one node that go to others."""

    def __init__(self, objects: Objects, cloud: Cloud) -> None:
        self.moved = Moved(objects.records)
        self.sent = Sent()
        self._objects = objects
        self.cloud = cloud
        self._trying: dict[str, str] = {}  # id → node, of objects that are placed now
        self._scopes: dict[str, trio.CancelScope] = {}  # of those not yet committed

    def knows(self, node: str) -> bool:
        return self.cloud.knows(node)

    # --- from new to running, here or elsewhere ------------------------------------------

    def place(self, made: Object, argv: list[str]) -> Wait[None]:
        """Run argv as a new object's program, here or elsewhere; as Objects.execute."""
        objects = self._objects
        if placement.stays(made.wish(), objects.attributes()):
            return objects.launch(made, argv, "exec")
        objects.become(made, "place")
        done = trio.Event()
        failed = [CloudError("again", "this node is stopping", "try again")]
        objects.spawn(self._in_task, made, argv, failed, done)

        async def run() -> None:
            await done.wait()
            if failed:
                raise failed[0]

        return Wait(run)

    async def _in_task(
        self, made: Object, argv: list[str], failed: list[CloudError], done: trio.Event
    ) -> None:
        # Who asked may be flushed, the placing goes on, as a start does.
        objects = self._objects
        try:
            await self._place(made, argv)
            failed.clear()
        except Exception as fault:
            error = fault if isinstance(fault, CloudError) else CloudError("io", str(fault))
            if error is not fault:
                log.exception("object %s cannot be placed", made.id)
            failed[0] = error
            if made.state == "placing":
                self._again_new(made, error.why, objects.bounds.fresh_seconds)
        finally:
            self._trying.pop(made.id, None)
            done.set()

    def _again_new(self, made: Object, why: str, seconds: float) -> None:
        """It runs nowhere: for so long another exec may come.  Or it is frozen here, and
        goes on; or it was, and has ended with this machine."""
        objects = self._objects
        if made.running is not None:
            objects.departures.stay(made, why)
            return
        if made.state == "lost" and made.started:
            made.placed, made.why = "", f"{why}, and what was here of it has ended"
            made.events.add("lost", why=made.why)
            objects.keep(made)
            return
        made.placed, made.why, made.argv = "", why, []
        objects.become(made, "refused", why=why)
        objects.spawn(objects.go_unused, made, trio.current_time() + seconds)

    async def _place(self, made: Object, argv: list[str]) -> None:
        objects = self._objects
        with trio.CancelScope() as scope:
            self._scopes[made.id] = scope
            try:
                node = await self._find(made)
            finally:
                del self._scopes[made.id]
        if scope.cancelled_caught:
            raise CloudError("interrupted", made.asked or "killed while it was placed")
        if node == objects.node:
            await objects.launch(made, argv, "exec").run()
        else:
            await self._commit(made, argv, node)

    async def _find(self, made: Object) -> str:
        """The first node that holds what the object wants."""
        objects, wish = self._objects, made.wish()
        nodes = await self.nodes(wish)
        cpus = {name: placement.cpus_of(has) for name, has in nodes.items()}
        sent = self.sent.shares(cpus, trio.current_time())
        chosen = placement.order(wish, nodes, objects.node, self._siblings(made), sent)
        refusals: list[tuple[str, CloudError]] = []
        for node in chosen[:MOST]:
            self._trying[made.id] = node
            try:
                await self._offer(made, node)
            except CloudError as error:
                refusals.append((node, error))
            else:
                self.sent.note(node, wish.want.cores, trio.current_time())
                return node
        said = ", ".join(f"{node}: {error.why or error.text}" for node, error in refusals)
        kinds = {error.kind for _, error in refusals}
        kind = kinds.pop() if len(kinds) == 1 else "unreachable"
        fix = refusals[0][1].fix if len(refusals) == 1 else ""
        raise CloudError(kind, f"no node took it: {said}", fix)

    async def nodes(self, wish: Wish, ask: bool = True) -> dict[str, Attributes]:
        """The nodes that are heard of, and this one.  ask: whether one that is named is asked
        next what it takes."""
        objects = self._objects
        nodes: dict[str, Attributes] = {}
        with trio.move_on_after(ASK):
            try:
                nodes.update(await self.cloud.candidates(wish))
            except CloudError as error:
                log.warning("no candidates for %s: %s", wish.id, error)
        nodes[objects.node] = {**nodes.get(objects.node, {}), **objects.attributes()}
        if wish.on and wish.on not in nodes and self.knows(wish.on):
            if not self.cloud.heard_of(wish.on):
                why = f"on: no node {wish.on[:64]!r} was found"
                raise CloudError("unreachable", why, "see: ls /cloud/nodes")
            fix = f"see: cat /cloud/nodes/{wish.on}/status"
            raise CloudError("unreachable", f"on: node {wish.on} does not answer", fix)
        there = nodes.get(wish.on, {})
        if ask and there.get("state") == "drained" and wish.on != objects.node:
            # That may be over, which others hear of later: who is named is asked itself.
            nodes[wish.on] = {**there, "state": "alive"}
        return nodes

    def _siblings(self, made: Object) -> list[str]:
        """The nodes of those that spread alike, as far as this node knows: those it
        placed, and its own."""
        if not made.spread:
            return []
        objects, key = self._objects, group(made)
        view = objects.index["app" if made.app else "user"].get(made.app or made.user, {})
        where = [
            self._trying.get(other.id) or other.placed or objects.node
            for other in view.values()
            if other is not made
            and group(other) == key
            and (other.state in ("starting", "running", "stopped") or other.id in self._trying)
        ]
        return [*where, *self.moved.of_group(key)]

    async def _offer(self, made: Object, node: str) -> None:
        """Have a node hold what the object wants."""
        objects = self._objects
        if node == objects.node:
            objects.runtime_for(made)
            objects.reserve.hold(made.id, wanted(made.limits))
            return
        made.offer = new_id()
        text, back = "\n".join(lines_of(made)), withdraw_line(made)
        try:
            await self.write(node, made.user, text, OFFER)
        except CloudError as error:
            if error.kind in UNSURE:  # it may hold
                objects.spawn(self.take_back, made, node, back)
            raise
        except trio.Cancelled:
            objects.spawn(self.take_back, made, node, back)
            raise

    async def _commit(self, made: Object, argv: list[str], node: str) -> None:
        objects = self._objects
        made.placed, made.argv = node, argv
        objects.keep(made)  # before it is sent: a daemon that comes back must know of it
        try:
            await self.write(node, made.user, begin_line(made, argv), COMMIT)
        except CloudError as error:
            if error.kind in UNSURE:
                self.lose(made, f"node {node} was told to run it and has not answered")
                raise CloudError(
                    "timeout", made.why, "it is lost until that node is heard of"
                ) from None
            # Before it is new here: a second exec may choose that node again.
            if not await self.withdraw(made, node):
                raise CloudError(error.kind, f"node {node}: {error.why or error.text}", error.fix)
        self.gone(made, node)

    async def write(
        self, node: str, user: str, text: str, seconds: float, path: str = "proc/place"
    ) -> None:
        """A write to a file there, or a CloudError, of a kind in UNSURE if it may be no
        answer of that node."""
        try:
            with trio.fail_after(seconds):
                await self.cloud.reach(node, user, seconds).write(path, text + "\n")
        except trio.TooSlowError:
            raise CloudError("timeout", f"node {node} does not answer") from None
        except CloudError:
            raise
        except Exception as fault:
            log.warning("write to node %s: %r", node, fault)
            raise CloudError("pipe", f"node {node}: {fault}") from None

    # --- where it went ------------------------------------------------------------------------

    def gone(self, made: Object, node: str) -> None:
        """The object is another node's."""
        self.moved.add(made, node)
        made.events.add("placed", node=node)
        self._objects.events.add("placed", id=made.id, user=made.user, app=made.app, node=node)
        running, made.running = made.running, None
        self._objects.leave(made)
        self._objects.spawn(self._clear, made, running)

    async def _clear(self, made: Object, running: Running | None) -> None:
        """Kill what is still frozen here of one that goes on elsewhere, and remove what it
        has left."""
        if running is not None:
            with contextlib.suppress(CloudError):
                running.kill("moved")
            await running.ended()
        await trio.to_thread.run_sync(self._objects.remove_home, made.id, made.home)

    def speaks(self, node: str, id: str, told: Mapping[str, str]) -> None:
        """A node told of this object, which may be lost here.  If it has begun there it is
        that node's; while it is about to, or where its machine failed, `seek` finds out."""
        made = self._objects.all.get(id)
        failed = told.get("state") == "exited" and told.get("why") == DIED
        begun = told.get("state") in BEGUN and not failed
        if begun and made is not None and made.state == "lost" and made.placed == node:
            self.gone(made, node)

    def lose(self, made: Object, why: str) -> None:
        """Its node was told to run it, and nobody knows whether it does."""
        made.why = why
        self._objects.become(made, "lose", why=why)
        self.seek(made)

    def seek(self, made: Object) -> None:
        """Ask the node that was told to run it, until it answers."""
        self._objects.spawn(self._seek, made)

    async def _seek(self, made: Object) -> None:
        node = made.placed
        pause = FIRST_PAUSE
        while made.state == "lost" and made.placed:
            began = await self.withdraw(made, node)
            if made.state != "lost" or not made.placed:
                return
            if began:
                self.gone(made, node)
            elif began is False:
                self._again_new(made, f"node {node} does not run it", LATE)
            else:
                with trio.move_on_after(pause):
                    while made.state == "lost":
                        await made.bell.wait()
                pause = min(LAST_PAUSE, pause * 2)

    async def withdraw(self, made: Object, node: str) -> bool | None:
        """Whether the object began on that node; if False it never will.  None: unknown."""
        try:
            await self.write(node, made.user, withdraw_line(made), WITHDRAW)
        except CloudError as error:
            return True if error.kind == "busy" else None
        return False

    async def take_back(self, made: Object, node: str, line: str) -> None:
        """Try to spare a node a hold that goes by itself."""
        with contextlib.suppress(CloudError):
            await self.write(node, made.user, line, WITHDRAW)

    # --- verbs while it is placed, and after ----------------------------------------------------

    def pass_on(self, made: Object, line: str, who: Who) -> Wait[None]:
        """Have the node that has an object now do a line written to the ctl that it had
        here, wherever it went on from the node that took it."""
        return Wait(partial(self._pass_on, made, line, who))

    async def _pass_on(self, made: Object, line: str, who: Who) -> None:
        node = self.moved.get(made.id) or ""
        error = CloudError("stale", f"object {made.id} is on another node", "open it again")
        seconds = LONG if line.split(maxsplit=1)[0] in LASTING else LINE
        for _ in range(HOPS):
            if node == self._objects.node or not node:
                break
            try:
                return await self.write(node, who.user, line, seconds, f"proc/{made.id}/ctl")
            except CloudError as said:
                error = said
                if error.kind in ("unreachable", "timeout"):
                    error.why = f"object {made.id} is on node {node} now: {error.why}"
                    error.fix = error.fix or "try again"
                node = told_by(error)
        here = self._objects.all.get(made.id)
        if node != self._objects.node or here is None or here.user != made.user:
            raise error
        return await settle(act(self._objects, here, line, who))

    def kill(self, made: Object, why: str, who: Who) -> Wait[None]:
        """End an object that is placing: at once as long as no node was told to run it,
        else as soon as that node has answered, wherever it runs then."""
        made.asked = why
        scope = self._scopes.get(made.id)
        if scope is not None:
            scope.cancel()

        async def run() -> None:
            while made.state in ("placing", "starting"):
                await made.bell.wait()
            if self.moved.get(made.id):
                await self._pass_on(made, "kill", who)
            if made.state == "lost" and made.placed:
                raise CloudError("busy", made.why, "kill it there when that node answers")
            if made.state in ("new", "running", "stopped"):
                await settle(self._objects.kill(made, why))

        return Wait(run)
