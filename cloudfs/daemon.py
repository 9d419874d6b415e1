"""cloudfsd: one node.  This file only wires the parts together, in one nursery."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

import cloudfs
from cloudfs import config
from cloudfs.config import Bounds
from cloudfs.credentials import Credentials
from cloudfs.errors import CloudError
from cloudfs.factotum import bills, nodekeys
from cloudfs.factotum.acting import Acting
from cloudfs.factotum.nodeproof import NodeProof
from cloudfs.factotum.proofs import Proofs
from cloudfs.factotum.trust import Roots
from cloudfs.fuse.mount import mount
from cloudfs.joined import Joined
from cloudfs.kernel.balancing import Balancer
from cloudfs.kernel.bell import Log
from cloudfs.kernel.budget import Within
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.finder import Finder
from cloudfs.kernel.gauge import Gauge
from cloudfs.kernel.holder import Holder
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.measure import Measure
from cloudfs.kernel.network import Network
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.people import People
from cloudfs.kernel.records import Records
from cloudfs.kernel.redealing import Redealing
from cloudfs.kernel.secstore import Secstore
from cloudfs.logins import Login, Logins
from cloudfs.node.host import RealHost
from cloudfs.node.metrics import Metrics
from cloudfs.tree import idmap
from cloudfs.tree.api import Node
from cloudfs.tree.build import build
from cloudfs.tree.others import Others
from cloudfs.tree.secstore import asking
from cloudfs.tree.space import ErrLog, Space
from cloudfs.who import Who
from cloudfs.wire.datagrams import Datagrams
from cloudfs.wire.echo import Echo
from cloudfs.wire.imports import Pool
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server
from cloudfs.wire.trace import Trace
from cloudfs.wire.trains import Trains

log = logging.getLogger("cloudfs")


@dataclass(slots=True)
class Settings:
    """What a daemon is told.  mount None: no FUSE mount.  tcp, listen: HOST:PORT
    or ""; "" for listen and cluster is as it was last time."""

    state: Path
    mount: Path | None = None
    node: str = "node"
    cluster: str = ""
    tcp: str = ""
    listen: str = ""
    seeds: tuple[str, ...] = ()
    trace: bool = False
    bounds: Bounds = field(default_factory=Bounds)


class Daemon:
    """The parts of one node.  `serve` runs them until cancelled."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.owner = idmap.user_of(os.geteuid())
        self.boss_uids = frozenset({0, os.geteuid()})
        state = settings.state
        state.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._lock = _only_one(state)
        self.records = Records(state / "cloudfs.db")
        os.chmod(state / "cloudfs.db", 0o600)
        self.metrics = Metrics(state)
        self.host = RealHost(state, settings.node)
        self.errors = ErrLog()
        self.trace = Trace()
        self.events = Log(1024)  # of the whole cloud
        events = Log(1024, whole=self.events)
        cluster = settings.cluster or self.records.get("cluster", "local")
        self.records.set("cluster", cluster)
        self.machine = Machine(
            settings.node, cluster, self.owner, self.metrics, self.records, events
        )
        self.objects = Objects(
            self.host,
            self.records,
            state,
            settings.node,
            self.owner,
            settings.bounds,
            events=events,
            attributes=self.machine.attributes,
            cloud=self._cloud,
            reserve=self.machine.reserve,
        )
        roots = Roots(state)
        self.people = People(roots, self.records, self.machine.events.add)
        self._keys: NodeProof | None = None
        self.proofs = Proofs(self.people, self._proof)
        self.acting = Acting(self.proofs.lent, self._proof, roots)
        self.logins = Logins(self.proofs, self.boss_uids, self._logged_out)
        self._server: Server | None = None
        self.cloud = Cloud(self.machine, self.objects, people=self.people)
        self.pool = Pool(
            None, self.cloud.address_of, self._gone, owner=self.owner, trace=self.trace
        )
        self.pool.acting = self.acting.talk
        self.cloud.changed_node = self.pool.changed
        self.network = Network(self.cloud)
        self.objects.join(Others(self.cloud, self.pool, Finder(self.cloud, self.network)))
        self.objects.most_for = self.machine.most_for
        self.objects.took_start = self.machine.took_start
        self.datagrams = Datagrams(self.network)
        self.trains = Trains(settings.node, self.pool, self.datagrams)
        self.network.demands.measure_bandwidth = Gauge(self.network, self.trains).measure
        self.network.proved = self.pool.cluster_of
        self.pool.timed = self.network.passive
        self.pool.carried = self.network.carried
        self.holder = Holder(settings.node, self.people, self.records, roots)
        self.secstore = Secstore(self.cloud, self.people, self.holder, asking(self.pool))
        self.redealing = Redealing(self.holder, self.secstore, self.machine.events.add)
        self.machine.bill = self._bill
        self.trees = build(
            self.cloud,
            self.events,
            self.errors,
            self.trace,
            self.pool,
            self._shown,
            self.network,
            self.datagrams,
            self.trains,
            self.logins,
            self.secstore,
        )

    def _proof(self) -> NodeProof | None:
        """What this node proves itself with to those who prove to it."""
        if self._keys is None:
            keys = NodeProof(nodekeys.files_in(self.settings.state))
            try:
                keys.load()
            except CloudError:
                return None  # it is in no cloud yet
            self._keys = keys
        return self._keys

    def _bill(self, made: Object) -> str:
        """What an object's stay here has cost, signed; "" while there are no keys."""
        proof = self._proof()
        if proof is None:
            return ""
        keys, used = proof.load(), made.usage()
        return (
            bills.make(
                made.id,
                made.user,
                proof.node,
                proof.cloud,
                (made.since or made.created, time.time()),
                max(0.0, used.user + used.sys - made.brought),
                self.metrics.cpus,
                self.machine.price,
                keys,
            ).text()
            + "\n"
        )

    def _closed(self, space: Space) -> None:
        if isinstance(space, Login):
            self.logins.closed(space)
        else:
            self.objects.session_closed(space)

    def _logged_out(self, uid: int) -> None:
        """What came in by a login ends with it."""
        if self._server is None or uid in self.boss_uids:
            return
        for connection in list(self._server.connections.values()):
            session = connection.session
            held = any(isinstance(fid.tree.space, Login) for fid in session.fids.values())
            if session.uid == uid and not held:
                self._server.drop(connection, "its user has logged out")

    def _gone(self, node: str) -> str:
        info = self.cloud.node(node)
        if info is None or info.state in ("alive", "drained", "suspect"):
            return ""
        return f"it is {info.state}, nothing was heard of it for {self.cloud.age_of(node):.0f} s"

    def _cloud(self, id: str) -> str:
        """The directory that the sandbox of an object shows at /cloud, or ""."""
        at = self.settings.mount
        return f"{at}/.ns/{id}" if at is not None and os.geteuid() == 0 else ""

    def _shown(self, made: Object) -> dict[str, str]:
        uid = self.host.sandbox_uid(made.id)
        return {} if uid is None else {made.user: f"#{uid}"}

    def who_of(self, uid: int, gid: int = -1, pid: int = 0) -> Who:
        """The caller with this local uid; what runs in a sandbox is its object's user."""
        id = self.host.sandbox_of(uid)
        made = self.objects.here(id) if id else None
        if made is not None:
            powers = None if made.budget is None else Within(made.budget)
            return Who(made.user, uid, powers=powers)
        return self.logins.who_of(uid)

    def _far_user(self, name: str) -> Who:
        """Whom another node may name without a proof: nobody who is a user of the cloud."""
        if self.people.user(name) is not None:
            raise CloudError(
                "denied",
                f"nothing proves that {name} lets that node act for {name}",
                f"type it there: cloudfs login {name}",
            )
        return idmap.far_user(name, self.owner)

    def make_space(self, who: Who) -> Space:
        """The name space of a new session."""
        return self._space(self.trees.root)

    def _space(self, root: Node, owner: str = "") -> Space:
        space = Space(root, self.errors, owner)
        space.groups_of = self._groups_of
        return space

    def _groups_of(self, user: str) -> frozenset[str]:
        """The cloud's groups of a user; none of them has the name of a user of this machine."""
        found = self.people.groups_of(user)
        return frozenset(group for group in found if not idmap.is_user(group))

    async def serve(self, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; objects live on."""
        settings = self.settings
        async with trio.open_nursery() as nursery:
            await nursery.start(self.objects.run)
            server = Server(
                self.make_space,
                node_space=lambda who: self._space(self.trees.own),
                far_user=self._far_user,
                stranger_space=lambda who: Space(self.trees.strangers),
                who_of=self.who_of,
                proofs=self.proofs,
                logins=self.logins,
                trace=self.trace,
                closed=self._closed,
            )
            self._server = server
            self.proofs.wanted()  # whose keys are made before anybody asks
            await nursery.start(self.logins.run)
            listeners = [listen(f"unix:{config.socket_path(settings.state)}")]
            if settings.tcp:
                listeners.append(listen(f"tcp:{settings.tcp}"))
            self.machine.addresses = [str(one.address) for one in listeners]
            await nursery.start(partial(server.serve, listeners))
            self.pool.watcher = server
            nursery.start_soon(self.metrics.run)
            await nursery.start(self.pool.run)
            credentials = Credentials(settings.state, settings.node, self.records)
            joined = Joined(credentials, self.cloud, self.records, server, self.pool, self.events)
            self.machine.party = joined
            joined.listen_beside = self.datagrams.listen_near
            joined.timed = self.network.confirm
            await nursery.start(partial(joined.run, settings.listen, settings.seeds))
            nursery.start_soon(self.redealing.run)
            nursery.start_soon(self.datagrams.run)
            await nursery.start(self.trains.run)
            measure = Measure(self.network, Echo(settings.node, self.pool, self.datagrams))
            await nursery.start(measure.run)
            balancer = Balancer(self.machine, self.objects, self.cloud, self.network)
            nursery.start_soon(balancer.run)
            if settings.trace:
                nursery.start_soon(self._print_trace)
            if settings.mount is not None:
                space = self._space(self.trees.root, self.owner)
                await nursery.start(partial(mount, space, settings.mount, who_of=self.who_of))
                nursery.start_soon(self.objects.show_again)
            self.machine.events.add("up", node=settings.node, version=cloudfs.__version__)
            task_status.started(self)

    async def _print_trace(self) -> None:
        feed = self.trace.subscribe()
        while True:
            await feed.wait()
            for line in feed.take():
                print(line, file=sys.stderr)

    def close(self) -> None:
        self.host.close()
        self.records.close()
        os.close(self._lock)


def _only_one(state: Path) -> int:
    """Hold the state directory's lock; CloudError("busy") if another daemon has it."""
    path = state / "pid"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(fd, 20).decode(errors="replace").strip()
        os.close(fd)
        raise CloudError(
            "busy", f"a daemon with pid {pid} serves {state}", "stop it first: cloudfs down"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    daemon = Daemon(settings)
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as came:
            async with trio.open_nursery() as nursery:
                await nursery.start(daemon.serve)
                log.info("node %s serves %s", settings.node, " ".join(daemon.machine.addresses))
                async for number in came:
                    log.info("stopping: %s", signal.Signals(number).name)
                    break
                nursery.cancel_scope.cancel()
    finally:
        daemon.close()


def parse(argv: list[str] | None) -> Settings:
    """The settings from a command line and the environment."""
    parser = argparse.ArgumentParser("cloudfsd", description="One node of a cloud.")
    parser.add_argument("--state", type=Path, help="state directory ($CLOUDFS_STATE)")
    parser.add_argument("--mount", type=Path, help="where to mount ($CLOUDFS_MOUNT)")
    parser.add_argument("--no-mount", action="store_true", help="serve 9P only")
    parser.add_argument("--node", default="", help="this node's name; the host's by default")
    parser.add_argument("--cluster", default="", help="the cluster it is in")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="for other nodes")
    parser.add_argument(
        "--seed", action="append", default=[], metavar="HOST:PORT", help="a node of the cloud"
    )
    parser.add_argument("--tcp", default="", metavar="HOST:PORT", help="plain 9P on loopback")
    parser.add_argument("--trace", action="store_true", help="print every 9P message")
    parser.add_argument("--version", action="version", version=f"cloudfs {cloudfs.__version__}")
    args = parser.parse_args(argv)
    return Settings(
        state=(args.state or config.state_dir()).absolute(),
        mount=None if args.no_mount else (args.mount or config.mount_dir()).absolute(),
        node=config.node_name(args.node),
        cluster=config.label(args.cluster, "cluster") if args.cluster else "",
        tcp=args.tcp,
        listen=args.listen,
        seeds=tuple(args.seed),
        trace=args.trace,
        bounds=config.bounds(),
    )


def _leaves(group: BaseExceptionGroup[CloudError]) -> Iterator[CloudError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def main(argv: list[str] | None = None) -> int:
    """The command cloudfsd: in the foreground, its log on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A core would hold the node's keys, shares of users' and what users lent it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    failed: list[BaseException] = []
    try:
        trio.run(run, parse(argv))
    except* CloudError as group:
        failed.extend(_leaves(group))
    for error in failed:
        print(f"cloudfsd: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
