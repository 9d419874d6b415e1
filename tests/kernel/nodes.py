"""Several nodes in one process: tables of objects over twins, that reach each other
through their real trees, with faults on the way."""

from __future__ import annotations

import contextlib

import trio
import trio.testing

from cloudfs.errors import CloudError
from cloudfs.kernel import verbs
from cloudfs.kernel.bell import Log
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.kernel.reserve import Reserve, amount
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin
from cloudfs.tree.api import DMDIR, OREAD, OWRITE, Node, Ref
from cloudfs.tree.nodes import own
from cloudfs.tree.onward import Follow
from cloudfs.tree.proc import Proc
from cloudfs.tree.space import ErrLog, Space
from cloudfs.wait import settle
from cloudfs.who import Who
from cloudfs.wire.trace import Trace

ANN, BOB = Who("ann", 1001), Who("bob", 1002)
CPUS, MEM = 2, 1000
ALL = amount(CPUS, MEM)
WANTS = "limit cpu=1.5 mem=600"

# What may happen to one write on its way.  "late": no answer, and it arrives 15 s later.
STEPS = {  # by the first word
    **{"object": "offer", "begin": "commit", "withdraw": "withdraw"},
    **{"fetch": "fetch", "revive": "commit"},
}
FAULTS = ("refused-before", "refused-after", "silent-before", "silent-after", "late")


class Net:
    """The nodes, and what is to happen to the next writes.

    faults: (step, number) → fault, where the step is "offer", "fetch", "commit", "withdraw" or "verb" and
    the number counts the writes of that step.  down: nodes that do not answer at all.
    """

    def __init__(self, path, nursery):
        self.opened = []  # records, which the fixture closes
        self.path, self.nursery = path, nursery
        self.nodes = {}
        self.faults = {}
        self.counts = {}
        self.down = set()
        self.alone, self.apart = "", False  # a node that is cut off, or all from each other
        self.reader = ""  # the node that reads at the moment
        self.reads, self.cut = 0, set()  # reads so far, and those that fail
        self.written = []  # (node, path, text)

    async def add(self, name, **more):
        node = self.nodes[name] = Member(self, name, **more)
        await node.up()
        return node

    def cut_off(self, name=""):
        """From all others, or nobody any more."""
        self.alone = name

    def severed(self, one, two):
        return self.apart or (bool(self.alone) and self.alone in (one, two))

    async def write(self, node, user, path, text, by=""):
        if self.severed(by, node):
            await trio.sleep_forever()
        step = STEPS.get(text.split()[0], "verb")
        count = self.counts[step] = self.counts.get(step, 0) + 1
        fault = self.faults.get((step, count), "")
        self.written.append((node, path, text))
        if node in self.down:
            await trio.sleep_forever()
        if fault == "late":
            self.nursery.start_soon(self._late, node, user, path, text)
        if fault.endswith("after") or not fault:
            await self.nodes[node].write(user, path, text)
        if fault.startswith("refused"):
            raise CloudError("pipe", "the connection broke")
        if fault:
            await trio.sleep_forever()

    async def _late(self, node, user, path, text):
        await trio.sleep(15)
        with contextlib.suppress(CloudError):
            await self.nodes[node].write(user, path, text)

    def copies(self, id):
        """Where a program of that object runs now."""
        return [
            name
            for name, node in self.nodes.items()
            if id in node.twin.played and node.twin.played[id].exit is None
        ]

    def begun(self, id):
        return [name for name, node in self.nodes.items() if id in node.twin.played]

    def free(self):
        return {name: node.reserve.free for name, node in self.nodes.items()}


class Reached:
    def __init__(self, net, node, user, by=""):
        self.net, self.node, self.user, self.by = net, node, user, by

    async def write(self, path, text):
        await self.net.write(self.node, self.user, path, text, self.by)

    async def read(self, path):
        self.net.reads += 1
        self.net.reader = self.by
        if self.node in self.net.down or self.net.severed(self.by, self.node):
            await trio.sleep_forever()
        if self.net.reads in self.net.cut:
            raise CloudError("pipe", "the connection broke")
        return await self.net.nodes[self.node].read(self.user, path)

    @contextlib.asynccontextmanager
    async def bulk(self, folder):
        yield Way(self, folder)


class Way:
    def __init__(self, reached, folder):
        self.reached, self.folder = reached, folder

    async def read(self, names, take):
        for name in names:
            take(name, memoryview(await self.reached.read(f"{self.folder}/{name}")))


class There(Node):
    """A file of another node, as it is imported."""

    remote = True

    def __init__(self, net, node, path, mode=0o666):
        self.net, self.node, self.path = net, node, path
        self.name, self.mode, self.qid = path[-1], mode, 0
        self.uid = self.gid = "none"

    def walk(self, name, at, cues):
        return There(self.net, self.node, (*self.path, name))

    def open(self, mode, at, cues):
        if self.node in self.net.down:
            raise CloudError("unreachable", f"node {self.node} does not answer")
        there = Space(self.net.nodes[self.node].root, ErrLog()).attach(Who(at.who.user, None))
        ref = there.root()
        _, found, error = there.walk_all(Ref(ref.node, ref.path, cues), self.path)
        if error:
            raise error
        return there.open(found, mode)


class Local(Node):
    """proc/ID of a node's whole tree, for those who follow an object from there."""

    def __init__(self, member):
        self.member, self.net = member, member.net
        self.name, self.mode, self.qid = "/", 0o555 | DMDIR, 0
        self.uid = self.gid = "none"
        self.follow = Follow(self.where, self.place, self.ask)

    def walk(self, name, at, cues):
        if name == "proc":
            return self
        place, _ = self.where(name)
        there = There(self.net, place, ("proc", name), 0o555 | DMDIR)
        return self.follow.object(there, name, place)

    def where(self, id):
        """What the node knows itself, else what it would be told."""
        has = [name for name, node in self.net.nodes.items() if id in node.objects.all]
        own = self.member.name
        return self.place(own if own in has else self.member.objects.moved_to(id) or has[0], id)

    async def ask(self, id):
        await trio.sleep(1)

    def place(self, node, id):
        return node, lambda name: There(self.net, node, ("proc", id, name))


class Member:
    """One node, as what the kernel needs of the others (`Cloud`) too."""

    def __init__(self, net, name, cluster="paris", idle=2.0, owner="ann"):
        self.net, self.name, self.cluster, self.idle, self.owner = net, name, cluster, idle, owner
        self.path = net.path / name
        self.path.mkdir()
        self.twin = Twin()
        self.told = {}  # in place of the attributes that others see
        self.asleep = False

    async def up(self):
        self.records = Records(self.path / "db")
        self.net.opened.append(self.records)
        events = Log(100)
        metrics = Metrics(self.path)
        self.machine = Machine(self.name, self.cluster, self.owner, metrics, self.records, events)
        self.reserve = self.machine.reserve = Reserve(amount(CPUS, MEM))
        self.objects = Objects(
            self.twin, self.records, self.path, self.name, self.owner, events=events,
            attributes=self.attributes, reserve=self.reserve, others=self,
        )  # fmt: skip
        proc = Proc(self.objects, lambda: 0.0)
        self.root = own(self.machine, proc, Trace())
        self.local = Local(self)
        self.spaces = {}
        self.scope = await self.net.nursery.start(self._run)

    async def _run(self, task_status):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.objects.run)
                task_status.started(scope)

    async def down(self):
        self.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        self.records.close()

    def attributes(self):
        has = self.machine.attributes()
        return (
            has | {"cpus": CPUS, "cpu.idle": self.idle, "load": 0.0, "mem.total": MEM} | self.told
        )

    async def write(self, user, path, text):
        space = self.spaces.setdefault(user, Space(self.root, ErrLog()))
        at = space.attach(Who(user, None))
        _, ref, error = at.walk_all(at.root(), path.split("/"))
        if error:
            raise at.note(error, path.split("/"))
        handle = at.open(ref, OWRITE)
        await settle(handle.write(0, text.encode()))
        await settle(handle.close())

    async def read(self, user, path):
        at = Space(self.root, ErrLog()).attach(Who(user, None))
        _, ref, error = at.walk_all(at.root(), path.split("/"))
        if error:
            raise at.note(error, path.split("/"))
        handle = await settle(at.open(ref, OREAD))
        try:
            return bytes(await settle(handle.read(0, 1 << 30)))
        finally:
            await settle(handle.close())

    # --- Cloud

    def knows(self, node):
        return node in self.net.nodes

    def heard_of(self, node):
        return node in self.net.nodes

    async def candidates(self, wish):
        if self.asleep:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return {
            name: node.attributes() | {"age": 0.0}
            for name, node in self.net.nodes.items()
            if node is not self and name not in self.net.down
        }

    def reach(self, node, user, seconds):
        return Reached(self.net, node, user, self.name)

    # --- what tests do

    def new(self, who=ANN, session=None):
        return self.objects.get(self.objects.promise(who, session, []), who)

    async def tell(self, made, *lines, who=ANN):
        for line in lines:
            await settle(verbs.act(self.objects, made, line, who))
        return made
