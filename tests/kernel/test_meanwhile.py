"""Who follows an object that goes to another node, and what is written to it meanwhile."""

import contextlib
import itertools
from contextlib import asynccontextmanager

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.api import OREAD
from cloudfs.tree.space import ErrLog, Space
from cloudfs.wait import settle
from tests.kernel.nodes import ALL, ANN, BOB, WANTS

# --- who follows it


def follow(node, made, name, who=ANN):
    at = Space(node.local, ErrLog()).attach(who)
    _, ref, error = at.walk_all(at.root(), [".follow", "proc", made.id, name])
    assert error is None
    return at.open(ref, OREAD)


async def all_of(handle):
    text = b""
    while data := await settle(handle.read(len(text), 100)):
        text += data
    await settle(handle.close())
    return text.decode()


@pytest.mark.parametrize("node", ["n1", "n2"])
async def test_who_follows_before_exec_follows_it_there(autojump_clock, net, n1, node):
    made = n1.new()
    texts = {}

    async def read(name):
        texts[name] = await all_of(follow(n1, made, name))

    async with trio.open_nursery() as tasks:
        for name in ("stdout", "stderr", "wait", "events", "note"):
            tasks.start_soon(read, name)
        await trio.sleep(5)
        assert texts == {}
        await n1.tell(made, f"on {node}", "exec tick 1 5")
        await trio.sleep(2)
        assert texts == {}
        await n1.tell(made, "note hello")
    assert texts["stdout"] == "0\n1\n2\n3\n4\n"
    assert texts["stderr"] == ""
    assert "code=0" in texts["wait"]
    assert texts["wait"].count("\n") == 1
    assert "text=hello" in texts["note"]
    events = [ndb.parse(line)["event"] for line in texts["events"].splitlines()]
    there = ["place", "placed", "new"] if node == "n2" else []
    assert events == ["new", *there, "exec", "began", "ended"]


async def test_many_reads_of_a_follower_at_once(autojump_clock, net, n1):
    made = n1.new()
    handle = follow(n1, made, "stdout")
    found = []

    async def read():
        found.append(await settle(handle.read(0, 2)))

    async with trio.open_nursery() as tasks:
        for _ in range(3):
            tasks.start_soon(read)
        await trio.sleep(1)
        await n1.tell(made, "on n2", "exec tick 1 3")
    assert found == [b"0\n"] * 3
    handle.close()


async def test_a_follower_is_told_that_the_node_does_not_answer(autojump_clock, net, n1):
    made = n1.new()
    handle = follow(n1, made, "wait")
    await n1.tell(made, "on n2", "exec sleep 50")
    net.down.add("n2")
    with pytest.raises(CloudError, match="node n2 does not answer"):
        await all_of(handle)


async def test_who_may_not_read_there_may_not_follow(autojump_clock, net, n1):
    made = n1.new()
    handle = follow(n1, made, "wait", who=BOB)
    await n1.tell(made, "on n2", "exec sleep 5")
    assert "code=0" in await all_of(handle)  # anybody may read that one
    made = n1.new()
    with pytest.raises(CloudError, match="bob may not read it"):
        follow(n1, made, "stdout", who=BOB)


@pytest.mark.parametrize("node", ["n1", "n3"])
async def test_who_follows_one_that_moves_on_and_on(autojump_clock, no_threads, net, n1, node):
    """Placed at its start, then moved, back too; nodes that it has left may be gone."""
    made = n1.new()
    texts = {}

    async def read(name):
        texts[name] = await all_of(follow(net.nodes[node], made, name))

    async with trio.open_nursery() as tasks:
        if node == "n1":
            tasks.start_soon(read, "stdout")
        await n1.tell(made, "on n2", "exec tick 1 60")
        for name in ("wait", "stderr", *(["stdout"] if node == "n3" else [])):
            tasks.start_soon(read, name)
        for source, target in itertools.pairwise(("n2", "n3", "n2", "n1", "n3")):
            await trio.sleep(3.5)
            here = net.nodes[source].objects.all[made.id]
            await net.nodes[source].tell(here, f"move {target}")
        await trio.sleep(3.5)
        net.down.update({"n1", "n2"} - {node})
    assert texts["stdout"].split() == [str(number) for number in range(60)]
    assert texts["stderr"] == ""
    assert "code=0" in texts["wait"]


# --- kill and wipe meanwhile


async def test_kill_while_a_node_is_sought(autojump_clock, net, n1):
    n1.asleep = True
    made = await n1.tell(n1.new(), "on n2", WANTS)
    async with trio.open_nursery() as tasks:

        async def begin():
            with pytest.raises(CloudError, match="killed by ann"):
                await n1.tell(made, "exec sleep 300")

        tasks.start_soon(begin)
        await trio.sleep(0.5)
        await n1.tell(made, "kill")
    assert made.state == "gone"
    assert n1.objects.all == {}
    assert set(net.free().values()) == {ALL}


@asynccontextmanager
async def being_told(node, made):
    """While another node is told to run an object."""

    async def begin():
        with contextlib.suppress(CloudError):
            await node.tell(made, "exec sleep 300")

    async with trio.open_nursery() as tasks:
        tasks.start_soon(begin)
        while not made.placed:
            await trio.sleep(0)
        yield


async def test_kill_after_a_node_was_told_reaches_it_there(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), "on n2", "restart always")
    async with being_told(n1, made):
        await n1.tell(made, "kill")
    there = net.nodes["n2"].objects.all[made.id]
    assert (made.state, there.state, there.why) == ("gone", "exited", "killed by ann")
    assert net.copies(made.id) == []
    assert set(net.free().values()) == {ALL}


async def test_kill_after_a_node_was_told_that_does_not_answer(autojump_clock, net, n1):
    net.faults["commit", 1] = "silent-before"
    net.faults["withdraw", 1] = "silent-before"
    made = await n1.tell(n1.new(), "on n2")
    async with being_told(n1, made):
        with pytest.raises(CloudError, match="has not answered"):
            await n1.tell(made, "kill")
    assert made.state == "lost"
    assert net.copies(made.id) == []


async def test_lines_written_meanwhile_are_done_where_it_is(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), "on n2")
    async with being_told(n1, made):
        with pytest.raises(CloudError, match="dir: object .* is placing; it works while new"):
            await n1.tell(made, "dir /")
        await n1.tell(made, "label a=b")
    there = net.nodes["n2"].objects.all[made.id]
    assert there.labels == {"a": "b"}
    assert made.state == "gone"
    await n1.tell(made, "nice 4", "stop")
    assert (there.nice, there.state) == (4, "stopped")
    with pytest.raises(CloudError, match="no signal 'WINK'"):
        await n1.tell(made, "signal WINK")
    with pytest.raises(CloudError, match="bob may not write it"):
        await n1.tell(made, "kill", who=BOB)
    net.down.add("n2")
    with pytest.raises(CloudError, match="is on node n2 now: node n2 does not answer; try again"):
        await n1.tell(made, "kill")
    assert net.copies(made.id) == ["n2"]


async def test_lines_reach_it_however_often_it_went_on(autojump_clock, no_threads, net, n1):
    made = await n1.tell(n1.new(), "on n2", "exec sleep 300")
    for source, target in (("n2", "n3"), ("n3", "n1")):
        here = net.nodes[source].objects.all[made.id]
        await n1.tell(made, f"move {target}")  # the ctl that was open before exec
        assert here.state == "gone"
        again = net.nodes[target].objects.all[made.id]
        await n1.tell(made, "label a=b")
        await net.nodes[source].tell(here, "label c=d")
        assert again.labels == {"a": "b", "c": "d"}
    await n1.tell(made, "kill")
    assert (again.state, again.why) == ("exited", "killed by ann")


@asynccontextmanager
async def moving(node, made, until):
    """While it moves to n2, and until() holds."""
    failed = []

    async def move():
        try:
            await node.tell(made, "move n2")
        except CloudError as error:
            failed.append(str(error))

    async with trio.open_nursery() as tasks:
        tasks.start_soon(move)
        while not until():
            await trio.sleep(0.001)
        yield failed


async def test_kill_gives_a_move_up(autojump_clock, no_threads, net, n1):
    net.faults["fetch", 1] = "silent-before"
    made = await n1.tell(n1.new(), WANTS, "restart always", "exec tick 1 300")
    async with moving(n1, made, lambda: net.counts.get("fetch")) as failed:
        with trio.fail_after(1):
            await n1.tell(made, "kill")
        assert (made.state, made.why, net.copies(made.id)) == ("exited", "killed by ann", [])
    assert "killed while it moved" in failed[0]
    await trio.sleep(60)
    assert net.copies(made.id) == []
    assert set(net.free().values()) == {ALL}


async def test_lines_and_kill_after_a_move_was_told_reach_it_there(
    autojump_clock, no_threads, net, n1
):
    made = await n1.tell(n1.new(), WANTS, "exec tick 1 300")
    net.nodes["n2"].twin.at_restore = lambda id: trio.sleep(3)
    async with moving(n1, made, lambda: made.placed), trio.open_nursery() as tasks:
        tasks.start_soon(n1.tell, made, "label a=b")
        await trio.sleep(1)
        with pytest.raises(CloudError, match="move: object .* is moving"):
            await n1.tell(made, "move n3")
        await n1.tell(made, "kill")
    there = net.nodes["n2"].objects.all[made.id]
    assert (made.state, there.state, there.why) == ("gone", "exited", "killed by ann")
    assert there.labels == {"a": "b"}
    assert net.copies(made.id) == []


async def test_kill_while_an_image_is_made(autojump_clock, no_threads, net, n1):
    made = await n1.tell(n1.new(), "exec tick 1 300")
    n1.twin.at_dump = lambda id: trio.sleep(3)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(n1.tell, made, "checkpoint")
        await trio.sleep(1)
        assert made.state == "checkpointing"
        await n1.tell(made, "kill")
    assert (made.state, net.copies(made.id)) == ("exited", [])


async def test_lines_written_meanwhile_are_done_here_if_it_stays(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), "prefer cluster=paris")
    async with trio.open_nursery() as tasks:
        tasks.start_soon(n1.tell, made, "exec sleep 300")
        while made.state != "placing":
            await trio.sleep(0)
        await n1.tell(made, "nice 4")
    assert (made.state, made.nice) == ("running", 4)


async def test_lines_written_while_it_starts_wait(autojump_clock, n1):
    """Its own program may write them before the node knows that it runs."""
    start = n1.twin.start

    async def slowly(launch):
        await trio.sleep(2)
        return await start(launch)

    n1.twin.start = slowly
    made = n1.new()
    async with trio.open_nursery() as tasks:
        tasks.start_soon(n1.tell, made, "exec sleep 300")
        while made.state != "starting":
            await trio.sleep(0)
        await n1.tell(made, "note hello")
        assert made.state == "running"
    assert "text=hello" in made.notes.since(0)[0]


async def test_a_lost_one_may_be_wiped_and_is_remembered(autojump_clock, net, n1):
    net.faults["commit", 1] = "silent-after"
    net.faults.update({("withdraw", n): "silent-before" for n in range(1, 100)})
    made = await n1.tell(n1.new(), "on n2")
    with pytest.raises(CloudError):
        await n1.tell(made, "exec sleep 300")
    await n1.tell(made, "wipe")
    assert n1.objects.moved_to(made.id) == "n2"
    await trio.sleep(30)
    assert n1.objects.all == {}
