"""Logins: a factotum keeps a connection to a node, and callers with its uid are its user there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cloudfs import logins as module
from cloudfs.errors import CloudError
from cloudfs.factotumd import held
from cloudfs.factotumd.files import Agent, tree
from cloudfs.factotumd.state import Factotum
from cloudfs.logins import Login, Logins
from cloudfs.tree import idmap
from cloudfs.tree.api import OREAD, OWRITE, Cues, Node, Who
from cloudfs.tree.factotum import directory
from cloudfs.tree.space import Space, settle
from cloudfs.wire.connect import connect
from cloudfs.wire.listen import listen
from cloudfs.wire.server import Server
from tests.factotum.town import Town

ME = os.geteuid()
HERE = idmap.user_of(ME)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    made = Town(tmp_path)
    made.user("ana")
    return made


class Pair:
    """The node n1, with the callers' factotum in its tree, and a factotum: each a server with a
    unix socket."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.proofs = town.proofs("n1")
        self.ended: list[int] = []
        self.logins = Logins(self.proofs, (), self.ended.append)
        self.root = directory(self.logins, "root", 0.0)
        self.factotum = Factotum(town.clock)
        folder = Path(tempfile.mkdtemp())
        self.node, self.socket = f"{folder}/n", f"{folder}/f"
        self.held = held.Logins(self.factotum, self.socket)
        self.scope = trio.CancelScope()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pair]:
        root: Node = tree(Agent(self.factotum, self.held, lambda: None), HERE, float)
        agent = Server(lambda who: Space(root))
        async with trio.open_nursery() as nursery:
            await nursery.start(self.logins.run)
            await nursery.start(self.held.run)
            await nursery.start(agent.serve, [listen(self.socket, mode=0o600)])
            await nursery.start(self.serve)
            yield self
            nursery.cancel_scope.cancel()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The node, until its scope is cancelled."""
        server = Server(
            lambda who: Space(self.root),
            who_of=self.logins.who_of,
            proofs=self.proofs,
            logins=self.logins,
            closed=self._closed,
            frame_time=0.3,
        )
        with trio.CancelScope() as self.scope:
            await server.serve([listen(self.node)], task_status=task_status)

    def _closed(self, space: Space) -> None:
        if isinstance(space, Login):
            self.logins.closed(space)

    def me(self) -> str:
        return self.logins.who_of(ME).user

    async def begin(self, wanted: str = "") -> None:
        await self.held.begin(f"unix:{self.node}", wanted).run()

    async def read(self, name: str, who: Who) -> str:
        """A file of /cloud/factotum as who sees it."""
        handle = await settle(self.root.walk(name, Space(self.root).attach(who), Cues()).open(
            OREAD, Space(self.root).attach(who), Cues()
        ))  # fmt: skip
        try:
            return bytes(await settle(handle.read(0, 9999))).decode()
        finally:
            await settle(handle.close())


async def until(true: object) -> None:
    with trio.fail_after(20):
        while not true():  # type: ignore[operator]
            await trio.sleep(0.01)


async def test_while_a_login_stands_its_uid_is_its_user(town: Town) -> None:
    town.people.groups["ana"] = frozenset({"web"})
    async with Pair(town).running() as pair:
        assert pair.me() == "none"
        assert idmap.uid_of("ana") != ME
        pair.factotum.add(town.line("ana"))
        await pair.begin("user=ana")
        who = pair.logins.who_of(ME)
        assert (who.user, who.uid, who.groups) == ("ana", ME, {"ana"})
        assert pair.logins.who_of(ME + 1).user == "none"
        assert (idmap.uid_of("ana"), idmap.user_of(ME)) == (ME, "ana")
        assert "state=up" in pair.held.lines()[0]
        assert "login addr" in await pair.read("ctl", who)
        assert await pair.read("ctl", Who("ana", ME + 1)) == "", "it is the uid's, not the name's"
        assert await pair.read("ctl", Who("ana", None)) == ""
        pair.held.end()
        await until(lambda: pair.me() == "none")
        assert pair.ended == [ME]
        assert (idmap.uid_of("ana") != ME, idmap.user_of(ME)) == (True, HERE)
        with pytest.raises(CloudError, match="have not logged in"):
            at = Space(pair.root).attach(who)
            pair.root.walk("ctl", at, Cues()).open(OWRITE, at, Cues())


async def test_what_ones_factotum_asks_is_followed_in_the_tree(town: Town) -> None:
    async with Pair(town).running() as pair:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        at, cues = Space(pair.root).attach(pair.logins.who_of(ME)), Cues(follow=True)
        handle = await settle(pair.root.walk("needkey", at, cues).open(OREAD, at, cues))
        rpc = pair.factotum.rpc()
        rpc.write(b"start proto=p9any role=client user=bob")
        rpc.write(b"read")
        with trio.fail_after(10):
            text = bytes(await settle(handle.read(0, 999)))
        assert text.startswith(b"needkey tag=1 user=bob")
        await settle(handle.close())


async def test_a_login_that_is_renewed_leaves_no_gap(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "RENEW", 0.05)
    async with Pair(town).running() as pair:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        first = pair.logins._of[ME][0]
        await until(lambda: first not in pair.logins._of[ME])
        assert pair.me() == "ana"
        assert pair.ended == []


async def test_who_came_in_by_a_login_goes_with_it_and_who_was_nobody_stays(town: Town) -> None:
    async with Pair(town).running() as pair, connect(f"unix:{pair.node}") as before:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        async with connect(f"unix:{pair.node}") as client:
            await trio.sleep(0.2)  # looks of the server at its connections
            assert (client.why, before.why) == ("", "")
            pair.held.end()
            with trio.fail_after(20):
                await client.lost.wait()
            assert before.why == ""


async def test_it_ends_with_its_token_and_its_epoch(town: Town) -> None:
    async with Pair(town).running() as pair:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        town.now += 13 * 3600
        assert pair.me() == "none"
        await until(lambda: pair.me() == "ana")  # the factotum has proved it anew
        town.new_epoch("ana")
        assert pair.me() == "none"
        await until(lambda: "new epoch" in pair.held.lines()[0])


async def test_a_login_takes_a_proof_where_there_are_users(town: Town) -> None:
    async with Pair(town).running() as pair:
        with pytest.raises(CloudError, match="there is no key"):
            await pair.begin()
        with pytest.raises(CloudError) as caught:
            async with connect(f"unix:{pair.node}", aname=f"login{pair.socket}"):
                pass
        assert caught.value.kind == "denied"
        assert (pair.me(), pair.held.lines()) == ("none", [])


async def test_on_a_node_that_knows_no_users_names_stay_and_the_factotum_is_found(
    town: Town,
) -> None:
    town.people.users.clear()
    async with Pair(town).running() as pair:
        assert pair.me() == HERE
        await pair.begin()
        assert pair.me() == HERE
        assert await pair.read("proto", pair.logins.who_of(ME)) == "cap25519\np9any\n"


async def test_a_node_that_was_gone_is_come_back_to(town: Town) -> None:
    async with Pair(town).running() as pair, trio.open_nursery() as nursery:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        pair.scope.cancel()
        await until(lambda: "state=lost" in pair.held.lines()[0])
        assert pair.me() == "none"
        nursery.start_soon(pair.serve)
        await until(lambda: pair.me() == "ana")
        nursery.cancel_scope.cancel()


async def test_a_path_leads_to_no_factotum_of_another(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login names a socket; who serves there must be who logged in."""
    async with Pair(town).running() as pair:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        (login,) = pair.logins._of[ME]
        login.uid = ME + 1  # as if another had logged in with that path
        pair.logins._of[ME + 1] = [login]
        with pytest.raises(CloudError, match="who answers there is the user with number"):
            await pair.read("ctl", Who("bob", ME + 1))
        login.path = "/nowhere"
        with pytest.raises(CloudError, match="/nowhere"):
            await pair.read("ctl", Who("bob", ME + 1))
        login.uid = ME


async def test_a_factotum_tells_no_node_of_another_user(town: Town) -> None:
    async with Pair(town).running() as pair:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(held.os, "geteuid", lambda: ME + 7)
            patch.setattr("cloudfs.wire.connect.peer_uid", lambda sock: ME + 8)
            with pytest.raises(CloudError, match="who answers there is the user with number"):
                await pair.begin()


async def test_bounds(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OF_ONE", 1)
    monkeypatch.setattr(held, "MOST", 1)
    async with Pair(town).running() as pair:
        pair.factotum.add(town.line("ana"))
        await pair.begin()
        with pytest.raises(CloudError):
            async with connect(f"unix:{pair.node}", aname="login/x"):
                pass
        with pytest.raises(CloudError, match="keeps 1 logins"):
            pair.held.begin("unix:/else", "")
        for bad in ("tcp:127.0.0.1:1", "nonsense"):
            with pytest.raises(CloudError):
                pair.held.begin(bad, "")
        with pytest.raises(CloudError, match="no login at unix:/else"):
            pair.held.end("unix:/else")
        talk = pair.proofs.begin(b"")
        with pytest.raises(CloudError, match="at most 107 bytes"):
            pair.logins.open(ME, Who("ana", ME), talk, ("x" * 200,))
