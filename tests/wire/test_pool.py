"""Trees of other nodes by way of a pool: as here, in one round trip, and never hanging."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import DMDIR, ORDWR, OREAD, OTRUNC, OWRITE, Cues, Handle, Wait
from cloudfs.tree.files import Clone
from cloudfs.tree.space import Attach, ErrLog, Space
from cloudfs.tree.table import TableDir
from cloudfs.wait import settle
from cloudfs.wire import far as far_module
from cloudfs.wire import imports
from cloudfs.wire.call import Asking
from cloudfs.wire.client import Client
from cloudfs.wire.connect import connect
from cloudfs.wire.imports import Pool
from tests.bench import nodes as bench_nodes
from tests.bench.peers import STATUS, STATUS_PATH
from tests.bench.remote import await_port, free_port
from tests.synthetic import Dir, Leaf
from tests.wire.nodes import FarNode, attach, keys, pooled, read, two
from tests.wire.serving import serving
from tests.wire.talk import BOSS, GUEST
from tests.wire.watched import Watched


async def fails(at: Attach, path: str, mode: int = OREAD) -> CloudError:
    """The error of opening and reading a file."""
    with pytest.raises(CloudError) as caught:
        await read(at, path) if mode == OREAD else await _open(at, path, mode)
    return caught.value


async def _open(at: Attach, path: str, mode: int = OREAD) -> Handle:
    ref = await settle(at.find([name for name in path.split("/") if name]))
    return await settle(at.open(ref, mode))


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each round trip began with, appended to as they are made."""
    found: list[str] = []
    ask = Client._ask

    def counted(self: Client, asking: Asking[object]) -> None:
        found.append(asking.calls[0].name)
        ask(self, asking)

    monkeypatch.setattr(Client, "_ask", counted)
    return found


# --- as it would be here -----------------------------------------------------------------------


async def test_files_and_directories(tmp_path: Path) -> None:
    async with two(tmp_path) as (far, pool):
        at = attach(pool)
        assert await read(at, "hello") == b"hello, world\n"
        assert await read(at, "dir/a") == b"A\n"
        handle = await _open(at, "")
        assert list(handle.entries.nodes) == list(far.own.children)  # type: ignore[attr-defined]
        many = await _open(at, "many")
        assert len(many.entries.nodes) == 1000  # type: ignore[attr-defined]
        stat = await settle((await settle(at.find(["secret"]))).node.stat())
        assert (stat.name, stat.uid, stat.mode, stat.length) == ("secret", "root", 0o400, 7)
        root = at.root().node
        assert (root.name, root.mode) == ("far", DMDIR | 0o555)


async def test_a_large_file_comes_whole(tmp_path: Path) -> None:
    async with two(tmp_path) as (far, pool):
        handle, data = await _open(attach(pool), "big"), b""
        while more := await settle(handle.read(len(data), 70_000)):
            data += more
        assert data == far.own.children["big"].data


async def test_making_changing_and_removing(tmp_path: Path) -> None:
    async with two(tmp_path) as (far, pool):
        at = attach(pool)
        where = await settle(at.find(["open"]))
        _, handle = await settle(at.create(where, "new", 0o644, ORDWR))
        assert await settle(handle.write(0, b"x" * 600_000)) == 600_000
        await settle(handle.close())
        assert far.own.children["open"].children["new"].data == b"x" * 600_000
        ref = await settle(at.find(["open", "new"]))
        await settle(at.wstat(ref, {"length": 3}))
        assert await read(at, "open/new") == b"xxx"
        handle = await _open(at, "open/new", OWRITE | OTRUNC)
        await settle(handle.close())
        assert await read(at, "open/new") == b""
        with pytest.raises(CloudError):
            await settle(at.remove(ref))


async def test_what_was_written_is_read_at_once(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, pool):
        at = attach(pool)
        for text in (b"one", b"two, longer", b""):
            ref = await settle(at.find(["empty"]))  # reads ahead
            handle = await _open(at, "empty", OWRITE | OTRUNC)
            if text:
                await settle(handle.write(0, text))
            await settle(handle.close())
            assert await settle((await settle(at.open(ref, OREAD))).read(0, 100)) == text


async def test_each_caller_is_itself(tmp_path: Path) -> None:
    """One connection carries all of them, also over nodes that another one looked up."""
    async with two(tmp_path) as (far, pool):
        root, guest = attach(pool), attach(pool, GUEST)
        assert await read(root, "secret") == b"secret\n"
        error = await fails(guest, "secret")
        assert error.kind == "denied"
        assert "guest may not read it" in error.why
        ref = await settle(root.find(["secret"]))
        with pytest.raises(CloudError) as caught:
            await settle(guest.open(ref, OREAD))
        assert caught.value.kind == "denied"
        assert (await fails(guest, "private/inside")).kind == "denied"
        assert len(far.server.connections) == 1


async def test_qids_differ_between_nodes(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far", "other")
    async with FarNode(files["far"]).running() as far, FarNode(files["other"]).running() as other:
        addresses = {"far": far.address, "other": other.address}
        async with pooled(files["near"], addresses) as pool:
            found = {
                (await settle(attach(pool, node=node).find(names))).node.qid
                for node in addresses
                for names in ([], ["hello"], ["dir"])
            }
            assert len(found) == 6
            assert far.own.children["hello"].qid not in found


async def test_errors_reach_the_caller_s_err(tmp_path: Path) -> None:
    """What another node says to a write stands where `cloudfs why` looks."""
    async with two(tmp_path) as (_, pool):
        async with serving(Dir("/", [Dir("nodes", [pool.reach("far")])])) as near:
            async with connect(near.address) as client:
                async with await client.walk(["nodes", "far", "ctl"]) as file:
                    await file.open(OWRITE)
                    with pytest.raises(CloudError) as caught:
                        await file.write(0, b"nonsense")
                    assert caught.value.kind == "bad"
                with pytest.raises(CloudError):
                    await client.walk(["nodes", "far", "dir", "nothing"])
            ((_, said),) = near.errors.of("root")
            assert said == "/nodes/far/ctl: ctl takes only ok; type: echo ok > ctl"


async def test_what_close_says_comes_through(tmp_path: Path) -> None:
    file = Watched()
    file.raises["close"] = CloudError("bad", "the last line was nonsense")
    async with two(tmp_path, Dir("/", [file])) as (_, pool):
        handle = await _open(attach(pool), "watched", OWRITE)
        await settle(handle.write(0, b"x"))
        with pytest.raises(CloudError, match="the last line was nonsense"):
            await settle(handle.close())


async def test_a_flush_goes_all_the_way(tmp_path: Path) -> None:
    async with two(tmp_path) as (far, pool):
        never = far.own.children["never"]
        async with serving(Dir("/", [Dir("nodes", [pool.reach("far")])])) as near:
            async with connect(near.address) as client:
                file = await client.walk([".follow", "nodes", "far", "never"])
                file.deadline = math.inf
                await file.open(OREAD)
                for _ in range(3):
                    with trio.move_on_after(0.1):
                        await file.read(0, 10)
                    await near.until(lambda: never.waiting == 0)
                async with trio.open_nursery() as nursery:

                    async def reads() -> None:
                        assert await file.read(0, 10) == b"now"

                    nursery.start_soon(reads)
                    await near.until(lambda: never.waiting == 1)
                    never.feed(b"now")
                await file.clunk()


async def test_looking_makes_nothing(tmp_path: Path) -> None:
    made: list[str] = []

    def make(subject: object, at: Attach) -> str:
        """A new one."""
        made.append(at.who.user)
        return f"{len(made)}"

    own = TableDir("/", (Clone("clone", 0o666, make),), None, 1 << 60, "root", lambda: 0.0)
    async with two(tmp_path, own) as (_, pool):
        at = attach(pool)
        await settle((await settle(at.find(["clone"]))).node.stat())
        handle = await _open(at, "clone")
        await trio.sleep(0.05)
        assert made == []
        assert await settle(handle.read(0, 10)) == b"1\n"
        assert await settle(handle.read(2, 10)) == b""
        assert made == ["root"]
        await settle(handle.close())


# --- round trips -------------------------------------------------------------------------------


async def test_one_round_trip(
    tmp_path: Path, trips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """walk, open, read to the end and clunk of a file: one, the first time, the next, and
    when nothing is known of it any more."""
    monkeypatch.setattr(far_module, "READY", 60.0)
    monkeypatch.setattr(imports, "KEEP", 0.5)
    async with two(tmp_path) as (_, pool):
        async with serving(Dir("/", [Dir("nodes", [pool.reach("far")])])) as near:
            async with connect(near.address) as client:
                await client.walk(["nodes", "far", "hello"])  # so that the import is there
                for path, expected in (
                    (["dir", "a"], 1),
                    (["dir", "a"], 1),
                    (["dir", "b"], 1),
                    ([], 0),
                    (["dir", "a"], 1),
                ):
                    if not path:
                        await trio.sleep(0.6)
                        continue
                    before = list(trips)
                    file = await client.walk(["nodes", "far", *path])
                    await file.open(OREAD)
                    assert await file.read(0, 100) == path[1].upper().encode() + b"\n"
                    assert await file.read(2, 100) == b""
                    await file.clunk()
                    # The client of the near node counts as well: 5 requests of its own.
                    assert len(trips) - len(before) - 5 == expected


async def test_a_directory_and_its_files_are_one(tmp_path: Path, trips: list[str]) -> None:
    """As `ls -l` does it by way of FUSE: look up, open, list, look each entry up."""
    async with two(tmp_path) as (_, pool):
        at = attach(pool)
        await read(at, "hello")
        trips.clear()
        ref = await settle(at.walk(at.root(), "dir"))
        await settle(at.open(ref, OREAD))
        for name in ("a", "b"):
            child = await settle(at.walk(ref, name))
            assert (await settle(at.stat(child))).length == 2
        assert len(trips) == 2


async def test_fresh_is_asked_for_each_time(tmp_path: Path, trips: list[str]) -> None:
    async with two(tmp_path) as (far, pool):
        at = attach(pool)
        await read(at, "dir/a")
        far.own.children["dir"].children.pop("a")
        await settle(at.find(["dir", "a"]))  # it was there a moment ago
        assert (await fails(at, ".fresh/dir/a")).kind == "absent"
        assert (await fails(at, "dir/a")).kind == "absent"  # an open always asks


async def test_nothing_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LOOK", 0.1)
    monkeypatch.setattr(far_module, "READY", 0.05)
    async with two(tmp_path) as (far, pool):
        at = attach(pool)
        for path in ("hello", "dir", "many", "dir/a"):
            handle = await _open(at, path)
            await settle(handle.close())
        await settle(at.find(["dir", "b"]))
        for path in ("nothing", "dir/nothing", "hello/x"):
            await fails(at, path)
        (connection,) = far.server.connections.values()
        with trio.fail_after(5):
            while len(connection.session.fids) > 1:
                await trio.sleep(0.02)


async def test_closed_when_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LOOK", 0.05)
    async with two(tmp_path, idle=0.2) as (far, pool):
        at = attach(pool)
        held = await _open(at, ".follow/never")
        await trio.sleep(0.5)
        assert pool.states() == {"far": "up"}  # a file is open
        await settle(held.close())
        with trio.fail_after(5):
            while far.server.connections or pool.states() != {"far": "idle"}:
                await trio.sleep(0.02)
        assert len(far.closed) == 1
        assert await read(at, "hello") == b"hello, world\n"


# --- nodes that are not there -------------------------------------------------------------------


async def test_gone_and_unknown_nodes_answer_at_once(tmp_path: Path) -> None:
    files = keys(tmp_path, "near")
    gone = {"dead": "killed 12 s ago"}
    async with pooled(
        files["near"], {"dead": "127.0.0.1:1"}, lambda node: gone.get(node, "")
    ) as pool:
        with trio.fail_after(0.5):
            error = await fails(attach(pool, node="dead"), "hello")
            assert (error.kind, error.why) == (
                "unreachable",
                "node dead cannot be reached: killed 12 s ago",
            )
            error = await fails(attach(pool, node="nobody"), "hello")
            assert (error.kind, error.why) == ("unreachable", "no address of node nobody is known")
            gone.clear()
            error = await fails(attach(pool, node="dead"), "hello")
            assert error.kind == "unreachable"
        # and its directory can be looked at all the same
        assert pool.reach("dead").stat().name == "dead"  # type: ignore[union-attr]


async def test_a_pool_that_does_not_run(tmp_path: Path) -> None:
    pool = Pool(keys(tmp_path, "near")["near"], {"far": "127.0.0.1:1"}.get)
    assert (await fails(attach(pool), "hello")).kind == "unreachable"


async def test_a_node_that_starts_again_is_used_again(tmp_path: Path) -> None:
    files = keys(tmp_path, "near", "far")
    far = FarNode(files["far"])
    async with pooled(files["near"], {}) as pool:
        async with far.running():
            pool.address_of = lambda node: far.address
            at = attach(pool)
            held = await _open(at, ".follow/never")
            assert await read(at, "hello") == b"hello, world\n"
        for _ in range(5):
            with trio.fail_after(2):
                assert (await fails(at, "hello")).kind == "unreachable"
        with pytest.raises(CloudError) as caught:
            await settle(held.read(0, 10))
        assert caught.value.kind == "unreachable"
        await settle(held.close())
        async with far.running():
            with trio.fail_after(1):
                assert await read(at, "hello") == b"hello, world\n"


async def test_a_node_that_is_gone_ends_what_waits_for_it(tmp_path: Path) -> None:
    gone = {}
    async with two(tmp_path, gone=lambda node: gone.get(node, "")) as (_, pool):
        held = await _open(attach(pool), ".follow/never")
        async with trio.open_nursery() as nursery:

            async def waits() -> None:
                with pytest.raises(CloudError, match="it left"):
                    await settle(held.read(0, 10))

            nursery.start_soon(waits)
            await trio.sleep(0.1)
            gone["far"] = "it left"
            with trio.fail_after(1):
                pool.changed("far")
        gone.clear()
        pool.changed("far")
        assert await read(attach(pool), "hello") == b"hello, world\n"


async def test_followers_leave_room_for_others(tmp_path: Path) -> None:
    async with two(tmp_path) as (far, pool):
        at = attach(pool)
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                handle = await _open(at, ".follow/never")
                await settle(handle.read(0, 10))

            for _ in range(150):
                nursery.start_soon(follow)
            with trio.fail_after(10):
                while far.own.children["never"].waiting < imports.FOLLOWERS:
                    await trio.sleep(0.02)
                for _ in range(20):
                    assert await read(at, "hello") == b"hello, world\n"
            nursery.cancel_scope.cancel()


async def test_a_nodes_cluster_is_what_it_proved(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, pool):
        assert pool.cluster_of("far") == pool.cluster_of("nosuch") == ""
        await read(attach(pool), "hello")
        assert pool.cluster_of("far") == "test"


async def test_max_time(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, pool):
        await read(attach(pool), "hello")  # the connection itself may take longer
        handle = await _open(attach(pool), ".MaxTime=0.5/open/..")
        assert isinstance(handle, Handle)

        class Late(Leaf):
            __slots__ = ()

            def open(self, mode: int, at: Attach, cues: Cues) -> Handle | Wait[Handle]:
                async def later() -> Handle:
                    await trio.sleep_forever()
                    raise AssertionError

                return Wait(later)

        _.own.children["late"] = Late("late")
        with trio.fail_after(1):
            error = await fails(attach(pool), ".MaxTime=0.1/late")
        assert error.kind == "timeout"
        assert error.why == "node far did not answer within 0.1 s"
        assert ".MaxTime=" in error.fix
        assert await read(attach(pool), "hello") == b"hello, world\n"
        assert len(_.server.connections) == 1  # it had not been silent for long


# --- a node that is stopped ----------------------------------------------------------------------


@contextmanager
def _process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The far node of the bench `remote`, in a process of its own."""
    port = free_port()
    words = [sys.executable, "-m", "tests.bench.nodes", "far", str(folder), str(port)]
    with subprocess.Popen(words, cwd=Path(__file__).parents[2]) as process:
        try:
            await_port(port)
            yield process, port
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@asynccontextmanager
async def _with_a_process(folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Pool]]:
    bench_nodes.make_keys(folder)
    files = keys(folder, "other")["other"]
    with _process(folder) as (process, port):
        async with FarNode(files).running() as other:
            async with pooled(files, {"far": f"127.0.0.1:{port}", "other": other.address}) as pool:
                yield process, pool


async def test_a_stopped_node_holds_nobody_up(tmp_path: Path) -> None:
    async with _with_a_process(tmp_path) as (process, pool):
        far, other = attach(pool), attach(pool, node="other")
        assert await read(far, STATUS_PATH) == STATUS
        process.send_signal(signal.SIGSTOP)
        try:
            late: list[float] = []

            async def ask() -> None:
                began = trio.current_time()
                error = await fails(far, f".MaxTime=0.4/{STATUS_PATH}")
                assert error.kind in ("timeout", "unreachable")
                late.append(trio.current_time() - began)

            for _ in range(5):
                async with trio.open_nursery() as nursery:
                    for _ in range(100):
                        nursery.start_soon(ask)
                    for _ in range(10):
                        with trio.fail_after(0.5):
                            assert await read(other, "hello") == b"hello, world\n"
            assert len(late) == 500
            assert max(late) < 1.5
        finally:
            process.send_signal(signal.SIGCONT)
        with trio.fail_after(2):
            assert await read(far, STATUS_PATH) == STATUS


async def test_a_node_that_is_stopped_shortly_keeps_its_connection(tmp_path: Path) -> None:
    async with _with_a_process(tmp_path) as (process, pool):
        far = attach(pool)
        handle = await _open(far, "big")
        os.kill(process.pid, signal.SIGSTOP)
        assert (await fails(far, f".MaxTime=0.2/{STATUS_PATH}")).kind == "timeout"
        os.kill(process.pid, signal.SIGCONT)
        assert await read(far, STATUS_PATH) == STATUS
        assert len(await settle(handle.read(0, 1 << 20))) > 0
        assert await settle(handle.read(1 << 20, 10)) == bytes(10)


def test_err_logs_are_per_user() -> None:
    """What `each caller is itself` relies on."""
    errors = ErrLog()
    Space(Dir("/", []), errors).attach(BOSS).note(CloudError("bad", "why"), ())
    assert errors.of("root")
    assert not errors.of("guest")
