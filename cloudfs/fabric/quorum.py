"""Majority reads and writes: Attiya, Bar-Noy and Dolev's register, one for each key.

A write learns the last stamp from a majority and tells a majority one above it.  A read
takes the last of a majority's versions and, where they differ, tells it to a majority
before it answers.  Any two majorities share a replica, so a read sees every write that was
answered before it began.  Which nodes are replicas is fixed; who is there does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Engine
from cloudfs.fabric.copies import Copies, lifetime_of
from cloudfs.fabric.keys import check_key
from cloudfs.fabric.packet import pack, text
from cloudfs.fabric.record import Record, pack_record, unpack_record

PATIENCE = 3.0  # seconds for each of the two rounds

Take = Callable[[Record, float | None], bool]


class Quorum:
    """For one table.  Raises CloudError("bad") for replicas that are no node names."""

    def __init__(self, engine: Engine, topic: str, replicas: Sequence[str]) -> None:
        self.replicas = frozenset(check_key(node) for node in replicas)
        self.need = len(self.replicas) // 2 + 1
        self._engine = engine
        self._topic = topic
        self._list = " ".join(sorted(self.replicas))

    async def read(self, key: str) -> Record | None:
        """The last version, deleted or not.  Raises CloudError("unreachable")."""
        said = await self._majority("read", key)
        found = [unpack_record(each) for each in said if each]
        if not found:
            return None
        record, left = max(found, key=lambda each: each[0].stamp)
        if len(found) < len(said) or any(other.stamp != record.stamp for other, _ in found):
            await self._majority("write", pack_record(record, left))
        return record

    async def write(self, key: str, value: bytes, lifetime: float, gone: bool) -> Record:
        """Raises CloudError("unreachable"): a minority may have it then, and a later read
        may find it or not."""
        found = [unpack_record(each)[0].stamp for each in await self._majority("read", key) if each]
        stamp = self._engine.now().after(max(found, default=None))
        record = Record(key, "", value, stamp, lifetime, gone)
        await self._majority("write", pack_record(record, lifetime_of(record)))
        return record

    async def _majority(self, verb: str, argument: bytes | str) -> list[bytes]:
        """What the first majority of the replicas answers."""
        said: list[bytes] = []
        failed: list[str] = []
        question = pack(verb, self._list, argument)

        async with trio.open_nursery() as nursery:

            async def ask(node: str) -> None:
                answer = await self._engine.ask(
                    self._topic, question, timeout=PATIENCE, want=frozenset([node])
                )
                said.extend(reply.value for reply in answer.replies)
                failed.extend(f"{node}: {why}" for why in answer.failed.values())
                if len(said) >= self.need:
                    nursery.cancel_scope.cancel()

            for node in sorted(self.replicas):
                nursery.start_soon(ask, node)
        if len(said) < self.need:
            why = f"{self._topic}: {len(said)} of {len(self.replicas)} replicas answered"
            why = "; ".join([f"{why}, {self.need} are needed", *failed])
            raise CloudError("unreachable", why, f"try again when more are back: {self._list}")
        return said

    # --- the other side ------------------------------------------------------------------------

    def asked(self, verb: str, rest: list[bytes], copies: Copies, take: Take) -> bytes:
        """A replica's answer.  Raises CloudError: `refused` where it is none of the list, or
        the list is another; `proto`."""
        if self._engine.node not in self.replicas or not rest or text(rest[0]) != self._list:
            raise CloudError(
                "refused", f"{self._engine.node} keeps {self._topic} with replicas {self._list}"
            )
        if verb == "write" and len(rest) == 2:
            take(*unpack_record(rest[1]))
            return b""
        if verb == "read" and len(rest) == 2:
            record = copies.version(("", text(rest[1])))
            left = None if record is None else copies.left(record, trio.current_time())
            return b"" if record is None else pack_record(record, left)
        raise CloudError("proto", f"{self._topic}: no verb {verb[:20]!r}")
