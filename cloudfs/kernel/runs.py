"""Conducts verbs through groups of objects (groups.py): the driver, and what outlives it.

Each item is a write to its object's ctl as the caller made it, wherever the object runs, so
what an object allows and refuses is the same as for one.  Whoever asked may be cut off, the
run goes on.  A daemon that comes back shows what was done as far as it knew, and can undo
that; it does not go on by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import lifecycle, placement
from cloudfs.kernel.groups import Item, Member, Run, back, item_record, named, plan, read
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.verbs import LASTING, OBJECT
from cloudfs.wait import Wait
from cloudfs.who import Who

log = logging.getLogger(__name__)

LINE, LONG = 10.0, 3600.0  # seconds for a verb of one object, and for one that takes memory along
PAUSES = 1.0, 2.0, 4.0  # seconds before an undo tries again what no node would take
PASS = 30.0  # seconds for an object that starts or moves just now to come to rest
MOST_RUNS = 16  # at a time on one node
KEPT = 64  # runs that are remembered, those under way among them


class Reach(Protocol):
    """The objects of the whole cloud, as one caller."""

    async def write(self, id: str, line: str, who: Who, seconds: float) -> None:
        """Write a line to an object's ctl, wherever it runs."""

    async def where(self, id: str, who: Who) -> str:
        """The node that an object is on now, "" if nobody tells."""


class Runs:
    """The runs of one node, by group.  reach is given once there is a tree."""

    def __init__(self, objects: Objects) -> None:
        self.reach: Reach | None = None
        self.all: dict[str, Run] = {}
        self._objects = objects
        self._records = objects.records
        self._load()

    # --- what callers do ----------------------------------------------------------------

    def begin(
        self,
        group: str,
        line: str,
        members: Sequence[Member],
        who: Who,
        nodes: Callable[[], dict[str, dict[str, object]]] = dict,
        shown: str = "",
        keep: bool = False,
    ) -> Run | None:
        """Begin to have a line done by these objects; None for an empty one.

        shown: what stands in progress for the verb, for one of a node.  nodes(): their
        attributes.  Raises CloudError, and nothing has begun, where no object would take
        the line, where the group is busy, or where there are too many runs.
        """
        found = read(OBJECT, line)
        if found is None:
            return None
        verb, args, goes_on = found
        node = named(args) if verb.name in ("move", "copy") else ""
        handover = self._objects.handover
        if node and handover is not None and not handover.knows(node):
            raise placement.unknown(node)
        keep = keep or goes_on
        items = plan(verb, args, members, nodes(), keep, verb.name in LASTING)
        return self._begin(group, shown or _shown(verb.name, args), items, who, keep)

    def drain(self, who: Who) -> Run | None:
        """Begin to move all that lives here to other nodes, each to where it fits best; None
        where nothing does."""
        here = self._objects.node
        members = [
            Member(made.id, here, made.state, made.app, tuple(made.after))
            for made in self._objects.all.values()
            if made.state in lifecycle.ALIVE
        ]
        if not members:
            return None
        line = f"move {ndb.quote(f'node!={here}')}"
        return self.begin(f"nodes/{here}", line, members, who, shown="drain", keep=True)

    def can_undo(self, group: str) -> bool:
        """Whether its last run is one of moves that goes on, or has moved anything."""
        run = self.all.get(group)
        return run is not None and run.moves and (self.goes_on(group) or bool(back(run)))

    def undo(self, group: str, who: Who) -> Run:
        """Begin to bring back what the last run of a group has moved."""
        run = self._need(group, who)
        if self.goes_on(group):
            raise _busy(run)
        if not run.moves:
            raise CloudError(
                "unsupported",
                f"undo: the last verb of {group} was {run.verb.split()[0]}",
                "only what was moved can be brought back",
            )
        items = back(run)
        if not items:
            raise CloudError("absent", f"undo: {run.verb} has moved nothing", "see: cat progress")
        return self._begin(group, "undo", items, who, keep=True)

    def goes_on(self, group: str) -> bool:
        """Whether something is under way there."""
        run = self.all.get(group)
        return run is not None and run.state == "running"

    def cancel(self, group: str, who: Who) -> None:
        """Begin nothing more of the run that is under way."""
        run = self._need(group, who)
        if run.state != "running":
            raise CloudError("absent", f"cancel: nothing is under way in {group}")
        run.cancel(f"given up by {who.user}")

    def ended(self, run: Run) -> Wait[None]:
        """Until it is over; raises CloudError unless it was done."""

        async def wait() -> None:
            while run.state == "running":
                await run.bell.wait()
            if run.state != "done":
                count = run.count()
                text = f"{count['failed']} of {len(run.items)} failed, {count['left']} were left"
                raise CloudError(
                    run.kind,
                    f"{text}: {run.why}",
                    f"see: cat /cloud/{run.group}/progress",
                )

        return Wait(wait)

    def text(self, group: str) -> str:
        """What a group's file progress has."""
        run = self.all.get(group)
        return run.text(self._now()) if run else ""

    def follow(self, group: str) -> Callable[[], Awaitable[bytes | None]]:
        """Gives the records of the run that is under way, or was last, as they change, each
        time it is called, until it is over, and its own line then."""
        run = self.all.get(group)
        number, over = 0, run is None

        async def more() -> bytes | None:
            nonlocal number, over
            if over or run is None:
                return None
            while run.state == "running" and number >= len(run.changes):
                await run.bell.wait()
            now = self._now()
            ids = dict.fromkeys(run.changes[number:])
            number = len(run.changes)
            text = "".join(run.items[id].record(now) for id in ids)
            if run.state != "running":
                over, text = True, text + run.line(now)
            return text.encode()

        return more

    # --- runs ---------------------------------------------------------------------------

    def _need(self, group: str, who: Who) -> Run:
        run = self.all.get(group)
        if run is None:
            raise CloudError("absent", f"nothing was done to {group} as a whole")
        if run.user != who.user and not who.boss:
            raise CloudError("denied", f"what was done to {group} was done by {run.user}")
        return run

    def _begin(self, group: str, verb: str, items: Sequence[Item], who: Who, keep: bool) -> Run:
        self._objects.need_nursery()
        if self.goes_on(group):
            raise _busy(self.all[group])
        if sum(run.state == "running" for run in self.all.values()) >= MOST_RUNS:
            raise CloudError("toomany", f"{MOST_RUNS} groups are being worked on already", "wait")
        self._forget(group)
        while len(self.all) >= KEPT:
            self._forget(next(name for name, run in self.all.items() if run.state != "running"))
        run = self.all[group] = Run(group, verb, who.user, items, keep, time.time())
        run.since = self._now()
        self._keep(run, *run.items.values())
        self._objects.events.add("group", group=group, verb=verb, user=who.user, total=len(items))
        self._objects.spawn(self._conduct, run, who)
        return run

    def _forget(self, group: str) -> None:
        if self.all.pop(group, None) is not None:
            self._records.drop_run(group)

    def _keep(self, run: Run, *items: Item) -> None:
        rows = [("", run.to_record()), *((item.id, item_record(item)) for item in items)]
        self._records.put_run(run.group, rows)

    def _load(self) -> None:
        found: dict[str, tuple[dict[str, object], list[Item]]] = {}
        for group, id, record in self._records.all_runs():
            head, items = found.setdefault(group, ({}, []))
            if id:
                items.append(Item(**record))
            else:
                head |= record
        for group, (head, items) in found.items():
            if not head:
                continue
            run = self.all[group] = Run.from_record(head, items)
            if run.state == "running":
                run.interrupt("this node was restarted")
                self._keep(run, *items)

    async def _conduct(self, run: Run, who: Who) -> None:
        try:
            await self._work(run, who)
        except Exception as fault:
            run.interrupt(str(fault))  # or nobody could begin another
            run.bell.ring()
            raise

    async def _work(self, run: Run, who: Who) -> None:
        async with trio.open_nursery() as nursery:
            while run.state == "running":
                for item in run.take(self._now()):
                    self._keep(run, item)
                    nursery.start_soon(self._one, run, item, who)
                if run.state == "running":
                    await run.bell.wait()
        self._keep(run, *run.items.values())
        count = run.count()
        self._objects.events.add(
            "group", group=run.group, verb=run.verb, state=run.state, done=count["done"],
            failed=count["failed"], skipped=count["skipped"], left=count["left"], why=run.why,
        )  # fmt: skip

    async def _one(self, run: Run, item: Item, who: Who) -> None:
        state, why, target, kind = "failed", "", "", "io"
        try:
            state, why = await self._act(run, item, who)
            if run.moves and state == "done":
                target = await self._where(item.id, who)
        except CloudError as error:
            why, kind = error.why or error.text, error.kind
            if error.kind in ("timeout", "unreachable") and run.moves:
                target = await self._where(item.id, who)
        except Exception as fault:
            log.exception("%s of object %s", run.verb, item.id)
            why = str(fault)
        run.over(item, state, self._now(), why, target, kind)
        self._keep(run, item)

    async def _act(self, run: Run, item: Item, who: Who) -> tuple[str, str]:
        """Have one object do it; the state and why that come of it."""
        assert self.reach is not None
        verb = item.line.split(maxsplit=1)[0]
        if run.verb == "undo":
            node = await self._where(item.id, who)
            if item.line == f"move {node}":
                return "skipped", "it is there already"
            if item.expected and node and node != item.expected:
                return "skipped", f"it has gone on to {node}"
        if verb in LASTING:
            await self._at_rest(self._objects.all.get(item.id))
        for pause in PAUSES if run.verb == "undo" else ():
            try:
                await self._write(item, verb, who)
            except CloudError as error:
                if error.kind != "unreachable":
                    raise
                await trio.sleep(pause)  # not everybody has heard that its node is drained no more
            else:
                return "done", ""
        await self._write(item, verb, who)
        return "done", ""

    async def _write(self, item: Item, verb: str, who: Who) -> None:
        assert self.reach is not None
        seconds = LONG if verb in LASTING else LINE
        with trio.move_on_after(2 * seconds) as scope:  # for all steps together
            await self.reach.write(item.id, item.line, who, seconds)
        if scope.cancelled_caught:
            raise CloudError("timeout", f"{verb} took longer than {2 * seconds:g} s")

    async def _at_rest(self, made: Object | None) -> None:
        """One that is started or moved just now cannot be moved; soon it can."""
        with trio.move_on_after(PASS):
            while made is not None and made.state in lifecycle.PASSING:
                await made.bell.wait()

    async def _where(self, id: str, who: Who) -> str:
        assert self.reach is not None
        try:
            return await self.reach.where(id, who)
        except CloudError:
            return ""

    def _now(self) -> float:
        return trio.current_time()


def _shown(name: str, args: Sequence[str]) -> str:
    """A verb as anybody may see it: what is said to an object is its owner's business."""
    return " ".join([name, *args]) if name in LASTING else name


def _busy(run: Run) -> CloudError:
    count = run.count()
    over = len(run.items) - count["waiting"] - count["going"]
    return CloudError(
        "busy",
        f"{run.user} has {run.verb} done to {run.group}, {over} of {len(run.items)} are over",
        f"see {run.group}/progress, or give it up: echo cancel > /cloud/{run.group}/ctl",
    )
