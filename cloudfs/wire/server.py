"""The server: one task drains all connections through one epoll of their own.

A connection has no task, so an idle one costs its session and nothing else.  The loop
below receives from every socket that is ready, answers all whole frames in line and
sends the replies of one batch together.  Tasks are made only for requests that block.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from os import sched_yield
from time import perf_counter
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import NOBODY, Who
from cloudfs.tree.space import Space
from cloudfs.wire.auth import Logins, Proofs
from cloudfs.wire.codec import BadMessage
from cloudfs.wire.connection import Connection
from cloudfs.wire.jobs import Jobs
from cloudfs.wire.listen import Listener
from cloudfs.wire.locks import Locks
from cloudfs.wire.session import Session
from cloudfs.wire.tls import Admit, Door, Secured, shown_by
from cloudfs.wire.trace import Trace

MAX_CONNECTIONS = 4096
MAX_OF_ONE = 2048  # connections of one user
FRAME_TIME = 30.0  # seconds for a frame to become whole
STUCK_TIME = 30.0  # seconds that a client may take none of what is sent to it
STRANGERS = 64  # connections of those who proved nothing
STRANGER_TIME = 10.0  # seconds of such a connection
TURN = 1e-3  # seconds that the loop goes on before other tasks get their turn
NAP = 1e-3  # seconds that the loop itself waits for a next request
MAX_VAIN = 10  # naps in vain after which it sleeps once in 1,024 chances
EVENTS = 64  # connections looked at between two looks at the clock

log = logging.getLogger(__name__)


class Server:
    """Serves the name spaces that `make_space` makes, and those of this node's own
    directory, which `node_space` makes, to those who attach to `node`.

    far_user: the caller that another node names; without it what comes through TLS is
    nobody's.  stranger_space: the name space of those who come through TLS and prove nothing;
    without it they are turned away.  who_of: the caller with a uid that the kernel vouches for.
    proofs, logins: see Session.  closed is told each Space that is no longer used.
    frame_time and stuck_time, in seconds, say how long clients may be slow.
    """

    def __init__(
        self,
        make_space: Callable[[Who], Space],
        *,
        node_space: Callable[[Who], Space] | None = None,
        far_user: Callable[[str], Who] | None = None,
        stranger_space: Callable[[Who], Space] | None = None,
        who_of: Callable[[int], Who] | None = None,
        proofs: Proofs | None = None,
        logins: Logins | None = None,
        trace: Trace | None = None,
        closed: Callable[[Space], None] | None = None,
        frame_time: float = FRAME_TIME,
        stuck_time: float = STUCK_TIME,
        max_connections: int = MAX_CONNECTIONS,
        max_of_one: int = MAX_OF_ONE,
    ) -> None:
        self.make_space = make_space
        self.node_space = node_space
        self.far_user = far_user
        self.stranger_space = stranger_space
        self.who_of = who_of
        self.proofs = proofs
        self.logins = logins
        self.trace = trace
        self.closed = closed
        self.frame_time = frame_time
        self.stuck_time = stuck_time
        self.max_connections = max_connections
        self.max_of_one = max_of_one
        self.connections: dict[int, Connection] = {}  # by file descriptor
        self._of: Counter[str] = Counter()  # connections of each user
        self._count = 0
        self._strangers: dict[Connection, float] = {}  # until when they may prove something
        self._locks = Locks()
        self.jobs = Jobs(self._tend)
        self._more: list[Listener] = []  # that came while it served
        self._watched: dict[int, Callable[[], int]] = {}  # sockets that are no client's
        self._again: list[Connection] = []  # those with whole frames left
        self._vain = 0  # naps in vain, one after the other
        self._pass = 0  # chances of a nap to let pass
        self._epoll: Any = None
        self._nursery: trio.Nursery | None = None

    async def serve(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; then all connections and listeners are closed."""
        self._epoll = select.epoll()
        try:
            async with trio.open_nursery() as self._nursery:
                self.jobs.nursery = self._nursery
                for listener in listeners:
                    self._nursery.start_soon(self._accept, listener)
                self._nursery.start_soon(self._watch)
                task_status.started()
                try:
                    await self._loop()
                finally:
                    for connection in list(self.connections.values()):
                        self.drop(connection, "the server stops")
                    self.jobs.start_all()
        finally:
            for listener in [*listeners, *self._more]:
                listener.close()
            self._watched.clear()
            self._epoll.close()

    def listen_also(self, listener: Listener) -> None:
        """While `serve` runs, serve those who come to one more listener, until it ends."""
        assert self._nursery is not None
        self._more.append(listener)
        self._nursery.start_soon(self._accept, listener)

    def adopt(
        self, sock: socket.socket, who: Who, node: str = "", binding: bytes = b""
    ) -> Connection | None:
        """While `serve` runs, serve a connected socket on behalf of who, or of those that
        the node of that name names; None if there are too many.  binding: what proofs over it
        are bound to (cap25519)."""
        return self._adopt(sock, who, node, binding, self.make_space)

    def _adopt(
        self,
        sock: socket.socket,
        who: Who,
        node: str,
        binding: bytes,
        make_space: Callable[[Who], Space],
    ) -> Connection | None:
        key = _share(who)
        if len(self.connections) >= self.max_connections or self._of[key] >= self.max_of_one:
            log.warning("a connection of %s refused: there are too many", key)
            sock.close()
            return None
        self._count += 1
        name = str(self._count)
        session = Session(
            who,
            make_space,
            node_space=self.node_space if make_space is self.make_space else None,
            vouch=self.far_user if node else None,
            closed=self.closed,
            trace=self.trace,
            locks=self._locks,
            name=name,
            node=node,
            uid=who.uid,
            again=self._anew(who),
            proofs=self.proofs,
            logins=self.logins,
            proved_space=self.make_space,
            binding=binding,
        )
        kind = Secured if isinstance(sock, ssl.SSLSocket) else Connection
        connection = kind(sock, who, session, name)
        self.connections[sock.fileno()] = connection
        self._of[key] += 1
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def _anew(self, who: Who) -> Callable[[], Who] | None:
        if self.who_of is None or who.uid is None:
            return None
        return partial(self.who_of, who.uid)

    def drop_all_of(self, uid: int, why: str) -> None:
        """Close the connections of a local user; by which rights they came may be over."""
        for connection in list(self.connections.values()):
            if connection.session.uid == uid:
                self.drop(connection, why)

    def watch(self, fd: int, ready: Callable[[], int]) -> bool:
        """While `serve` runs, call ready whenever fd is readable; False if it does not.  It
        returns how many answers that somebody waits for have come."""
        if self._epoll is None or self._epoll.closed:
            return False
        self._epoll.register(fd, select.EPOLLIN)
        self._watched[fd] = ready
        return True

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def drop(self, connection: Connection, why: str) -> None:
        """Close a connection and all that it holds."""
        if connection.state == "closed":
            return
        log.debug("connection %s of %s closed: %s", connection.name, connection.who.user, why)
        sock = connection.socket
        self._epoll.unregister(sock.fileno())
        connection.state = "closed"
        del self.connections[sock.fileno()]
        key = _share(connection.who)
        self._of[key] -= 1
        if not self._of[key]:
            del self._of[key]
        sock.close()
        connection.session.close()
        self._tend(connection)

    # --- the loop --------------------------------------------------------------------------

    async def _loop(self) -> None:
        poll, jobs = self._epoll.poll, self.jobs
        number = self._epoll.fileno()
        while True:
            jobs.awake = False
            jobs.start_some()
            if self._again or jobs.todo:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(number)
            jobs.awake = True
            until = perf_counter() + TURN
            while perf_counter() < until:
                events = poll(0, EVENTS)
                if self._again:
                    self._go_on()
                elif not events:
                    events = self._nap()
                    if not events:
                        break
                for ready, _ in events:
                    connection = self.connections.get(ready)
                    if connection is not None:
                        self._ready(connection)
                    elif ready in self._watched:
                        jobs.taken -= self._watched[ready]()

    def _nap(self) -> list[tuple[int, int]]:
        """What is ready after a short sleep, for a client that asks step by step comes back
        at once: to wait for it here costs a third of what it costs by way of trio.

        While this sleeps trio's other tasks do not run.  So it sleeps only after a
        request, no longer than NAP, and after each time in vain it lets twice as many
        chances pass.
        """
        jobs = self.jobs
        if jobs.taken:
            woke, jobs.taken = jobs.taken < 0, 0
            if woke:
                return []
        if jobs.todo or self._pass > 0:
            self._pass -= 1
            return []
        # A client on the same core may need no more than a turn of it (64 KiB reads: +14 %).
        sched_yield()
        poll = self._epoll.poll
        events: list[tuple[int, int]] = poll(0, EVENTS) or poll(NAP, EVENTS)
        self._vain = 0 if events else min(self._vain + 1, MAX_VAIN)
        self._pass = (1 << self._vain) - 1
        return events

    def _go_on(self) -> None:
        """Answer those who had asked more than a turn's worth."""
        again, self._again = self._again, []
        for connection in again:
            if connection.state == "open":
                self._answer(connection)

    def _ready(self, connection: Connection) -> None:
        if connection.state == "stuck":
            self._push(connection)
        elif not connection.more:
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.drop(connection, error.strerror or "lost")
            return
        if not data:
            self.drop(connection, "the client left")
            return
        connection.session.feed(data)
        self._answer(connection)

    def _answer(self, connection: Connection) -> None:
        """Answer what a connection's session holds, a turn's worth of it."""
        session = connection.session
        try:
            more = connection.more = session.step()
        except BadMessage as error:
            log.info("connection %s of %s: %s", connection.name, connection.who.user, error)
            self._tend(connection)
            self.drop(connection, error.why)
            return
        if session.started or session.stopped:
            self.jobs.step(connection)
        if session.out:
            self._send(connection)
        if more and connection.state == "open":
            self._again.append(connection)

    def _tend(self, connection: Connection) -> None:
        """Do what a session decided: start jobs, stop jobs, send."""
        session = connection.session
        if session.started or session.stopped:
            self.jobs.step(connection)
        if session.out:
            self._send(connection)

    # --- sending ------------------------------------------------------------------------------

    def _send(self, connection: Connection) -> None:
        """Send what the session has to say.  From a client that does not take all of it
        nothing is received until it has."""
        if connection.state == "closed":
            connection.session.take()
            return
        try:
            went = connection.send()
        except OSError as error:
            self.drop(connection, error.strerror or str(error))
            return
        if not went and connection.state == "open":
            connection.state = "stuck"
            connection.since = trio.current_time()
            self._epoll.modify(connection.socket.fileno(), select.EPOLLOUT)

    def _push(self, connection: Connection) -> None:
        """Send what a client left, now that it takes some."""
        try:
            went = connection.push()
        except OSError as error:
            self.drop(connection, error.strerror or str(error))
            return
        connection.since = trio.current_time()
        if went:
            connection.state = "open"
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN)
            self._answer(connection)

    # --- beginnings and ends ------------------------------------------------------------------

    async def _accept(self, listener: Listener) -> None:
        sock = listener.socket
        while True:
            await trio.lowlevel.wait_readable(sock.fileno())
            try:
                client, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError as error:  # no file descriptors left: others must end first
                log.error("no new connections at %s: %s", listener.address, error.strerror)
                await trio.sleep(0.1)
                continue
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if listener.door is not None:
                assert self._nursery is not None
                self._nursery.start_soon(self._greet, listener.door, client, peer[0])
                continue
            try:
                who = listener.who(client)
            except OSError:
                client.close()
                continue
            if self.who_of is not None and who.uid is not None:
                who = self.who_of(who.uid)
            self.adopt(client, who)

    async def _greet(self, door: Door, client: socket.socket, name: str) -> None:
        found = await door.greet(client, name)
        if found is not None:
            sock, node = found
            if not node:
                self._adopt_stranger(sock, name, door.binding)
                return
            connection = self.adopt(sock, Who(f"node {node}", None), node, door.binding)
            if connection is not None:
                self._receive(connection)  # what came with the end of the handshake

    def _adopt_stranger(self, sock: socket.socket, name: str, binding: bytes) -> None:
        """Serve one who proved nothing, for a while; a few at a time."""
        self._tidy_strangers()
        if self.stranger_space is None or len(self._strangers) >= STRANGERS:
            log.info("a stranger from %s turned away", name)
            sock.close()
            return
        connection = self._adopt(sock, NOBODY, "", binding, self.stranger_space)
        if connection is not None:
            self._strangers[connection] = trio.current_time() + STRANGER_TIME
            self._receive(connection)

    def _tidy_strangers(self) -> None:
        """Cut off those who have been strangers for too long."""
        now = trio.current_time()
        for connection, until in list(self._strangers.items()):
            strange = not connection.session.proved and connection.state != "closed"
            if strange and now < until:
                continue
            del self._strangers[connection]
            if strange:
                self.drop(connection, "it has proved nothing")

    def check_nodes(self, admit: Admit) -> None:
        """Close the connections of nodes that would not get in any more."""
        for connection in list(self.connections.values()):
            if connection.session.node and isinstance(connection.socket, ssl.SSLSocket):
                try:
                    admit(shown_by(connection.socket))
                except CloudError as error:
                    log.warning("connection %s closed: %s", connection.name, error)
                    self.drop(connection, error.why)

    async def _watch(self) -> None:
        """Cut off the clients that begin a frame and do not end it, or take no replies, and
        those whose proof is over."""
        began: dict[Connection, tuple[int, float]] = {}
        while True:
            await trio.sleep(min(self.frame_time, self.stuck_time) / 6)
            now = trio.current_time()
            before, began = began, {}
            self._tidy_strangers()
            for connection in list(self.connections.values()):
                outlived = connection.session.outlived()
                if outlived:
                    self.drop(connection, outlived)
                elif connection.state == "stuck":
                    if now - connection.since >= self.stuck_time:
                        self.drop(connection, "it does not read its replies")
                elif connection.session.partial and not connection.more:
                    answered = connection.session.answered
                    count, since = before.get(connection, (answered, now))
                    began[connection] = answered, since if count == answered else now
                    if now - began[connection][1] >= self.frame_time:
                        self.drop(connection, "a frame did not become whole")


def _share(who: Who) -> str:
    """Among whose connections one counts: whoever has not logged in is nobody, and no local
    user is to be kept from doing so by others."""
    return who.user if who.uid is None else f"#{who.uid}"
