"""A replicated map on an engine: every member has all of it, or a majority decides.

    table = Table(engine, "objects", "eventual")
    await nursery.start(table.run)
    await table.put("8f3a", record, lifetime=30)

`eventual`: each record has an owner, the node that put it, whose last stamp wins.  It is
pushed to all and repaired by digests: with each member as it comes, and with one at random
from time to time.  Both sides of a partition go on, and agree soon after it heals.

`quorum`: records have no owner; every read and write needs a majority of the replicas, a
list fixed when the table is made and the same for all who use it (fabric.quorum).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Engine, Sample, Subscription
from cloudfs.fabric.copies import Copies, lifetime_of
from cloudfs.fabric.keys import check_key
from cloudfs.fabric.packet import text, unpack
from cloudfs.fabric.queue import Feed
from cloudfs.fabric.quorum import Quorum
from cloudfs.fabric.record import MAX_VALUE, Record, pack_record, unpack_record
from cloudfs.fabric.repair import Repair
from cloudfs.fabric.store import Store

LOOK = 1.0  # seconds between looks for what has expired

_log = logging.getLogger(__name__)


class Table:
    """One node's part in a table.

    replicas: for `quorum`, the nodes that keep it.  store: where this node's copy outlives
    the process; without one a replica that restarts has forgotten what it agreed to.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        mode: Literal["eventual", "quorum"] = "eventual",
        replicas: Sequence[str] = (),
        store: Store | None = None,
    ) -> None:
        """Raises CloudError("bad") for a name that is no key, a mode there is not, or a
        quorum without replicas."""
        if mode not in ("eventual", "quorum") or (mode == "quorum") != bool(replicas):
            raise CloudError("bad", f"table {name}: no mode {mode} with replicas {[*replicas]}")
        self.name = name
        self.mode = mode
        self._engine = engine
        self._topic = check_key(f"table/{name}")
        self._copies = Copies()
        self._store = store
        self._watchers: list[Feed[Record]] = []
        self._repair = Repair(engine, self._topic, self._copies, self._take)
        self._quorum = Quorum(engine, self._topic, replicas) if mode == "quorum" else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the copy until cancelled.  The engine must run."""
        if self._store is not None:
            for record, left in self._store.load():
                self._copies.merge(record, left, trio.current_time())
        topic = self._topic
        serving = self._engine.serve(topic, self._asked)
        try:
            with self._engine.subscribe(f"{topic}/new") as pushed, self._engine.watch() as changes:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_pushed, pushed)
                    nursery.start_soon(self._run_expiry)
                    if self._quorum is None or self._engine.node in self._quorum.replicas:
                        keepers = self._quorum.replicas if self._quorum is not None else None
                        nursery.start_soon(self._repair.run, changes, keepers)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            serving.close()

    # --- reading and writing --------------------------------------------------------------

    async def put(self, key: str, value: bytes, lifetime: float = 0.0) -> Record:
        """Set what this node says of the key, for `lifetime` seconds unless it is put again,
        0 for ever.  Raises CloudError: `bad`, `toobig`; in a quorum `unreachable`."""
        if len(value) > MAX_VALUE:
            raise CloudError("toobig", f"a record has at most {MAX_VALUE} bytes")
        return await self._write(key, bytes(value), lifetime, gone=False)

    async def delete(self, key: str) -> None:
        """Take back what this node said of the key.  Raises CloudError as `put` does, and
        `absent` where there is nothing to take back."""
        have = self._copies.version((self._engine.node, key))
        if self._quorum is not None:
            have = await self._quorum.read(key)
        if have is None or have.gone:
            raise CloudError("absent", f"table {self.name}: this node says nothing of {key}")
        await self._write(key, b"", have.lifetime, gone=True)

    async def get(self, key: str) -> Record | None:
        """What the key holds: the last of all owners' records.  In a quorum raises
        CloudError("unreachable") without a majority."""
        if self._quorum is not None:
            found = await self._quorum.read(check_key(key))
            return None if found is None or found.gone else found
        return self._copies.get(key)

    def owned(self, key: str) -> list[Record]:
        """This copy's records of the key, one for each owner, the last first."""
        return self._copies.owned(key)

    def keys(self) -> list[str]:
        """The keys of this copy."""
        return sorted(self._copies.keys())

    def watch(self) -> Subscription[Record]:
        """The records of this copy as they are and change, the last of each; one that has
        expired comes as gone."""
        feed: Feed[Record] = Feed(self._watchers.remove)
        for key in self.keys():
            for record in self.owned(key):
                feed.keep(f"{record.owner} {key}", record)
        self._watchers.append(feed)
        return feed

    async def _write(self, key: str, value: bytes, lifetime: float, gone: bool) -> Record:
        check_key(key)
        if not 0 <= lifetime < 1e10:
            raise CloudError("bad", f"{lifetime} is no lifetime in seconds")
        if self._quorum is not None:
            return await self._quorum.write(key, value, lifetime, gone)
        node = self._engine.node
        have = self._copies.version((node, key))  # perhaps of a life when the clock was ahead
        stamp = self._engine.now().after(None if have is None else have.stamp)
        record = Record(key, node, value, stamp, lifetime, gone)
        if not self._take(record, lifetime_of(record)):
            raise CloudError("toomany", f"table {self.name} is full")
        self._engine.tell(f"{self._topic}/new", pack_record(record, lifetime_of(record)))
        await trio.lowlevel.checkpoint()
        return record

    def _take(self, record: Record, left: float | None) -> bool:
        """Put a version into this copy; whether it was newer."""
        if not self._copies.merge(record, left, trio.current_time()):
            return False
        if self._store is not None:
            self._store.save(record, left)
        self._changed(record)
        return True

    def _changed(self, record: Record) -> None:
        for feed in self._watchers:
            feed.keep(f"{record.owner} {record.key}", record)

    # --- what others send ------------------------------------------------------------------

    async def _run_pushed(self, pushed: Subscription[Sample]) -> None:
        async for sample in pushed:
            try:
                self._take(*unpack_record(sample.value))
            except CloudError as error:
                _log.warning("table %s: %s", self.name, error)

    async def _run_expiry(self) -> None:
        while True:
            await trio.sleep(LOOK)
            over = self._copies.expire(trio.current_time())
            for one in over:
                self._changed(Record(one.key, one.owner, b"", one.stamp, one.lifetime, gone=True))
            if over and self._store is not None:
                self._store.expire()

    async def _asked(self, key: str, payload: bytes) -> list[tuple[str, bytes]]:
        """Another node's question: a verb and its arguments."""
        first, *rest = unpack(payload)
        verb = text(first)
        if verb in self._repair.verbs:
            return [(self._topic, self._repair.verbs[verb](rest))]
        if self._quorum is not None:
            return [(self._topic, self._quorum.asked(verb, rest, self._copies, self._take))]
        raise CloudError("proto", f"table {self.name}: no verb {verb[:20]!r}")
