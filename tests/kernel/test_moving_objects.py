"""Objects that go on elsewhere with their memory: what moves, what is refused, and every
fault on the way.  Never two copies, and never none."""

import contextlib
import itertools
import shutil
from dataclasses import replace

import pytest
import trio
import trio.testing

from cloudfs.errors import CloudError
from cloudfs.factotum.tokens import Limits, Powers
from cloudfs.kernel import images, pieces
from cloudfs.kernel.reserve import NOTHING
from cloudfs.who import Who
from tests.kernel.nodes import ANN, BOB, FAULTS

pytestmark = pytest.mark.usefixtures("no_threads")

TICK = "exec tick 0.1 100"
ALL = [str(number) for number in range(100)]


def awake(net, id):
    """Where a program of that object runs and is not frozen."""
    return [name for name in net.copies(id) if net.nodes[name].twin.played[id]._thawed.is_set()]


def where(net, id):
    return [name for name, node in net.nodes.items() if id in node.objects.all]


def output(net, id):
    (name,) = where(net, id)
    return (net.nodes[name].path / "objects" / id / "stdout").read_text().split()


async def finish(net, id):
    """Wait for the end, and see that every number came once."""
    for _ in range(100):
        (name,) = where(net, id)
        if net.nodes[name].objects.all[id].state == "exited":
            break
        await trio.sleep(1)
    assert output(net, id) == ALL


async def test_it_goes_on_at_the_other_node_and_on(autojump_clock, net, n1):
    made = n1.new()
    await n1.tell(
        made, "env A=1 B=2", "app web", "label a=b", "limit cpu=1 mem=500 time=300",
        "nice 3", "restart on-failure", "prefer load<1", "spread cluster", "on n1", TICK,
    )  # fmt: skip
    created = made.created
    for source, target in (("n1", "n2"), ("n2", "n3"), ("n3", "n1")):
        await trio.sleep(1.03)
        node = net.nodes[source]
        here = node.objects.all[made.id]
        await node.tell(here, f"move {target}")
        assert (where(net, made.id), awake(net, made.id)) == ([target], [target])
        assert node.objects.moved_to(made.id) == target
        assert node.reserve.held(made.id) is None
        there = net.nodes[target].objects.all[made.id]
        assert (there.state, there.created) == ("running", created)
        for name in ("user", "app", "labels", "env", "dir", "limits", "nice", "restart", "argv"):
            assert getattr(there, name) == getattr(made, name), name
        assert (there.prefer, there.spread, there.runtime) == (["load<1"], "cluster", "process")
        assert there.usage().mem_seconds > 0
    await trio.sleep(1)
    assert images.kept(made.home) == []
    assert not list((n1.path / "objects" / made.id / "checkpoint").iterdir())
    await finish(net, made.id)
    assert not (net.nodes["n2"].path / "objects" / made.id).exists()


async def test_usage_is_summed(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(3)
    before = made.usage().mem_seconds
    made.used = replace(made.used, user=5.0)
    await n1.tell(made, "move n2")
    there = net.nodes["n2"].objects.all[made.id]
    assert before <= there.usage().mem_seconds < 2 * before
    # What n1 has billed is not billed again.
    assert there.brought == there.used.user + there.used.sys >= 5
    assert there.since > made.created


async def test_expressions_choose(autojump_clock, net, n1):
    net.nodes["n3"].told["label.gpu"] = "a100"
    made = await n1.tell(n1.new(), TICK)
    await n1.tell(made, "move cluster=rome label.gpu=a100")
    assert where(net, made.id) == ["n3"]


async def refused(node, made, line, kind, match, who=ANN):
    """The line is refused for that reason, and the object runs on."""
    with pytest.raises(CloudError, match=match) as caught:
        await node.tell(made, line, who=who)
    assert caught.value.kind == kind
    return caught.value


async def test_what_is_refused(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), "limit cpu=1.5", TICK)
    await refused(n1, made, "move nowhere", "unreachable", "there is no node 'nowhere'")
    await refused(n1, made, "move n1", "exists", "it is on node n1 already")
    await refused(n1, made, "move label.gpu=a100", "unreachable", "label.gpu=a100")
    await refused(n1, made, "move a b", "bad", "a")
    net.nodes["n2"].machine.drained = "maintenance"
    await refused(n1, made, "move n2", "unreachable", "maintenance")
    full = net.nodes["n3"]
    await full.tell(full.new(), "limit cpu=1", "exec sleep 1000")
    await refused(n1, made, "move n3", "full", "n3: this node has 1 cores unreserved")
    net.nodes["n3"].twin.no_images = "this node has no criu"
    made2 = await n1.tell(n1.new(), "exec sleep 1000")
    await refused(n1, made2, "move n3", "unsupported", "node n3: this node has no criu")
    assert awake(net, made.id) == ["n1"]
    await finish(net, made.id)
    await refused(n1, made, "move n2", "busy", "is exited")


async def test_a_budget_goes_along_until_somebody_else_moves_it(autojump_clock, net, n1):
    token = Who("ann", 1001, powers=Powers("ann", "local", 1, "", Limits(price=500_000), ()))
    net.nodes["n3"].machine.set_price(1.2)
    made = await n1.tell(n1.new(), "limit cpu=0.5", "on n1", TICK, who=token)
    with pytest.raises(CloudError, match="price<=1 "):
        await n1.tell(made, "move n3", who=token)
    await n1.tell(made, "copy n2", who=token)
    assert [one.budget for one in net.nodes["n2"].objects.all.values()] == [0.5]
    made.budget = None
    await n1.tell(made, "copy n2", who=token)
    assert made.budget is None  # only the copy runs by the token
    await n1.tell(made, "move n2", who=token)
    assert net.nodes["n2"].objects.all[made.id].budget == 0.5
    await n1.tell(made, "move n3")  # by its owner
    assert net.nodes["n3"].objects.all[made.id].budget is None
    await finish(net, made.id)


async def test_what_cannot_be_dumped_runs_on(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), "limit cpu=1", TICK)

    async def fail(id):
        raise CloudError("unsupported", "it cannot be dumped: it uses io_uring")

    n1.twin.at_dump = fail
    for line in ("move n2", "checkpoint", "copy n2"):
        await refused(n1, made, line, "unsupported", "io_uring")
        assert (made.state, awake(net, made.id)) == ("running", ["n1"])
    await trio.sleep(5)
    assert net.nodes["n2"].reserve.free == net.nodes["n3"].reserve.free
    await finish(net, made.id)


async def test_two_moves_at_once(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), TICK)
    errors = []

    async def one(target):
        try:
            await n1.tell(made, f"move {target}")
        except CloudError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "n2")
        nursery.start_soon(one, "n3")
    assert [error.kind for error in errors] == ["busy"]
    assert len(awake(net, made.id)) == 1
    await finish(net, made.id)


async def test_no_space_for_the_image(autojump_clock, net, n1, monkeypatch):
    made = await n1.tell(n1.new(), TICK)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: usage)
    await refused(n1, made, "move n2", "full", "the disk has 1000")
    assert awake(net, made.id) == ["n1"]
    await finish(net, made.id)


async def test_a_broken_link_costs_a_piece_or_two(autojump_clock, net, n1, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 100)
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(8)
    net.cut = {2, 4, 6}
    await n1.tell(made, "move n2")
    assert net.reads >= 8
    await finish(net, made.id)


async def test_an_image_that_was_changed_on_the_way(autojump_clock, net, n1, monkeypatch):
    made = await n1.tell(n1.new(), TICK)
    whole = pieces.pack
    monkeypatch.setattr(pieces, "pack", lambda *piece: whole(*piece)[:-5] + b"wrong")
    await refused(n1, made, "move n2", "proto", "piece of the image")
    assert awake(net, made.id) == ["n1"]
    await finish(net, made.id)


async def test_a_failing_restore_leaves_it_here(autojump_clock, net, n1):
    async def fail(id):
        raise CloudError("io", "it cannot be restored: no such file")

    net.nodes["n2"].twin.at_restore = fail
    made = await n1.tell(n1.new(), TICK)
    await refused(n1, made, "move n2", "unsupported", "node n2: it cannot be restored: no such")
    assert (made.state, awake(net, made.id)) == ("running", ["n1"])
    assert not (net.nodes["n2"].path / "objects" / made.id).exists()
    assert net.nodes["n2"].reserve.held(made.id) is None
    await finish(net, made.id)


# --- every step and fault


STEPS = [("offer", 1), ("fetch", 1), ("commit", 1)]


@pytest.mark.parametrize(("step", "fault"), list(itertools.product(STEPS, FAULTS)))
async def test_every_fault_of_a_write(autojump_clock, net, n1, step, fault):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(1)
    net.faults[step] = fault
    with contextlib.suppress(CloudError):
        await n1.tell(made, "move n2")
    for _ in range(2500):
        assert len(awake(net, made.id)) <= 1
        await trio.sleep(0.1)
    (name,) = where(net, made.id)
    assert net.copies(made.id) in ([], [name])
    await finish(net, made.id)
    for node in net.nodes.values():
        assert node.reserve.held(made.id) is None
        assert not node.objects.arrivals.all


POINTS = [f"{step}-{when}" for step in ("offer", "fetch", "revive") for when in ("before", "after")]
POINTS += ["dump", "restore"]


@pytest.mark.parametrize(("who", "point"), list(itertools.product(("n1", "n2"), POINTS)))
async def test_a_daemon_dies_at_every_step(autojump_clock, net, n1, monkeypatch, who, point):
    """The daemon of the source or of the target; it comes back 20 s later."""
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(1)
    struck = trio.Event()

    async def strike(id=""):
        if not struck.is_set():
            struck.set()
            await trio.sleep(40 if (who, point) in (("n1", "restore"), ("n2", "dump")) else 3600)

    if point == "dump":
        n1.twin.at_dump = strike
    elif point == "restore":
        net.nodes["n2"].twin.at_restore = strike
    else:
        verb, _, when = point.partition("-")
        verb = {"offer": "object"}.get(verb, verb)
        write = net.nodes["n2"].write

        async def watched(user, path, text):
            mine = text.split()[0] == verb
            if mine and when == "before":
                await strike()
            await write(user, path, text)
            if mine and when == "after":
                await strike()

        monkeypatch.setattr(net.nodes["n2"], "write", watched)
    net.nursery.start_soon(_try, n1, made, "move n2")
    with trio.fail_after(60):
        await struck.wait()
    net.down.add(who)
    await net.nodes[who].down()
    for _ in range(20):
        await trio.sleep(1)
        assert len(awake(net, made.id)) <= 1
    await net.nodes[who].up()
    net.down.discard(who)
    for _ in range(600):
        assert len(awake(net, made.id)) <= 1
        await trio.sleep(0.5)
    (name,) = where(net, made.id)
    assert net.copies(made.id) in ([], [name])
    await finish(net, made.id)


async def _try(node, made, line):
    with contextlib.suppress(CloudError):
        await node.tell(made, line)


async def test_what_nobody_knows_of_is_lost_and_can_be_wiped(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), TICK)
    net.faults["commit", 1] = "silent-before"
    net.nursery.start_soon(_try, n1, made, "move n2")
    while made.state != "moving" or not made.placed:
        await trio.sleep(0.01)
    net.down.add("n2")
    await trio.sleep(300)
    assert (made.state, awake(net, made.id)) == ("lost", [])
    assert "has not answered" in made.why
    await refused(n1, made, "restore last", "busy", "may still do so")
    await n1.tell(made, "wipe")
    assert net.copies(made.id) == []


# --- images that are kept


async def test_checkpoint_and_restore(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(2)
    await n1.tell(made, "checkpoint first")
    assert made.state == "running"
    await trio.sleep(2)
    await n1.tell(made, "checkpoint", "checkpoint first")
    assert images.kept(made.home) == ["first", "last"]
    await finish(net, made.id)
    await n1.tell(made, "restore last")
    assert made.state == "running"
    while made.state != "exited":
        await trio.sleep(1)
    again = output(net, made.id)
    assert again[:100] == ALL
    assert again[100:] == ALL[-len(again) + 100 :]
    await refused(n1, made, "restore none", "absent", "there is no image none")
    (made.home / "checkpoint/last/twin.json").write_text("{}")
    await refused(n1, made, "restore last", "bad", "has changed")
    for number in range(14):
        await n1.tell(made, "restore first", f"checkpoint c{number}")
    await refused(n1, made, "checkpoint more", "toomany", "16 images")


async def test_restore_of_one_that_runs_goes_back(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(2)
    await n1.tell(made, "checkpoint")
    await trio.sleep(2)
    count = len(output(net, made.id))
    await n1.tell(made, "restore last")
    assert awake(net, made.id) == ["n1"]
    while made.state != "exited":
        await trio.sleep(1)
    assert len(output(net, made.id)) > 100 + count // 2 - 5


async def test_a_new_object_from_an_image_that_was_fetched(autojump_clock, net, n1, tmp_path):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(2)
    await n1.tell(made, "checkpoint")
    n2 = net.nodes["n2"]
    copy = tmp_path / "fetched"
    copy.mkdir()
    for name in ("manifest", "sums", "twin.json", "stdin"):
        path = f"proc/{made.id}/checkpoint/last/{name}"
        (copy / name).write_bytes(await n1.read("ann", path))
    new = n2.new(BOB)
    await refused(n2, new, f"restore {copy}", "refused", "node's owner", who=BOB)
    boss = Who("ann", 1001, boss=True)
    new = n2.new(boss)
    await n2.tell(new, f"restore {copy}", who=boss)
    while new.state != "exited":
        await trio.sleep(1)
    lines = output(net, new.id)
    assert lines == ALL[-len(lines) :]
    with pytest.raises(CloudError, match="bob may not search it") as caught:
        await n1.read("bob", f"proc/{made.id}/checkpoint/last/manifest")
    assert caught.value.kind == "denied"


async def test_why_it_cannot_be_dumped_is_said_though_the_image_is_gone_before(
    autojump_clock, net, n1, monkeypatch
):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(2)

    async def dump(self, folder):
        shutil.rmtree(folder)
        await trio.sleep(1)
        raise CloudError("unsupported", "it has a device open")

    monkeypatch.setattr(type(made.running), "dump", dump)
    await refused(n1, made, "move n2", "unsupported", "it has a device open")
    monkeypatch.undo()
    assert (made.state, awake(net, made.id)) == ("running", ["n1"])


async def test_copies_go_on_beside_it(autojump_clock, net, n1):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(2)
    await refused(n1, made, "copy n1", "exists", "it is on node n1 already")
    await n1.tell(made, "copy cpus>=1 1")  # here it would be the best, and is there already
    await n1.tell(made, "copy cluster=rome 2")
    assert (made.state, awake(net, made.id)) == ("running", ["n1"])
    copies = {
        id: node
        for node in (net.nodes["n2"], net.nodes["n3"])
        for id in node.objects.all
    }  # fmt: skip
    assert len(copies) == 3
    assert len(set(copies.values())) == 2
    await finish(net, made.id)
    for id in copies:
        await finish(net, id)
    await refused(n1, made, "copy n2 0", "busy", "exited")
    assert n1.reserve.held(made.id) in (None, NOTHING)
