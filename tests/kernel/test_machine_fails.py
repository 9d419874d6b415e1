"""The machine under one of the two nodes of a move fails, with all that ran on it, and is
back 20 s later: one goes on, or it is lost and can be restored."""

import contextlib
import itertools

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.kernel import images
from cloudfs.node.api import DIED
from tests.kernel.test_moving_objects import awake, where

pytestmark = pytest.mark.usefixtures("no_threads")

TICK = "exec tick 0.1 9000"
STEPS = [
    (verb, when) for verb in ("object", "fetch", "revive") for when in ("before", "after")
]  # the writes to the other node, and whether it has done them


async def machine_fails(net, name):
    """Its daemon and all objects are gone at once."""
    net.down.add(name)
    node = net.nodes[name]
    await node.down()
    for played in node.twin.played.values():
        if played.exit is None:
            played.kill(DIED)
            await played.ended()


async def is_back(net, name):
    await net.nodes[name].up()
    net.down.discard(name)


async def moving(net, n1, made, monkeypatch, step):
    """A move that stands still at a step."""
    wanted, when = step
    held = trio.Event()
    write = net.nodes["n2"].write

    async def watched(user, path, text):
        mine = text.split()[0] == wanted
        if not mine or when == "after":
            await write(user, path, text)
        if mine:
            held.set()
            await trio.sleep_forever()

    monkeypatch.setattr(net.nodes["n2"], "write", watched)

    async def move():
        with contextlib.suppress(CloudError):
            await n1.tell(made, "move n2")

    net.nursery.start_soon(move)
    with trio.fail_after(60):
        await held.wait()
    monkeypatch.setattr(net.nodes["n2"], "write", write)


@pytest.mark.parametrize(("who", "step"), list(itertools.product(("n1", "n2"), STEPS)))
async def test_at_every_step(autojump_clock, net, n1, monkeypatch, who, step):
    made = await n1.tell(n1.new(), TICK)
    await trio.sleep(1)
    await n1.tell(made, "checkpoint kept")
    await moving(net, n1, made, monkeypatch, step)
    await machine_fails(net, who)
    for _ in range(200):
        await trio.sleep(0.1)
        assert len(awake(net, made.id)) <= 1
    await is_back(net, who)
    for _ in range(600):
        await trio.sleep(0.5)
        assert len(awake(net, made.id)) <= 1
    (name,) = where(net, made.id)
    here = net.nodes[name].objects.all[made.id]
    assert images.unfinished(here.home) == []
    if who == "n1" and step != ("revive", "after"):
        assert name == "n1"
        assert here.state in ("lost", "exited")
        assert here.why
        assert not here.placed
        await n1.tell(here, "restore kept")
    else:
        assert name == ("n2" if who == "n1" else "n1")
    assert (here.state, awake(net, made.id)) == ("running", [name])
    other = net.nodes["n2" if name == "n1" else "n1"]
    assert not (other.path / "objects" / made.id).exists()
    assert other.reserve.held(made.id) is None


async def test_what_began_there_and_was_told_is_not_taken_back(
    autojump_clock, net, n1, monkeypatch
):
    """Once its node has told of it, what becomes of it there is the truth."""
    made = await n1.tell(n1.new(), TICK)
    await n1.tell(made, "move n2")
    await machine_fails(net, "n2")
    await trio.sleep(20)
    await is_back(net, "n2")
    await trio.sleep(60)
    assert where(net, made.id) == ["n2"]
    there = net.nodes["n2"].objects.all[made.id]
    assert (there.state, there.why) == ("exited", DIED)


async def test_images_of_a_move_that_a_daemon_left_go(autojump_clock, net, n1):
    """Of one that ended meanwhile, too."""
    made = await n1.tell(n1.new(), "exec tick 0.1 5")
    await trio.sleep(2)
    assert made.state == "exited"
    (made.home / "checkpoint" / images.MOVING).mkdir(parents=True)
    await n1.down()
    await n1.up()
    assert n1.objects.all[made.id].state == "exited"
    assert images.unfinished(made.home) == []


async def test_a_node_that_is_about_to_let_it_go_on_does_not_have_it_yet(autojump_clock, net, n1):
    """Its restore may fail, and then what is frozen here is all there is of it."""
    made = await n1.tell(n1.new(), TICK)
    there = net.nodes["n2"]
    go = trio.Event()

    async def fail(id):
        await go.wait()
        raise CloudError("io", "it cannot be restored")

    there.twin.at_restore = fail
    net.faults.update({("withdraw", n): "silent-before" for n in range(1, 9)})

    async def move():
        with contextlib.suppress(CloudError):
            await n1.tell(made, "move n2")

    net.nursery.start_soon(move)
    while made.state != "lost":  # once it has waited for an answer as long as it does
        await trio.sleep(0.1)
    n1.objects.handover.speaks("n2", made.id, {"state": "restoring"})
    assert made.state == "lost"
    go.set()
    for _ in range(300):
        await trio.sleep(1)
        if made.state == "running":
            break
    assert (made.state, awake(net, made.id)) == ("running", ["n1"])
