"""Nodes with all that concerns their certificates, in one process: sockets, no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from cloudfs.credentials import Credentials
from cloudfs.enrolling import Enrolling
from cloudfs.errors import CloudError
from cloudfs.kernel.cloud import NodeInfo
from cloudfs.kernel.records import Records
from cloudfs.tree import enrol
from cloudfs.tree.idmap import far_user
from cloudfs.tree.space import Space
from cloudfs.tree.table import TableDir
from cloudfs.wire.imports import Pool
from cloudfs.wire.listen import Listener, listen
from cloudfs.wire.server import Server
from tests.synthetic import Leaf


class Clock:
    """Seconds since 1970, ahead of trio's clock by as much as one likes."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def __call__(self) -> float:
        return trio.current_time() + self.ahead


class Station:
    """A node.  known: the nodes that it knows, as kernel/cloud.py has them."""

    def __init__(self, folder: Path, name: str, clock: Any, cluster: str = "paris") -> None:
        self.state = folder / name
        self.state.mkdir(exist_ok=True)
        self.name = name
        self.address = ""
        self.clock = clock
        self.known: dict[str, NodeInfo] = {}
        self.machine: Any = SimpleNamespace(
            name=name, cluster=cluster, owner="root", started=0.0, changed=0.0, party=self
        )
        self.credentials = Credentials(self.state, name, Records(self.state / "db"), clock)
        self.pool = Pool(None, lambda node: self.known[node].addr if node in self.known else None)
        self.pool.admit = self.credentials.admit
        cloud: Any = SimpleNamespace(
            machine=self.machine,
            nodes=self.known,
            node=self.known.get,
            alive=self.known.__contains__,
            refresh=self._refresh,
        )
        self.enrolling = Enrolling(self.credentials, cloud, self.pool)
        self.enrolling.renewed = self._renewed
        # What machine.party is asked for (kernel/machine.py).
        self.greeting = self.credentials.greeting
        self.enrol = self.enrolling.answer
        self.renewals = 0
        own = TableDir(
            "own", (), self.machine, 1 << 60, "root", lambda: 0.0, [Leaf("hello", b"hello\n")],
            hidden=[enrol.file_of(self.machine)],
        )  # fmt: skip
        strange = enrol.for_strangers(self.machine)
        self.server = Server(
            lambda who: Space(own),
            node_space=lambda who: Space(own),
            far_user=partial(far_user, owner="root"),
            stranger_space=lambda who: Space(strange),
        )
        self.listener: Listener | None = None

    async def _refresh(self, question: str, seconds: float) -> bool:
        return True

    def _renewed(self) -> None:
        self.renewals += 1
        self.show()

    def show(self) -> None:
        """Use the certificate that there is."""
        self.pool.use(self.credentials.files)

    def knows(self, *others: Station) -> None:
        for other in others:
            issues = {"issuer": "yes"} if other.credentials.authority is not None else {}
            cluster = other.machine.cluster
            info = NodeInfo(other.name, cluster, "alive", other.address, 0.0, True, issues)
            self.known[other.name] = info

    def invite(self, life: float = 86400.0, uses: int = 1, *seeds: str) -> str:
        return self.credentials.invite(life, uses, list(seeds) or [self.address])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Station]:
        """Serve, once there are keys."""
        self.listener = listen("tls:127.0.0.1:0", self.credentials.files, self.credentials.admit)
        self.address = f"127.0.0.1:{self.listener.address.port}"
        self.show()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.serve, [self.listener])
            await nursery.start(self.pool.run)
            yield self
            nursery.cancel_scope.cancel()


async def refused(work: Any) -> CloudError:
    """The error with which some work ends."""
    try:
        await work
    except CloudError as error:
        return error
    raise AssertionError("it was not refused")
