"""Our client proves who it is with a factotum: to a real server, over TLS and a unix socket."""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519
from cloudfs.factotumd.files import Agent, tree
from cloudfs.factotumd.held import Logins
from cloudfs.factotumd.state import Factotum
from cloudfs.tree.api import OREAD, Node
from cloudfs.tree.files import Value
from cloudfs.tree.space import Attach, Space
from cloudfs.tree.table import TableDir
from cloudfs.wire.connect import connect
from cloudfs.wire.listen import listen
from cloudfs.wire.messages import VERSIONS
from cloudfs.wire.prove import by_factotum
from cloudfs.wire.server import Server
from tests.factotum.town import Town


def user(subject: None, at: Attach) -> str:
    """Who the caller is."""
    return at.who.user


EMPTY = TableDir("/", [], None, 1 << 61, "root", lambda: 0.0)
ROOT = TableDir("/", [Value("user", 0o444, user)], None, 1 << 60, "root", lambda: 0.0)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    made = Town(tmp_path)
    made.user("ana")
    return made


class Node1:
    """The node n1 at a TLS port and a unix socket, and a factotum with a socket of its own."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.files = town.node("n1")
        self.factotum = Factotum(town.clock)
        self.folder = Path(tempfile.mkdtemp())
        self.unix, self.agent = f"{self.folder}/s", f"{self.folder}/f"
        self.tls = ""
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node1]:
        proof = self.town.proofs("n1", files=self.files)
        server = Server(
            lambda who: Space(ROOT),
            stranger_space=lambda who: Space(EMPTY),
            proofs=proof,
            frame_time=0.3,
        )
        listener = listen("tls:127.0.0.1:0", self.files)
        assert listener.door is not None
        listener.door._context.verify_mode = ssl.CERT_OPTIONAL
        self.port = listener.address.port
        self.tls = f"tls:127.0.0.1:{self.port}"
        root: Node = tree(Agent(self.factotum, Logins(self.factotum, ""), lambda: None), "", float)
        agent = Server(lambda who: Space(root))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listener, listen(self.unix)])
            await nursery.start(agent.serve, [listen(self.agent)])
            yield self
            nursery.cancel_scope.cancel()

    async def who(self, address: str, start: str = "", **more: Any) -> str:
        """Whom the server takes us for."""
        async with (
            by_factotum(self.agent, start) as prove,
            connect(address, prove=prove, **more) as client,
            await client.walk(["user"]) as file,
        ):
            await file.open(OREAD)
            return bytes(await file.read(0, 99)).decode()


@pytest.mark.parametrize("version", VERSIONS.values())
async def test_a_proof_over_tls_and_over_a_socket(town: Town, version: str) -> None:
    async with Node1(town).running() as node:
        node.factotum.add(town.line("ana"))
        for address in (node.tls, f"unix:{node.unix}"):
            assert await node.who(address, version=version) == "ana"
            assert await node.who(address, "user=ana dom=local", version=version) == "ana"


async def test_the_connection_goes_on_as_that_user(town: Town) -> None:
    async with Node1(town).running() as node:
        node.factotum.add(town.line("ana"))
        async with by_factotum(node.agent) as prove, connect(node.tls, prove=prove) as client:
            for _ in range(200):
                async with await client.walk(["user"]) as file:
                    await file.open(OREAD)
                    assert bytes(await file.read(0, 99)) == b"ana"
            assert client.busy <= 1, "the afid was given back"


@pytest.mark.parametrize("end", ["epoch", "time"])
async def test_a_connection_ends_when_what_was_proved_does(town: Town, end: str) -> None:
    async with Node1(town).running() as node:
        node.factotum.add(town.line("ana"))
        async with by_factotum(node.agent) as prove, connect(node.tls, prove=prove) as client:
            await trio.sleep(0.2)  # looks of the server at its connections
            assert not client.why
            if end == "epoch":
                town.new_epoch("ana")
            else:
                town.now += 13 * 3600
            with trio.fail_after(20):
                await client.lost.wait()


async def test_who_proves_nothing_is_nobody_and_not_served_over_tls(town: Town) -> None:
    async with Node1(town).running() as node:
        with pytest.raises(CloudError, match="who prove who they are") as caught:
            async with connect(node.tls):
                pass
        assert caught.value.fix == "type: cloudfs login USER"
        with pytest.raises(CloudError, match="there is no key: user") as caught:
            await node.who(node.tls, "user=bob")
        assert "user=bob" in node.factotum.needs.text()


async def test_a_server_that_asks_for_no_proof(town: Town) -> None:
    town.people.users.clear()
    async with Node1(town).running() as node:
        assert await node.who(f"unix:{node.unix}") == "root"
        with pytest.raises(CloudError, match="asks for no proof, so nothing tells who it is"):
            await node.who(node.tls)


async def test_one_between_who_passes_everything_on_is_found_out(town: Town) -> None:
    """With a certificate of its own, and even with that of another node of the cloud."""
    async with Node1(town).running() as node, trio.open_nursery() as nursery:
        node.factotum.add(town.line("ana"))
        files = town.node("n2")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        there = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        there.check_hostname = False
        there.verify_mode = ssl.CERT_NONE

        async def relay(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
            try:
                while data := await one.receive_some(65536):
                    await other.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async def between(near: trio.SSLStream[trio.SocketStream]) -> None:
            raw = await trio.open_tcp_stream("127.0.0.1", node.port)
            far = trio.SSLStream(raw, there, https_compatible=True)
            async with trio.open_nursery() as both:
                both.start_soon(relay, near, far)
                both.start_soon(relay, far, near)

        serve = partial(
            trio.serve_ssl_over_tcp, between, 0, context, host="127.0.0.1", https_compatible=True
        )
        (listener,) = await nursery.start(serve)
        port = listener.transport_listener.socket.getsockname()[1]
        with pytest.raises(CloudError, match="who answers is not the node that it says it is"):
            await node.who(f"tls:127.0.0.1:{port}")
        nursery.cancel_scope.cancel()


async def test_the_reason_of_a_refusal_comes_to_who_holds_the_key(town: Town) -> None:
    async with Node1(town).running() as node:
        node.factotum.add(town.line("ana"))
        town.new_epoch("ana")
        with pytest.raises(CloudError, match="of another epoch"):
            await node.who(node.tls)
        town.people.users.pop("ana")
        town.user("bob")
        with pytest.raises(CloudError, match="there is no user ana that this node knows"):
            await node.who(node.tls)


async def test_a_granted_token_proves_its_giver_with_what_it_allows(town: Town) -> None:
    """ana lets bob kill objects of the app web; bob is ana then, and may do no more."""
    town.user("bob")
    holder = cap25519.holder(town.seeds["bob"].public_key())
    rpc = town.rpc("ana")
    rpc.write(f"start proto=cap25519 role=grant holder={holder} op=kill app=web".encode())
    rpc.write(b"read")
    token = rpc.read().removeprefix(b"ok ").decode()
    async with Node1(town).running() as node:
        with pytest.raises(CloudError, match="granted that to the holder of another key"):
            node.factotum.granted(token)
        node.factotum.add(town.line("bob"))
        node.factotum.granted(token)
        assert await node.who(node.tls, "user=ana") == "ana"
        assert await node.who(node.tls, "user=bob") == "bob"
        proofs = town.proofs("n1", files=node.files)
        who = proofs.caller(proofs.verify(base64.b64decode(token)))
    assert who.powers is not None
    who.powers.admit(op="kill", app="web")
    with pytest.raises(CloudError, match="op exec is not allowed by it, only kill"):
        who.powers.admit(op="exec")


@pytest.mark.parametrize("text", ["", "x", "AAAA", "!!"])
def test_what_is_no_token_is_not_added(text: str) -> None:
    with pytest.raises(CloudError, match="no token"):
        Factotum().granted(text)


async def test_without_a_factotum_it_says_what_to_type() -> None:
    with pytest.raises(CloudError, match="there is no factotum at /nowhere/f") as caught:
        async with by_factotum("/nowhere/f"):
            pass
    assert caught.value.fix == "type: cloudfs login USER"
