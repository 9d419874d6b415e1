"""Logins that a factotum keeps: a connection to a node's socket, over which it has proved whose the
uid of this process is.  While it stands, callers with that uid are that user there.

    begun → up ⇄ lost        lost: tried again, at growing distances
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import keyring
from cloudfs.factotum.tokens import LIFE
from cloudfs.factotumd.state import Factotum
from cloudfs.tree.api import OREAD
from cloudfs.wait import Wait
from cloudfs.wire.address import parse
from cloudfs.wire.auth import LOGIN
from cloudfs.wire.client import Client
from cloudfs.wire.connect import attended, dial_near
from cloudfs.wire.prove import prove

MOST = 8  # logins of one factotum
DIAL = 5.0  # seconds to connect and to attach
PATIENCE = 75.0  # seconds that a proof may take, its owner's word included
RENEW = LIFE / 2  # seconds after which one proves anew
FIRST, LAST = 0.25, 30.0  # seconds between two attempts where the node is gone


class Held:
    """One login.  wanted: attributes of the key."""

    def __init__(self, address: str, wanted: str) -> None:
        self.address = address
        self.wanted = wanted
        self.state = "begun"
        self.user = self.why = ""
        self.scope = trio.CancelScope()

    def line(self) -> str:
        pairs = {"addr": self.address, "user": self.user, "state": self.state, "why": self.why}
        return f"login {ndb.record(pairs)}"


class Logins:
    """All of a factotum.  path: of its own socket, which nodes are told."""

    def __init__(self, factotum: Factotum, path: str) -> None:
        self._factotum = factotum
        self._path = path
        self._all: dict[str, Held] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def lines(self) -> list[str]:
        return [held.line() for held in self._all.values()]

    def begin(self, address: str, wanted: str) -> Wait[None]:
        """Log in at the node with that socket; a login that is there already is replaced.
        Raises CloudError where the node refuses, and then nothing has changed."""
        found = parse(address)
        if not found.path:
            raise CloudError("bad", "a login is at a node of this machine", "write unix:PATH")
        keyring.template(wanted)
        if len(self._all) >= MOST and str(found) not in self._all:
            raise CloudError("toomany", f"a factotum keeps {MOST} logins", "logout ADDR")
        return Wait(partial(self._begin, Held(str(found), wanted)))

    async def _begin(self, held: Held) -> None:
        assert self._nursery is not None
        link = await self._nursery.start(self._once, held)
        self.end(held.address, absent=True)
        self._all[held.address] = held
        self._factotum.log.add("login", addr=held.address, user=held.user)
        self._nursery.start_soon(self._keep, held, link)

    def end(self, address: str = "", absent: bool = False) -> None:
        """End the login at an address, or all."""
        if address:
            address = str(parse(address))
        which = [held for held in self._all.values() if address in ("", held.address)]
        if address and not which and not absent:
            raise CloudError("absent", f"there is no login at {address}", "see: cloudfs keys")
        for held in which:
            del self._all[held.address]
            held.scope.cancel()
            self._factotum.log.add("logout", addr=held.address, user=held.user)

    async def _keep(self, held: Held, link: _Link) -> None:
        """Prove anew in time, and come back to a node that was gone."""
        assert self._nursery is not None
        pause = FIRST
        with held.scope:
            try:
                while True:
                    with trio.move_on_after(RENEW):
                        await link.over.wait()
                    if link.over.is_set():
                        held.state = "lost"
                        await trio.sleep(pause)
                        pause = min(2 * pause, LAST)
                    try:
                        new = await self._nursery.start(self._once, held)
                    except CloudError as error:
                        held.why = error.why
                        if not link.over.is_set():  # the old one holds for as long again
                            await trio.sleep(LAST)
                        continue
                    link.scope.cancel()
                    link, pause = new, FIRST
            finally:
                link.scope.cancel()

    async def _once(self, held: Held, *, task_status: trio.TaskStatus[_Link]) -> None:
        """One connection, from the proof on.  Started once it is attached; raises before."""
        link, attached = _Link(), False
        try:
            with link.scope:
                async with _attached(self._factotum, held, self._path) as client:
                    attached = True
                    held.state, held.why = "up", ""
                    task_status.started(link)
                    await client.lost.wait()
                    held.why = client.why
        except CloudError as error:
            if not attached:
                raise
            held.why = error.why
        except Exception as error:  # whatever a node does, the factotum goes on
            held.why = f"it failed ({type(error).__name__})"
            if not attached:
                raise CloudError("io", held.why) from error
        finally:
            link.over.set()


class _Link:
    """A connection that can be ended, and that tells when it has."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.over = trio.Event()


@asynccontextmanager
async def _attached(factotum: Factotum, held: Held, path: str) -> AsyncIterator[Client]:
    """A connection over which this uid has logged in."""
    stream = await dial_near(held.address.removeprefix("unix:"), {0, os.geteuid()}, DIAL)
    async with attended(stream, held.address, DIAL) as client:
        ask = partial(factotum.answer, factotum.rpc())
        aname = f"{LOGIN}/{path.strip('/')}"
        with trio.move_on_after(PATIENCE) as scope:
            await client.start(
                "9P2000", aname, partial(prove, ask=ask, start=f"{held.wanted} lend=yes".strip())
            )
        if scope.cancelled_caught:
            raise CloudError("timeout", f"the proof took more than {PATIENCE:g} s")
        async with await client.walk(["user"]) as file:
            await file.open(OREAD)
            held.user = bytes(await file.read(0, 256)).decode(errors="replace").strip()
        yield client
