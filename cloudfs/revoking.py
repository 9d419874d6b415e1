"""What a node does about those that lost their place in the cloud.

    revoke ──▶ the record is kept, told to all zones at once, and kept told by each zone's
               first delegate, so that who comes later hears of it
    heard  ──▶ it is checked, kept and told on; 9P connections with that node are closed at
               once, and the engine's sessions are opened anew, within SPREAD, so as to shut
               it out: a node that goes on all the same says and hears nothing

A node that hears of itself leaves.  Who hears of nothing shuts a node out when its last
certificate has run out, after 72 hours at most.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from cloudfs import ndb
from cloudfs.credentials import Credentials
from cloudfs.errors import CloudError
from cloudfs.factotum.revocation import Revocation
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.neighbours import Neighbours
from cloudfs.wire.imports import Pool
from cloudfs.wire.server import Server

WORD = "revoked"  # the first word of the records' keys in a zone
CHECK = 30.0  # seconds between looks whether a node's certificates have run out
LOOK = 0.5  # seconds between looks for records that this node is to keep telling

log = logging.getLogger(__name__)


class Revoking:
    """open_anew: called with why the engine's sessions are to be.  leave: called where it is
    this node that lost its place."""

    def __init__(
        self,
        credentials: Credentials,
        cloud: Cloud,
        server: Server,
        pool: Pool,
        open_anew: Callable[[str], None],
        leave: Callable[[str], Awaitable[None]],
    ) -> None:
        self.neighbours: Neighbours | None = None
        self._credentials = credentials
        self._cloud = cloud
        self._server = server
        self._pool = pool
        self._open_anew = open_anew
        self._leave = leave
        self._made: set[str] = set()  # keys of those that this node revoked itself

    def revoke(self, node: str, cluster: str) -> None:
        """Take that node's place away, and tell all others.  cluster: "" for that where the
        node was last known, or else this node's."""
        if not self._credentials.certified:
            raise CloudError("refused", f"revoke: {self._credentials.why}")
        known = self._cloud.node(node)
        place = cluster or (known.cluster if known else "") or self._cloud.machine.cluster
        record = self._credentials.revoke(node, place)
        self._made.add(_key(record))
        self._cloud.machine.events.add("revoked", node=node, cluster=place)
        self._shut_out(record)
        if self.neighbours is not None:
            self.neighbours.tell(WORD, _key(record), record.text().encode())

    def heard(self, value: bytes) -> bool:
        """A record that a node of the cloud told; whether it is new.  CloudError."""
        record = self._credentials.learn(ndb.text_line(value))
        if record is not None:
            self._shut_out(record)
        return record is not None

    def _shut_out(self, record: Revocation) -> None:
        """Have nothing to do with that node any more."""
        log.warning("%s, of cluster %s", record.why, record.cluster)
        self._check()
        if not self._credentials.lost:
            self._open_anew(record.why)

    def _check(self) -> None:
        self._server.check_nodes(self._credentials.admit)
        self._pool.check()

    async def run(self) -> None:
        """Close the connections of nodes whose certificates ran out, and tell of those that were
        revoked, until cancelled."""
        looked = -CHECK
        while True:
            await trio.sleep(LOOK)
            now, near = trio.current_time(), self.neighbours
            if near is not None and self._credentials.lost:
                await self._leave(self._credentials.lost)
            elif near is not None:
                every = self._credentials.revoked.all.values()
                words = {_key(record): record.text().encode() for record in every}
                near.keep_telling(WORD, words, self._made)
            if now - looked >= CHECK:
                looked = now
                self._check()


def _key(record: Revocation) -> str:
    return f"{record.cluster}/{record.node}"
