"""What only the engine over machines has: certificates, seeds, addresses, death and sleep."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.fabric import zenoh as engine_module
from cloudfs.fabric.zenoh import ZenohEngine
from cloudfs.factotum import authority, nodekeys
from cloudfs.factotum.nodekeys import KeyFiles
from tests.clouds import TestCloud
from tests.fabric.conftest import eventually, free_ports, take
from tests.fabric.peer import LEASE


@pytest.fixture
def quick(monkeypatch):
    """A short lease, as peer.py has it."""
    monkeypatch.setattr("cloudfs.fabric.session.LEASE", LEASE)
    monkeypatch.setattr(engine_module, "LEASE", LEASE)
    monkeypatch.setattr(engine_module, "SETTLE", 1.0)


@contextmanager
def process(zone, node):
    """Another process with an engine of that zone."""
    engine = zone.make(node)  # for its address only
    folder = zone.files(node).cert.parent
    seeds = " ".join(list(zone.addresses.values())[:1])
    command = [sys.executable, "-m", "tests.fabric.peer", node, "c1", zone.addresses[node], seeds]
    child = subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"up\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    del engine


# --- who gets in -----------------------------------------------------------------------------


async def test_a_stranger_does_not_get_in(zenoh_zone, tmp_path):
    """Another cloud's certificate, of the same names: nothing passes either way."""
    one = await zenoh_zone.up("n1")
    one.publish("secret", b"s")
    (port,) = free_ports(1)
    files = TestCloud(tmp_path / "other").files("n2", "c1")
    stranger = ZenohEngine("n2", "c1", f"127.0.0.1:{port}", [zenoh_zone.addresses["n1"]], files)
    await zenoh_zone.start(stranger)
    two = await zenoh_zone.start(zenoh_zone.make("n3"))
    await eventually(lambda: two.members() == {"n1", "n3"})
    with stranger.subscribe("**") as heard, one.subscribe("**") as mine:
        await take(mine, 1)
        stranger.publish("evil", b"")
        await trio.sleep(1.0)
        assert stranger.members() == {"n2"}
        assert one.members() == two.members() == {"n1", "n3"}
        assert [s.key for s in heard._queue.clear()] == ["evil"]
        assert mine._queue.clear() == []
    assert not (await stranger.ask("x", timeout=0.3, want=frozenset(["n1"]))).whole


async def test_who_has_only_the_root_does_not_get_in(zenoh_zone, tmp_path):
    """A peer that can check us but proves nothing: a key that the cloud did not sign."""
    one = await zenoh_zone.up("n1")
    own = TestCloud(tmp_path / "other").files("n2", "c1")
    files = KeyFiles(zenoh_zone.files("n1").ca, own.cert, own.key)
    (port,) = free_ports(1)
    stranger = ZenohEngine("n2", "c1", f"127.0.0.1:{port}", [zenoh_zone.addresses["n1"]], files)
    await zenoh_zone.start(stranger)
    await trio.sleep(1.0)
    assert stranger.members() == {"n2"}
    assert one.members() == {"n1"}


async def test_zones_do_not_hear_each_other(zenoh_zone, nursery):
    one = await zenoh_zone.up("n1")
    (port,) = free_ports(1)
    other = ZenohEngine(
        "n2", "", f"127.0.0.1:{port}", [zenoh_zone.addresses["n1"]], zenoh_zone.files("n2")
    )
    await zenoh_zone.start(other)
    with one.subscribe("**") as heard:
        other.publish("k", b"")
        await trio.sleep(0.5)
        assert not heard._queue
    assert one.members() == {"n1"}


async def test_two_of_one_name_hear_each_other(zenoh_zone):
    """So that one of them can see that the name is taken, and go."""
    one = await zenoh_zone.up("n1")
    one.publish("nodes/n1", b"id=one")
    one.publish("mine/n1", b"")
    (port,) = free_ports(1)
    again = ZenohEngine(
        "n1", "c1", f"127.0.0.1:{port}", [zenoh_zone.addresses["n1"]], zenoh_zone.files("n1")
    )
    with one.subscribe("**") as first, again.subscribe("**") as second:
        await take(first, 2)
        again.publish("nodes/n1", b"id=two")
        await take(second, 1)
        async with trio.open_nursery() as nursery:
            await nursery.start(again.run)
            assert (await take(first, 1))[0].value == b"id=two"
            one.publish("nodes/n1", b"id=one")
            samples = await take(second, 2)
            assert {s.value for s in samples} == {b"id=one", b""}
            await trio.sleep(0.3)
            assert not [s for s in first._queue.clear() if s.gone]
            nursery.cancel_scope.cancel()


# --- addresses and files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["", "host", ":1", "host:", "host:0", "host:99999", "a b:1", "h:1#x", "h:1\n", "h:\u0663"],
)
def test_addresses_that_are_none(tmp_path, address):
    files = KeyFiles(tmp_path, tmp_path, tmp_path)
    for listen, seeds in ((address, []), ("127.0.0.1:1", [address])):
        with pytest.raises(CloudError) as caught:
            ZenohEngine("n1", "", listen, seeds, files)
        assert caught.value.kind == "bad"


async def run_refused(engine):
    """The error that running it ends with."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
    found = caught.value
    while isinstance(found, BaseExceptionGroup):
        (found,) = found.exceptions
    return found


async def test_an_address_in_use_is_said(zenoh_zone, monkeypatch):
    monkeypatch.setattr(engine_module, "PATIENCE", 0.5)
    engine = zenoh_zone.make("n1")
    port = int(zenoh_zone.addresses["n1"].rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        error = await run_refused(engine)
        assert error.kind == "busy"
        assert zenoh_zone.addresses["n1"] in error.why
    await zenoh_zone.start(engine)  # and it can be tried again


async def test_an_address_that_comes_free_is_waited_for(zenoh_zone, nursery):
    engine = zenoh_zone.make("n1")
    port = int(zenoh_zone.addresses["n1"].rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        nursery.start_soon(zenoh_zone.start, engine)
        await trio.sleep(0.5)
        assert engine.node not in zenoh_zone.engines
    await eventually(lambda: engine.node in zenoh_zone.engines)


@pytest.mark.parametrize("listen", ["nohost.invalid:5640", "192.0.2.1:5640"])
async def test_a_place_that_is_not_here_is_said(zenoh_zone, listen):
    engine = ZenohEngine("n1", "", listen, [], zenoh_zone.files("n1"))
    error = await run_refused(engine)
    assert error.kind == "bad"
    assert listen in error.why


async def test_keys_that_cannot_be_read_are_said(zenoh_zone, tmp_path):
    files = zenoh_zone.files("n1")
    for wrong in (
        KeyFiles(tmp_path / "no", files.cert, files.key),
        KeyFiles(files.ca, tmp_path / "no", files.key),
        KeyFiles(files.ca, files.cert, tmp_path / "no"),
    ):
        error = await run_refused(ZenohEngine("n1", "", "127.0.0.1:5641", [], wrong))
        assert error.kind == "bad"


# --- seeds -------------------------------------------------------------------------------------


async def test_a_seed_may_be_down_at_the_start(zenoh_zone):
    one, two = zenoh_zone.make("n1"), zenoh_zone.make("n2")
    await zenoh_zone.start(two)
    await trio.sleep(0.5)
    assert two.members() == {"n2"}
    await zenoh_zone.start(one)
    await eventually(lambda: one.members() == two.members() == {"n1", "n2"})


async def test_with_all_first_seeds_dead_others_still_meet(zenoh_zone):
    _, two, three = await zenoh_zone.up("n1", "n2", "n3")
    await zenoh_zone.down("n1")
    four = zenoh_zone.make("n4", seeds=[zenoh_zone.addresses["n1"], zenoh_zone.addresses["n2"]])
    await zenoh_zone.start(four)
    here = {"n2", "n3", "n4"}
    await eventually(lambda: two.members() == three.members() == four.members() == here)


async def test_who_was_lost_is_sought(zenoh_zone, monkeypatch):
    """No seed leads back: as after a cut that outlived the seeds."""
    monkeypatch.setattr("cloudfs.fabric.seek.SEEK", (0.3, 1.0, 60.0))
    one, _ = await zenoh_zone.up("n1", "n2")
    await zenoh_zone.down("n2")
    await eventually(lambda: one.members() == {"n1"})
    two = zenoh_zone.make("n2", seeds=[])
    await zenoh_zone.start(two)
    await eventually(lambda: one.members() == two.members() == {"n1", "n2"}, 20.0)
    assert (await one.ask("x", timeout=5)).whole


# --- death and sleep -----------------------------------------------------------------------------


async def test_killed_and_started_again(zenoh_zone, quick):
    one = await zenoh_zone.up("n1")
    with one.subscribe("from/*") as heard, one.watch() as changes:
        await take(changes, 1)
        with process(zenoh_zone, "n2") as child:
            assert (await take(heard, 1))[0].key == "from/n2"
            assert (await take(changes, 1))[0].joined
            answer = await one.ask("name", timeout=5, want=1)
            assert answer.replies[0].value == b"n2"
            child.send_signal(signal.SIGKILL)
            began = time.monotonic()
            assert not (await take(changes, 1))[0].joined
            assert time.monotonic() - began < LEASE + 3
        with process(zenoh_zone, "n2"):  # the same name and address
            assert (await take(changes, 1))[0].joined
            assert (await take(heard, 1))[0].key == "from/n2"


async def test_stopped_for_longer_than_the_lease(zenoh_zone, quick):
    one = await zenoh_zone.up("n1")
    with one.subscribe("late/*") as heard, one.watch() as changes:
        await take(changes, 1)
        with process(zenoh_zone, "n2") as child:
            await take(changes, 1)
            os.kill(child.pid, signal.SIGSTOP)
            began = time.monotonic()
            assert not (await take(changes, 1))[0].joined
            assert time.monotonic() - began < LEASE + 3
            await trio.sleep(max(0.0, began + LEASE + 0.7 - time.monotonic()))
            os.kill(child.pid, signal.SIGCONT)
            assert (await take(changes, 1))[0].joined
            await eventually(lambda: one.members() == {"n1", "n2"})
            await trio.sleep(1.0)  # it reopens its session; then all is as before
            with trio.fail_after(10):
                while not (await one.ask("name", timeout=2, want=frozenset(["n2"]))).whole:
                    await trio.sleep(0.1)
            assert not heard._queue


async def test_a_session_that_is_back_after_a_sleep_is_kept(zenoh_zone, quick, monkeypatch):
    one, two = await zenoh_zone.up("n1", "n2")
    two.publish("k", b"1")
    slept = 0.0
    real = engine_module._now
    monkeypatch.setattr(engine_module, "_now", lambda: real() + slept)
    before = one._carrier._session, two._carrier._session
    with one.subscribe("k") as heard:
        await take(heard, 1)
        await trio.sleep(engine_module.LOOK + 0.2)
        slept = LEASE + 1
        await trio.sleep(engine_module.SETTLE + 2 * engine_module.LOOK)
        assert (one._carrier._session, two._carrier._session) == before
        two.publish("k", b"2")
        assert (await take(heard, 1))[0].value == b"2"


async def test_a_sleep_reopens_a_session_that_misses_somebody(zenoh_zone, quick, monkeypatch):
    one, two, _ = await zenoh_zone.up("n1", "n2", "n3")
    two.publish("k", b"1")
    slept = 0.0
    real = engine_module._now
    monkeypatch.setattr(engine_module, "_now", lambda: real() + slept)
    before = one._carrier._session, two._carrier._session
    with one.subscribe("k") as heard:
        await take(heard, 1)
        await trio.sleep(engine_module.LOOK + 0.2)
        slept = LEASE + 1
        await zenoh_zone.down("n3")
        await eventually(lambda: one._carrier._session not in (None, before[0]))
        await eventually(lambda: two._carrier._session not in (None, before[1]))
        two.publish("k", b"2")
        assert (await take(heard, 1))[0].value == b"2"
        with trio.fail_after(10):
            while not (await one.ask("x", timeout=2)).whole:
                await trio.sleep(0.1)
        assert one.members() == two.members() == {"n1", "n2"}
        await trio.sleep(engine_module.SETTLE + 0.5)
        assert one.members() == {"n1", "n2"}


async def test_a_session_that_is_deaf_to_a_peer_is_opened_anew(zenoh_zone, monkeypatch):
    """As where a peer's first words were lost: there is a link, and no token."""
    monkeypatch.setattr(engine_module, "DEAF", (0.3, 60.0))
    monkeypatch.setattr(engine_module, "LOOK", 0.1)
    one, two = await zenoh_zone.up("n1", "n2")
    session = one._carrier._session
    one._carrier._deaf_pause = 0.3
    session._known.clear()
    one._carrier.left("n2", two._carrier._session._mark)
    assert one.members() == {"n1"}
    await eventually(lambda: one._carrier._session not in (None, session))
    await eventually(lambda: one.members() == two.members() == {"n1", "n2"})
    again = one._carrier._session
    await trio.sleep(1.0)
    assert one._carrier._session is again  # once was enough


async def test_a_thread_that_hangs_is_left_behind(zenoh_zone, monkeypatch):
    monkeypatch.setattr(engine_module, "STUCK", 1.0)
    monkeypatch.setattr(engine_module, "CLOSING", 0.2)
    monkeypatch.setattr(engine_module, "LOOK", 0.1)
    one, two = await zenoh_zone.up("n1", "n2")
    go_on = trio.Event()
    session, token = one._carrier._session, trio.lowlevel.current_trio_token()

    def hang():
        session.close()
        trio.from_thread.run(go_on.wait, trio_token=token)

    one._carrier._worker.add(hang)
    await eventually(lambda: one._carrier._session not in (None, session))
    await eventually(lambda: one.members() == two.members() == {"n1", "n2"})
    go_on.set()
    with trio.fail_after(10):
        while not (await one.ask("x", timeout=2)).whole:
            await trio.sleep(0.1)


def test_zenoh_is_only_imported_by_who_runs_an_engine():
    code = (
        "import sys, cloudfs.fabric.table, cloudfs.fabric.zenoh; sys.exit('zenoh' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- who is shut out, and new certificates --------------------------------------------------------


def shutting_out(zone, node, names):
    engine = ZenohEngine(
        node,
        "c1",
        zone.addresses.setdefault(node, f"127.0.0.1:{next(zone.ports)}"),
        list(zone.addresses.values())[:1],
        zone.files(node),
        lambda: frozenset(names),
    )
    return engine


async def test_who_is_shut_out_says_and_hears_nothing_whatever_it_does(zenoh_zone):
    """The revoked node goes on as if nothing had happened; the others are none the worse."""
    names = set()
    one, two, bad = [shutting_out(zenoh_zone, node, names) for node in ("n1", "n2", "n3")]
    for engine in (one, two, bad):
        await zenoh_zone.start(engine)
    everybody = {"n1", "n2", "n3"}
    await eventually(lambda: all(e.members() == everybody for e in (one, two, bad)))
    names.add("n3.c1")
    with one.watch() as changes, one.subscribe("**") as heard, bad.subscribe("**") as overheard:
        for engine in (one, two):
            engine.open_anew("n3 was revoked", 0.0)
        await eventually(lambda: one.members() == two.members() == {"n1", "n2"}, 15)
        one.publish("secret", b"s")
        bad.publish("evil", b"e")
        bad.tell("evil/told", b"e")
        two.publish("good", b"g")
        await eventually(lambda: any(s.key == "good" for s in heard._queue.clear()))
        await trio.sleep(1.0)
        assert not [s for s in heard._queue.clear() if s.key.startswith("evil")]
        assert {s.key for s in overheard._queue.clear()} <= {"evil", "evil/told"}
        assert not (await bad.ask("x", timeout=0.5, want=frozenset(["n1"]))).whole
        gone = [c for c in changes._queue.clear() if not c.joined]
        assert {c.node for c in gone} == {"n3"}  # nobody else was missed
        assert not one._carrier._deaf  # that its word is not heard is no fault of the session


async def test_a_session_with_new_certificates_is_not_missed(zenoh_zone, tmp_path):
    """Members and followers see nothing of it, and what is told is heard again at once."""
    one, two = await zenoh_zone.up("n1", "n2")
    files = zenoh_zone.files("n2")
    nodekeys.give(
        files.key.parent,
        zenoh_zone.cloud.root.cert,
        zenoh_zone.cloud.cluster("c1"),
        "n2",
        time.time(),
    )
    one.publish("before", b"")
    with two.subscribe("**") as heard, two.watch() as mine:
        await take(heard, 1)
        two.open_anew("a new certificate", 0.0)
        await eventually(lambda: two._carrier._anew is None)
        one.publish("after", b"")
        await eventually(lambda: any(s.key == "after" for s in heard._queue.clear()))
        await trio.sleep(engine_module.SETTLE + 1)
        assert {c.node for c in mine._queue.clear() if not c.joined} == set()
        assert one.members() == two.members() == {"n1", "n2"}


async def test_a_link_ends_with_the_certificate(zenoh_zone):
    """72 h at worst: a node that is not given a new one is out, also if nobody hears why."""
    one = await zenoh_zone.up("n1")
    cloud = zenoh_zone.cloud
    state = cloud.folder / "n2"
    key = nodekeys.node_key(state / "node.key").public_key()
    chain = authority.issue(cloud.cluster("c1"), "n2", key, time.time(), life=4.0)
    nodekeys.put(nodekeys.files_in(state), cloud.root.cert, chain)
    two = await zenoh_zone.start(zenoh_zone.make("n2"))
    await eventually(lambda: one.members() == two.members() == {"n1", "n2"}, 4)
    await eventually(lambda: one.members() == {"n1"}, 15)
    await trio.sleep(2.0)  # while it dials again
    assert one.members() == {"n1"}
