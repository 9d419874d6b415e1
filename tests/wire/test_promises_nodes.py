"""DESIGN 6 over real sockets: who gets a place in a cloud, who does not, and who loses it."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cloudfs import enrolling
from cloudfs.errors import CloudError
from cloudfs.factotum import authority, nodekeys
from cloudfs.factotum.authority import LIFE, RENEW, parse_join
from cloudfs.factotum.certificates import proof
from cloudfs.factotum.nodekeys import client_context, stranger_context
from cloudfs.tree.api import NOBODY, ORDWR, OREAD, Who
from cloudfs.wire import server as server_module
from cloudfs.wire import tls
from cloudfs.wire.client import Client
from cloudfs.wire.connect import attended
from cloudfs.wire.enrol import converse
from cloudfs.wire.messages import NODES
from tests.clouds import TestCloud
from tests.wire.nodes import attach, read
from tests.wire.stations import Station, refused

BOSS = Who("root", 0, boss=True)


@asynccontextmanager
async def issuer(folder: Path, name: str = "n1") -> AsyncIterator[Station]:
    """The first node of a cloud."""
    made = Station(folder, name, time.time)
    made.credentials.init("home", "paris")
    async with made.running():
        yield made


@asynccontextmanager
async def stranger(station: Station) -> AsyncIterator[Client]:
    """A client who proves nothing, not attached."""
    port = int(station.address.rpartition(":")[2])
    context = stranger_context(None)
    stream = await tls.dial("127.0.0.1", port, context, "", tls.Threads())
    async with attended(stream, station.name, 5.0) as client:
        await client.agree(NODES)
        yield client


async def enrolled(station: Station, text: str) -> None:
    """Have a certificate by a join file."""
    root, chain = await station.enrolling.join(parse_join(text))
    station.credentials.adopt(root, chain)


# --- joining ---------------------------------------------------------------------------------


async def test_a_node_joins_with_the_join_file_only(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        joined = Station(tmp_path, "n2", time.time)
        await enrolled(joined, first.invite())
        own = joined.credentials.own
        assert own is not None
        assert (own.cloud, own.cluster, own.node) == ("home", "paris", "n2")
        assert own.ends - own.made == LIFE
        async with joined.running():
            first.knows(joined)
            joined.knows(first)
            for one, other in ((first, "n2"), (joined, "n1")):
                assert await read(attach(one.pool, BOSS, other), "hello") == b"hello\n"
        # Its key was made by itself, and nothing else was: it can let nobody in.
        assert not (joined.state / "cluster.key").exists()
        with pytest.raises(CloudError, match="has not its cluster's authority"):
            joined.invite()


async def test_a_node_joins_by_any_node_that_knows_the_issuer(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        second = Station(tmp_path, "n2", time.time)
        await enrolled(second, first.invite())
        async with second.running():
            text = first.invite(86400.0, 1, "127.0.0.1:1", second.address)
            third = Station(tmp_path, "n3", time.time)
            lost = await refused(enrolled(third, text))
            assert "n1, which made the join file, is not known here" in lost.why
            second.knows(first)
            await enrolled(third, text)
            assert third.credentials.own is not None


async def test_an_exhausted_join_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        text = first.invite(uses=2)
        for name in ("n2", "n3"):
            await enrolled(Station(tmp_path, name, time.time), text)
        error = await refused(enrolled(Station(tmp_path, "n4", time.time), text))
        assert error.kind == "denied"
        assert "2 nodes have joined with this file already" in error.why
        assert "cloudfs invite" in error.fix
        # Who joined before and lost the answer is given it again.
        await enrolled(Station(tmp_path, "n3", time.time), text)


async def test_an_expired_join_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        text = first.invite(life=60)
        first.credentials.clock = lambda: time.time() + 120
        error = await refused(enrolled(Station(tmp_path, "n2", time.time), text))
        assert error.kind == "denied"
        assert "the join file ended" in error.why


@pytest.mark.parametrize(("old", "new"), [("uses=1", "uses=9"), ("paris", "rome")])
async def test_an_edited_join_file_is_refused_with_its_reason(
    tmp_path: Path, old: str, new: str
) -> None:
    async with issuer(tmp_path) as first:
        text = first.invite().replace(old, new)
        error = await refused(enrolled(Station(tmp_path, "n2", time.time), text))
        assert error.kind == "denied"
        assert "was changed, or is another cluster's" in error.why


async def test_a_join_file_of_another_cloud_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    async with issuer(tmp_path) as first, issuer(tmp_path, "o1") as other:
        text = other.invite(86400.0, 1, first.address)
        error = await refused(enrolled(Station(tmp_path, "n2", time.time), text))
        assert error.kind == "denied"
        assert "of another cloud than the join file" in error.why


async def test_a_name_that_is_taken_is_not_given_to_another_key(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        await enrolled(Station(tmp_path, "n2", time.time), first.invite())
        (tmp_path / "else").mkdir()
        again = Station(tmp_path / "else", "n2", time.time)
        error = await refused(enrolled(again, first.invite()))
        assert "there is a node n2 with another key" in error.why
        assert "--node NAME" in error.fix


@pytest.mark.parametrize(
    ("off", "said"), [(-86400.0, "24 hours behind"), (86400.0, "24 hours ahead of")]
)
async def test_a_clock_that_is_wrong_by_a_day_is_told(
    tmp_path: Path, off: float, said: str
) -> None:
    async with issuer(tmp_path) as first:
        wrong = Station(tmp_path, "n2", lambda: time.time() + off)
        error = await refused(enrolled(wrong, first.invite()))
        assert f"this machine's clock is {said} that of n1" in error.why


async def test_a_node_whose_certificate_is_not_for_now_is_told_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = TestCloud(tmp_path / "keys", "home")
    near = cloud.files("n2", "paris")
    for node, off, said in (
        ("n1", 86400.0, "clock is at least 24 hours behind that of n1, whose certificate was made"),
        ("n3", -5 * 86400.0, "certificate of n3 ran out .* clock is ahead, or that node could not"),
    ):
        cloud.files(node, "paris", time.time() + off)
        far = Station(tmp_path / "keys", node, time.time)
        far.credentials.load("paris")
        async with far.running():
            port = int(far.address.rpartition(":")[2])
            with pytest.raises(CloudError, match=said) as caught:
                await tls.dial("127.0.0.1", port, client_context(near), node, tls.Threads())
            assert caught.value.kind == "denied"


# --- what strangers may ----------------------------------------------------------------------


async def test_a_stranger_sees_nothing_but_the_enrolment(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first, stranger(first) as client:
        root = await client.attach("root", "")
        async with await client.walk([], start=root) as folder:
            await folder.open(OREAD)
            assert sorted(entry[0] for entry in await folder.entries()) == ["enrol", "help"]
        for aname in ("node", "node/enrol", "hello", "proc", "../node"):
            with pytest.raises(CloudError) as caught:
                await client.attach("root", aname)
            assert caught.value.kind == "absent"
        (connection,) = first.server.connections.values()
        assert connection.who is NOBODY
        async with await client.attach("root", "enrol") as file:
            await file.open(ORDWR)
            assert b"cloud=home cluster=paris node=n1" in bytes(await file.read(0, 4096))
            for junk in (b"x", b"\0", b"\xff", b"join node=n9", b"y" * 20000):
                with pytest.raises(CloudError) as caught:
                    await file.write(0, junk)
                assert caught.value.kind in ("bad", "toobig")


async def test_strangers_are_few_for_a_short_time_and_ask_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STRANGERS", 3)
    monkeypatch.setattr(server_module, "STRANGER_TIME", 1.0)
    monkeypatch.setattr(enrolling, "BURST", 3.0)
    monkeypatch.setattr(enrolling, "RATE", 0.01)
    async with issuer(tmp_path) as first:
        first.server.frame_time = 1.0
        text = first.invite(uses=9)
        async with stranger(first), stranger(first), stranger(first):
            with pytest.raises(CloudError, match="connection ended|n1"):
                async with stranger(first):
                    pass
            await trio.sleep(1.1)
            async with stranger(first):  # the places of those who proved nothing are free again
                pass
        for name in ("n2", "n3", "n4"):
            await enrolled(Station(tmp_path, name, time.time), text)
        error = await refused(enrolled(Station(tmp_path, "n5", time.time), text))
        assert (error.kind, error.fix) == ("again", "try again in a moment")


async def test_tls_1_3_only(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        old = client_context(first.credentials.files)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        port = int(first.address.rpartition(":")[2])

        def handshake() -> str | None:
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                return old.wrap_socket(plain).version()

        with pytest.raises((ssl.SSLError, OSError)):
            await trio.to_thread.run_sync(handshake)


async def test_a_clusters_authority_cannot_make_names_of_another(tmp_path: Path) -> None:
    """Neither can it let its own node call itself so, nor renew or revoke the other's."""
    cloud = TestCloud(tmp_path / "keys", "home")
    paris, rome = cloud.cluster("paris"), cloud.cluster("rome")
    forging = authority.Authority(paris.cert, paris.key, "home", "rome")
    bad = tmp_path / "keys" / "bad"
    files = nodekeys.give(bad, cloud.root.cert, forging, "r1", time.time())
    nodekeys.give(tmp_path / "keys" / "n1", cloud.root.cert, rome, "n1", time.time())
    far = Station(tmp_path / "keys", "n1", time.time, "rome")
    far.credentials.load("rome")
    async with far.running():
        port = int(far.address.rpartition(":")[2])
        with pytest.raises(CloudError) as caught:
            stream = await tls.dial("127.0.0.1", port, client_context(files), "n1", tls.Threads())
            async with attended(stream, "n1", 5.0) as client:
                await client.agree(NODES)
        assert "refuses our certificate" in caught.value.why
        assert not far.server.connections


async def test_a_nodes_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        joined = Station(tmp_path, "n2", time.time)
        await enrolled(joined, first.invite())
        async with joined.running():
            first.knows(joined)
            first.known["n3"] = first.known["n2"]  # n2 says that it is n3
            with pytest.raises(CloudError, match="is node n2, not n3"):
                await read(attach(first.pool, BOSS, "n3"), "hello")
    renamed = Station(tmp_path, "n2", time.time)
    renamed.credentials.name = "n1"
    renamed.credentials.load("paris")
    assert not renamed.credentials.certified
    assert "its certificate is of node n2" in renamed.credentials.why


# --- renewal ---------------------------------------------------------------------------------


async def test_a_certificate_is_renewed_over_the_nodes_connection(tmp_path: Path) -> None:
    now = [time.time()]
    async with issuer(tmp_path) as first:
        second = Station(tmp_path, "n2", lambda: now[0])
        await enrolled(second, first.invite())
        async with second.running():
            second.knows(first)
            before = second.credentials.own
            await trio.sleep(1.1)  # certificates count whole seconds
            await second.enrolling.renew()
            after = second.credentials.own
            assert before is not None
            assert after is not None
            assert after.key == before.key
            assert after.ends > before.ends
            assert second.renewals == 1
            assert not (tmp_path / "n2" / "node.crt.new").exists()


async def test_a_node_that_ran_out_of_certificates_comes_back_by_itself(tmp_path: Path) -> None:
    async with issuer(tmp_path) as first:
        late = Station(tmp_path, "n2", time.time)
        key = nodekeys.node_key(late.state / "node.key").public_key()
        by = first.credentials.authority
        assert by is not None
        root = first.credentials.root
        assert root is not None
        chain = authority.issue(by, "n2", key, time.time() - 4 * 86400)
        nodekeys.put(late.credentials.files, root, chain)
        late.credentials.load("paris")
        late.knows(first)
        async with late.running():
            with pytest.raises(CloudError, match="compare the clocks"):
                await converse(late.pool, first.address)
            await late.enrolling.renew()
            assert "node=n1" in await converse(late.pool, first.address)


async def test_a_follower_does_not_notice_a_renewal(tmp_path: Path) -> None:
    """Files that are open stay so, and who comes new comes by a new handshake."""
    async with issuer(tmp_path) as first:
        second = Station(tmp_path, "n2", time.time)
        await enrolled(second, first.invite())
        async with second.running():
            second.knows(first)
            peer = second.pool.reach("n1")
            assert peer is not None
            file = await (await second.pool.root("n1", BOSS)).client.walk(
                ["hello"], start=await second.pool.root("n1", BOSS)
            )
            await file.open(OREAD)
            seen = set(first.server.connections)
            await trio.sleep(1.1)
            await second.enrolling.renew()
            with trio.fail_after(5):
                while len(first.server.connections) < 2:
                    await trio.sleep(0.01)
            assert bytes(await file.read(0, 100)) == b"hello\n"
            assert await read(attach(second.pool, BOSS, "n1"), "hello") == b"hello\n"
            newer = first.server.connections[(set(first.server.connections) - seen).pop()]
            shown = proof(tls.shown_by(newer.socket))  # type: ignore[arg-type]
            assert second.credentials.own == shown
            file.drop()


# --- revocation ------------------------------------------------------------------------------


async def test_revocation_closes_live_connections_and_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with issuer(tmp_path) as first:
        bad = Station(tmp_path, "n2", time.time)
        text = first.invite(uses=5)
        await enrolled(bad, text)
        async with bad.running():
            first.knows(bad)
            bad.knows(first)
            for one, other in ((first, "n2"), (bad, "n1")):
                assert await read(attach(one.pool, BOSS, other), "hello") == b"hello\n"
            assert len(first.server.connections) == len(bad.server.connections) == 1
            first.credentials.revoke("n2", "paris")
            first.server.check_nodes(first.credentials.admit)
            first.pool.check()
            assert not first.server.connections
            with trio.fail_after(5):
                while bad.server.connections:
                    await trio.sleep(0.01)
            with pytest.raises(CloudError, match="node n2 was revoked"):
                await read(attach(first.pool, BOSS, "n2"), "hello")
            with pytest.raises(CloudError) as caught:
                await read(attach(bad.pool, BOSS, "n1"), "hello")
            assert caught.value.kind in ("unreachable", "pipe", "io")
            # Neither a renewal nor the join file that it came with helps.
            error = await refused(bad.enrolling.renew())
            assert error.kind in ("unreachable", "pipe", "denied")
            (tmp_path / "again").mkdir()
            for name, said in (("n2", "was revoked"), ("n7", "was revoked since")):
                again = Station(tmp_path / "again", name, time.time)
                error = await refused(enrolled(again, text))
                assert (error.kind, said in error.why) == ("denied", True)
    assert "a handshake from 127.0.0.1 refused: node n2 was revoked" in caplog.text


async def test_a_revocation_outlives_the_daemon_and_reaches_who_was_not_there(
    tmp_path: Path,
) -> None:
    async with issuer(tmp_path) as first:
        second = Station(tmp_path, "n2", time.time)
        await enrolled(second, first.invite())
        record = first.credentials.revoke("n3", "paris")
        assert second.credentials.learn(record.text()) == record
        assert second.credentials.learn(record.text()) is None
        with pytest.raises(CloudError, match="no record of a revocation"):
            second.credentials.learn(record.text().replace("n3", "n 4"))
        with pytest.raises(CloudError, match="not made by who may"):
            second.credentials.learn(record.text().replace("n3", "n4"))
    again = Station(tmp_path, "n2", time.time)
    again.credentials.load("paris")
    assert again.credentials.revoked.of("paris", "n3") == record
    assert again.credentials.shut_out() == {"n3.paris"}
    assert again.credentials.lost == ""


async def test_a_connection_ends_with_the_last_certificate_of_its_node(tmp_path: Path) -> None:
    """72 h at worst, also where nobody told of the revocation."""
    async with issuer(tmp_path) as first:
        second = Station(tmp_path, "n2", time.time)
        await enrolled(second, first.invite())
        async with second.running():
            second.knows(first)
            await read(attach(second.pool, BOSS, "n1"), "hello")
            first.credentials.clock = lambda: time.time() + LIFE - 60
            first.server.check_nodes(first.credentials.admit)
            assert len(first.server.connections) == 1
            first.credentials.clock = lambda: time.time() + LIFE + 60
            first.server.check_nodes(first.credentials.admit)
            assert not first.server.connections


# --- secrets ---------------------------------------------------------------------------------


async def test_no_secret_in_logs_files_or_errors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with issuer(tmp_path) as first:
        text = first.invite()
        secrets = [parse_join(text).key]
        joined = Station(tmp_path, "n2", time.time)
        await enrolled(joined, text)
        error = await refused(enrolled(Station(tmp_path, "n3", time.time), text))
        said = [caplog.text, str(error), first.greeting(), repr(first.credentials.record())]
        said += [repr(parse_join(text)), repr(first.credentials.authority)]
        for path in (p for p in tmp_path.rglob("*") if p.is_file()):
            content = path.read_bytes()
            if b"PRIVATE KEY" in content:
                assert path.name in ("root.key", "cluster.key", "node.key"), path
                assert path.stat().st_mode & 0o777 == 0o600, path
                secrets += [line for line in content.decode().splitlines() if len(line) > 40]
            else:
                said.append(content.decode(errors="replace"))
        made = [secret for secret in secrets if "CERTIFICATE" not in secret]
        # Certificates stand in the same files as keys, and are no secret.
        public = "".join(p.read_text() for p in tmp_path.rglob("*.crt"))
        roots = "".join(
            nodekeys.pem(authority.load(p.read_bytes()).cert).decode()
            for p in tmp_path.rglob("*.key")
            if p.name != "node.key"
        )
        hidden = [secret for secret in made if secret not in public + roots]
        assert len(hidden) >= 5
        for secret in hidden:
            assert not any(secret in text for text in said)


# --- when it is time, in virtual time ----------------------------------------------------------


async def test_certificates_are_renewed_by_themselves_every_day(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a month; for two days nobody answers, which is told and made good."""
    start = 1_790_000_000.0
    clock = lambda: start + trio.current_time()  # noqa: E731
    first = Station(tmp_path, "n1", clock)
    first.credentials.init("home", "paris")
    first.address = "192.0.2.1:1"
    second = Station(tmp_path, "n2", clock)
    silent = [False]

    async def ask(pool: object, address: str, node: str, text: str, context: object) -> str:
        await trio.lowlevel.checkpoint()
        if silent[0]:
            raise CloudError("unreachable", "nobody answers")
        answer = first.enrolling.answer(context is not None, text)
        assert isinstance(answer, str)
        return answer

    monkeypatch.setattr(enrolling, "converse", ask)
    by, root = first.credentials.authority, first.credentials.root
    assert by is not None
    assert root is not None
    nodekeys.give(second.state, root, by, "n2", clock())
    second.credentials.load("paris")
    second.knows(first)
    async with trio.open_nursery() as nursery:
        for station in (first, second):
            nursery.start_soon(station.enrolling.run)
        for _ in range(30 * 24):
            await trio.sleep(3600)
            for station in (first, second):
                own = station.credentials.own
                assert own is not None
                assert own.ends - clock() > LIFE - RENEW - 3600 - enrolling.LOOK
        assert first.renewals == pytest.approx(30, abs=1)
        assert second.renewals == pytest.approx(30, abs=1)
        silent[0] = True
        await trio.sleep(2 * 86400)
        own = second.credentials.own
        assert own is not None
        assert own.ends > clock()
        silent[0] = False
        await trio.sleep(enrolling.AGAIN[1] + enrolling.LOOK)
        again = second.credentials.own
        assert again is not None
        assert again.ends - clock() > LIFE - 7200
        nursery.cancel_scope.cancel()
