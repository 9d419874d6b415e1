"""Verbs for whole groups, through the files of a cloud of several nodes."""

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.runs import Runs
from cloudfs.who import Who
from tests.kernel.town import Town

pytestmark = pytest.mark.usefixtures("no_threads")

BOB = Who("bob", 1002)
ROOT = Who("ann", 0, boss=True)
WEB = "/cloud/view/by-app/web"


@pytest.fixture
async def town(autojump_clock, tmp_path, nursery):
    town = Town(tmp_path, nursery)
    await town.add("n1", "n2", "n3")
    await town.settle()
    return town


async def start(node, *lines, app="web", **more):
    return await node.start("sleep 10000", f"app {app}", f"on {node.name}", *lines, **more)


async def heard(town, app="web", count=3):
    """Wait until every node knows of so many objects of an app."""
    await town.until(
        lambda: all(
            len(n.cloud.catalog.group("app", app)) == count for n in town.nodes.values() if n.up
        )
    )


def places(town):
    """Where a program of each object runs."""
    return {
        id: name
        for name, node in town.nodes.items()
        for id, made in node.objects.all.items()
        if made.state == "running"
    }


async def progress(node, path=WEB):
    """The group's own line, and that of each object, by id."""
    head, *items = map(ndb.parse, (await node.cat(f"{path}/progress")).splitlines())
    return head, {item["id"]: item for item in items}


async def refused(node, line, path, who=None):
    with pytest.raises(CloudError) as caught:
        await node.echo(line, path, **({"who": who} if who else {}))
    return caught.value


async def test_one_write_moves_an_app_and_undo_brings_it_back(town, autojump_clock):
    one, two, three = town.nodes.values()
    ids = [await start(one), await start(one), await start(two)]
    other = await start(one, app="db")
    await heard(town)
    before = places(town)
    assert await three.cat(f"{WEB}/progress") == ""
    await three.echo("move n3", f"{WEB}/ctl")
    assert places(town) == {**dict.fromkeys(ids, "n3"), other: "n1"}
    head, items = await progress(three)
    assert (head["group"], head["state"], head["verb"]) == ("view/by-app/web", "done", "move n3")
    assert (head["total"], head["done"], head["by"]) == ("3", "3", "ann")
    assert {(i["from"], i["to"], i["state"]) for i in items.values()} == {
        ("n1", "n3", "done"),
        ("n2", "n3", "done"),
    }
    await three.echo("undo", f"{WEB}/ctl")
    assert places(town) == before
    assert (await progress(three))[0]["verb"] == "undo"
    await three.echo("undo", f"{WEB}/ctl")  # and there again
    assert places(town) == {**dict.fromkeys(ids, "n3"), other: "n1"}
    await heard(town)
    await three.echo("move n3", f"{WEB}/ctl")
    head, items = await progress(three)
    assert (head["state"], head["skipped"]) == ("done", "3")
    assert {item["why"] for item in items.values()} == {"it is there already"}


async def test_any_verb_of_an_object_is_one_of_the_group(town, autojump_clock):
    one, two, three = town.nodes.values()
    ids = [await start(one), await start(two), await start(three)]
    await heard(town)
    ctl = await one.cat(f"{WEB}/ctl")
    assert "move [-k] [-r] NODE|EXPR..." in ctl
    assert "undo\n" in ctl
    await one.echo("label tier=front", f"{WEB}/ctl")
    await one.echo("stop", f"{WEB}/ctl")
    found = {id: made for node in town.nodes.values() for id, made in node.objects.all.items()}
    assert {made.state for made in found.values()} == {"stopped"}
    assert {tuple(made.labels.items()) for made in found.values()} == {(("tier", "front"),)}
    await trio.sleep(1)
    await two.echo("start", "/cloud/view/by-label/tier=front/ctl")
    await two.echo("note a secret", f"{WEB}/ctl")
    head, _ = await progress(two)
    assert head["verb"] == "note"
    await trio.sleep(1)
    await two.echo("checkpoint safe", f"{WEB}/ctl")
    assert {
        made.events.since(0)[0].count("event=checkpoint name=safe") for made in found.values()
    } == {1}
    assert set(places(town)) == set(ids)
    await two.echo("kill", f"{WEB}/ctl")
    assert places(town) == {}


async def test_bad_lines_begin_nothing(town, autojump_clock):
    one, *_ = town.nodes.values()
    id = await start(one)
    await heard(town, count=1)
    ctl = f"{WEB}/ctl"
    assert "no verb 'fly'" in (await refused(one, "fly n2", ctl)).why
    assert "takes not 0" in (await refused(one, "move", ctl)).why
    assert "nothing was done" in (await refused(one, "undo", ctl)).why
    assert "nothing was done" in (await refused(one, "cancel", ctl)).why
    error = await refused(one, "move n2", ctl, BOB)
    assert (error.kind, error.why) == (
        "denied",
        "none of the 1 objects of view/by-app/web is yours",
    )
    with pytest.raises(CloudError, match="no object has app nope"):
        await one.cat("/cloud/view/by-app/nope/ctl")
    error = await refused(one, "move nowhere", ctl)
    assert "there is no node 'nowhere'" in error.why
    assert error.kind == "unreachable"
    assert places(town) == {id: "n1"}
    await one.echo("label a=b", ctl)
    assert "only what was moved" in (await refused(one, "undo", ctl)).fix


async def test_only_what_is_the_callers_is_touched(town, autojump_clock):
    one, two, _ = town.nodes.values()
    runtime = "runtime sandbox"
    mine, his = await start(one), await start(two, runtime, who=BOB)
    await heard(town, count=2)
    await one.echo("stop", f"{WEB}/ctl", who=BOB)
    assert one.objects.all[mine].state == "running"
    assert two.objects.all[his].state == "stopped"
    assert set((await progress(one))[1]) == {his}
    assert "was done by bob" in (await refused(one, "undo", f"{WEB}/ctl")).why


async def test_order_of_dependency(town, autojump_clock):
    one, *_ = town.nodes.values()
    web = await start(one, "after app=db", "label group=x")
    db = await start(one, "label group=x", app="db")
    last = await start(one, f"after {web}", "label group=x", app="more")
    ctl = "/cloud/view/by-label/group=x"
    assert "after='app=db'" in await one.cat(f"/cloud/proc/{web}/spec") or "after=app=db" in (
        await one.cat(f"/cloud/proc/{web}/spec")
    )
    order = []

    async def dumped(id):
        order.append(id)

    for node in town.nodes.values():
        node.objects.host.at_dump = dumped
    await one.echo("move n2", f"{ctl}/ctl")
    assert order == [db, web, last]
    await trio.sleep(1)
    # The node that conducts it knows the order of objects elsewhere from what is told.
    three = town.nodes["n3"]
    await three.echo("move n3", f"{ctl}/ctl")
    assert order[3:] == [db, web, last]
    await three.echo("undo", f"{ctl}/ctl")
    assert order[6:] == [last, web, db]
    await three.echo(f"after {last}", f"/cloud/proc/{db}/ctl")
    await trio.sleep(1)
    assert "3 objects are to come after" in (await refused(three, "stop", f"{ctl}/ctl")).why
    await three.echo("stop -k", f"{ctl}/ctl")
    await three.echo("after", f"/cloud/proc/{db}/ctl")
    assert (
        "write an id, or app=NAME"
        in (await refused(three, "after nonsense", f"/cloud/proc/{db}/ctl")).fix
    )


async def fail(node, ids):
    async def at_dump(id):
        if id in ids:
            raise CloudError("unsupported", "it uses io_uring")

    node.objects.host.at_dump = at_dump


@pytest.mark.parametrize("keep", [False, True])
async def test_a_failure_stops_it_or_not(town, autojump_clock, keep):
    one, *_ = town.nodes.values()
    ids = [await start(one) for _ in range(7)]
    await fail(one, ids[:1])
    error = await refused(one, "move -k n2" if keep else "move n2", f"{WEB}/ctl")
    assert error.kind == "unsupported"
    assert "it uses io_uring" in error.why
    assert "progress" in error.fix
    head, items = await progress(one)
    assert (head["state"], head["failed"]) == ("failed", "1")
    assert items[ids[0]]["state"] == "failed"
    there = places(town)
    assert there[ids[0]] == "n1"
    moved = [id for id in ids if there[id] == "n2"]
    assert len(moved) == int(head["done"]) == (6 if keep else len(moved))
    assert keep or int(head["left"]) > 0
    await one.echo("undo", f"{WEB}/ctl")
    assert set(places(town).values()) == {"n1"}


async def test_busy_cancel_and_follow(town, autojump_clock):
    one, *_ = town.nodes.values()
    ids = [await start(one) for _ in range(6)]
    go = trio.Event()

    async def wait(id):
        await go.wait()

    one.objects.host.at_dump = wait
    errors, followed = [], []

    async def move():
        errors.append(await refused(one, "move n2", f"{WEB}/ctl"))

    async def follow():
        followed.append(await one.cat("/cloud/.follow/view/by-app/web/progress"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        await trio.sleep(1)
        nursery.start_soon(follow)
        busy = await refused(one, "stop", f"{WEB}/ctl")
        assert busy.kind == "busy"
        assert "ann has move n2 done to view/by-app/web, 0 of 6" in busy.why
        assert "echo cancel > /cloud/view/by-app/web/ctl" in busy.fix
        head, items = await progress(one)
        assert (head["state"], head["left"]) == ("running", "2")
        assert sorted(i["state"] for i in items.values()) == ["going"] * 4 + ["waiting"] * 2
        assert (await refused(one, "cancel", f"{WEB}/ctl", BOB)).kind == "denied"
        await one.echo("cancel", f"{WEB}/ctl")
        go.set()
    assert "given up by ann" in errors[0].why
    lines = [ndb.parse(line) for line in followed[0].splitlines()]
    assert lines[-1]["state"] == "cancelled"
    assert [line["state"] for line in lines].count("done") == 4
    assert list(places(town).values()).count("n2") == 4
    assert sorted(places(town)) == sorted(ids)


async def test_who_asked_may_be_cut_off(town, autojump_clock):
    one, *_ = town.nodes.values()
    id = await start(one)
    with trio.move_on_after(0):
        await one.echo("move n2", f"{WEB}/ctl")
    await town.until(lambda: places(town) == {id: "n2"})
    await town.until(lambda: one.machine.runs.all["view/by-app/web"].state == "done")


async def test_after_a_restart_it_is_seen_and_can_be_undone(town, autojump_clock):
    one, *_ = town.nodes.values()
    ids = [await start(one) for _ in range(3)]
    await one.echo("move n2", f"{WEB}/ctl")
    run = one.machine.runs.all["view/by-app/web"]
    # As a daemon leaves it that dies while one is on its way and one waits.
    run.state = "running"
    for id, state in zip(ids[1:], ("going", "waiting"), strict=True):
        run.items[id].state = state
    one.machine.runs._keep(run, *run.items.values())
    again = Runs(one.objects)
    again.reach = one.machine.runs.reach
    text = again.text("view/by-app/web").splitlines()
    head, items = ndb.parse(text[0]), {ndb.parse(t)["id"]: ndb.parse(t) for t in text[1:]}
    assert (head["state"], head["why"]) == ("interrupted", "this node was restarted")
    assert [items[id]["state"] for id in ids] == ["done", "unsure", "left"]
    await again.ended(again.undo("view/by-app/web", ROOT)).run()
    there = places(town)  # what was left was not moved, as far as anybody knew
    assert [there[id] for id in ids] == ["n1", "n1", "n2"]
    with pytest.raises(CloudError, match="nothing was done"):
        again.undo("view/by-app/other", ROOT)


async def test_drain_moves_all_away_and_undo_brings_it_back(town, autojump_clock):
    one, two, _ = town.nodes.values()
    ids = [await start(one) for _ in range(5)]
    over = await one.start("true", "on n1")
    stuck = await start(one)
    await fail(one, [stuck])
    await trio.sleep(1)
    with pytest.raises(CloudError):
        await two.echo("drain", "/cloud/nodes/n1/ctl", who=BOB)
    await one.echo("drain -s for repair", "/cloud/nodes/n1/ctl", who=ROOT)
    await trio.sleep(5)
    assert set(places(town).values()) == {"n1"}
    assert await one.cat("/cloud/nodes/n1/progress") == ""
    await one.echo("drain for repair", "/cloud/nodes/n1/ctl", who=ROOT)
    await one.cat("/cloud/.follow/nodes/n1/progress")
    head, items = await progress(one, "/cloud/nodes/n1")
    assert (head["verb"], head["state"], head["done"], head["failed"]) == (
        "drain",
        "failed",
        "5",
        "1",
    )
    assert set(items) == {*ids, stuck}
    there = places(town)
    assert there.pop(stuck) == "n1"
    assert set(there.values()) <= {"n2", "n3"}
    assert {id: items[id]["to"] for id in ids} == there
    assert "state=drained" in await one.cat("/cloud/nodes/n1/status")
    await one.echo("undo", "/cloud/nodes/n1/ctl", who=ROOT)
    await one.cat("/cloud/.follow/nodes/n1/progress")
    assert set(places(town).values()) == {"n1"}
    assert "state=alive" in await one.cat("/cloud/nodes/n1/status")
    assert one.objects.all[over].state == "exited"


async def test_undo_of_a_drain_that_moved_nothing_takes_objects_again(town, autojump_clock):
    one, *_ = town.nodes.values()
    for _ in range(2):
        await one.echo("drain", "/cloud/nodes/n1/ctl", who=ROOT)
        assert "state=drained" in await one.cat("/cloud/nodes/n1/status")
        await one.echo("undo", "/cloud/nodes/n1/ctl", who=ROOT)
        assert "state=alive" in await one.cat("/cloud/nodes/n1/status")


async def test_a_directory_that_has_emptied_still_tells(town, autojump_clock):
    one, *_ = town.nodes.values()
    await start(one)
    await heard(town, count=1)
    await one.echo("move n2", "/cloud/view/by-node/n1/ctl")
    assert "n1" not in await one.ls("/cloud/view/by-node")
    head, _ = await progress(one, "/cloud/view/by-node/n1")
    assert head["done"] == "1"
    await one.echo("undo", "/cloud/view/by-node/n1/ctl")
    assert set(places(town).values()) == {"n1"}


async def test_an_object_that_went_on_is_left_by_undo(town, autojump_clock):
    one, *_ = town.nodes.values()
    ids = [await start(one), await start(one)]
    await one.echo("move n2", f"{WEB}/ctl")
    await trio.sleep(1)
    await one.echo("move n3", f"/cloud/.MaxTime=60/proc/{ids[0]}/ctl")
    await one.echo("undo", f"{WEB}/ctl")
    assert places(town) == {ids[0]: "n3", ids[1]: "n1"}
    _, items = await progress(one)
    assert items[ids[0]]["why"] == "it has gone on to n3"


async def test_a_node_that_does_not_answer_is_a_failure_with_its_reason(town, autojump_clock):
    one, two, _ = town.nodes.values()
    mine, far = await start(one), await start(two)
    await heard(town, count=2)
    two.scope.cancel()
    await trio.sleep(0.1)
    with trio.fail_after(4000):
        error = await refused(one, "stop", f"{WEB}/ctl")
    assert error.kind == "timeout"
    _, items = await progress(one)
    assert items[mine]["state"] == "done"
    assert "n2 does not answer" in items[far]["why"]
