"""How a signed record comes to every node of the cloud.

A record that is new to a node it tells in each of its zones but the one that it came from; the
delegates of a zone sit in the one above as well, so that is all zones.  What is lost on the way,
and what two sides of a partition made apart, is repaired: a node compares its records with those of
a random member of one of its zones, every ten seconds or so and a moment after somebody came.

    differ HASH…    the hash of each part; the answer is, for each part that is another there,
                    its number and the digests in it
    fetch DIGEST…   those records
    give RECORD…    records that the other has not

So a new record is known where links work within a second, and everywhere within about two rounds of
repair for each level of zones after a fault has ended.  Nothing is believed for who sent it:
`People.take` checks each one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Change, Engine
from cloudfs.fabric.packet import pack, text, unpack
from cloudfs.factotum.register import LINE, PARTS, Record, order
from cloudfs.kernel.people import HERE, People

log = logging.getLogger(__name__)

PERIOD = 10.0  # seconds between two comparisons, on average
SOON = 0.5, 1.5  # seconds after which one is made with somebody who came
PATIENCE = 5.0  # seconds for one question
BATCH = 64  # records in one question
BYTES = 512 << 10  # of an answer
ROUNDS = 4  # of one comparison
REFUSED = 1024  # records remembered that were refused
FORGIVE = 600.0  # seconds for which they are
FINAL = frozenset({"bad", "denied", "toobig", "toomany"})


class Spread:
    """Of one node.  sessions: the engine of each zone that it is in."""

    def __init__(self, node: str, people: People, sessions: Mapping[str, Engine]) -> None:
        self._node = node
        self._people = people
        self._sessions = sessions
        self._came: dict[tuple[str, str], None] = {}  # (zone, node)
        self._hurry = trio.Event()
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._random = random.Random(node)  # noqa: S311, spreads work over time

    def enter(self, zone: str, engine: Engine) -> None:
        """Answer in a zone that was entered; it ends with the engine."""
        engine.serve(f"people/{self._node}", self._asked)

    def hint(self, zone: str, change: Change) -> None:
        """Somebody came into a zone or went."""
        if change.joined:
            self._came[zone, change.node] = None
            self._hurry.set()
        else:
            self._came.pop((zone, change.node), None)

    async def run(self) -> None:
        """Tell and repair until cancelled."""
        self._people.tell = self._tell
        try:
            while True:
                with trio.move_on_after(PERIOD * self._random.uniform(0.5, 1.5)):
                    await self._hurry.wait()
                if self._came:
                    await trio.sleep(self._random.uniform(*SOON))
                await self._compare_one()
        finally:
            self._people.tell = lambda record, zone: None

    # --- telling ----------------------------------------------------------------------------

    def _tell(self, record: Record, came: str) -> None:
        for zone, engine in self._sessions.items():
            if zone != came:
                engine.tell(f"people/{record.digest[:16]}", record.text().encode())

    def heard(self, zone: str, value: bytes) -> None:
        """A record was told in a zone."""
        with contextlib.suppress(CloudError):
            if len(value) <= LINE:
                self._take(value, zone)

    def _take(self, value: bytes, zone: str) -> bool:
        """Whether it was new; what is wrong with it concerns nobody but who made it."""
        try:
            return self._people.take(text(value), zone)
        except CloudError as error:
            log.debug("a record of users was refused: %s", error)
            if error.kind in FINAL:
                raise
            return False

    # --- repairing --------------------------------------------------------------------------

    async def _compare_one(self) -> None:
        """Compare with one of those who came, else with any member of any zone."""
        there = [
            (zone, node)
            for zone, engine in self._sessions.items()
            for node in engine.members() - {self._node}
        ]
        came = [one for one in self._came if one in there]
        self._came.clear()
        self._hurry = trio.Event()
        if not there:
            return
        zone, node = self._random.choice(sorted(came or there))
        try:
            for _ in range(ROUNDS):
                if not await self._compare(self._sessions[zone], node):
                    break
        except (CloudError, KeyError, ValueError) as error:
            log.debug("comparing users with %s: %s", node, error)

    async def _compare(self, engine: Engine, node: str) -> bool:
        """Whether anything was taken or given."""
        register = self._people.register
        said = await self._ask(engine, node, "differ", *register.hashes())
        theirs: set[str] = set()
        mine: set[str] = set()
        parts = unpack(said)
        for number, digests in zip(parts[::2], parts[1::2], strict=True):
            mine.update(register.names(int(number)))
            theirs.update(digests[at : at + 32].hex() for at in range(0, len(digests), 32))
        wanted = sorted(name for name in theirs - mine if not self._was_refused(name))
        changed = False
        for some in _batches(wanted):
            said = await self._ask(engine, node, "fetch", *map(bytes.fromhex, some))
            changed = await self._take_all(unpack(said)) or changed
        for batch in self._packed(sorted(mine - theirs)):
            changed = bool(await self._ask(engine, node, "give", *batch)) or changed
        return changed

    async def _ask(self, engine: Engine, node: str, verb: str, *parts: bytes) -> bytes:
        answer = await engine.ask(
            f"people/{node}", pack(verb, *parts), timeout=PATIENCE, want=frozenset([node])
        )
        if not answer.replies:
            raise CloudError("timeout", f"{node} did not answer")
        return answer.replies[0].value

    async def _take_all(self, values: Iterable[bytes]) -> bool:
        """Take records, each after what it is checked by; whether any was new."""
        new = False
        lines = [value for value in values if len(value) <= LINE]
        for line in sorted(lines, key=lambda value: order(value.decode(errors="replace"))):
            try:
                new = self._take(line, HERE) or new
            except CloudError:
                self._refuse(line)
            await trio.lowlevel.checkpoint()  # a check takes most of a millisecond
        return new

    def _refuse(self, line: bytes) -> None:
        # A dealing is known by another hash, so one that is refused is fetched again: they are few.
        self._refused[hashlib.sha256(line).hexdigest()] = trio.current_time() + FORGIVE
        while len(self._refused) > REFUSED:
            self._refused.popitem(last=False)

    def _was_refused(self, digest: str) -> bool:
        return trio.current_time() < self._refused.get(digest, 0.0)

    def _packed(self, names: Iterable[str]) -> Iterator[list[bytes]]:
        """Records of these digests, as many in one question as may be."""
        batch: list[bytes] = []
        size = 0
        found = (self._people.register.find(name) for name in names)
        lines = sorted((one.text() for one in found if one is not None), key=order)
        for line in lines:
            data = line.encode()
            if batch and (len(batch) >= BATCH or size + len(data) > BYTES):
                yield batch
                batch, size = [], 0
            batch.append(data)
            size += len(data)
        if batch:
            yield batch

    # --- the other side -----------------------------------------------------------------------

    async def _asked(self, key: str, payload: bytes) -> list[tuple[str, bytes]]:
        first, *rest = unpack(payload)
        verb = text(first)
        if verb == "differ":
            return [(key, self._differ(rest))]
        if verb == "fetch":
            batch = next(self._packed(digest.hex() for digest in rest[:BATCH]), [])
            return [(key, pack(*batch))]
        if verb == "give":
            return [(key, b"new" if await self._take_all(rest[:BATCH]) else b"")]
        raise CloudError("proto", f"users: no verb {verb[:20]!r}")

    def _differ(self, theirs: list[bytes]) -> bytes:
        if len(theirs) != PARTS:
            raise CloudError("proto", f"users: {len(theirs)} parts, not {PARTS}")
        parts: list[bytes | str] = []
        size = 0
        for number, mine in enumerate(self._people.register.hashes()):
            if mine != theirs[number] and size < BYTES:
                digests = bytes.fromhex("".join(self._people.register.names(number)))
                parts += [str(number), digests]
                size += len(digests)
        return pack(*parts)


def _batches(names: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(names), BATCH):
        yield names[begin : begin + BATCH]
