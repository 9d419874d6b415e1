"""A node's place in a cloud: its keys, where it listens for others, and its neighbours.

A node that was never told to listen is a cloud of its own and opens no socket.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.zenoh import ZenohEngine
from cloudfs.factotum import cloudkey
from cloudfs.factotum.cloudkey import KeyFiles
from cloudfs.kernel import zones
from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.membership import Member
from cloudfs.kernel.neighbours import Neighbours
from cloudfs.kernel.records import Records
from cloudfs.wait import Wait
from cloudfs.wire import address, seed
from cloudfs.wire.imports import Pool
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server

log = logging.getLogger(__name__)

JOIN = 15.0  # seconds to find one's place
FINAL = frozenset({"denied", "proto"})  # kinds of what a wrong node says, or none
LEAVE = 5.0  # seconds to say goodbye
PROBES = zones.PORTS + 1  # by how much the port of probes is above the node's; zones' lie between
LAST_PORT = 65535 - PROBES


class Joined:
    """Joins and leaves clouds; see kernel/machine.py's `Party`.

    state: the state directory, which holds cloud.key.  pool: the connections to other
    nodes.  events: of the whole cloud.
    """

    def __init__(
        self,
        state: Path,
        cloud: Cloud,
        records: Records,
        server: Server,
        pool: Pool,
        events: Log,
    ) -> None:
        self.cloud = cloud
        self.neighbours: Neighbours | None = None
        # Told host and port before others can come, for what listens there as well.
        self.listen_beside: Callable[[str, int], None] = lambda host, port: None
        # Told of the seconds after which a node answered what the engine carried.
        self.timed: Callable[[str, float], None] = lambda node, seconds: None
        self._state = state
        self._records = records
        self._server = server
        self._pool = pool
        self._events = events
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(
        self, at: str, seeds: Sequence[str], *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take part in a cloud until cancelled.

        at: HOST:PORT to listen at, seeds: nodes to join; empty ones are as they were last
        time.  Raises CloudError where the address is no address or another's, or the keys
        are no keys.
        """
        before = self._records.get("cloud", {})
        at = at or before.get("listen", "")
        known = list(seeds) or before.get("seeds", [])
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                if at:
                    left = bool(before.get("left")) and not seeds
                    self._listen(at, known, left)
                    if not left:
                        await self._begin(known)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- what verbs ask for -----------------------------------------------------------------

    def join(self, seeds: list[str]) -> Wait[None]:
        """Join the cloud of the nodes at these addresses, in which this node is alone."""
        for at in seeds:
            check_address(at)
        if not self.cloud.machine.public:
            raise CloudError(
                "refused",
                "join: this node listens nowhere, so others could not reach it",
                "start it with an address: cloudfs down; cloudfs up --listen HOST:PORT",
            )
        if self._with_others():
            others = sorted(filter(self.cloud.alive, self.cloud.nodes))
            raise CloudError(
                "busy",
                f"join: this node is in a cloud with {', '.join(others[:4]) or 'others'}",
                "leave that first: cloudfs leave",
            )
        return Wait(partial(self._join, seeds))

    def _with_others(self) -> bool:
        """Whether there are other nodes in the cloud, of this zone or beyond it."""
        return self.cloud.ask is not None or any(map(self.cloud.alive, self.cloud.nodes))

    async def _join(self, seeds: list[str]) -> None:
        was = self.neighbours is not None
        await self._end()
        self._files()
        await self._begin(seeds)
        why = "nobody answered"
        with trio.move_on_after(JOIN):
            while self.neighbours is not None:
                core = self.neighbours.core
                if core.phase == "joined" and self._with_others():
                    self._keep(seeds)
                    return
                failed = self.neighbours.failed
                why = self.neighbours.why or core.why or why
                hopeless = failed is not None and failed.kind in FINAL and core.asking.rounds
                if core.why or hopeless:
                    break
                await trio.sleep(0.1)
        await self._end()
        if was:
            await self._begin([])
        raise CloudError("unreachable", f"join {' '.join(seeds)}: {why}", "see: cloudfs nodes")

    def leave(self) -> Wait[None]:
        """Leave the cloud.  This node is alone until it joins one again, also after a
        restart: the others know its address and would have it back at once."""
        if self.neighbours is None or not (self.cloud.nodes or self._with_others()):
            raise CloudError("busy", "leave: this node is in no cloud with others")
        return Wait(self._leave)

    async def _leave(self) -> None:
        if self.neighbours is not None:
            self.neighbours.leave()
            with trio.move_on_after(LEAVE):
                await self._over.wait()
        await self._end()
        self._keep([], left=True)

    def introduce(self, cluster: str, name: str) -> str | Wait[str]:
        """Where a node of that cluster and name belongs; "" if this node does not know."""
        if self.neighbours is None:
            return ""
        return self.neighbours.introduction(cluster, name)

    # --- being in a cloud -----------------------------------------------------------------------

    def _files(self) -> KeyFiles:
        machine = self.cloud.machine
        files = cloudkey.node_files(self._state, machine.name, machine.cluster)
        self._pool.use(files)
        return files

    def _listen(self, at: str, seeds: Sequence[str], left: bool) -> None:
        host, port = check_address(at)
        if host in ("0.0.0.0", "::", "") or port > LAST_PORT:  # noqa: S104
            raise CloudError(
                "bad",
                f"listen {at}: others are told this address, so it must be one of this machine,"
                f" with a port up to {LAST_PORT}",
                "write the machine's own: --listen 192.0.2.7:5640",
            )
        if not seeds and not (self._state / "cloud.key").exists():
            cloudkey.make_cloud(self._state)
        self.listen_beside(host, port + PROBES)
        listener = listen(f"tls:{at}", self._files())
        self._server.listen_also(listener)
        self.cloud.machine.public = at
        self.cloud.machine.addresses.append(str(listener.address))
        self._keep(seeds, left)

    def _keep(self, seeds: Sequence[str], left: bool = False) -> None:
        where = {"listen": self.cloud.machine.public, "seeds": list(seeds), "left": left}
        self._records.set("cloud", where)

    async def _begin(self, seeds: Sequence[str]) -> None:
        """Be a node among others from now on."""
        machine, files = self.cloud.machine, self._files()
        boot = max(self._records.get("boot", 0) + 1, time.time_ns() // 10**6)
        self._records.set("boot", boot)
        public = machine.public
        who = cloudkey.fingerprint(files)
        core = Member(machine.name, machine.cluster, who, boot, public, seeds)

        def engine(zone: str, seeds: Sequence[str]) -> ZenohEngine:
            at = zones.endpoint(public, zone)
            made = ZenohEngine(machine.name, zone, at, seeds, files)
            made.time(self.timed)
            return made

        made = Neighbours(self.cloud, core, engine, self._ask_seed, self._events)
        self.cloud.objects.changed_one = made.object_changed
        self.neighbours, self._scope, self._over = made, trio.CancelScope(), trio.Event()
        if self._nursery is None:
            raise CloudError("again", "this node is stopping")
        await self._nursery.start(self._run, made, self._scope, self._over)

    async def _run(
        self,
        neighbours: Neighbours,
        scope: trio.CancelScope,
        over: trio.Event,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            with scope:
                await neighbours.run(task_status=task_status)
        finally:
            over.set()

    async def _end(self) -> None:
        """Be alone from now on."""
        self._scope.cancel()
        if self.neighbours is not None:
            await self._over.wait()
        self.neighbours = None
        self.cloud.objects.changed_one = lambda made: None

    async def _ask_seed(self, address: str, question: str) -> str:
        return await seed.ask(self._pool, address, self.cloud.machine.owner, question)


def check_address(text: str) -> tuple[str, int]:
    """HOST and PORT of HOST:PORT; CloudError("bad")."""
    try:
        found = address.parse(f"tcp:{text}")
    except CloudError:
        found = address.Address()
    if not found.port or ":" not in text:
        raise CloudError("bad", f"{ndb.quote(text[:80])} is no address", "write HOST:PORT")
    return found.host, found.port
