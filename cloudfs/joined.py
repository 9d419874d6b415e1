"""A node's place in a cloud: its certificate, where it listens for others, its neighbours.

A node that was never told to listen is a cloud of its own and opens no socket.  One that was,
and has no certificate yet, opens its socket once it has (`init`, `join`).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio

from cloudfs import ndb, revoking
from cloudfs.credentials import Credentials
from cloudfs.enrolling import Enrolling
from cloudfs.errors import CloudError
from cloudfs.fabric.zenoh import ZenohEngine
from cloudfs.factotum import authority
from cloudfs.factotum.certificates import is_cloud, is_label
from cloudfs.factotum.nodekeys import server_context
from cloudfs.factotum.nodeproof import shown_by
from cloudfs.kernel import zones
from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.membership import Member
from cloudfs.kernel.neighbours import Neighbours
from cloudfs.kernel.records import Records
from cloudfs.revoking import Revoking
from cloudfs.wait import Wait
from cloudfs.wire import address, seed
from cloudfs.wire.imports import Pool
from cloudfs.wire.listen import Listener, listen
from cloudfs.wire.server import Server

log = logging.getLogger(__name__)

SPREAD = 3.0  # seconds over which nodes spread the opening of their sessions anew
JOIN = 15.0  # seconds to find one's place
SEEDS = 6  # addresses in a join file
FINAL = frozenset({"denied", "proto"})  # kinds of what a wrong node says, or none
LEAVE = 5.0  # seconds to say goodbye
PROBES = zones.PORTS + 1  # by how much the port of probes is above the node's; zones' lie between
LAST_PORT = 65535 - PROBES


class Joined:
    """Joins and leaves clouds; see kernel/machine.py's `Party`.

    credentials: what this node proves itself with.  pool: the connections to other
    nodes.  events: of the whole cloud.
    """

    def __init__(
        self,
        credentials: Credentials,
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
        self.credentials = credentials
        self.enrolling = Enrolling(credentials, cloud, pool)
        self.enrolling.renewed = self._renewed
        self.revoking = Revoking(credentials, cloud, server, pool, self._open_anew, self._lost)
        self._listener: Listener | None = None
        self._engines: list[ZenohEngine] = []
        pool.admit = credentials.admit
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
        self.credentials.load(self.cloud.machine.cluster)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                if at:
                    left = bool(before.get("left")) and not seeds
                    self._public(at)
                    self._keep(known, left)
                    if self.credentials.certified:
                        self._listen()
                        if not left:
                            await self._begin(known)
                    else:
                        self.cloud.machine.outside = self.credentials.why
                nursery.start_soon(self.enrolling.run)
                nursery.start_soon(self.revoking.run)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- what verbs ask for -----------------------------------------------------------------

    def join(self, seeds: list[str]) -> Wait[None]:
        """Join the cloud of the nodes at these addresses, in which this node is alone."""
        for at in seeds:
            check_address(at)
        if not self.credentials.certified:
            raise CloudError("refused", f"join: {self.credentials.why}", "see: cloudfs join --help")
        self._may_join()
        return Wait(partial(self._join, seeds))

    def join_by(self, file: str) -> Wait[None]:
        """Join the cloud of a join file, of which this is the text."""
        joined = authority.parse_join(file)
        self._may_join()
        return Wait(partial(self._join_by, joined))

    def _may_join(self) -> None:
        if self.credentials.lost:
            fix = "start it under another name: cloudfs down; cloudfs up --node NAME"
            raise CloudError("denied", f"join: {self.credentials.lost}", fix)
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

    async def _join_by(self, file: authority.Join) -> None:
        root, chain = await self.enrolling.join(file)
        await self._end()
        self.credentials.adopt(root, chain)
        self._certified(file.cluster)
        await self._join(list(file.seeds))

    def init(self, cloud: str, cluster: str) -> Wait[None]:
        """Begin a cloud or, where its root.key is, a cluster of it."""
        cluster = cluster or self.cloud.machine.cluster
        if (cloud and not is_cloud(cloud)) or not is_label(cluster):
            names = ndb.quote(f"{cloud} {cluster}"[:80])
            raise CloudError("bad", f"init: {names} are no names", "use a-z, 0-9 and -")
        place = self.credentials.init(cloud, cluster)
        log.info("a cloud was begun; its root key is %s: keep it elsewhere", place)
        return Wait(partial(self._init, cluster))

    async def _init(self, cluster: str) -> None:
        self._certified(cluster)
        if self.cloud.machine.public and self.neighbours is None:
            await self._begin([])

    def _certified(self, cluster: str) -> None:
        """There is a certificate, of that cluster: be of it, and listen."""
        machine = self.cloud.machine
        machine.cluster, machine.outside = cluster, ""
        self._records.set("cluster", cluster)
        self._pool.use(self.credentials.files)
        if machine.public and self._listener is None:
            self._listen()
        elif self._listener is not None:
            self._show()

    def _with_others(self) -> bool:
        """Whether there are other nodes in the cloud, of this zone or beyond it."""
        return self.cloud.ask is not None or any(map(self.cloud.alive, self.cloud.nodes))

    async def _join(self, seeds: list[str]) -> None:
        was = self.neighbours is not None
        await self._end()
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

    def _public(self, at: str) -> None:
        """Be found there by other nodes.  CloudError("bad")."""
        host, port = check_address(at)
        if host in ("0.0.0.0", "::", "") or port > LAST_PORT:  # noqa: S104
            raise CloudError(
                "bad",
                f"listen {at}: others are told this address, so it must be one of this machine,"
                f" with a port up to {LAST_PORT}",
                "write the machine's own: --listen 192.0.2.7:5640",
            )
        self.cloud.machine.public = at

    def _listen(self) -> None:
        at = self.cloud.machine.public
        host, port = check_address(at)
        self.listen_beside(host, port + PROBES)
        files = self.credentials.files
        self._pool.use(files)
        self._listener = listen(f"tls:{at}", files, self.credentials.admit)
        self._server.listen_also(self._listener)
        self.cloud.machine.addresses.append(str(self._listener.address))

    def _show(self) -> None:
        """Show the certificate that there is now to who calls."""
        if self._listener is not None and self._listener.door is not None:
            files = self.credentials.files
            self._listener.door.use(server_context(files), shown_by(files))

    def _keep(self, seeds: Sequence[str], left: bool = False) -> None:
        where = {"listen": self.cloud.machine.public, "seeds": list(seeds), "left": left}
        self._records.set("cloud", where)

    async def _begin(self, seeds: Sequence[str]) -> None:
        """Be a node among others from now on."""
        if self.credentials.lost:
            self.cloud.machine.outside = self.credentials.lost
            return
        machine, files = self.cloud.machine, self.credentials.files
        self.enrolling.seeds = list(seeds)
        self._tell_issuer()
        boot = max(self._records.get("boot", 0) + 1, time.time_ns() // 10**6)
        self._records.set("boot", boot)
        public = machine.public
        own = self.credentials.own
        assert own is not None
        core = Member(machine.name, machine.cluster, own.key, boot, public, seeds)
        engines = self._engines = []

        def engine(zone: str, seeds: Sequence[str]) -> ZenohEngine:
            at = zones.endpoint(public, zone)
            made = ZenohEngine(machine.name, zone, at, seeds, files, self.credentials.shut_out)
            made.time(self.timed)
            engines.append(made)
            return made

        made = Neighbours(self.cloud, core, engine, self._ask_seed, self._events)
        made.heard_word[revoking.WORD] = self.revoking.heard
        self.cloud.objects.changed_one = made.dwelling.changed
        self.revoking.neighbours = made
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
        self.neighbours, self.revoking.neighbours, self._engines = None, None, []
        self.cloud.objects.changed_one = lambda made: None

    # --- certificates -----------------------------------------------------------------------

    def invite(self, life: float, uses: int) -> str:
        """A new join file of this node's cluster; it names this node and some others."""
        public = self.cloud.machine.public
        if not public:
            why = "invite: this node listens nowhere, so nobody could join"
            raise CloudError("refused", why, "see: cloudfs up --help")
        others = [info.addr for info in self.cloud.nodes.values() if self.cloud.alive(info.name)]
        return self.credentials.invite(life, uses, [public, *filter(None, others)][:SEEDS])

    def greeting(self) -> str:
        """What this node says to who asks for a certificate."""
        return self.credentials.greeting()

    def enrol(self, strange: bool, question: str) -> str | Wait[str]:
        """The answer to who asks for one."""
        return self.enrolling.answer(strange, question)

    def certificate(self) -> dict[str, object]:
        """What the own certificate says."""
        return self.credentials.record()

    def revoked(self) -> list[dict[str, object]]:
        """The nodes that are known to have lost their place."""
        every = self.credentials.revoked.all.values()
        return [{"node": r.node, "cluster": r.cluster, "at": int(r.at)} for r in every]

    def _renewed(self) -> None:
        """There is a new certificate: show it, also to those who are connected."""
        self._show()
        self._pool.use(self.credentials.files)
        self._tell_issuer()
        self._open_anew("there is a new certificate")

    def _tell_issuer(self) -> None:
        """Let others find this node where it makes certificates."""
        self.cloud.machine.measured.pop("issuer", None)
        if self.credentials.authority is not None:
            self.cloud.machine.measured["issuer"] = "yes"

    def _open_anew(self, why: str) -> None:
        """Open the engine's sessions anew, each at a moment of its own: Zenoh reads
        certificates, and whom to shut out, as it opens."""
        for engine in self._engines:
            engine.open_anew(why, random.uniform(0, SPREAD))  # noqa: S311

    def revoke(self, node: str, cluster: str) -> None:
        """Take that node's place in the cloud away."""
        self.revoking.revoke(node, cluster)

    async def _lost(self, why: str) -> None:
        """This node's place was taken away: be alone."""
        await self._end()
        self.cloud.machine.outside = why

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
