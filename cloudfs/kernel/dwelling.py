"""What runs in a leaf: a node's own objects are told there, and those of others heard.

Own objects are told in the leaf and in that to which the node is on its way, and a while longer
in one that was left, by those who have not left it yet.  Others' are heard in the leaf alone,
anew once that is another.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Set
from functools import partial

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.api import Engine, Sample, Subscription
from cloudfs.kernel.catalog import summary
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.membership import Member
from cloudfs.kernel.object import Object

log = logging.getLogger(__name__)

LINGER = 20.0  # seconds for which objects are told in a leaf that was left
MANY = 4096  # members that were forgotten, of which that is remembered


class _Home:
    """A zone in which the objects of this node are told.  told: their keys; until: on the
    cloud's clock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.told: set[str] = set()
        self.until = 0.0


class Dwelling:
    """Of one node.  sessions: the engines of the zones that it is in; spawn: runs a task for as
    long as it is among others."""

    def __init__(
        self,
        cloud: Cloud,
        core: Member,
        sessions: Mapping[str, Engine],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._cloud = cloud
        self._core = core
        self._sessions = sessions
        self._spawn = spawn
        self._homes: dict[str, _Home] = {}  # by zone
        self._listens: Engine | None = None  # that of whose members the objects are heard
        self._feed: Subscription[Sample] | None = None
        self._forgot: set[str] = set()  # members that were forgotten

    def step(self) -> None:
        """To be called whenever the node may have come to another zone."""
        now, leaf = self._cloud.clock(), self._core.leaf
        homes = {zone for zone in (leaf, self._core.moving.target) if zone is not None}
        for zone in homes & self._sessions.keys():
            engine = self._sessions[zone]
            if zone not in self._homes or self._homes[zone].engine is not engine:
                self._homes[zone] = _Home(engine)
                for made in self._cloud.objects.all.values():
                    self._tell(self._homes[zone], made)
        for zone, home in list(self._homes.items()):
            if zone in homes:
                home.until = now + LINGER
            elif self._sessions.get(zone) is not home.engine:
                del self._homes[zone]
            elif now >= home.until:
                del self._homes[zone]
                for key in home.told:
                    home.engine.withdraw(key)
        here = self._homes.get(leaf) if leaf is not None else None
        if here is not None and here.engine is not self._listens:
            self._listen(here.engine)

    # --- telling -------------------------------------------------------------------------------

    def changed(self, made: Object) -> None:
        """To be called after every change of an object of this node."""
        for home in self._homes.values():
            self._tell(home, made)

    def _tell(self, home: _Home, made: Object) -> None:
        # While it moves two nodes tell of it: each has a key of its own, lest the word of the
        # one, come late, count as older than that the other tells no more.
        key = f"object/{self._core.name}/{made.id}"
        if made.state in ("gone", "new"):
            home.engine.withdraw(key)
            home.told.discard(key)
        else:
            home.engine.publish(key, summary(made).encode())
            home.told.add(key)

    # --- hearing -------------------------------------------------------------------------------

    def forget(self, names: Set[str]) -> None:
        """These members of the leaf are not known any more, nor what they run."""
        self._forgot |= names if len(self._forgot) < MANY else set()

    def back(self, name: str) -> None:
        """That member lives: what it runs was forgotten with it, and is not told again."""
        if name in self._forgot:
            self._forgot.clear()
            self._listens = None

    def _listen(self, engine: Engine) -> None:
        """Hear what the members of a leaf run: all of it, and then what changes."""
        feed = engine.subscribe("object/**", own=True)
        if self._feed is not None:
            for sample in self._feed.drain():  # no end of an object may fall between the two
                self._hear(sample)
            self._feed.close()
        self._feed, self._listens = feed, engine
        self._spawn(partial(self._hear_all, feed))

    async def _hear_all(self, feed: Subscription[Sample]) -> None:
        with feed:
            async for sample in feed:
                self._hear(sample)

    def _hear(self, sample: Sample) -> None:
        _, node, id = sample.key.split("/", 2)
        if node == self._core.name:
            return
        if sample.gone:
            self._cloud.catalog.drop(node, id)
            if self._cloud.objects.handover is not None:
                found = self._cloud.catalog.find(id)
                self._cloud.objects.handover.moved.left(id, node, found.node if found else "")
            return
        try:
            line = ndb.text_line(sample.value)
            told = ndb.parse(line)
            if told["id"] != id:
                raise CloudError("bad", "it is of another object")
            self._cloud.catalog.put(node, line, sample.stamp)
        except (CloudError, KeyError) as error:
            log.debug("%s told nonsense of object %s: %s", node, id, error)
            return
        if id in self._cloud.objects.all and self._cloud.objects.handover is not None:
            self._cloud.objects.handover.speaks(node, id, told)
