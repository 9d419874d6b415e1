"""Objects that leave a busy or dear node by themselves, through the driver and its events."""

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.balancing import Balancer
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.reserve import amount
from cloudfs.who import Who
from tests.kernel.town import Town

pytestmark = pytest.mark.usefixtures("no_threads")

ROOT = Who("ann", 0, boss=True)
ON = "balance on load=0.9 rest=40"


@pytest.fixture
async def town(autojump_clock, tmp_path, nursery):
    """Three nodes of four idle processors each, whatever this machine has."""
    town = Town(tmp_path, nursery)
    await town.add("n1", "n2", "n3")
    for node in town.nodes.values():
        node.machine.reserve.offer = amount(4, 10**9)
        metrics = node.machine.metrics
        metrics.load = lambda: (0.0, 0.0, 0.0)
        metrics.attributes = lambda: {
            **{"arch": "x86_64", "cpus": 4, "load": 0.0, "cpu.idle": 4.0},
            **{"mem.total": 10**9, "mem.free": 9e8, "disk.free": 10**9},
        }
        nursery.start_soon(Balancer(node.machine, node.objects, node.cloud, node.network).run)
    await town.settle()
    return town


async def turn(node, line, who=ROOT):
    await node.echo(line, f"/cloud/nodes/{node.name}/ctl", who=who)


async def told(node, *what):
    """The events of balance, of these kinds."""
    lines = map(ndb.parse, (await node.cat(f"/cloud/nodes/{node.name}/events")).splitlines())
    return [e for e in lines if e["event"] == "balance" and (not what or e["what"] in what)]


def places(town):
    return {id: name for name, node in town.nodes.items() for id in node.objects.all}


async def fill(node, count=4, cpu=0.95, *lines):
    """Objects that hold most of a node, and need not run here."""
    ids = []
    for _ in range(count):
        made = node.objects.get(node.objects.promise(ROOT, None, []), ROOT)
        made.guest = True  # as one that was placed here
        await node.echo("\n".join([f"limit cpu={cpu}", *lines, "exec sleep 100000"]),
                        f"/cloud/proc/{made.id}/ctl", who=ROOT)  # fmt: skip
        ids.append(made.id)
    return ids


async def test_it_is_off_unless_it_is_turned_on(town, autojump_clock):
    one, *_ = town.nodes.values()
    ids = await fill(one)
    await trio.sleep(100)
    assert places(town) == dict.fromkeys(ids, "n1")
    assert await told(one) == []
    assert ndb.parse(await one.cat("/cloud/nodes/n1/status"))["balance"] == "off"
    with pytest.raises(CloudError):
        await turn(one, ON, Who("bob", 1002))
    with pytest.raises(CloudError, match="write: balance on, or off|balance: maybe"):
        await turn(one, "balance maybe")


async def test_a_busy_node_gives_away_until_it_is_calm(town, autojump_clock):
    one, *_ = town.nodes.values()
    ids = await fill(one)
    await turn(one, ON)
    status = ndb.parse(await one.cat("/cloud/nodes/n1/status"))
    assert status["balance"] == "on load=0.9 gain=0.2 rest=40"
    await trio.sleep(100)
    there = places(town)
    assert sorted(there) == sorted(ids)
    assert sorted(there.values()).count("n1") == 3
    (moves,), (moved,), (busy,) = [await told(one, w) for w in ("moves", "moved", "busy")]
    assert "cpu is 0.95, beyond 0.9" in busy["why"]
    assert "cpu is 0.95 here and would be 0.24 at n" in moves["why"]
    assert moves["id"] == moved["id"]
    assert there[moved["id"]] == moved["to"]
    assert (await told(one, "calm"))[0]["why"] == "cpu is 0.71"
    target = town.nodes[moved["to"]]
    assert "event=balance" in one.objects.events.since(0)[0]
    await turn(target, ON)
    await trio.sleep(60)
    assert places(town) == there  # and nothing comes back


async def test_a_dear_node_gives_to_a_cheap_one_and_tells_why_others_stay(town, autojump_clock):
    one, two, three = town.nodes.values()
    for node, price in ((one, 1), (two, 0.9), (three, 0.1)):
        await turn(node, f"price {price}")
    free = await fill(one, 1, 0.5)
    (pinned,) = await fill(one, 1, 0.5, "on n1")
    await turn(one, ON)
    await trio.sleep(120)
    assert places(town) == {free[0]: "n3", pinned: "n1"}
    (moves,) = await told(one, "moves")
    assert moves["why"] == "the price is 1 here and 0.1 at n3"
    stays = {e["id"]: e["why"] for e in await told(one, "stays")}
    assert stays[pinned] == "it is to run on n1"


async def test_what_cannot_be_moved_stays_and_is_not_tried_all_the_time(town, autojump_clock):
    one, *_ = town.nodes.values()
    tried = []

    async def fail(id):
        tried.append(id)
        raise CloudError("unsupported", "it uses io_uring")

    one.objects.host.at_dump = fail
    ids = await fill(one, 2, 1.9)
    await turn(one, ON)
    await trio.sleep(100)
    assert places(town) == dict.fromkeys(ids, "n1")
    assert {one.objects.all[id].state for id in ids} == {"running"}
    assert "it uses io_uring" in (await told(one, "failed"))[0]["why"]
    assert 2 <= len(tried) <= 20
    await turn(one, "balance off")
    count = len(tried)
    await trio.sleep(60)
    assert len(tried) == count


async def test_the_policy_outlives_the_daemon(town, autojump_clock):
    one, *_ = town.nodes.values()
    await turn(one, "balance on load=0.5 gain=0.3")
    machine = one.machine
    again = Machine("n1", "paris", "ann", machine.metrics, one.records, machine.events)
    assert str(again.balance) == "on load=0.5 gain=0.3 rest=600"


async def test_what_came_is_told_until_the_load_shows_it(town, autojump_clock):
    one, two, _ = town.nodes.values()
    id = await one.start("sleep 10000", "on n1")
    await trio.sleep(12)
    one.objects.all[id].created -= 60  # of a clock that does not jump
    await one.echo("move n2", f"/cloud/proc/{id}/ctl")
    await trio.sleep(10)
    assert "load.coming" in two.machine.attributes()
    await trio.sleep(300)
    assert "load.coming" not in two.machine.attributes()
