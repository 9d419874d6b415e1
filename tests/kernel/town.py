"""Several nodes in one process and in virtual time: real cores, engines on one bus, each
node's machine its in-memory twin."""

from __future__ import annotations

import contextlib
import random
from functools import partial

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.local import Bus, LocalEngine
from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.finder import Finder
from cloudfs.kernel.holder import Holder
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.measure import Measure
from cloudfs.kernel.membership import Member
from cloudfs.kernel.neighbours import Neighbours
from cloudfs.kernel.network import Network
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.people import People
from cloudfs.kernel.records import Records
from cloudfs.kernel.redealing import Redealing
from cloudfs.kernel.secstore import Secstore
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin
from cloudfs.tree.api import DMDIR, OREAD, OWRITE, DirHandle, Node, Wait, Who
from cloudfs.tree.build import build
from cloudfs.tree.imports import Files
from cloudfs.tree.others import Others
from cloudfs.tree.space import ErrLog, Space, settle
from cloudfs.wire.trace import Trace

ANN = Who("ann", 1001)


BOSS = Who("root", 0, boss=True)


class Silent(Node):
    """A file of a node that does not answer."""

    def __init__(self, node, path):
        self.name, self.mode, self.qid, self.uid, self.gid = node, DMDIR | 0o777, 7, "ann", "ann"

    def walk(self, name, at, cues):
        return Wait(partial(self.wait, cues))

    def open(self, mode, at, cues):
        return Wait(partial(self.wait, cues))

    async def wait(self, cues):
        await trio.sleep(cues.max_time)
        raise CloudError("timeout", f"{self.name} does not answer")


class Refused(Silent):
    """A file that a node does not have, or does not let be reached."""

    def __init__(self, node, path, error):
        super().__init__(node, path)
        self.error = error

    async def wait(self, cues):
        raise self.error


class Citizen:
    """One node of a town, with a shell's verbs."""

    def __init__(self, town, path, name, cluster, boot=1, key="", naive=False):
        """naive: whom it asks does not look whether its name is taken elsewhere."""
        path.mkdir(exist_ok=True)
        self.naive = naive
        self.town, self.path, self.name, self.cluster = town, path, name, cluster
        self.records = Records(":memory:")
        cloud_events = Log(1000)
        events = Log(100, whole=cloud_events)
        self.machine = Machine(name, cluster, "ann", Metrics(path), self.records, events)
        self.machine.public = f"{path.name}.example:5640"
        self.objects = Objects(Twin(), self.records, path, name, "ann", events=events,
                               attributes=self.machine.attributes, reserve=self.machine.reserve)  # fmt: skip
        self.people = People(lambda: town.trust, self.records, self.machine.events.add)
        self.cloud = Cloud(self.machine, self.objects, trio.current_time, self.people)
        seeds = [town.seed] if town.seed else []
        town.seed = town.seed or self.machine.public
        core = Member(name, cluster, f"{hash(key or name) & 0xFFFFFFFF:08x}" * 4, boot,
                      self.machine.public, seeds)  # fmt: skip
        self.neighbours = Neighbours(self.cloud, core, self.engine, self.ask_seed, cloud_events)
        self.objects.changed_one = self.neighbours.dwelling.changed
        self.errors = ErrLog(lambda: 0.0)
        self.holder = Holder(name, self.people, self.records, lambda: town.trust,
                             lambda: 1e9 + trio.current_time())  # fmt: skip
        self.store = Secstore(self.cloud, self.people, self.holder, self.ask_holder)
        self.redealing = Redealing(self.holder, self.store, self.machine.events.add)
        self.objects.took_start = self.machine.took_start
        self.network = Network(self.cloud)
        self.measure = Measure(self.network, self)
        self.trees = build(self.cloud, cloud_events, self.errors, Trace(), self, lambda made: {},
                           self.network, store=self.store)  # fmt: skip
        self.objects.join(Others(self.cloud, self, Finder(self.cloud, self.network)))
        self.scope = trio.CancelScope()
        self.up = False

    @contextlib.asynccontextmanager
    async def bulk(self, node, user, folder, seconds):
        files = Files(self.reach(node), Who(user, None), seconds)

        class Way:
            async def read(self, names, take):
                for name in names:
                    take(name, memoryview(await files.read(f"{folder}/{name}")))

        yield Way()

    def engine(self, zone, seeds):
        return LocalEngine(self.name, zone, self.town.bus)

    async def ask_seed(self, address, question):
        other = self.town.at(address)
        if other is None or not self.town.reaches(self, other):
            raise CloudError("unreachable", f"{address} does not answer")
        cluster, name = question.split()
        if self.naive:
            return other.neighbours.core.introduction(cluster, name, trio.current_time())
        return await settle(other.neighbours.introduction(cluster, name))

    async def ask_holder(self, node, request, seconds):
        self.town.asked.append((self.name, node, request.partition(" ")[0]))
        if len(self.town.asked) == self.town.fails_at:
            raise CloudError("pipe", "the connection broke")
        who = Who("none", None, node=self.name)  # as the connection would have it
        return await Files(self.reach(node), who, seconds).ask("secstore/ask", request)

    def reach(self, node, path=()):
        other = self.town.nodes.get(node)
        if other is None or not self.town.reaches(self, other):
            return Silent(node, path)
        try:
            return Space(other.trees.own).attach(BOSS).find(path).node
        except CloudError as error:
            return Refused(node, path, error)

    async def ping(self, node, data):
        """A probe over a link that takes what `Town.rtt` says."""
        other = self.town.nodes.get(node)
        if other is None or not self.town.reaches(self, other):
            raise CloudError("unreachable", f"node {node} does not answer")
        self.town.probes.append((trio.current_time(), self.name, node))
        seconds = self.town.rtt(self.name, node)
        await trio.sleep(seconds)
        if self.town.dice.random() < self.town.lost:
            await trio.sleep(2.0 - seconds)
            raise CloudError("timeout", f"node {node} did not answer")
        pong = other.network.pong(data)
        other.network.answered(self.name, data, seconds)
        return seconds, pong

    def keep(self, nodes):
        self.kept = set(nodes)

    async def run(self, task_status):
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.objects.run)
                await nursery.start(self.neighbours.run)
                await nursery.start(self.measure.run)
                nursery.start_soon(self.redealing.run)
                self.up = True
                task_status.started()
        self.up = False

    # --- a shell ------------------------------------------------------------------------------

    async def open(self, path, mode=OREAD, who=ANN):
        at = Space(self.trees.root, self.errors).attach(who)
        ref = await settle(at.find([name for name in path.split("/") if name][1:]))
        return await settle(at.open(ref, mode))

    async def cat(self, path, who=ANN):
        handle, text = await self.open(path, OREAD, who), b""
        while data := await settle(handle.read(len(text), 4096)):
            text += data
        await settle(handle.close())
        return text.decode()

    async def echo(self, line, path, who=ANN):
        handle = await self.open(path, OWRITE, who)
        await settle(handle.write(0, line.encode() + b"\n"))
        await settle(handle.close())

    async def ls(self, path, who=ANN):
        handle = await self.open(path, OREAD, who)
        assert isinstance(handle, DirHandle)
        names = handle.entries.nodes
        own = ("help", "clone", *(("ctl", "progress") if "progress" in names else ()))
        return [name for name in names if name not in own]

    async def start(self, program="sleep 1000", *lines, who=ANN):
        """Run a program as an object of this node; its id."""
        id = self.objects.promise(who, None, [])
        for line in (*lines, f"exec {program}"):
            await self.echo(line, f"/cloud/proc/{id}/ctl", who)
        return id


class Town:
    """The nodes, and the links between them."""

    def __init__(self, path, nursery):
        self.path, self.nursery = path, nursery
        self.bus = Bus()
        self.nodes = {}
        self.seed = ""
        self.trust = None  # the cloud's root and name, where there are users
        self.asked, self.fails_at = [], 0  # questions of holders; the one that fails
        self.rtt = lambda one, other: 0.01  # seconds there and back
        self.lost = 0.0  # part of the probes without answer
        self.probes = []  # (when, from, to)
        self.dice = random.Random(4)

    async def add(self, *names, cluster="paris"):
        made = []
        for name in names:
            citizen = self.nodes[name] = Citizen(self, self.path / name, name, cluster)
            await self.nursery.start(citizen.run)
            made.append(citizen)
        return made if len(made) > 1 else made[0]

    async def claim(self, name, cluster, **more):
        """Another node of a name that may be taken."""
        key = f"{name} of {cluster}"
        made = self.nodes[key] = Citizen(
            self, self.path / f"{name}-{cluster}", name, cluster, **more
        )
        await self.nursery.start(made.run)
        return made

    def at(self, address):
        return next((n for n in self.nodes.values() if n.machine.public == address), None)

    def reaches(self, one, other):
        return other.up and self.bus.linked(one.name, other.name)

    def partition(self, *groups):
        """Nodes of different groups hear nothing of each other."""
        for group in groups:
            for other in groups:
                for a in group if group is not other else ():
                    for b in other:
                        self.bus.cut(a.name, b.name)

    def heal(self):
        """All links work again."""
        for one in self.nodes:
            for other in self.nodes:
                self.bus.heal(one, other)

    async def until(self, true, seconds=30):
        """Wait until something holds; virtual time passes."""
        with trio.fail_after(seconds):
            while not true():
                await trio.sleep(0.1)

    async def settle(self, *nodes, seconds=60):
        """Wait until all know each other as alive."""
        nodes = nodes or [n for n in self.nodes.values() if n.up]
        names = {n.name for n in nodes}

        def agreed():
            return all(
                {i.name for i in n.cloud.nodes.values() if i.state == "alive"} >= names - {n.name}
                for n in nodes
            )

        await self.until(agreed, seconds)
