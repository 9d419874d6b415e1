"""All objects of this node: made, started, watched, restarted, found again, wiped."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cloudfs.config import Bounds
from cloudfs.errors import CloudError
from cloudfs.kernel import lifecycle, query
from cloudfs.kernel.bell import Log, first
from cloudfs.kernel.object import Object, add, new_id
from cloudfs.kernel.records import Records
from cloudfs.node.api import PATH, Exit, Host, Launch, Usage
from cloudfs.wait import Wait
from cloudfs.who import Who

log = logging.getLogger(__name__)

VIEWS = ("user", "app", "state", "label")


class Objects:
    """The objects of one node.

    `attributes()` gives the node's own attributes for `require`; `cloud(id)` the
    directory that a sandbox shows at /cloud, or "".
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
    ) -> None:
        self.host = host
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
        self._attributes = attributes
        self._records = records
        self._home = state / "objects"
        self._promised: dict[str, tuple[Who, object, list[str], float]] = {}
        self._held: dict[str, int] = {}  # objects of each user
        self._fresh: Counter[str] = Counter()  # of those the new and promised ones
        self._numbers = 0
        self._nursery: trio.Nursery | None = None

    # --- coming and going -----------------------------------------------------------

    def promise(self, who: Who, session: object, binds: list[str]) -> str:
        """A new id for `clone`.  The object is made when its owner first walks to it, so
        that reading every file of the tree makes none."""
        now = trio.current_time()
        self._expire(now)
        mine = self._fresh[who.user]
        if mine >= self.bounds.fresh:
            raise CloudError(
                "toomany",
                f"{who.user} has {mine} new objects without a program",
                f"use them, or wait {self.bounds.fresh_seconds:g} s until they go",
            )
        if self._held.get(who.user, 0) >= self.bounds.objects:
            raise CloudError(
                "toomany",
                f"{who.user} has {self.bounds.objects} objects, the most one may have",
                "remove ended ones: echo wipe > /cloud/proc/ID/ctl",
            )
        id = new_id()
        self._promised[id] = (who, session, binds, now + self.bounds.fresh_seconds)
        self._fresh[who.user] += 1
        return id

    def get(self, id: str, who: Who) -> Object:
        """The object of that id as who may see it; CloudError("absent") if there is none."""
        found = self.all.get(id)
        if found is not None:
            return found
        promise = self._promised.get(id)
        if promise is None or not (promise[0].user == who.user or who.boss):
            raise CloudError("absent", f"there is no object {id[:32]}", "see: ls /cloud/proc")
        owner, session, binds, until = self._unpromise(id)
        made = self._enter(Object(id, owner.user, self._next(), self._home / id))
        made.session, made.binds = session, binds
        made.events.add("new", user=owner.user)
        self._spawn(self._go_unused, made, until)
        return made

    def session_closed(self, session: object) -> None:
        """Whoever made objects in this session is gone: those without a program go too."""
        for id, (_, owner, *_rest) in list(self._promised.items()):
            if owner is session:
                self._unpromise(id)
        for made in list(self.index["state"].get("new", {}).values()):
            if made.session is session:
                self._leave(made)

    def wipe(self, made: Object) -> Wait[None]:
        """Remove an object that has no processes, with its output."""
        if made.state in lifecycle.ALIVE:
            raise CloudError("busy", f"object {made.id} is {made.state}", "kill it first")
        self._leave(made)

        async def run() -> None:
            await trio.to_thread.run_sync(self._remove_home, made.id, made.home)

        return Wait(run)

    def _remove_home(self, id: str, home: Path) -> None:
        self.host.discard(id, home)
        shutil.rmtree(home, ignore_errors=True)

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _enter(self, made: Object) -> Object:
        self.all[made.id] = made
        self._held[made.user] = self._held.get(made.user, 0) + 1
        self.version += 1
        self.reindex(made)
        return made

    def _leave(self, made: Object) -> None:
        if self.all.pop(made.id, None) is None:
            return
        self._held[made.user] -= 1
        if not self._held[made.user]:
            del self._held[made.user]
        self.version += 1
        self._records.drop(made.id)
        self._move_keys(made, set())
        made.state, made.session = "gone", None
        made.bell.ring()

    def _expire(self, now: float) -> None:
        while self._promised:
            id = next(iter(self._promised))  # they stand in the order they were made
            if self._promised[id][3] > now:
                return
            self._unpromise(id)

    def _unpromise(self, id: str) -> tuple[Who, object, list[str], float]:
        promise = self._promised.pop(id)
        self._less_fresh(promise[0].user)
        return promise

    def _less_fresh(self, user: str) -> None:
        self._fresh[user] -= 1
        if not self._fresh[user]:
            del self._fresh[user]

    async def _go_unused(self, made: Object, until: float) -> None:
        """Wait for exec, but not longer than `until`."""
        with trio.move_on_at(until):
            while made.state == "new":
                await made.bell.wait()
        if made.state == "new":
            self._leave(made)

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
            self._fresh[made.user] += 1
        elif new in made.keys and new not in keys:
            self._less_fresh(made.user)
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
        """Start argv as the object's program.  The Wait ends when it runs; it raises,
        and the object is as before, if it cannot."""
        lifecycle.after(made.state, "exec")
        unmet = query.unmet(map(query.parse, made.require), self._attributes())
        if unmet:
            raise CloudError("unreachable", f"no node meets {', '.join(unmet)}")
        return self._launch(made, argv, "exec")

    def again(self, made: Object) -> Wait[None]:
        """Start the program of an object that ended once more; its output goes on."""
        lifecycle.after(made.state, "start")
        return self._launch(made, made.argv, "start")

    def _check_runtime(self, made: Object) -> None:
        # At every start: its owner may have changed the environment since the last.
        made.runtime = made.runtime or self.host.default_runtime()
        if made.runtime == "process" and made.user != self.owner:
            raise CloudError(
                "refused",
                f"runtime process is for this node's owner {self.owner}, not for {made.user}",
                "use runtime sandbox",
            )

    def _launch(self, made: Object, argv: list[str], event: str) -> Wait[None]:
        self._check_runtime(made)
        launch = Launch(
            id=made.id,
            dir=made.home,
            argv=argv,
            env=self._environment(made),
            cwd=made.dir,
            runtime=made.runtime,
            limits=made.limits,
            nice=made.nice,
            stdio_limit=self.bounds.stdio,
            net=made.net,
            cloud=self.cloud(made.id) if made.runtime == "sandbox" else "",
        )
        if self._nursery is None:
            raise CloudError("again", "this node is starting or stopping", "try again")
        made.argv, made.asked, made.why = argv, "", ""
        self._become(made, event)
        done = trio.Event()
        failed: list[CloudError] = []
        self._spawn(self._begin, made, launch, event, failed, done)

        async def run() -> None:
            await done.wait()
            if failed:
                raise failed[0]

        return Wait(run)

    def _environment(self, made: Object) -> dict[str, str]:
        """What a program finds set, under what its owner set."""
        home = "/work" if made.runtime == "sandbox" else os.path.expanduser("~")
        base = {"PATH": PATH, "HOME": home, "USER": made.user, "LANG": "C.UTF-8"}
        return base | {"CLOUDFS_ID": made.id, "CLOUDFS_NODE": self.node} | made.env

    async def _begin(
        self, made: Object, launch: Launch, event: str, failed: list[CloudError], done: trio.Event
    ) -> None:
        # In a task of its own: who asked for the start may be flushed, the start goes on.
        try:
            running = await self.host.start(launch)
        except Exception as fault:
            error = fault if isinstance(fault, CloudError) else CloudError("io", str(fault))
            if error is not fault:
                log.exception("object %s cannot be started", made.id)
            failed.append(error)
            made.why = error.why
            if event == "exec":
                made.argv = []
                self._spawn(self._go_unused, made, trio.current_time() + self.bounds.fresh_seconds)
            self._become(made, "failed" if event == "exec" else "failed-again")
        else:
            made.running, made.exit, made.started = running, None, running.started
            made.sampled = 0.0, made.used
            self._become(made, "began", pid=running.pid)
            self._spawn(self._watch, made)
        finally:
            done.set()

    async def _watch(self, made: Object) -> None:
        assert made.running is not None
        end = await made.running.ended()
        made.used = add(made.used, made.running.usage())
        await self._ended(made, end)

    async def _ended(self, made: Object, end: Exit) -> None:
        if made.state not in lifecycle.ALIVE:
            return
        made.exit, made.running = end, None
        made.used.mem = made.used.pids = 0
        made.why = end.why
        self._become(made, "ended", code=end.code, signal=end.signal, why=end.why)
        await self._maybe_again(made, end)

    async def _maybe_again(self, made: Object, end: Exit) -> None:
        pause = lifecycle.restart_pause(made.restart, end, bool(made.asked), made.pause)
        while pause is not None:
            made.pause = pause
            made.why = f"starts again in {pause:g} s"
            self.keep(made)
            with trio.move_on_after(pause):
                while self._waits(made):
                    await made.bell.wait()
            if not self._waits(made):
                if made.state == "exited":  # killed, or its policy was changed
                    made.why = made.asked or end.why
                    self.keep(made)
                return
            try:
                await self.again(made).run()
                return
            except CloudError as error:
                made.why = f"start again failed: {error}"
                pause = min(lifecycle.LAST_PAUSE, pause * 2)

    def _waits(self, made: Object) -> bool:
        """Whether an object that ended is still to be started again."""
        return made.state == "exited" and not made.asked and made.restart != "never"

    def _become(self, made: Object, event: str, **more: object) -> None:
        made.state = lifecycle.after(made.state, event)
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
        if made.state == "new":
            self._records.drop(made.id)  # it stood as starting
        else:
            self._records.put(made.id, made.to_record())
        made.bell.ring()

    # --- what verbs do to one that runs -------------------------------------------------

    def stop(self, made: Object) -> None:
        running = made.need_running()
        lifecycle.after(made.state, "stop")
        running.freeze()
        self._become(made, "stop")

    def start(self, made: Object) -> Wait[None] | None:
        if made.state != "stopped":
            return self.again(made)
        made.need_running().thaw()
        self._become(made, "start")
        return None

    def kill(self, made: Object, why: str) -> Wait[None] | None:
        """Kill every process of it; the Wait ends when they are gone."""
        if made.state == "new":
            self._leave(made)
            return None
        if made.state == "exited" and made.restart != "never":
            made.asked = why
            made.bell.ring()
            return None
        running = made.need_running()
        made.asked = why
        self.keep(made)  # before it dies: no later daemon is to start it again
        running.kill(why)

        async def run() -> None:
            while made.state in ("running", "stopped"):
                await made.bell.wait()

        return Wait(run)

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
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for id, record in list(self._records.all()):
                    self._adopt(id, record)
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

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run work in the node's nursery; a fault in one object's task ends only it."""
        if self._nursery is None:
            return

        async def guarded() -> None:
            try:
                await work(*args)
            except Exception:
                log.exception("%s failed", work.__name__)

        self._nursery.start_soon(guarded)

    def _sweep(self) -> None:
        """Remove directories that no record names: starts that a dead daemon had begun
        before the record was written, and removals that it had not finished."""
        known = {id for id, _ in self._records.all()}
        for home in self._home.iterdir():
            if home.name not in known:
                self._sweep_one(home)

    def _sweep_one(self, home: Path) -> None:
        try:
            found = self.host.adopt(home.name, home)
            if found is not None and not isinstance(found, Exit):
                found.kill("no record")
            self._remove_home(home.name, home)
        except Exception:
            log.exception("%s cannot be removed", home)

    def _adopt(self, id: str, record: dict[str, object]) -> None:
        made = self._enter(Object.from_record(id, record, self._next(), self._home / id))
        if made.state not in lifecycle.ALIVE:
            if made.state == "exited" and made.exit is not None and made.restart != "never":
                self._spawn(self._maybe_again, made, made.exit)
            return
        try:
            found = self.host.adopt(id, made.home)
        except Exception as error:  # one object's trouble must not stop the node
            log.exception("object %s cannot be adopted", id)
            made.why = f"what it left cannot be read: {error}"
            self._become(made, "lose", why=made.why)
            return
        if isinstance(found, Exit):
            made.used = add(made.used, Usage(user=found.user, sys=found.sys))
            self._spawn(self._ended, made, found)
        elif found is not None:
            made.running, made.started = found, found.started
            if made.state == "starting":
                self._become(made, "began", pid=found.pid)
            self._spawn(self._watch, made)
        else:
            made.why = "the node was restarted, or its daemon died while it was starting"
            self._become(made, "lose", why=made.why)
            lost = Exit(0, None, None, 0.0, 0.0, 0.0, time.time(), made.why)
            if lifecycle.restart_pause(made.restart, lost, False, 0) is not None:
                self._spawn(self._retry_lost, made)

    async def _retry_lost(self, made: Object) -> None:
        try:
            await self.again(made).run()
        except CloudError as error:
            made.why = f"start again failed: {error}"
            self.keep(made)
