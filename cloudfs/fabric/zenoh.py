"""The engine over machines: a Zenoh session a zone, driven from one thread.

trio's side only queues jobs for the thread and takes what comes in.  The session is opened
anew when the machine or this process slept for longer than the lease, since its peers have
given it up by then, when its thread hangs, and when it is deaf to a peer (fabric.session).
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Sample
from cloudfs.fabric.hub import Hub
from cloudfs.fabric.keys import check_key
from cloudfs.fabric.seek import Seek, check_address
from cloudfs.fabric.session import LEASE, Session
from cloudfs.fabric.worker import Inbox, Worker, done

if TYPE_CHECKING:
    import zenoh

    from cloudfs.factotum.nodekeys import KeyFiles

RECALL = 300.0  # seconds for which the address of a member that went is called again
PATIENCE = 5.0  # seconds the first opening may find its address in use
CLOSING = 4.0  # seconds the end of a session may take before it is left behind
STUCK = 20.0  # seconds after which a job counts as hung
BUSY = 1.0  # seconds between two attempts at an address in use, at most
LOOK = 1.0  # seconds between looks at the clock and the session
SETTLE = 3.0  # seconds after a new opening in which members may show up again
# A session that is deaf to a peer: seconds until it is opened anew the first time, at least,
# twice that the next time, and so on; at most.
DEAF = (8.0, 300.0)

_log = logging.getLogger(__name__)


class _Zenoh:
    """hub.Carrier over a session."""

    hub: Hub

    def __init__(
        self,
        listen: str,
        seeds: Sequence[str],
        files: KeyFiles,
        shut_out: Callable[[], frozenset[str]],
    ) -> None:
        self._shut_out = shut_out
        self._anew: tuple[float, str] | None = None  # when to open the session anew, and why
        self._listen = listen
        self._seeds = [seed for seed in dict.fromkeys(seeds) if seed != listen]
        self._met: dict[str, float] = {}  # where members were, and until when that counts
        self._files = files
        self._exprs: dict[str, None] = {}  # what is listened to, by the hub's word
        self._ears: _Ears | None = None
        self._worker: Worker | None = None
        self._session: Session | None = None
        self._addresses: dict[tuple[str, str], str] = {}  # by node and session
        self._doubtful: set[tuple[str, str]] = set()  # known before the session was reopened
        self._seek = Seek()
        self._deaf: dict[str, float] = {}  # session that is not heard: since, trio time
        self._deaf_pause = DEAF[0]

    @contextlib.asynccontextmanager
    async def connected(self, hub: Hub) -> AsyncIterator[None]:
        self._addresses.clear()
        try:
            await self._open(PATIENCE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_clock)
                nursery.start_soon(self._seek.run, self._files, self._listen)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    # --- hub.Carrier ------------------------------------------------------------------------

    def seek(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            self._seek.lost(address, soon=True)

    def put(self, sample: Sample, kept: bool) -> None:
        if self._worker is None or self._session is None:
            return  # whoever comes once it is open fetches what is published
        job = partial(self._session.put, sample, kept)
        if kept:
            self._worker.keep(("put", sample.key), job)
        else:
            self._worker.add(job)

    def listen(self, expr: str) -> None:
        self._exprs[expr] = None
        self._declare(expr)

    def unlisten(self, expr: str) -> None:
        self._exprs.pop(expr, None)
        self._declare(expr)

    def _declare(self, expr: str) -> None:
        if self._worker is not None and self._session is not None:
            call = self._session.listen if expr in self._exprs else self._session.unlisten
            self._worker.keep(("listen", expr), partial(call, expr))

    def question(self, number: int, node: str, data: bytes, timeout: float) -> None:
        if self._worker is not None and self._session is not None:
            job = partial(self._session.ask, number, node, data, timeout)
            self._worker.keep(("ask", str(number)), job)
        else:
            self.hub.finished(number)

    # --- opening and closing ------------------------------------------------------------------

    async def _open(self, patience: float) -> None:
        """Open a session, after closing the one there is, in a thread of its own.

        It calls members that were there of late as well as the seeds: no seed may lead back,
        and those who had this node as theirs call it ever more rarely.  (A node that slept
        for ten seconds was not heard of for ten more.)
        """
        await self._close()
        now = trio.current_time()
        self._met = {at: end for at, end in self._met.items() if end > now}
        worker = self._worker = Worker(f"fabric {self.hub.zone}")
        ears = self._ears = _Ears(self)
        session = self._session = Session(self.hub.node, self.hub.zone, ears)
        ends = trio.current_time() + patience
        pause = 0.1
        while True:
            error = await self._opened(worker, session)
            if error is None:
                break
            if error.kind != "busy" or trio.current_time() + pause > ends:
                raise error
            await trio.sleep(pause)
            pause = min(2 * pause, BUSY)

    async def _opened(self, worker: Worker, session: Session) -> CloudError | None:
        """What opening it in that thread raises."""
        met: list[CloudError | None] = []
        exprs, shut_out = list(self._exprs), self._shut_out()
        seeds = [*dict.fromkeys([*self._seeds, *(at for at in self._met if at != self._listen)])]

        def job() -> None:
            try:
                session.open(self._files, self._listen, seeds, exprs, shut_out)
                met.append(None)
            except CloudError as error:
                met.append(error)

        if not await done(partial(worker.keep, ("open",)), job, STUCK):
            return CloudError("timeout", f"the engine does not open at {self._listen}")
        for expr in self._exprs.keys() - set(exprs):
            self._declare(expr)
        return met[0] if met else CloudError("bad", "the engine does not open; see the log")

    async def _close(self) -> None:
        """Close the session; after a time it is left to itself."""
        worker, session = self._worker, self._session
        self._worker = self._session = None
        if self._ears is not None:
            self._ears.inbox.close()
        if worker is None or session is None:
            return
        if not await done(worker.stop, session.close, CLOSING):
            _log.warning("zone %s: the session does not close", self.hub.zone)

    async def _run_clock(self) -> None:
        """Reopen where the session does not do its work, or has not come back after a sleep."""
        while True:
            before, there = _now(), self._here()
            await trio.sleep(LOOK)
            slept = _now() - before - LOOK
            why = self._ill()
            if self._anew is not None and trio.current_time() >= self._anew[0]:
                why = self._anew[1]
            if slept > LEASE and not await self._recovers(there):
                why = f"this node slept for {slept:.0f} s"
            if why:
                _log.warning("zone %s: the session is opened anew: %s", self.hub.zone, why)
                await self._reopen()

    def _here(self) -> frozenset[str]:
        return frozenset(node for node, _ in self._addresses)

    async def _recovers(self, there: frozenset[str]) -> bool:
        """Whether the session finds again by itself who was there before a sleep.

        It mostly does, in a moment.  To open it anew costs far more: what others dialled
        meanwhile holds the old one's port for as long as twenty seconds.
        """
        for _ in range(round(SETTLE / LOOK)):
            await trio.sleep(LOOK)  # for the session to see that its links are dead
            if there <= self._here():
                return True
        return False

    def _ill(self) -> str:
        """What is wrong with the session, or ""."""
        worker, session = self._worker, self._session
        if worker is None or session is None:
            return ""
        if worker.since is not None and time.monotonic() - worker.since > STUCK:
            return "its thread hangs"
        worker.keep(("deaf",), session.deaf)
        now, (least, most) = trio.current_time(), DEAF
        since = min(self._deaf.values(), default=now)
        if now - since > self._deaf_pause:
            self._deaf_pause = min(2 * self._deaf_pause * random.uniform(0.8, 1.2), most)  # noqa: S311
            return f"it does not hear {len(self._deaf)} of its peers"
        if not self._deaf:
            self._deaf_pause = max(least, self._deaf_pause * 0.99)
        return ""

    def open_anew(self, why: str, delay: float) -> None:
        """Have the session opened anew after so many seconds."""
        self._anew = trio.current_time() + delay, why

    async def _reopen(self) -> None:
        self._anew = None
        self._doubtful = set(self._addresses)
        self._deaf.clear()
        while True:
            try:
                await self._open(patience=60.0)
                break
            except CloudError as error:
                _log.error("zone %s: %s", self.hub.zone, error)
                await trio.sleep(5.0)
        await trio.sleep(SETTLE)
        for node, session in list(self._doubtful):
            self.left(node, session)

    # --- what the session says, in trio ------------------------------------------------------

    def joined(self, node: str, session: str, address: str) -> None:
        self._doubtful.discard((node, session))
        self._addresses[node, session] = address
        self._met[address] = math.inf
        self._seek.found(address)
        self.hub.joined(node, session)

    def left(self, node: str, session: str) -> None:
        address = self._addresses.pop((node, session), "")
        if address in self._met:
            self._met[address] = trio.current_time() + RECALL
        if address and address not in self._seeds:  # those Zenoh goes on dialling
            self._seek.lost(address)
        self.hub.left(node, session)

    def deaf(self, sessions: frozenset[str]) -> None:
        now = trio.current_time()
        self._deaf = {each: self._deaf.get(each, now) for each in sessions}

    def asked(self, data: bytes, query: zenoh.Query) -> None:
        self.hub.asked(data, partial(self._answer, query))

    def _answer(self, query: zenoh.Query, data: bytes | None) -> None:
        if self._worker is not None and self._session is not None:
            self._worker.keep(
                ("answer", str(id(query))), partial(self._session.answer, query, data)
            )


class _Ears:
    """session.Events: from whatever thread into the inbox, one for each session."""

    def __init__(self, carrier: _Zenoh) -> None:
        self.inbox = Inbox(trio.lowlevel.current_trio_token())
        self._carrier = carrier
        self._hub = carrier.hub

    def live(self, node: str, session: str, address: str, alive: bool) -> None:
        joined = partial(self._carrier.joined, node, session, address)
        left = partial(self._carrier.left, node, session)
        self.inbox.keep(("live", session), joined if alive else left)

    def deaf(self, sessions: frozenset[str]) -> None:
        self.inbox.keep(("deaf",), partial(self._carrier.deaf, sessions))

    def sample(self, kept: bool, node: str, sample: Sample) -> None:
        call = partial(self._hub.heard, node, sample, kept)
        if kept:
            self.inbox.keep(("put", node, sample.key), call)
        else:
            self.inbox.add(call)

    def question(self, data: bytes, query: zenoh.Query) -> None:
        self.inbox.add(partial(self._carrier.asked, data, query))

    def answer(self, number: int, node: str, data: bytes) -> None:
        self.inbox.keep(
            ("answer", str(number), node), partial(self._hub.answered, number, node, data)
        )

    def finished(self, number: int) -> None:
        self.inbox.keep(("finished", str(number)), partial(self._hub.finished, number))


class ZenohEngine(Hub):
    """A node's engine in one zone of the cloud.

    listen: HOST:PORT (UDP) at which others of the zone dial this node.  seeds: the same of
    some of them; they may be down.  shut_out: the common names of
    certificates with which to exchange nothing, asked for as a session opens.  Raises
    CloudError("bad") for an address that is none.
    """

    def __init__(
        self,
        node: str,
        zone: str,
        listen: str,
        seeds: Sequence[str],
        files: KeyFiles,
        shut_out: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        check_key(node)
        check_key(zone or "-")
        for address in (listen, *seeds):
            check_address(address)
        carrier = _Zenoh(listen, seeds, files, shut_out)
        super().__init__(node, zone, carrier)
        carrier.hub = self
        # Open the session anew (why, seconds from now), as for other certificates.
        self.open_anew = carrier.open_anew


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
