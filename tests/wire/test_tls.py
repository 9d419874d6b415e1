"""9P in TLS: who gets in, as whom, and what those cost who do not."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.factotum.cloudkey import client_context, make_cloud
from cloudfs.tree.api import OREAD, Cues, Handle, Wait
from cloudfs.tree.idmap import far_user
from cloudfs.wire import tls
from cloudfs.wire.address import parse
from cloudfs.wire.client import Client
from cloudfs.wire.connect import attended, connect
from cloudfs.wire.listen import listen
from cloudfs.wire.messages import NODES
from tests.synthetic import Dir, Leaf
from tests.wire.nodes import FarNode, keys


@asynccontextmanager
async def called(far: FarNode, files: object, node: str = "far") -> AsyncIterator[Client]:
    """A client of the far node with these keys, not attached."""
    context = client_context(files)  # type: ignore[arg-type]
    stream = await tls.dial("127.0.0.1", far.port, context, node, tls.Threads())
    async with attended(stream, f"node {node}", 5.0) as client:
        await client.agree(NODES)
        yield client


class Asked(Leaf):
    """A file that holds the name of who opens it."""

    __slots__ = ()

    def open(self, mode: int, at: object, cues: Cues) -> Handle | Wait[Handle]:
        who = at.who  # type: ignore[attr-defined]
        self.data = f"{who.user} {who.boss}".encode()
        return super().open(mode, at, cues)  # type: ignore[arg-type]


async def _read(client: Client, root: object, *names: str) -> bytes:
    async with await client.walk(names, start=root) as file:  # type: ignore[arg-type]
        await file.open(OREAD)
        return bytes(await file.read(0, 1 << 16))


async def test_a_node_names_its_callers(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"], Dir("/", [Asked("who")])).running() as far:
        async with called(far, files["near"]) as client:
            assert client.node
            for user, seen in (
                ("root", "root True"),
                ("guest", "guest False"),
                ("none", "none False"),
            ):
                root = await client.attach(user, "node")
                assert await _read(client, root, "who") == seen.encode()
            with pytest.raises(CloudError, match="is no user") as caught:
                await client.attach("a/b", "node")
            assert caught.value.kind == "denied"


async def test_the_whole_tree_and_the_node_s_own(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far, called(far, files["near"]) as client:
        own, whole = await client.attach("root", "node"), await client.attach("root", "")
        assert await _read(client, own, "hello") == b"hello, world\n"
        async with await client.walk(["nodes"], start=whole) as file:
            assert file.qid[0] & 0x80
        inside = await client.attach("root", "node/dir")
        assert await _read(client, inside, "a") == b"A\n"
        with pytest.raises(CloudError):
            await client.walk(["hello"], start=whole)


@pytest.mark.parametrize(
    ("name", "owner", "boss"), [("root", "root", True), ("eva", "root", False)]
)
def test_far_users(name: str, owner: str, boss: bool) -> None:
    who = far_user(name, owner)
    assert (who.user, who.uid, who.boss, who.groups) == (name, None, boss, {name})


@pytest.mark.parametrize("name", ["", "a\nb", "a/b", "x" * 65])
def test_who_is_no_far_user(name: str) -> None:
    with pytest.raises(CloudError, match="is no user"):
        far_user(name, "root")


async def test_errors_come_with_their_reasons(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far, called(far, files["near"]) as client:
        root = await client.attach("root", "node")
        async with await client.walk(["ctl"], start=root) as file:
            await file.open(1)
            with pytest.raises(CloudError) as caught:
                await file.write(0, b"nonsense")
            assert caught.value.kind == "bad"
            assert caught.value.why == "ctl takes only ok"
            assert caught.value.fix == "type: echo ok > ctl"


async def test_much_goes_both_ways(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far, called(far, files["near"]) as client:
        root = await client.attach("root", "node")
        big = far.own.children["big"].data
        async with await client.walk(["big"], start=root) as file:
            await file.open(OREAD)
            parts: dict[int, bytes] = {}

            async def part(at: int) -> None:
                parts[at] = bytes(await file.read(at, 50_000))

            async with trio.open_nursery() as nursery:
                for at in range(0, len(big), 50_000):
                    nursery.start_soon(part, at)
            assert b"".join(parts[at] for at in sorted(parts)) == big
        async with await client.walk(["empty"], start=root) as file:
            await file.open(1)
            done = 0
            while done < len(big):
                done += await file.write(done, big[done:])
            assert far.own.children["empty"].data == big


async def test_a_client_that_does_not_read_is_waited_for(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far:
        stream = await tls.dial(
            "127.0.0.1", far.port, client_context(files["near"]), "far", tls.Threads()
        )
        async with stream:
            client = Client(stream, "far", 5.0, None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.pipe.run_reader, None)
                nursery.start_soon(client.pipe.run_writer)
                await client.agree(NODES)
                root = await client.attach("root", "node")
                file = await client.walk(["big"], start=root)
                await file.open(OREAD)
                nursery.cancel_scope.cancel()
            (connection,) = far.server.connections.values()
            encode = client.codec.encode["Tread"]
            frames = [encode(tag, file.fid, 0, file.iounit) for tag in range(64)]
            await stream.send_all(b"".join(frames))
            with trio.fail_after(10):
                while connection.state != "stuck":
                    await trio.sleep(0.01)
            data, want = b"", 64 * (11 + file.iounit)
            while len(data) < want:
                data += await stream.receive_some()
            assert connection.state == "open"
            for tag in range(64):
                frame = data[tag * (11 + file.iounit) :][: 11 + file.iounit]
                assert frame[5:7] == tag.to_bytes(2, "little")
                assert frame[11:] == far.own.children["big"].data[: file.iounit]


# --- who does not get in ---------------------------------------------------------------------


async def test_a_node_of_another_cloud_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "LOG_EVERY", 0.0)
    (tmp_path / "other").mkdir()
    make_cloud(tmp_path / "other")
    files = keys(tmp_path, "far")
    rogue = keys(tmp_path / "other", "near", "far")
    async with FarNode(files["far"]).running() as far:
        with pytest.raises(CloudError, match="not of this cloud") as caught:
            async with called(far, rogue["near"]):
                pass
        assert caught.value.kind == "denied"
        # One that does not care who answers learns from the answer that it is refused.
        context = client_context(rogue["near"])
        context.verify_mode = ssl.CERT_NONE
        with pytest.raises(CloudError) as caught:
            stream = await tls.dial("127.0.0.1", far.port, context, "far", tls.Threads())
            async with attended(stream, "node far", 5.0) as client:
                await client.agree(NODES)
        await trio.sleep(0.05)
        assert not far.server.connections
    assert "a handshake from 127.0.0.1 refused" in caplog.text
    assert "not of this cloud" in caplog.text


async def test_the_reason_reaches_who_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_cloud(tmp_path / "other")
    files, rogue = keys(tmp_path, "near", "far"), keys(tmp_path / "other", "near")
    context = client_context(files["near"])  # it knows the cloud, and shows another's certificate
    context.load_cert_chain(rogue["near"].cert, rogue["near"].key)
    async with FarNode(files["far"]).running() as far:
        with pytest.raises(CloudError, match="refuses our certificate") as caught:
            stream = await tls.dial("127.0.0.1", far.port, context, "far", tls.Threads())
            async with attended(stream, "node far", 5.0) as client:
                await client.agree(NODES)
        assert caught.value.kind == "unreachable"


async def test_another_node_than_the_one_wanted(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far:
        with pytest.raises(CloudError, match="is node far, not paris") as caught:
            async with called(far, files["near"], "paris"):
                pass
        assert caught.value.kind == "denied"


async def _knock(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def test_what_is_no_tls_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far:
        for garbage in (
            b"\x13\0\0\0\x64\xff\xff\0\x20\0\0\x06\x009P2000",
            bytes(100),
            b"GET / HTTP/1.0\r\n\r\n",
        ):
            async with await _knock(far.port) as stream:
                await stream.send_all(garbage)
                with trio.fail_after(5):
                    while await _ends(stream):
                        pass
        async with called(far, files["near"]) as client:
            await client.attach("root", "node")
    assert "it does not speak TLS 1.3 with us" in caplog.text


async def _ends(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some(4096))
    except trio.BrokenResourceError:
        return b""


async def test_half_a_handshake_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "GREET_TIME", 0.2)
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far:
        context = client_context(files["near"])
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = context.wrap_bio(into, out)
        with pytest.raises(ssl.SSLWantReadError):
            half.do_handshake()
        hello = out.read()
        for beginning in (b"", hello[:20], hello):
            async with await _knock(far.port) as stream:
                if beginning:
                    await stream.send_all(beginning)
                with trio.fail_after(5):
                    while await _ends(stream):
                        pass
    assert "it took too long" in caplog.text


async def test_many_that_knock_keep_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "GREET_TIME", 30.0)
    files = keys(tmp_path, "near", "far")
    async with FarNode(files["far"]).running() as far:
        knocking = []
        for _ in range(300):
            sock = socket.create_connection(("127.0.0.1", far.port))
            knocking.append(sock)
            await trio.sleep(0)
        with trio.fail_after(20):
            async with called(far, files["near"]) as client:
                await client.attach("root", "node")
        assert len(far.server.connections) <= 1
        for sock in knocking:
            sock.close()
    refused = [r for r in caplog.records if "refused" in r.message and r.levelno == logging.WARNING]
    assert 1 <= len(refused) < 20
    assert "too many knock at once" in caplog.text


# --- addresses and listeners -------------------------------------------------------------------


def test_addresses_in_tls() -> None:
    assert str(parse("tls:far:99")) == "tls:far:99"
    assert str(parse("tls:far")) == "tls:far:5640"
    assert str(parse("tls:[::1]:7")) == "tls:[::1]:7"


async def test_tls_wants_keys() -> None:
    with pytest.raises(CloudError, match="keys of a node"):
        listen("tls:127.0.0.1:0")
    with pytest.raises(CloudError, match="only nodes, and users who prove"):
        async with connect("tls:127.0.0.1:1"):
            pass


def test_a_port_in_use(tmp_path: Path) -> None:
    files = keys(tmp_path, "far")["far"]
    listener = listen("tls:127.0.0.1:0", files)
    try:
        with pytest.raises(CloudError) as caught:
            listen(str(listener.address), files)
        assert caught.value.kind in ("busy", "io")
        assert str(listener.address) in str(caught.value)
    finally:
        listener.close()


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CloudError):
        listen("tls:no.such.host.invalid:0", keys(tmp_path, "far")["far"])
