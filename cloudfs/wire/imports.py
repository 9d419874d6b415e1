"""The trees of other nodes: one connection to each, made when it is first needed.

A connection to a node is in one of these states:

    idle       there is none, and nobody has asked for one
    dialling   somebody has; all who do wait for the same attempt
    up         it serves
    silent     the node owed an answer for a while: those who have files open there keep it,
               and who comes new dials anew

It is closed when nobody used it for a minute.  After an attempt that failed the next one
waits a little, at most half a second, so that a node that is back is used at once.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from time import monotonic, time
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.factotum import p9any
from cloudfs.factotum.nodekeys import KeyFiles, client_context
from cloudfs.factotum.nodeproof import bound_to
from cloudfs.tree import numbers
from cloudfs.tree.api import DMDIR, NOBODY, PLAIN, Node, Stat, Who
from cloudfs.wire import tls
from cloudfs.wire.address import parse
from cloudfs.wire.bulk import Bulk
from cloudfs.wire.client import Client
from cloudfs.wire.connect import attended
from cloudfs.wire.far import Found, Turns, too_late
from cloudfs.wire.file import File
from cloudfs.wire.messages import NODES
from cloudfs.wire.ops import OWN
from cloudfs.wire.pipe import Watcher
from cloudfs.wire.prove import attach
from cloudfs.wire.remote import KEEP, RemoteNode
from cloudfs.wire.trace import Trace

IDLE = 60.0  # seconds after which a connection that nobody uses is closed
DIAL = 2.0  # seconds for an attempt, the handshake included
SILENT = 1.0  # seconds that a node may owe an answer before others dial anew
LOOK = 5.0  # seconds between two looks at whether a connection is still used
FIRST, LAST = 0.05, 0.5  # seconds between attempts, which double
OPERATIONS = 32  # with one node at a time
FOLLOWERS = 96  # reads of one node's files that may take for ever
USERS = 512  # of one connection
BULKS = 128  # threads that read in bulk
FRAME = 256 << 10  # bytes of a frame asked for

Acting = Callable[[str, str, bytes], p9any.Client | None]

log = logging.getLogger(__name__)


class Link:
    """A connection that is up.  roots: the node's own tree as each user sees it.  shown: the
    certificate by which the node proved itself, DER."""

    def __init__(self, client: Client, shown: bytes = b"") -> None:
        self.client = client
        self.shown = shown
        self.roots: dict[str, File] = {}
        self.used = trio.current_time()

    @property
    def idle(self) -> bool:
        """Whether nothing of it is in use."""
        return self.client.busy <= len(self.roots)


class _Attempt:
    """A connection that comes.  error: why it did not."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error = CloudError("unreachable", "the attempt was given up")


class Peer(Found):
    """What this node has to do with another one; the `Far` of its tree."""

    ordered = True

    def __init__(self, pool: Pool, node: str) -> None:
        super().__init__(KEEP)
        digest = blake2b(node.encode(), digest_size=8).digest()
        self.salt = int.from_bytes(digest, "big") & ~0xFF
        self.limit: float | None = PLAIN.max_time
        self.turns = Turns(OPERATIONS)
        self.followers = Turns(FOLLOWERS)
        self.node = node
        self.cluster = ""  # as its certificate has it
        self.link: Link | None = None
        self._links: list[Link] = []  # all that are not closed yet
        self._pool = pool
        self._attempt: _Attempt | None = None
        self._failed = 0  # attempts, one after the other
        self._hurry = trio.Event()  # set when the next attempt need not wait

    @property
    def state(self) -> str:
        if self.link is not None:
            return "up"
        return "idle" if self._attempt is None else "dialling"

    def known(self, who: Who) -> File | None:
        link = self.link
        if link is None or link.client.why:
            return None
        found = link.roots.get(who.user)
        if found is not None:
            link.used = trio.current_time()
        return found

    async def root(self, who: Who) -> File:
        link = await self._up()
        link.used = trio.current_time()
        link.client.expect()
        found = link.roots.get(who.user)
        if found is not None:
            return found
        if len(link.roots) >= USERS:
            raise CloudError("toomany", f"{USERS} users look at {self.node} already")
        made = await self._attach(link, who.user)
        found = link.roots.setdefault(who.user, made)
        if found is not made:
            made.drop()  # another one of the user's operations was faster
        return found

    async def _attach(self, link: Link, user: str) -> File:
        """The node's tree as a user sees it, for whom this node proves to act if it can."""
        client = link.client
        talk = self._pool.acting(user, self.node, client.binding)
        if talk is None:
            return await client.attach(user, OWN, self.limit)
        return await attach(client, user, OWN, talk, self.limit)

    def late(self, limit: float) -> CloudError:
        link = self.link
        if link is not None and link.client.silence() >= SILENT:
            log.info("node %s has been silent for %.1f s", self.node, link.client.silence())
            self.link = None
        return too_late(f"node {self.node}", limit)

    def changed(self) -> None:
        """It came, went or moved: what is known of it may be wrong."""
        why = self._pool.gone(self.node)
        if why:
            self.forget_found()
            if self.link is not None:
                self.link.client.end(_gone(self.node, why).why)
        self._failed = 0
        self._hurry.set()

    def renew(self) -> None:
        """Have both sides prove themselves anew, over a connection of its own: who has files
        open on the one there is keeps it, and who comes uses the new one."""
        link = self.link
        if link is not None and self._attempt is None:
            self.link = None
            if not link.idle:
                self._dial_anew()

    def check(self, admit: tls.Admit) -> None:
        """Close what is open to a node that would not get in any more."""
        for link in list(self._links):
            try:
                admit(link.shown)
            except CloudError as error:
                log.warning("the connection to node %s closed: %s", self.node, error)
                link.client.end(error.why)
                if link is self.link:
                    self.link = None
                    self.forget_found()

    # --- connecting ---------------------------------------------------------------------------

    async def _up(self) -> Link:
        """The connection, dialled where there is none."""
        while True:
            why = self._pool.gone(self.node)
            if why:
                raise _gone(self.node, why)
            if self.link is not None:
                if not self.link.client.why:
                    return self.link
                self.link = None
            attempt = self._attempt or self._dial_anew()
            await attempt.ended.wait()
            if self.link is None:
                error = attempt.error
                raise CloudError(error.kind, error.why, error.fix)

    def _dial_anew(self) -> _Attempt:
        attempt = _Attempt()
        self._pool.start(self._connect, attempt)
        self._attempt = attempt
        return attempt

    async def _connect(self, attempt: _Attempt) -> None:
        """One connection, from the attempt to its end."""
        try:
            await self._pause()
            with trio.move_on_after(DIAL) as scope:
                stream = await self._dial()
                self.cluster = tls.cluster_of(stream)
                async with attended(
                    stream, f"node {self.node}", trace=self._pool.trace, watcher=self._pool.watcher
                ) as client:
                    client.msize = FRAME
                    await client.agree(NODES)
                    if not client.node:
                        raise CloudError("proto", f"node {self.node} speaks another 9P")
                    scope.deadline = float("inf")
                    self._failed = 0
                    client.timed = self._timed
                    client.binding = bound_to(tls.shown_by(stream.socket))
                    client.carried = partial(self._pool.carried, self.node)
                    link = self.link = Link(client, tls.shown_by(stream.socket))
                    self._done(attempt)
                    self._links.append(link)
                    try:
                        await self._serve(link)
                    finally:
                        self._links.remove(link)
            if scope.cancelled_caught:
                attempt.error = CloudError(
                    "unreachable", f"node {self.node} does not answer at {self.address()}"
                )
        except CloudError as error:
            attempt.error = error
        except Exception as error:
            log.exception("connecting to node %s", self.node)
            attempt.error = CloudError("io", f"connecting to node {self.node}: {error!r}")
        finally:
            if self._attempt is attempt:
                self._failed += 1
                self._done(attempt)

    def _done(self, attempt: _Attempt) -> None:
        self._attempt = None
        attempt.ended.set()

    async def _pause(self) -> None:
        """Wait after attempts that failed, unless news of the node come."""
        if self._failed:
            self._hurry = trio.Event()
            with trio.move_on_after(min(FIRST * 2 ** min(self._failed - 1, 8), LAST)):
                await self._hurry.wait()

    def _timed(self, name: str, seconds: float) -> None:
        if name == "Twalk":  # which a node answers at once, in its own tree
            self._pool.timed(self.node, seconds)

    def address(self) -> str:
        address = self._pool.address_of(self.node)
        if address is None:
            raise CloudError("unreachable", f"no address of node {self.node} is known")
        return address

    async def _dial(self) -> tls.Stream:
        return await self._pool.dial(self.address(), self.node)

    async def _serve(self, link: Link) -> None:
        """Until a connection is lost, or is not used any more."""
        client = link.client
        while True:
            with trio.move_on_after(LOOK):
                await client.lost.wait()
            self.tidy(monotonic())
            client.flush()
            if client.why:
                log.info("the connection to node %s ended: %s", self.node, client.why)
                break
            if not link.idle:
                link.used = trio.current_time()
            elif link is not self.link or trio.current_time() - link.used >= self._pool.idle:
                break
        if self.link is link:
            self.link = None
            self.forget_found()


class RemoteRoot(RemoteNode):
    """A node's directory.  Whether it is there is for those to say who know the nodes, so
    nobody is asked for its attributes."""

    __slots__ = ()

    def stat(self) -> Stat:
        return self._stat

    def beneath(self, path: tuple[str, ...]) -> Node:
        """The file at a path, taken to be there until it is used."""
        if not path:
            return self
        stat = Stat(path[-1], self.qid, 0o666, 0, 0.0, self.uid, self.gid)
        return RemoteNode(self._far, path, stat, self._who)


class Pool:
    """Imports of other nodes' trees; `run` has the connections.

    address_of: HOST:PORT where a node is, None where that is not known.  gone: why it
    cannot be reached as far as is known, "" where it may be; who asks then hears that at
    once.  files: this node's keys, None until `use`.  owner: whose the directories are.
    idle: seconds.  watcher: who looks whether something has come; without one each
    connection has a task that waits for it.  timed: told after how many seconds a node
    answered what it answers at once.  carried: told how many bytes of it came in bulk.
    acting(user, node, binding): a conversation that proves that this node acts for a user
    (factotum/acting.py), None where it can prove nothing.
    """

    def __init__(
        self,
        files: KeyFiles | None,
        address_of: Callable[[str], str | None],
        gone: Callable[[str], str] = lambda node: "",
        *,
        owner: str = NOBODY.user,
        trace: Trace | None = None,
        idle: float = IDLE,
    ) -> None:
        self.context = client_context(files) if files else None
        self.threads = tls.Threads()
        self.address_of = address_of
        self.gone = gone
        self.owner = owner
        self.trace = trace
        self.idle = idle
        self.admit: tls.Admit = tls.everybody  # which nodes may be those that answer
        self.watcher: Watcher | None = None
        self.timed: Callable[[str, float], None] = lambda node, seconds: None
        self.carried: Callable[[str, int], None] = lambda node, size: None
        self.acting: Acting = lambda user, node, binding: None
        self._peers: dict[str, Peer] = {}
        self._roots: dict[str, RemoteRoot] = {}
        self._nursery: trio.Nursery | None = None
        self._bulks: trio.CapacityLimiter | None = None  # which trio wants made while it runs

    def reach(self, node: str, path: tuple[str, ...] = ()) -> Node:
        """A file of a node's own tree; see tree/imports.py."""
        found = self._roots.get(node)
        if found is None:
            mode, qid = DMDIR | 0o555, numbers.named("nodes", node)
            peer = self._peers[node] = Peer(self, node)
            stat = Stat(node, qid ^ peer.salt, mode, 0, time(), self.owner, self.owner)
            found = self._roots[node] = RemoteRoot(peer, (), stat, NOBODY)
            found.name = node
        return found.beneath(path)

    async def root(self, node: str, who: Who) -> File:
        """The root of a node's own tree as who sees it, connected to first if need be."""
        self.reach(node)
        return await self._peers[node].root(who)

    def use(self, files: KeyFiles) -> None:
        """From now on show these keys to other nodes."""
        self.context = client_context(files)
        for peer in self._peers.values():
            peer.renew()

    def check(self) -> None:
        """Close the connections to nodes that are not admitted any more."""
        for peer in self._peers.values():
            peer.check(self.admit)

    async def dial(
        self, address: str, node: str, context: ssl.SSLContext | None = None
    ) -> tls.Stream:
        """A connection to the node of that name at HOST:PORT, or to any with "".  context:
        what to show and whom to believe, where not as always."""
        shown = context or self.context
        if shown is None:
            raise CloudError("unreachable", "this node is in no cloud", "see: cloudfs join --help")
        at = parse(f"tls:{address}")
        admit = self.admit if context is None else tls.everybody
        return await tls.dial(at.host, at.port, shown, node, self.threads, admit)

    @asynccontextmanager
    async def bulk(self, node: str, user: str, folder: str, seconds: float) -> AsyncIterator[Bulk]:
        """See tree/imports.py."""
        why = self.gone(node)
        if why:
            raise _gone(node, why)
        self.reach(node)
        try:
            with trio.fail_after(DIAL):
                stream = await self.dial(self._peers[node].address(), node)
        except trio.TooSlowError:
            raise CloudError("unreachable", f"node {node} does not answer") from None
        if self._bulks is None:
            self._bulks = trio.CapacityLimiter(BULKS)
        talk = self.acting(user, node, bound_to(tls.shown_by(stream.socket)))
        found = Bulk(stream, node, user, folder.split("/"), seconds, self._bulks, talk)
        try:
            yield found
        finally:
            found.close()

    def changed(self, node: str) -> None:
        """To be called when a node came, went or moved."""
        if node in self._peers:
            self._peers[node].changed()

    def cluster_of(self, node: str) -> str:
        """The cluster of which a node proved to be when it was last reached, else ""."""
        peer = self._peers.get(node)
        return peer.cluster if peer else ""

    def states(self) -> dict[str, str]:
        """The nodes that were looked at and how the connection to each is."""
        return {name: peer.state for name, peer in self._peers.items()}

    def start(self, connect: Callable[[_Attempt], Any], attempt: _Attempt) -> None:
        """Run an attempt.  Raises CloudError("unreachable") while the pool does not run."""
        if self._nursery is None:
            raise CloudError("unreachable", "the connections to other nodes are closed")
        self._nursery.start_soon(connect, attempt)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None


def _gone(node: str, why: str) -> CloudError:
    return CloudError("unreachable", f"node {node} cannot be reached: {why}")
