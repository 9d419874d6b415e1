"""`move -r`: one that cannot take its memory along starts anew elsewhere, when asked.  It is
never told as moved, and there are never two."""

import contextlib
import itertools

import pytest
import trio

from cloudfs.errors import CloudError
from tests.kernel.nodes import FAULTS
from tests.kernel.test_moving_objects import ALL, STEPS, TICK, awake, output, refused, where

pytestmark = pytest.mark.usefixtures("no_threads")


async def cannot(id):
    raise CloudError("unsupported", "it cannot be dumped: it uses io_uring")


async def unrestored(id):
    raise CloudError("io", "it cannot be restored: no such file")


@pytest.fixture
async def made(net, n1):
    made = await n1.tell(n1.new(), "app web", "env A=1", TICK)
    await trio.sleep(1.03)
    return made


def words(log):
    return [line.split("event=")[1].split()[0] for line in log.since(0)[0].splitlines()]


def told(net, made):
    """What the events of the object's node say of how it came."""
    (name,) = where(net, made.id)
    lines = words(net.nodes[name].objects.all[made.id].events)
    return [word for word in lines if word in ("moved", "restarted")]


async def test_what_can_be_moved_is_moved(autojump_clock, net, n1, made):
    await n1.tell(made, "move -r n2")
    await trio.sleep(1)
    assert (awake(net, made.id), told(net, made)) == (["n2"], ["moved"])
    there = output(net, made.id)
    assert there == ALL[: len(there)]
    assert "moved" in words(n1.objects.events)


@pytest.mark.parametrize("why", ["dump", "restore", "no criu here", "no criu there"])
async def test_what_cannot_starts_anew(autojump_clock, net, n1, made, why):
    before = output(net, made.id)
    if why == "dump":
        n1.twin.at_dump = cannot
    elif why == "restore":
        net.nodes["n2"].twin.at_restore = unrestored
    else:
        net.nodes["n1" if "here" in why else "n2"].twin.no_images = "this node has no criu"
    await refused(n1, made, "move n2", "unsupported", "it cannot be|no criu")
    assert awake(net, made.id) == ["n1"]
    await n1.tell(made, "move -r n2")
    await trio.sleep(30)
    there = net.nodes["n2"].objects.all[made.id]
    assert where(net, made.id) == ["n2"]
    assert (there.state, there.app, there.env, there.argv) == (
        *("exited", made.app, made.env),
        made.argv,
    )
    assert there.created == made.created
    found = output(net, made.id)
    assert found[: len(before)] == before
    assert found[-len(ALL) :] == ALL
    assert len(found) > len(ALL)
    assert told(net, made) == ["restarted"]
    events = words(n1.objects.events)
    assert "restarted" in events
    assert "moved" not in events


async def test_status_says_so(autojump_clock, net, n1, made):
    n1.twin.at_dump = cannot
    await n1.tell(made, "move -r n2")
    there = net.nodes["n2"].objects.all[made.id]
    assert (there.state, there.why) == (
        "running",
        "restarted, since it could not be moved from n1",
    )


async def test_other_reasons_are_none_to_start_anew(autojump_clock, net, n1, made):
    net.nodes["n2"].machine.drained = "maintenance"
    await refused(n1, made, "move -r n2", "unreachable", "maintenance")
    await refused(n1, made, "move -r nowhere", "unreachable", "there is no node")
    await refused(n1, made, "move -r n1", "exists", "is on node n1 already")
    await refused(n1, made, "move -r", "bad", "no node is named")
    assert (made.state, awake(net, made.id)) == ("running", ["n1"])


async def test_a_program_that_is_not_there(autojump_clock, net, n1, made):
    """It runs on here, with its memory."""
    n1.twin.at_dump = cannot
    del net.nodes["n2"].twin.programs["tick"]
    await refused(n1, made, "move -r n2", "absent", "there is no program tick")
    await trio.sleep(20)
    assert where(net, made.id) == ["n1"]
    assert output(net, made.id) == ALL


@pytest.mark.parametrize(("step", "fault"), list(itertools.product(STEPS, FAULTS)))
async def test_every_fault_of_a_write(autojump_clock, net, n1, made, step, fault):
    n1.twin.at_dump = cannot
    offers = 1  # the first is of the move that fails
    net.faults[step[0], step[1] + (offers if step[0] in ("offer", "fetch") else 0)] = fault
    with contextlib.suppress(CloudError):
        await n1.tell(made, "move -r n2")
    for _ in range(1000):
        assert len(awake(net, made.id)) <= 1
        await trio.sleep(0.1)
    (name,) = where(net, made.id)
    assert net.copies(made.id) in ([], [name])
    assert output(net, made.id)[-len(ALL) :] == ALL
    for node in net.nodes.values():
        assert node.reserve.held(made.id) is None
        assert not node.objects.arrivals.all
