"""All objects of this node: made, started, watched, restarted, found again, wiped."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cloudfs.config import Bounds
from cloudfs.errors import CloudError
from cloudfs.kernel import adoption, budget, lifecycle, placement, restarts, starting
from cloudfs.kernel.arriving import Arrivals
from cloudfs.kernel.bell import Log, first
from cloudfs.kernel.ceilings import Most
from cloudfs.kernel.departing import Departures
from cloudfs.kernel.failover import Failover
from cloudfs.kernel.guards import Guards
from cloudfs.kernel.handover import Cloud, Handover
from cloudfs.kernel.holding import Holding
from cloudfs.kernel.object import Object, add
from cloudfs.kernel.promises import Promises
from cloudfs.kernel.records import Records
from cloudfs.kernel.reserve import NOTHING, Reserve, wanted
from cloudfs.node.api import Exit, Host
from cloudfs.wait import Wait, settle, then
from cloudfs.who import Who

log = logging.getLogger(__name__)

VIEWS = ("user", "app", "state", "label")


class Objects:
    """The objects of one node.

    `attributes()` gives the node's own attributes for `require`; `cloud(id)` the
    directory that a sandbox shows at /cloud, or "".  `reserve` keeps what they hold of
    the machine.  With `others` objects may go to other nodes; without, none does.
    """

    def __init__(
        self,
        host: Host,
        records: Records,
        state: Path,
        node: str,
        owner: str,
        bounds: Bounds | None = None,
        events: Log | None = None,
        attributes: Callable[[], Mapping[str, object]] = dict,
        cloud: Callable[[str], str] = lambda id: "",
        reserve: Reserve | None = None,
        others: Cloud | None = None,
    ) -> None:
        self.host = host
        self.records = records
        self.node = node
        self.owner = owner
        self.bounds = bounds or Bounds()
        self.events = events or Log(1024)
        self.version = 0  # grows whenever an object comes or goes
        self.moves = 0  # grows whenever a view changes
        self.changed = time.time()  # when that was
        self.all: dict[str, Object] = {}
        self.index: dict[str, dict[str, dict[str, Object]]] = {view: {} for view in VIEWS}
        self.cloud = cloud
        self.changed_one: Callable[[Object], None] = lambda made: None  # told of every change
        self.attributes = attributes
        self.reserve = reserve or Reserve()
        self.most_for: Callable[[str], Most] = lambda user: Most()
        self.took_start: Callable[[str, float], None] = lambda runtime, seconds: None
        self.arrivals = Arrivals(self)
        self.departures = Departures(self)
        self.guards = Guards(self)  # of those that are to survive this node,
        self.holding = Holding(self, state / "kept")  # and what it keeps of others'
        self.failover = Failover(self)
        self.holding.found, self.holding.over = self.failover.look, self.guards.over
        self.handover: Handover | None = None
        if others is not None:
            self.join(others)
        self.home = state / "objects"
        self.promises = Promises(self.bounds)
        self._held: dict[str, int] = {}  # objects of each user
        self._numbers = 0
        self._nursery: trio.Nursery | None = None

    def join(self, others: Cloud) -> None:
        """From now on objects may go to other nodes.  To be called before `run`."""
        self.handover = Handover(self, others)

    # --- coming and going -----------------------------------------------------------

    def promise(self, who: Who, session: object, binds: list[str]) -> str:
        """A new id for `clone`.  The object is made when its owner first walks to it, so
        that reading every file of the tree makes none."""
        now = trio.current_time()
        self.promises.expire(now)
        self._need_room(who.user)
        return self.promises.make(who, session, binds, now)

    def _need_room(self, user: str) -> None:
        self.promises.need_room(user, self._held.get(user, 0))

    def take_in(self, made: Object, seconds: float) -> None:
        """Enter a new object that another node wants to run here (kernel/offer.py), and
        hold for it what it wants; it goes after that many seconds if no exec comes."""
        now = trio.current_time()
        self.need_new(made)
        self.runtime_for(made)
        self.reserve.expire(now)
        self.reserve.hold(made.id, wanted(made.limits), now + seconds)
        self.enter(made)
        made.events.add("new", user=made.user)
        self.spawn(self.go_unused, made, now + seconds)

    def need_new(self, made: Object) -> None:
        """Raise CloudError where an object of another node cannot come here."""
        known = made.id in self.all or made.id in self.promises or made.id in self.arrivals.all
        if known:
            raise CloudError("exists", f"there is an object {made.id} on {self.node} already")
        self.promises.expire(trio.current_time())
        self.need_nursery()
        self._need_room(made.user)
        made.guest = True
        if made.on not in ("", self.node):
            raise CloudError("refused", f"this is node {self.node}, and it wants {made.on}")
        self._check_here(made)

    def moved_to(self, id: str) -> str | None:
        """The node that took an object of this table, as long as that is remembered."""
        return self.handover.moved.get(id) if self.handover else None

    def get(self, id: str, who: Who) -> Object:
        """The object of that id as who may see it; CloudError("absent") if there is none."""
        found = self.all.get(id)
        if found is not None:
            return found
        promise = self.promises.take(id, who)
        if promise is None:
            raise CloudError("absent", f"there is no object {id[:32]}", "see: ls /cloud/proc")
        owner, session, binds, until = promise
        made = self.enter(Object(id, owner.user, self.next_number(), self.home / id))
        made.session, made.binds = session, binds
        made.events.add("new", user=owner.user)
        self.spawn(self.go_unused, made, until)
        return made

    def here(self, id: str) -> Object | None:
        """One that is in the table, or on its way here with its memory."""
        found = self.all.get(id)
        if found is None and id in self.arrivals.all:
            return self.arrivals.all[id].made
        return found

    def session_closed(self, session: object) -> None:
        """Whoever made objects in this session is gone: those without a program go too."""
        self.promises.session_closed(session)
        for made in list(self.index["state"].get("new", {}).values()):
            if made.session is session:
                self.leave(made)

    def wipe(self, made: Object) -> Wait[None]:
        """Remove an object that has no processes, with its output."""
        if made.state in lifecycle.ALIVE:
            raise CloudError("busy", f"object {made.id} is {made.state}", "kill it first")
        if made.placed and self.handover is not None:
            self.handover.moved.add(made, made.placed)  # it may yet be found there
        elif self.handover is not None:
            self.handover.moved.drop(made.id)  # it may have gone away and come back
        running, made.running = made.running, None  # frozen, where nobody knows of a move's end
        self.leave(made)

        async def run() -> None:
            if running is not None:
                running.kill("wiped")
                await running.ended()
            await trio.to_thread.run_sync(self.remove_home, made.id, made.home)

        return Wait(run)

    def remove_home(self, id: str, home: Path) -> None:
        self.host.discard(id, home)
        shutil.rmtree(home, ignore_errors=True)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def enter(self, made: Object) -> Object:
        self.all[made.id] = made
        self._held[made.user] = self._held.get(made.user, 0) + 1
        self.version += 1
        self.reindex(made)
        return made

    def leave(self, made: Object) -> None:
        if self.all.pop(made.id, None) is None:
            return
        self._held[made.user] -= 1
        if not self._held[made.user]:
            del self._held[made.user]
        self.version += 1
        self.reserve.release(made.id)
        self.records.drop(made.id)
        self._move_keys(made, set())
        made.state, made.session = "gone", None
        made.bell.ring()
        self.changed_one(made)

    async def go_unused(self, made: Object, until: float) -> None:
        """Wait for exec, but not longer than `until`."""
        with trio.move_on_at(until):
            while made.state == "new":
                await made.bell.wait()
        if made.state == "new":
            self.leave(made)

    # --- views ----------------------------------------------------------------------

    def reindex(self, made: Object) -> None:
        """Put an object where the views want it; to be called after any change."""
        keys = {("user", made.user), ("state", made.state)}
        if made.app:
            keys.add(("app", made.app))
        keys |= {("label", f"{name}={value}") for name, value in made.labels.items()}
        if keys != made.keys:
            self._move_keys(made, keys)

    def _move_keys(self, made: Object, keys: set[tuple[str, str]]) -> None:
        self.moves += 1
        self.changed = time.time()
        new = ("state", "new")
        if new in keys and new not in made.keys:
            self.promises.fresh[made.user] += 1
        elif new in made.keys and new not in keys:
            self.promises.less(made.user)
        for view, value in made.keys - keys:
            group = self.index[view][value]
            del group[made.id]
            if not group:
                del self.index[view][value]
        for view, value in keys - made.keys:
            self.index[view].setdefault(value, {})[made.id] = made
        made.keys = keys

    # --- running ----------------------------------------------------------------------

    def execute(self, made: Object, argv: list[str]) -> Wait[None]:
        """Start argv as the object's program, on the node that fits best.  The Wait ends
        when it runs; it raises, and the object is as before, if it cannot."""
        lifecycle.after(made.state, "exec")
        if self.handover is not None and made.on != self.node and not made.guest:
            self.need_nursery()
            return self.handover.place(made, argv)
        if self.reserve.held(made.id) is None:  # what is held for it was checked then
            self._check_here(made)
        return self.launch(made, argv, "exec")

    def _check_here(self, made: Object) -> None:
        """Whether this node will do; room is told by the reserve itself."""
        wish = dataclasses.replace(made.wish(), want=NOTHING)
        if made.guest:
            wish = placement.told(wish)
        placement.order(wish, {self.node: self.attributes()}, self.node)

    def again(self, made: Object) -> Wait[None]:
        """Start the program of an object that ended once more; its output goes on."""
        lifecycle.after(made.state, "start")
        self.guards.need_free(made)
        if made.placed:
            raise CloudError(
                "busy",
                f"node {made.placed} was told to run it, and may still do so",
                "wait until that node answers, or wipe it and make another",
            )
        return self.launch(made, made.argv, "start")

    def runtime_for(self, made: Object) -> str:
        """The runtime it would have here; CloudError where it may not run: "refused", or
        "denied" or "full" by the node's ceilings or its budget."""
        most = self.most_for(made.user)
        most.check(made.limits)
        most.check_running(made.user, self._running(made))
        budget.need(made.limits, made.budget, self.attributes)
        runtime = made.runtime or self.host.default_runtime()
        if runtime == "process" and made.user != self.owner:
            raise CloudError(
                "refused",
                f"runtime process is for this node's owner {self.owner}, not for {made.user}",
                "use runtime sandbox",
            )
        return runtime

    def _running(self, made: Object) -> int:
        """How many other objects of its user run here."""
        mine = self.index["user"].get(made.user, {}).values()
        return sum(other is not made and other.state in lifecycle.ALIVE for other in mine)

    def need_nursery(self) -> None:
        """Raise CloudError while this node cannot work on anything."""
        if self._nursery is None:
            raise CloudError("again", "this node is starting or stopping", "try again")

    def launch(self, made: Object, argv: list[str], event: str) -> Wait[None]:
        """Start argv here.  What the object wants is held from now to its end."""
        # At every start: its owner may have changed the environment since the last.
        made.runtime = self.runtime_for(made)
        told = starting.told(self, made, argv)
        self.reserve_for(made)
        made.argv, made.asked, made.why = argv, "", ""
        self.become(made, event)
        return starting.start(self, made, told, event)

    def reserve_for(self, made: Object) -> None:
        """Hold what it wants; CloudError where it cannot run here."""
        self.need_nursery()
        self.reserve.hold(made.id, wanted(made.limits))

    async def watch(self, made: Object) -> None:
        running = made.running
        assert running is not None
        end = await running.ended()
        made.used = add(made.used, running.usage())
        await self.ended(made, end)

    async def ended(self, made: Object, end: Exit) -> None:
        if made.state not in lifecycle.ALIVE:
            return
        made.exit, made.running = end, None
        made.used.mem = made.used.pids = 0
        made.why = end.why
        self.become(made, "ended", code=end.code, signal=end.signal, why=end.why)
        await restarts.follow(self, made, end)

    def become(self, made: Object, event: str, **more: object) -> None:
        made.state = lifecycle.after(made.state, event)
        if made.state not in lifecycle.ALIVE:
            self.reserve.release(made.id)
        made.events.add(event, state=made.state, **more)
        self.events.add(event, id=made.id, user=made.user, app=made.app, state=made.state, **more)
        self.keep(made)

    def keep(self, made: Object) -> None:
        """Write the object's record and views after a change, and wake who waits for it.
        One that is gone stays so."""
        if made.state == "gone":
            return
        made.touch()
        self.reindex(made)
        if made.state == "new" or (made.state == "placing" and not made.placed):
            self.records.drop(made.id)  # it stood as starting
        else:
            self.records.put(made.id, made.to_record())
        made.bell.ring()
        self.changed_one(made)
        self.guards.look(made)

    # --- what verbs do to one that runs -------------------------------------------------

    def stop(self, made: Object) -> Wait[None] | None:
        running = made.need_running()
        lifecycle.after(made.state, "stop")
        return then(running.freeze(), lambda _: self.become(made, "stop"))

    def start(self, made: Object) -> Wait[None] | None:
        if made.state != "stopped":
            return self.again(made)
        if self.guards.fenced(made):
            why = "another node may restart it, as too few of those answer this one"
            raise CloudError("busy", why, "it goes on once they do")
        budget.need(made.limits, made.budget, self.attributes)
        return then(made.need_running().thaw(), lambda _: self.become(made, "start"))

    def kill(self, made: Object, why: str, who: Who | None = None) -> Wait[None] | None:
        """Kill every process of it; the Wait ends when they are gone.  who: as whom to
        have it killed on the node that takes it meanwhile."""
        if made.state == "new":
            self.leave(made)
            return None
        if made.state == "placing" and self.handover is not None:
            return self.handover.kill(made, why, who or Who(made.user, None))
        if made.state == "exited" and made.restart != "never":
            made.asked = why
            self.keep(made)
            return None
        if made.state in lifecycle.PASSING:
            self.departures.interrupt(made)
            return Wait(partial(self._kill_passed, made, why, who or Who(made.user, None)))
        fenced = made.state == "fenced" and made.running is not None
        running = made.running if fenced and made.running else made.need_running()
        made.asked = why
        self.keep(made)  # before it dies: no later daemon is to start it again
        try:
            running.kill(why)
        except CloudError as error:
            if error.kind != "absent":  # it has just ended by itself
                raise

        async def run() -> None:
            while made.state in ("running", "stopped", "fenced"):
                await made.bell.wait()
            await self.guards.told(made)

        return Wait(run)

    async def _kill_passed(self, made: Object, why: str, who: Who) -> None:
        while made.state in lifecycle.PASSING:
            await made.bell.wait()
        if self.handover is not None and self.moved_to(made.id) and made.state == "gone":
            await self.handover.pass_on(made, "kill", who).run()
        if made.state == "lost" and made.placed:
            raise CloudError("busy", made.why, "kill it there when that node answers")
        waits = made.state == "exited" and made.restart != "never"
        if waits or made.state in ("new", "running", "stopped"):
            await settle(self.kill(made, why))

    # --- output

    def dropped(self, made: Object, stream: str) -> int:
        """Bytes at the beginning of "stdout" or "stderr" that are no longer kept."""
        return self.host.dropped(made.home, stream)

    async def grown(self, made: Object, stream: str, size: int) -> bool:
        """Wait until the stream may have more than size bytes; False if it is complete."""
        if made.state in lifecycle.OVER:
            return False
        await first(
            partial(self.host.grown, made.home / stream, size), partial(self.until_end, made)
        )
        return True

    async def until_end(self, made: Object) -> None:
        """Wait until it has ended for now, or is gone."""
        while made.state not in lifecycle.OVER:
            await made.bell.wait()

    # --- the daemon's own life ------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Find again what an earlier daemon left, then serve until cancelled.  Objects
        live on when this ends."""
        self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.home.chmod(0o711)  # the root of a restored sandbox passes through it
        found = dict(self.records.all())
        adoption.sweep(self, found)
        if self.handover is not None:
            self.handover.moved.load()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.holding.load()
                for id, record in found.items():
                    adoption.adopt(self, id, record)
                self.guards.load()
                self.holding.watch()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def show_again(self) -> None:
        """Give the sandboxes of an earlier daemon this one's tree at /cloud."""
        for made in list(self.all.values()):
            directory = self.cloud(made.id)
            if made.running is not None and made.runtime == "sandbox" and directory:
                try:
                    await self.host.show(made.running, directory)
                except CloudError as error:
                    log.warning("object %s has no /cloud: %s", made.id, error)

    def spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run work in the node's nursery; a fault in one object's task ends only it."""
        if self._nursery is None:
            return

        async def guarded() -> None:
            try:
                await work(*args)
            except Exception:
                log.exception("%s failed", work.__name__)

        self._nursery.start_soon(guarded)
