"""The engine between machines: a Zenoh session in peer mode over QUIC with mutual TLS.

What was learned about Zenoh 1.10 stands where it is heeded.  Its multicast scouting is
off, members find each other by the seeds and by gossip; TCP links linger for ten seconds
where a QUIC link is seen to be cut after one lease.  Everything of Zenoh's that may block
runs in a thread, and its callbacks only put things into the bridge.
"""

from __future__ import annotations

import json
import logging
import random
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Answer, Change, Closer, Handler, Sample
from cloudfs.fabric.asking import Asking
from cloudfs.fabric.bridge import Bridge
from cloudfs.fabric.hub import Hub
from cloudfs.fabric.roll import Roll
from cloudfs.fabric.stamp import Stamp
from cloudfs.fabric.subscription import Subscription
from cloudfs.factotum.cloudkey import KeyFiles

log = logging.getLogger(__name__)

LEASE = 3.0  # seconds after which a silent peer's link is closed
REPAIR = 5.0  # seconds between two digests
CLOSE = 4.0  # seconds that a session gets to close
FETCH = 4.0  # seconds that a fetch gets
TRIES = 3  # fetches of a node that takes values back meanwhile; then the next digest tells
RETRY = 0.5  # seconds between attempts to open
LARGE = 32 << 10  # bytes from which a reply is sent from a thread, since it may have to wait
NAME = "cloudfs"


class ZenohEngine:
    """A node's session in a zone; see fabric/api.py.

    listen: HOST:PORT of this session's own UDP port; seeds: those of some other members.
    `run` raises CloudError("busy") where the port is another's for too long.
    """

    def __init__(
        self, node: str, zone: str, listen: str, seeds: Sequence[str], files: KeyFiles
    ) -> None:
        self.node = node
        self.zone = zone
        self.listen = listen
        self.seeds = tuple(seeds)
        self.files = files
        self.state = "closed"  # opening, open, closed
        self._prefix = f"{NAME}/{zone or '-root-'}"
        self._hub = Hub(node)
        self._roll = Roll(node)
        self._bridge = Bridge()
        self._served: list[tuple[str, Handler, Any]] = []
        self._session: Any = None
        self._there: set[str] = set()
        self._fetching: set[str] = set()
        self._again = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- life -------------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self._bridge.open()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._serve(task_status)
                finally:
                    self._nursery = None  # callbacks start no more tasks in it
        finally:
            with trio.CancelScope(shield=True):
                await self._close()
            self._bridge.close()
            self._hub.close()
            self._roll.close()

    async def _serve(self, task_status: Any) -> None:
        assert self._nursery is not None
        await self._open()
        task_status.started()
        self._nursery.start_soon(self._tell_digests)
        while True:
            await self._trouble()
            log.info("zone %s: opening the session again", self.zone or "/")
            await self._close()
            await self._open()

    def reopen(self, seeds: Sequence[str]) -> None:
        """Open the session anew with these seeds: Zenoh takes no others while it runs, and
        of the members that it found by gossip it calls none a second time."""
        self.seeds = tuple(seeds)
        self._again.set()

    async def _trouble(self) -> None:
        """Wait until the session has to be opened anew: it was asked for, or this process
        stood still past the lease, after which peers and this end disagree for good."""
        self._again = trio.Event()
        last = time.monotonic()
        while True:
            with trio.move_on_after(LEASE / 6):
                await self._again.wait()
                return
            now = time.monotonic()
            if now - last > LEASE:
                return
            last = now

    async def _open(self) -> None:
        self.state = "opening"
        tries = 20
        while True:
            try:
                self._session = await trio.to_thread.run_sync(
                    self._open_blocking, abandon_on_cancel=False
                )
                break
            except Exception as error:
                # A port that was just closed may be in use for some moments.
                tries -= 1
                if tries == 0:
                    raise CloudError(
                        "busy", f"zone {self.zone or '/'}: cannot listen at {self.listen}: {error}"
                    ) from None
                await trio.sleep(RETRY)
        self.state = "open"
        for node in self._there:  # who was seen before the session was ours
            self._fetch(node)

    def _open_blocking(self) -> Any:
        import zenoh

        session: Any = zenoh.open(self._config(zenoh))
        try:
            liveliness = session.liveliness()
            session.declare_subscriber(f"{self._prefix}/f/**", self._on_frame)
            everything = partial(self._on_query, self._give_everything)
            session.declare_queryable(f"{self._prefix}/all/{self.node}", everything)
            liveliness.declare_subscriber(f"{self._prefix}/alive/*", self._on_alive, history=True)
            self._token = liveliness.declare_token(f"{self._prefix}/alive/{self.node}")
            for keyexpr, handler, _ in self._served:
                session.declare_queryable(
                    f"{self._prefix}/q/{keyexpr}", partial(self._on_query, handler)
                )
        except BaseException:
            session.close()
            raise
        return session

    def _config(self, zenoh: Any) -> Any:
        settings = {
            "mode": "peer",
            "listen/endpoints": [f"quic/{self.listen}"],
            "listen/timeout_ms": 0,
            "connect/endpoints": [f"quic/{seed}" for seed in self.seeds],
            "connect/timeout_ms": 0,  # seeds that are down are called again in the background
            "connect/exit_on_failure": False,
            "connect/retry": {"period_init_ms": 500, "period_max_ms": 4000},
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": True,
            "timestamping/enabled": True,
            "transport/shared_memory/enabled": False,
            "transport/link/tx/lease": int(LEASE * 1000),
            "transport/link/tls": {
                "root_ca_certificate": str(self.files.ca),
                "listen_private_key": str(self.files.key),
                "listen_certificate": str(self.files.cert),
                "connect_private_key": str(self.files.key),
                "connect_certificate": str(self.files.cert),
                "enable_mtls": True,
                "verify_name_on_connect": False,  # who it is the cloud's key vouches for
            },
        }
        config = zenoh.Config()
        for name, value in settings.items():
            config.insert_json5(name, json.dumps(value))
        return config

    async def _close(self) -> None:
        session, self._session = self._session, None
        self.state = "closed"
        self._there.clear()
        self._roll.set(())
        if session is None:
            return
        with trio.move_on_after(CLOSE):
            # A close that hangs is left behind: its thread ends when the lease does.
            await trio.to_thread.run_sync(_quietly, session.close, abandon_on_cancel=True)

    # --- callbacks, on Zenoh's threads -------------------------------------------------------

    def _on_frame(self, sample: Any) -> None:
        data = sample.payload.to_bytes()
        self._bridge.call(partial(self._heard, data))

    def _on_alive(self, sample: Any) -> None:
        node = str(sample.key_expr).rpartition("/")[2]
        joined = "PUT" in str(sample.kind)
        self._bridge.call(partial(self._seen, node, joined))

    def _on_query(self, handler: Handler, query: Any) -> None:
        key = str(query.key_expr).removeprefix(f"{self._prefix}/q/")
        payload = query.payload.to_bytes() if query.payload is not None else b""
        self._bridge.call(partial(self._asked, handler, query, key, payload))

    # --- in trio ------------------------------------------------------------------------------

    def _heard(self, data: bytes) -> None:
        try:
            missed = self._hub.heard(data)
        except CloudError as error:
            log.debug("zone %s: %s", self.zone or "/", error)
            return
        if missed is not None:
            self._fetch(missed)

    def _seen(self, node: str, joined: bool) -> None:
        if self.state == "closed":
            return  # the last words of a session that went
        if joined:
            self._there.add(node)
            if self.state == "open":
                self._fetch(node)
        else:
            self._there.discard(node)
        self._roll.set(self._there)

    def _fetch(self, node: str) -> None:
        """Get all that a node keeps, once at a time."""
        if node != self.node and node not in self._fetching and self._nursery is not None:
            self._fetching.add(node)
            self._nursery.start_soon(self._fetch_now, node)

    async def _fetch_now(self, node: str) -> None:
        try:
            key = f"{self._prefix}/all/{node}"
            for _ in range(TRIES):
                answer = await self._ask(key, b"", FETCH, 1)
                if all(self._hub.fetched(node, reply.value) for reply in answer.replies):
                    break
        except CloudError as error:
            log.debug("zone %s: %s", self.zone or "/", error)
        finally:
            self._fetching.discard(node)

    async def _give_everything(self, key: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [("all", self._hub.everything())]

    def _asked(self, handler: Handler, query: Any, key: str, payload: bytes) -> None:
        if self._nursery is None:
            _quietly(query.drop)
        else:
            self._nursery.start_soon(self._answer, handler, query, key, payload)

    async def _answer(self, handler: Handler, query: Any, key: str, payload: bytes) -> None:
        try:
            try:
                pairs = await handler(key, payload)
            except (CloudError, ValueError) as error:
                log.debug("zone %s: no answer to %s: %s", self.zone or "/", key, error)
                return
            data = pack(self.node, pairs)
            reply = partial(
                _quietly, query.reply, str(query.key_expr).replace("*", self.node), data
            )
            if len(data) < LARGE:
                reply()
            else:
                await trio.to_thread.run_sync(reply)
        finally:
            _quietly(query.drop)

    async def _tell_digests(self) -> None:
        while True:
            await trio.sleep(REPAIR * random.uniform(0.8, 1.2))  # noqa: S311
            self._send("digest", self._hub.digest())

    # --- what others call ------------------------------------------------------------------

    def now(self) -> Stamp:
        return self._hub.clock.now()

    def members(self) -> frozenset[str]:
        return self._roll.members()

    def watch(self) -> Subscription[Change]:
        return self._roll.watch()

    def publish(self, key: str, value: bytes) -> Stamp:
        stamp, data = self._hub.publish(key, value)
        self._send(key, data)
        return stamp

    def withdraw(self, key: str) -> None:
        data = self._hub.withdraw(key)
        if data is not None:
            self._send(key, data)

    def tell(self, key: str, value: bytes) -> None:
        self._send(key, self._hub.tell(key, value))

    def _send(self, key: str, data: bytes) -> None:
        session = self._session
        if session is None:
            return  # it is fetched once the session is open
        import zenoh

        # Dropped rather than waited for where a peer does not take it: a stopped peer would
        # stop this loop.  What is kept is repaired by the digests.
        _quietly(
            session.put,
            f"{self._prefix}/f/{self.node}/{key}",
            data,
            congestion_control=zenoh.CongestionControl.DROP,
        )

    def subscribe(self, keyexpr: str) -> Subscription[Sample]:
        return self._hub.subscribe(keyexpr)

    def serve(self, keyexpr: str, handler: Handler) -> Closer:
        declared: list[Any] = []
        row = keyexpr, handler, declared
        self._served.append(row)
        if self._session is not None:
            declared.append(
                self._session.declare_queryable(
                    f"{self._prefix}/q/{keyexpr}", partial(self._on_query, handler)
                )
            )
        return partial(self._serve_no_more, row)

    def _serve_no_more(self, row: tuple[str, Handler, Any]) -> None:
        if row in self._served:
            self._served.remove(row)
        for one in row[2]:
            _quietly(one.undeclare)

    async def ask(
        self,
        selector: str,
        payload: bytes = b"",
        *,
        timeout: float,
        want: int | frozenset[str] | None = None,
    ) -> Answer:
        wanted = self.members() - {self.node} if want is None else want
        return await self._ask(f"{self._prefix}/q/{selector}", payload, timeout, wanted)

    async def _ask(
        self, key: str, payload: bytes, timeout: float, want: int | frozenset[str]
    ) -> Answer:
        asking = Asking(want)
        session = self._session
        if session is None or asking.enough.is_set():
            return asking.answer()
        import zenoh

        def take(data: bytes) -> None:
            with suppress(CloudError):
                asking.take(*unpack(data))

        def on_reply(reply: Any) -> None:
            if reply.ok is not None:
                self._bridge.call(partial(take, reply.ok.payload.to_bytes()))

        done = zenoh.handlers.Callback(on_reply, lambda: self._bridge.call(asking.enough.set))
        _quietly(
            session.get,
            key,
            done,
            payload=payload,
            timeout=timeout,
            target=zenoh.QueryTarget.ALL,
            consolidation=zenoh.ConsolidationMode.NONE,
        )
        with trio.move_on_after(timeout):
            await asking.enough.wait()
        return asking.answer()


def _quietly(function: Callable[..., Any], *args: Any, **named: Any) -> None:
    """Call into Zenoh; what it raises while a session goes is of no use to anybody."""
    try:
        function(*args, **named)
    except Exception as error:
        name = getattr(function, "__name__", "it")
        log.debug("zenoh: %s failed: %s", name, error)


def pack(node: str, pairs: Sequence[tuple[str, bytes]]) -> bytes:
    """A node's answer as bytes."""
    parts = [struct.pack("<B", len(node)), node.encode()]
    for key, value in pairs:
        name = key.encode()
        parts += [struct.pack("<HI", len(name), len(value)), name, value]
    return b"".join(parts)


def unpack(data: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """The inverse of `pack`; CloudError("proto")."""
    try:
        at = 1 + data[0]
        node, pairs = data[1:at].decode(), []
        while at < len(data):
            name_size, size = struct.unpack_from("<HI", data, at)
            at += 6
            end = at + name_size + size
            if end > len(data):
                raise IndexError
            pairs.append((data[at : at + name_size].decode(), data[at + name_size : end]))
            at = end
    except (IndexError, struct.error, UnicodeDecodeError):
        raise CloudError("proto", "an answer that is none") from None
    return node, pairs
