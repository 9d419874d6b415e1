"""Has objects leave this node where balance.py says so: the driver.

What it decides, and why, stands in the node's events, and in those of an object that moves.
It acts as the node's owner does who writes move to an object's ctl; what an object refuses it
refuses here too, and then runs on.
"""

from __future__ import annotations

import logging
import time
from itertools import islice

import trio

from cloudfs.errors import CloudError
from cloudfs.kernel.balance import (
    COMING,
    MINUTE,
    Balance,
    Choice,
    Look,
    Policy,
    Thing,
    coming,
    way,
)
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.figure import Known
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.network import Network
from cloudfs.kernel.object import Object
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.verbs import act
from cloudfs.wait import settle
from cloudfs.who import Who

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 1.0, 5.0  # seconds between two looks; 120 of them make a `rest`
AHEAD = 30.0  # seconds for which the load is foretold
ASK = 30.0  # seconds after which other zones are asked anew for their nodes
ADOPT = 10.0  # seconds after the daemon's start, in which it finds what ran before
NEW = 15.0  # seconds: an object that is made longer ago than this, and is new here, came
MEASURED = 256  # objects whose processor time is read in one look
USED = 0.3  # what a new value counts in the cores that an object uses


class Use:
    """What is known of one object's time here, and of the processor time that it uses.  came:
    whether it is from elsewhere, or may be; new: whether the load does not show it at first."""

    __slots__ = ("came", "cores", "cpu", "new", "since", "when")

    def __init__(self, now: float, came: bool, new: bool) -> None:
        self.since, self.came, self.new = now, came, new
        self.when, self.cpu, self.cores = -1.0, 0.0, 0.0

    def add(self, now: float, cpu: float) -> None:
        """It has used so many seconds of processor time until now."""
        if 0 <= self.when < now:
            rate = max(0.0, cpu - self.cpu) / (now - self.when)
            self.cores += USED * (rate - self.cores)
        self.when, self.cpu = now, cpu


class Balancer:
    """The driver of one node; `run` goes on until it is cancelled."""

    def __init__(self, machine: Machine, objects: Objects, cloud: Cloud, network: Network) -> None:
        self.core = Balance(machine.name)
        self._machine = machine
        self._objects = objects
        self._cloud = cloud
        self._network = network
        self._uses: dict[str, Use] = {}
        self._began = trio.current_time()
        self._changes: dict[str, tuple[float, float]] = {}  # see balance.coming
        self._moving = False
        self._asked = -ASK

    async def run(self) -> None:
        """Look again and again."""
        while True:
            rest = self._machine.balance.rest
            await trio.sleep(min(LONGEST, max(SHORTEST, rest / 120)))
            try:
                await self.look()
            except CloudError as error:
                log.warning("balance: %s", error)

    async def look(self) -> None:
        """Decide, and begin what was decided."""
        policy, now = self._machine.balance, trio.current_time()
        running = self._objects.index["state"].get("running", {})
        self._follow(running, now, policy.on)
        self._tell_coming(now)
        if policy.on and self.core.busy and now - self._asked >= ASK and not self._cloud.alone():
            self._asked = now
            await self._cloud.refresh("nodes", 1.0)
        if self._moving:
            return
        nodes = self._cloud.attributes() if policy.on else {}
        nodes.pop(self._machine.name, None)
        load = self._machine.load.ahead(AHEAD)
        things: list[Thing] = []
        if policy.on and (self.core.busy or self._machine.price):
            word = self._objects.host.images_word()
            if self._objects.handover is None:
                word = "this node is in no cloud"
            things = [self._thing(made, word) for made in running.values()]
        found = Look(now, self._objects.attributes(), load, things, nodes, self._cost)
        for choice in self.core.look(policy, found):
            self._tell(choice)
            made = running.get(choice.id)
            if choice.what == "moves" and made is not None:
                self._moving = True
                self.core.began(policy, now)
                self._objects.spawn(self._move, policy, made, choice)

    def _follow(self, running: dict[str, Object], now: float, measure: bool) -> None:
        """Note who is new here, and what some of them use."""
        # One that is frozen for a moment, as by a checkpoint, has not gone.
        self._uses = {id: use for id, use in self._uses.items() if id in self._objects.all}
        known_before = now - self._began < ADOPT
        for id, made in running.items():
            if id not in self._uses:
                came = time.time() - made.created > NEW
                self._uses[id] = Use(now, came or known_before, came and not known_before)
        if measure:
            looked_at = sorted(running, key=lambda id: self._uses[id].when)
        else:  # only what others are to be told
            looked_at = [id for id in running if _recent(self._uses[id], now)]
        for id in islice(looked_at, MEASURED):
            used = running[id].usage()
            self._uses[id].add(now, used.user + used.sys)

    def _tell_coming(self, now: float) -> None:
        """Tell the others what has come here and is not in the load yet, and what has gone."""
        for id, use in self._uses.items():
            if _recent(use, now):
                self._changes[id] = use.since, use.cores
        old = [id for id, (when, _) in self._changes.items() if now - when > 4 * MINUTE]
        for id in old:
            del self._changes[id]
        if self._changes:
            self._machine.measured[COMING] = round(coming(self._changes, now), 2)
        else:
            self._machine.measured.pop(COMING, None)

    def _thing(self, made: Object, word: str) -> Thing:
        fixed = word
        if made.on:
            fixed = f"it is to run on {made.on}"
        elif made.spread:
            fixed = f"it is spread by {made.spread}"
        use, mem = self._uses[made.id], made.sampled[1].mem or 0
        return Thing(made.id, made.wish(), use.cores, mem, use.since, use.came, fixed)

    def _cost(self, node: str, size: float) -> tuple[float, float]:
        return way(_pair(self._network.latency(node)), _pair(self._network.bandwidth(node)), size)

    async def _move(self, policy: Policy, made: Object, choice: Choice) -> None:
        who = Who(self._machine.owner, None, boss=True)
        since, use = trio.current_time(), self._uses.get(made.id)
        made.events.add("balance", to=choice.node, why=choice.why)
        try:
            await settle(act(self._objects, made, f"move {choice.node}", who))
        except CloudError as error:
            self.core.refused(policy, made.id, trio.current_time())
            why = error.why or error.text
            self._machine.events.add("balance", what="failed", id=made.id, to=choice.node, why=why)
        else:
            seconds = round(trio.current_time() - since, 3)
            self._changes[made.id] = trio.current_time(), -use.cores if use else 0.0
            self._machine.events.add(
                "balance", what="moved", id=made.id, to=choice.node, seconds=seconds
            )
        finally:
            self._moving = False

    def _tell(self, choice: Choice) -> None:
        pairs: dict[str, object] = {"what": choice.what}
        if choice.id:
            pairs["id"] = choice.id
        if choice.node:
            pairs |= {"to": choice.node, "gain": round(choice.gain, 3)}
            pairs["cost"] = round(choice.cost, 3)
        self._machine.events.add("balance", **pairs, why=choice.why)


def _recent(use: Use, now: float) -> bool:
    """Whether an object came so short a time ago that the load does not show it yet."""
    return use.new and now - use.since < 4 * MINUTE


def _pair(known: Known | None) -> tuple[float, float] | None:
    return None if known is None else (known.value, known.error)
