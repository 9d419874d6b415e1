"""Making two copies of a table the same, whatever was missed.

    root                the digest of all; the answer is empty if it is the other's too,
                        else the digest of each part
    heads PART…         the names and stamps in the parts that differ
    fetch OWNER KEY …   the records that the other has newer
    give RECORD…        those that we have newer

Two that meet do this once; later each member does it with one at random now and then.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Change, Engine, Subscription
from cloudfs.fabric.copies import Copies, Name, compare
from cloudfs.fabric.packet import pack, text, unpack
from cloudfs.fabric.record import Record, pack_record, unpack_record
from cloudfs.fabric.stamp import Stamp

PERIOD = 10.0  # seconds between comparisons with a member at random
PATIENCE = 5.0  # seconds for one question
BATCH = 64  # records fetched at a time
BYTES = 512 << 10  # of records given at a time

_log = logging.getLogger(__name__)


class Repair:
    """Of one node's copy.  take: puts a version into it."""

    def __init__(
        self,
        engine: Engine,
        topic: str,
        copies: Copies,
        take: Callable[[Record, float | None], bool],
    ) -> None:
        self.verbs: dict[str, Callable[[list[bytes]], bytes]] = {
            "root": self._root,
            "heads": self._heads,
            "fetch": self._fetch,
            "give": self._give,
        }
        self._engine = engine
        self._topic = topic
        self._copies = copies
        self._take = take
        self._peers: dict[str, None] = {}  # to compare with, in this order
        self._more = trio.Event()

    async def run(self, changes: Subscription[Change], keepers: frozenset[str] | None) -> None:
        """Compare with who is there, comes, or is drawn.  keepers: with these only."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_compare)
            nursery.start_soon(self._run_draw, keepers)
            there = self._engine.members()
            async for change in changes:
                node = change.node
                if not change.joined:
                    self._peers.pop(node, None)
                # Of two that meet one compares, and gives as well as takes.
                elif (node in there or self._engine.node < node) and _among(node, keepers):
                    self._plan(node)
                there -= {node}

    def _plan(self, node: str) -> None:
        if node != self._engine.node:
            self._peers[node] = None
            self._more.set()

    async def _run_draw(self, keepers: frozenset[str] | None) -> None:
        while True:
            await trio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311
            members = self._engine.members() - {self._engine.node}
            others = [node for node in sorted(members) if _among(node, keepers)]
            if others:
                self._plan(random.choice(others))  # noqa: S311

    async def _run_compare(self) -> None:
        while True:
            while self._peers:
                node = next(iter(self._peers))
                del self._peers[node]
                try:
                    await self._compare(node)
                except (CloudError, ValueError) as error:
                    _log.warning("%s: comparing with %s: %s", self._topic, node, error)
            self._more = trio.Event()
            await self._more.wait()

    async def _compare(self, node: str) -> None:
        said = await self._ask(node, "root", self._copies.root())
        if not said:  # the same, or it does not keep this table
            return
        mine = self._copies.buckets()
        parts = [at for at, theirs in enumerate(unpack(said)) if theirs != mine[at]]
        said = await self._ask(node, "heads", *map(str, parts))
        if said is None:
            return
        heads = unpack(said)
        theirs = {
            (text(owner), text(key)): Stamp.parse(text(at))
            for owner, key, at in zip(heads[::3], heads[1::3], heads[2::3], strict=True)
        }
        take, give = compare(self._copies.heads(parts), theirs)
        for begin in range(0, len(take), BATCH):
            names = [part for name in take[begin : begin + BATCH] for part in name]
            self._give(unpack(await self._ask(node, "fetch", *names) or b""))
        for batch in _batches(self._packed(give)):
            await self._ask(node, "give", *batch)

    async def _ask(self, node: str, *parts: bytes | str) -> bytes | None:
        """What that node answers, None if it does not."""
        answer = await self._engine.ask(
            self._topic, pack(*parts), timeout=PATIENCE, want=frozenset([node])
        )
        return answer.replies[0].value if answer.replies else None

    # --- the other side ------------------------------------------------------------------------

    def _root(self, rest: list[bytes]) -> bytes:
        return b"" if rest == [self._copies.root()] else pack(*self._copies.buckets())

    def _heads(self, rest: list[bytes]) -> bytes:
        heads = self._copies.heads(int(part) for part in rest)
        return pack(*(part for (owner, key), at in heads.items() for part in (owner, key, str(at))))

    def _fetch(self, rest: list[bytes]) -> bytes:
        names = zip(rest[::2], rest[1::2], strict=False)
        return pack(*self._packed((text(owner), text(key)) for owner, key in names))

    def _give(self, rest: list[bytes]) -> bytes:
        for part in rest:
            self._take(*unpack_record(part))
        return b""

    def _packed(self, names: Iterable[Name]) -> Iterator[bytes]:
        now = trio.current_time()
        for name in names:
            record = self._copies.version(name)
            if record is not None:
                yield pack_record(record, self._copies.left(record, now))


def _among(node: str, keepers: frozenset[str] | None) -> bool:
    return keepers is None or node in keepers


def _batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lists of at most `BYTES`, or of one."""
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and size + len(record) > BYTES:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield batch
