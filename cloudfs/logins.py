"""Who local users are in the cloud: each by the login that stands for its uid.

A factotum logs in over this node's unix socket, by a Tattach with the aname login/PATH (PATH: its
own socket) and an afid that proved a user.  As long as it keeps that connection, callers with its
uid are that user.  A node that knows no users has nobody proved: there a login only tells where the
factotum is, and local users have their local names, as they always have on a node that is a cloud
of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from functools import partial
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.factotum.p9any import Server
from cloudfs.factotum.proofs import Proofs, powers_of
from cloudfs.factotum.tokens import Powers
from cloudfs.tree import idmap, numbers
from cloudfs.tree.api import Node, Wait, Who
from cloudfs.tree.files import Value
from cloudfs.tree.space import Attach, ErrLog, Space
from cloudfs.tree.table import TableDir
from cloudfs.who import NOBODY
from cloudfs.wire.client import Client
from cloudfs.wire.connect import attended, dial_near
from cloudfs.wire.remote import tree

log = logging.getLogger(__name__)

MOST = 1024  # logins
OF_ONE = 16  # logins of one uid
DIAL = 2.0  # seconds to reach a factotum
_LONGEST = 107  # bytes of a socket's path


class Login(Space):
    """One, which is a name space too: of the directory that its connection is attached to.

    powers: what was proved, None on a node that knows no users.  path: of the factotum.
    """

    def __init__(self, uid: int, who: Who, powers: Powers | None, path: str) -> None:
        self.uid = uid
        self.user = who.user
        self.powers = powers
        self.path = path
        self.root_of: Node | None = None  # of the factotum, while there is a connection to it
        self.client: Client | None = None
        self.lock = trio.Lock()
        self.over = trio.Event()
        started = time.time()
        root = TableDir("/", TABLE, self, numbers.named("login"), who.user, lambda: started)
        super().__init__(root, ErrLog())


class Logins:
    """All that stand.

    boss_uids: those to whom no permission bit applies, whoever they are in the cloud.
    ended(uid): told when a login of that uid is over.
    """

    def __init__(
        self,
        proofs: Proofs,
        boss_uids: Container[int],
        ended: Callable[[int], None] = lambda uid: None,
    ) -> None:
        self._proofs = proofs
        self._boss = boss_uids
        self._of: dict[int, list[Login]] = {}
        self._nursery: trio.Nursery | None = None
        self.ended = ended

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections to factotums until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    # --- who is who -----------------------------------------------------------------------------

    def who_of(self, uid: int) -> Who:
        """The caller with a number that the kernel vouches for."""
        boss = uid in self._boss
        for login in reversed(self._of.get(uid, ())):
            if login.powers is not None and self._proofs.holds(login.powers):
                who = self._proofs.caller(login.powers, uid)
                who.boss = boss
                return who
        if boss or not self._proofs.people.some():
            return idmap.who_of(uid, self._boss)
        return Who(NOBODY.user, uid)

    def open(self, uid: int, who: Who, talk: Server | None, path: tuple[str, ...]) -> Space:
        """A login of that uid begins (wire/auth.py's Logins)."""
        if talk is None and self._proofs.people.some():
            raise CloudError("denied", "a login takes a proof", "type: cloudfs login USER")
        where = "/" + "/".join(path)
        if len(where.encode()) > _LONGEST:
            raise CloudError("toolong", f"a socket's path has at most {_LONGEST} bytes")
        here = self._of.get(uid, [])
        if len(here) >= OF_ONE or sum(map(len, self._of.values())) >= MOST:
            raise CloudError("toomany", "there are too many logins", "cloudfs logout")
        powers = None if talk is None else powers_of(talk)
        login = Login(uid, who, powers, where)
        self._of.setdefault(uid, []).append(login)
        if powers is not None:
            idmap.log_in(login.user, uid)
        return login

    def closed(self, login: Login) -> None:
        """Its connection has ended."""
        here = self._of.get(login.uid, [])
        if login not in here:
            return
        here.remove(login)
        login.over.set()
        if not here:
            del self._of[login.uid]
        if login.powers is not None:
            idmap.log_out(login.user, login.uid)
            if all(one.user != login.user for logins in self._of.values() for one in logins):
                self._proofs.lent.drop(login.user)
            if all(other.user != login.user for other in here):
                self.ended(login.uid)

    # --- their factotums ------------------------------------------------------------------------

    def reach(self, who: Who) -> Node | Wait[Node] | None:
        """The root of the caller's own factotum (tree/factotum.py's Agents)."""
        here = self._of.get(who.uid, ()) if who.uid is not None else ()
        if not here:
            return None
        login = here[-1]
        if login.root_of is not None and login.client is not None and not login.client.why:
            return login.root_of
        return Wait(partial(self._reach, login))

    async def _reach(self, login: Login) -> Node:
        async with login.lock:  # those who come meanwhile share the connection
            if login.root_of is None or login.client is None or login.client.why:
                if self._nursery is None:
                    raise CloudError("again", "this node is starting or stopping")
                login.client, login.root_of = await self._nursery.start(self._connect, login)
            assert login.root_of is not None
            return login.root_of

    async def _connect(
        self, login: Login, *, task_status: trio.TaskStatus[tuple[Client, Node]]
    ) -> None:
        """A connection to a factotum, as long as the login stands.  Raises before it has one."""
        begun = False
        try:
            # Whoever listens there must be the user who logged in: the path is but a word.
            stream = await dial_near(login.path, {login.uid}, DIAL)
            async with attended(stream, f"the factotum of {login.user}", DIAL) as client:
                await client.start("9P2000.L", "")
                root = await tree(client)
                begun = True
                task_status.started((client, root))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_end_with, client.lost, nursery.cancel_scope)
                    await login.over.wait()
                    nursery.cancel_scope.cancel()
        except CloudError:
            if not begun:
                raise
        except Exception as error:  # whatever a factotum does, the node goes on
            log.exception("with the factotum of %s", login.user)
            if not begun:
                raise CloudError("io", "your factotum cannot be used") from error


async def _end_with(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _user(login: Login, at: Attach) -> str:
    """Who callers with the uid of this login are."""
    return f"{login.user}\n"


TABLE = (Value("user", 0o444, _user),)
