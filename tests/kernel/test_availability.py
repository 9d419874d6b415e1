"""Objects that survive their nodes: what is kept where, and who goes on with them."""

import contextlib

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import images
from tests.kernel.nodes import ANN, Net
from tests.kernel.test_moving_objects import awake, output, refused, where

pytestmark = pytest.mark.usefixtures("no_threads")

TICK = "exec tick 0.1 100000"
GUARDED = "availability checkpoint=5 replicas=2"


async def until(check, seconds=60.0):
    """Wait, in virtual time, until check() is true; what it gave."""
    with trio.move_on_after(seconds):
        while not (found := check()):
            await trio.sleep(0.05)
        return found
    raise AssertionError(f"not within {seconds:g} s")


async def guarded(net, node, *setup):
    """A counter of which there are as many images as can be."""
    made = await node.tell(node.new(), *(setup or (GUARDED,)), TICK)
    await until(lambda: wholes(net, made.id))
    return made


def status(node, made):
    text = node.objects.guards.table(made)
    return [ndb.parse(line) for line in text.splitlines()[1:]]


def wholes(net, id):
    """Node → the numbers of the images that are whole there."""
    return {
        name: sorted(held.whole)
        for name, node in net.nodes.items()
        if (held := node.objects.holding.all.get(("ann", id))) and held.whole
    }


async def lose(net, name):
    """The node with all its processes is gone."""
    node = net.nodes[name]
    net.down.add(name)
    await node.down()
    for played in node.twin.played.values():
        if played.exit is None:
            played.kill("lost")
    await trio.sleep(0.01)


async def back(net, name):
    net.down.discard(name)
    await net.nodes[name].up()


async def never_two(net, id, seconds, step=0.05):
    """For so long at most one copy runs; where it ran last."""
    last = []
    for _ in range(int(seconds / step)):
        now = awake(net, id)
        assert len(now) <= 1, now
        last = now or last
        await trio.sleep(step)
    return last


async def test_images_go_to_other_nodes_and_older_ones_go(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), GUARDED, TICK)
    assert made.state == "running"
    await trio.sleep(3)
    assert sorted(wholes(net, made.id)) == ["n2", "n3"]
    for _ in range(10):
        await trio.sleep(5)
        for numbers in wholes(net, made.id).values():
            assert 1 <= len(numbers) <= 2
    found = wholes(net, made.id)
    assert found["n2"] == found["n3"]
    assert "2 of 2 copies" in n1.objects.guards.word(made)
    kept = list((made.home / "checkpoint").iterdir())
    assert [path.name.startswith(images.KEPT) for path in kept] == [True]
    assert images.kept(made.home) == []
    assert made.state == "running"


async def test_a_lost_node_and_one_that_comes_back(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await trio.sleep(23)
    before = int(output(net, made.id)[-1])
    lost = trio.current_time()
    await lose(net, "n1")
    await until(lambda: awake(net, made.id))
    assert trio.current_time() - lost < 18
    (there,) = awake(net, made.id)
    again = net.nodes[there].objects.all[made.id]
    await until(lambda: again.state == "running")
    assert again.why.startswith("restarted from checkpoint ")
    assert "restarted" in again.events.since(0)[0]
    first = int((again.home / "stdout").read_text().split()[-1])
    assert before - first <= 52
    await trio.sleep(30)
    numbers = (again.home / "stdout").read_text().split()
    assert numbers == [str(n) for n in range(len(numbers))]
    await back(net, "n1")
    assert await never_two(net, made.id, 60) == [there]
    assert where(net, made.id) == [there]
    assert n1.objects.moved_to(made.id) == there
    await trio.sleep(30)
    assert "2 of 2 copies" in net.nodes[there].objects.guards.word(again)


async def test_only_its_daemon_is_gone(autojump_clock, net, n1):
    """Its processes would run on: their keeper stops them before they run elsewhere."""
    made = await guarded(net, n1)
    net.down.add("n1")
    await n1.down()
    assert awake(net, made.id) == ["n1"]
    last = await never_two(net, made.id, 30)
    assert last != ["n1"]
    await back(net, "n1")
    assert await never_two(net, made.id, 60) == last
    assert net.copies(made.id) == last


async def test_a_daemon_that_is_back_soon(autojump_clock, net, n1):
    made = await guarded(net, n1)
    net.down.add("n1")
    await n1.down()
    await trio.sleep(4)
    await back(net, "n1")
    assert await never_two(net, made.id, 30) == ["n1"]
    assert n1.objects.all[made.id].state == "running"
    await until(lambda: "2 of 2 copies" in n1.objects.guards.word(n1.objects.all[made.id]))


async def test_it_ends_and_nobody_restarts_it(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await n1.tell(made, "kill")
    await lose(net, "n1")  # at once: they know
    await trio.sleep(1)
    assert wholes(net, made.id) == {}
    assert await never_two(net, made.id, 60) == []


async def test_a_kill_that_too_few_hear_of_says_so(autojump_clock, net, n1):
    made = await guarded(net, n1, f"{GUARDED} patience=20")
    net.cut_off("n1")
    with pytest.raises(CloudError, match="too few of the nodes") as caught:
        await n1.tell(made, "kill")
    assert caught.value.kind == "timeout"
    net.cut_off()
    assert await never_two(net, made.id, 60) == []
    assert wholes(net, made.id) == {}


async def test_a_restart_by_policy_is_guarded_anew(autojump_clock, net, n1):
    made = await guarded(net, n1, GUARDED, "restart always")
    before = made.tenure["series"]
    n1.twin.played[made.id].kill("a fault")
    await until(lambda: made.tenure.get("series", before) > before)
    await until(lambda: "2 of 2 copies" in n1.objects.guards.word(made))
    assert awake(net, made.id) in (["n1"], [])


async def test_back_to_an_image_of_its_own(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await n1.tell(made, "checkpoint safe", "restore safe")
    await trio.sleep(10)
    assert "2 of 2 copies" in n1.objects.guards.word(made)
    await lose(net, "n1")
    assert await never_two(net, made.id, 30) in (["n2"], ["n3"])


async def test_off_and_wipe(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await n1.tell(made, "availability off")
    await trio.sleep(2)
    assert wholes(net, made.id) == {}
    assert n1.objects.guards.word(made) == ""
    net.down |= {"n2", "n3"}
    assert await never_two(net, made.id, 30) == ["n1"]  # no lease is left to run out


async def test_other_terms_are_a_series_of_their_own(autojump_clock, net, n1):
    """Or its owner would count on more patience than its voters have."""
    made = await guarded(net, n1)
    before = made.tenure["series"]
    await n1.tell(made, "availability checkpoint=5 replicas=1 patience=60")
    await until(lambda: made.tenure.get("series", before) != before)
    await until(lambda: "1 of 1 copies" in n1.objects.guards.word(made))
    await until(lambda: len(wholes(net, made.id)) == 1)
    await lose(net, "n1")
    assert await never_two(net, made.id, 50) == []
    assert await never_two(net, made.id, 30) in (["n2"], ["n3"])


async def test_one_replica_is_lost_and_replaced(autojump_clock, net, n1):
    await net.add("n4", cluster="oslo")
    made = await guarded(net, n1)
    (first, *_) = wholes(net, made.id)
    await lose(net, first)
    assert await never_two(net, made.id, 90) == ["n1"]
    assert len(wholes(net, made.id).keys() - {first}) == 2
    await lose(net, "n1")
    assert await never_two(net, made.id, 30) not in ([], ["n1"])


async def test_a_node_that_is_cut_off_freezes_its_object(autojump_clock, net, n1):
    made = await guarded(net, n1)
    net.cut_off("n1")
    last = await never_two(net, made.id, 60)
    assert last not in ([], ["n1"])
    assert made.state == "fenced"
    with pytest.raises(CloudError, match="fenced"):
        await n1.tell(made, "signal TERM")
    net.cut_off()
    assert await never_two(net, made.id, 60) == last
    assert where(net, made.id) == last
    assert net.copies(made.id) == last


async def test_both_replicas_are_cut_off_for_a_while(autojump_clock, net, n1):
    """Each is alone: nobody has a majority, and it goes on once two meet again."""
    made = await guarded(net, n1)
    net.apart = True
    await never_two(net, made.id, 40)
    assert made.state == "fenced"
    assert awake(net, made.id) == []
    net.apart = False
    assert len(await never_two(net, made.id, 40)) == 1
    assert len(awake(net, made.id)) == 1


async def test_its_node_and_a_replica_are_lost(autojump_clock, net, n1):
    """One of three cannot tell that the others are dead; a person can."""
    made = await guarded(net, n1)
    await lose(net, "n1")
    await lose(net, "n2")
    n3 = net.nodes["n3"]
    assert await never_two(net, made.id, 60) == []
    assert "1 of 3 nodes agree" in n3.objects.events.since(0)[0]
    await n3.write("ann", "ctl", f"recover {made.id}\n")
    assert awake(net, made.id) == ["n3"]
    await back(net, "n1")
    await back(net, "n2")
    assert await never_two(net, made.id, 60) == ["n3"]
    assert where(net, made.id) == ["n3"]


async def test_a_drained_node_keeps_no_image_and_votes(autojump_clock, net, n1):
    net.nodes["n2"].machine.drained = "maintenance"
    made = await guarded(net, n1)
    await trio.sleep(1)
    assert list(wholes(net, made.id)) == ["n3"]
    assert "1 of 2 copies, as only 1 other nodes could keep one" in n1.objects.guards.word(made)
    await lose(net, "n1")
    assert await never_two(net, made.id, 30) == ["n3"]


async def test_a_node_without_criu_is_none_to_keep_it(autojump_clock, net, n1):
    net.nodes["n2"].twin.no_images = "this node has no criu"
    made = await guarded(net, n1)
    await trio.sleep(1)
    assert any("no criu" in row.get("why", "") for row in status(n1, made))
    await lose(net, "n1")
    assert await never_two(net, made.id, 30) == ["n3"]


async def test_what_lasts_waits_for_an_image_of_it(autojump_clock, net, n1):
    made = await guarded(net, n1)
    n1.twin.at_dump = lambda id: trio.sleep(1)
    await until(lambda: made.state == "checkpointing")
    await n1.tell(made, "move n2")
    assert await never_two(net, made.id, 5) == ["n2"]


async def test_both_replicas_are_lost_for_good(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await lose(net, "n2")
    await lose(net, "n3")
    assert await never_two(net, made.id, 20) == ["n1"]
    assert made.state == "fenced"
    await n1.write("ann", "ctl", f"recover {made.id}\n")
    assert made.state == "running"
    assert await never_two(net, made.id, 60) == ["n1"]
    assert made.state == "running"


@pytest.mark.parametrize("seconds", [0.0, 0.4, 0.8, 1.6, 3.0])
async def test_its_daemon_ends_while_its_members_change(autojump_clock, net, n1, seconds):
    made = await guarded(net, n1)
    write = net.write

    async def slowly(node, user, path, text, by=""):
        await trio.sleep(0.5 if by != node else 0)
        await write(node, user, path, text, by)

    net.write = slowly
    await n1.tell(made, "availability checkpoint=5 replicas=2 patience=12")
    await trio.sleep(seconds)
    net.down.add("n1")
    await n1.down()
    await trio.sleep(2)
    await back(net, "n1")
    assert await never_two(net, made.id, 60) == ["n1"]
    made = n1.objects.all[made.id]
    await until(lambda: made.tenure.get("patience") == 12)
    await until(lambda: "2 of 2 copies" in n1.objects.guards.word(made))
    await lose(net, "n1")
    assert await never_two(net, made.id, 40) in (["n2"], ["n3"])


async def test_moves(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await n1.tell(made, "move n2")
    assert await never_two(net, made.id, 20) == ["n2"]
    there = net.nodes["n2"].objects.all[made.id]
    assert there.availability == made.availability
    await until(lambda: len(wholes(net, made.id)) == 2)
    await lose(net, "n2")
    last = await never_two(net, made.id, 30)
    assert last not in ([], ["n2"])
    numbers = output(net, made.id) if len(where(net, made.id)) == 1 else []
    assert numbers == [str(n) for n in range(len(numbers))]


async def test_a_move_that_fails_leaves_it_guarded(autojump_clock, net, n1):
    made = await guarded(net, n1)
    net.faults["offer", 1] = "refused-before"
    await refused(n1, made, "move n2", "pipe", "the connection broke")
    await trio.sleep(10)
    assert "2 of 2 copies" in n1.objects.guards.word(made)
    assert awake(net, made.id) in (["n1"], [])  # for the moment of an image


async def test_what_cannot_be_checkpointed_runs_on(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), GUARDED, TICK)

    async def fail(id):
        raise CloudError("unsupported", "it cannot be dumped: it uses io_uring")

    n1.twin.at_dump = fail
    await trio.sleep(60)
    assert awake(net, made.id) == ["n1"]
    assert "io_uring" in n1.objects.guards.word(made)
    assert made.events.since(0)[0].count("unprotected") == 1
    n1.twin.at_dump = lambda id: trio.sleep(0.01)
    await until(lambda: len(wholes(net, made.id)) == 2, 400)
    assert "io_uring" not in n1.objects.guards.word(made)


async def test_alone_there_is_nothing_to_do(autojump_clock, tmp_path, nursery):
    net = Net(tmp_path, nursery)
    n1 = await net.add("n1")
    made = await n1.tell(n1.new(), GUARDED, TICK)
    await trio.sleep(20)
    assert "no other node" in n1.objects.guards.word(made)
    n2 = await net.add("n2", cluster="rome")
    await until(lambda: "n2" in wholes(net, made.id), 60)
    word = n1.objects.guards.word(made)
    assert "1 of 2 copies, as only 1 other nodes could keep one; with two nodes" in word
    await lose(net, "n2")
    assert await never_two(net, made.id, 60) == ["n1"]  # it needs nobody
    await back(net, "n2")
    await trio.sleep(30)
    await lose(net, "n1")
    assert await never_two(net, made.id, 40) == []
    await n2.write("ann", "ctl", f"recover {made.id}\n")
    assert awake(net, made.id) == ["n2"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("availability", "takes not"),
        ("availability often=1", "no 'often'"),
        ("availability checkpoint=0", "from 1 to 86400"),
        ("availability checkpoint=-3 replicas=2", "from 1 to 86400"),
        ("availability checkpoint=1e99", "from 1 to 86400"),
        ("availability replicas=0", "a whole number from 1 to 7"),
        ("availability replicas=1.5", "a whole number"),
        ("availability patience=1", "from 5 to 3600"),
        ("availability checkpoint", "NAME=VALUE|checkpoint=N"),
    ],
)
async def test_bad_words(autojump_clock, net, n1, line, match):
    made = await n1.tell(n1.new(), TICK)
    await refused(n1, made, line, "bad", match)
    assert made.availability == {}


async def test_no_space_at_one(autojump_clock, net, n1, monkeypatch):
    full = images.room

    def room(folder, need):
        if "/n2/kept/" in str(folder):
            raise CloudError("full", "its image takes 9 bytes, and the disk has 1")
        full(folder, need)

    monkeypatch.setattr(images, "room", room)
    made = await n1.tell(n1.new(), GUARDED, TICK)
    await until(lambda: "n3" in wholes(net, made.id))
    await trio.sleep(10)
    assert "1 of 2 copies" in n1.objects.guards.word(made)
    assert any("the disk has 1" in row.get("why", "") for row in status(n1, made))
    assert await never_two(net, made.id, 10) == ["n1"]
    await lose(net, "n1")
    assert await never_two(net, made.id, 40) == ["n3"]


async def test_a_restore_that_fails_is_left_to_another(autojump_clock, net, n1):
    made = await guarded(net, n1)
    await trio.sleep(10)

    async def fail(id):
        raise CloudError("io", "it cannot be restored: no such file")

    failing = "n2"
    net.nodes[failing].twin.at_restore = fail
    await lose(net, "n1")
    assert await never_two(net, made.id, 90) == ["n3"]


async def test_an_image_that_was_changed_is_not_whole(autojump_clock, net, n1, monkeypatch):
    check = images.check

    def changed(folder):
        if "/n2/" in str(folder):
            (folder / "manifest").write_text("{}")
        check(folder)

    monkeypatch.setattr(images, "check", changed)
    made = await n1.tell(n1.new(), GUARDED, TICK)
    await trio.sleep(20)
    assert list(wholes(net, made.id)) == ["n3"]
    assert any("has changed" in row.get("why", "") for row in status(n1, made))


async def test_it_is_another_users_nothing(autojump_clock, net, n1):
    """Whoever tells of an id that is another's changes nothing for that one."""
    made = await guarded(net, n1)
    line = f"begin {made.id} 99 n3 99 9 n3 0 - 0\n"
    for name in ("n1", "n2", "n3"):
        await net.nodes[name].write("bob", "proc/hold", line)
    assert await never_two(net, made.id, 20) == ["n1"]
    with pytest.raises(CloudError, match="holds no object"):
        await net.nodes["n2"].write("bob", "proc/hold", f"image {made.id} 1 5 n1 0\n")
    for bad in ("begin x 1 n1 1 9 n1 0 - 0", f"begin {made.id} 1 n1 1 9 n1,n2 0 - 0", "drop"):
        with pytest.raises(CloudError):
            await net.nodes["n2"].write("ann", "proc/hold", f"{bad}\n")


async def test_a_slow_replica_gets_the_newest_when_it_can(autojump_clock, net, n1, monkeypatch):
    read = n1.read

    async def slowly(user, path):
        if "/manifest" in path and net.reader == "n2":
            await trio.sleep(8)
        return await read(user, path)

    monkeypatch.setattr(n1, "read", slowly)
    made = await n1.tell(n1.new(), GUARDED, TICK)
    await trio.sleep(60)
    found = wholes(net, made.id)
    assert found["n3"][-1] - found["n2"][-1] <= 4
    with contextlib.suppress(CloudError):
        await n1.tell(made, "kill", who=ANN)
