"""A cloud of several nodes, seen through each one's files."""

import contextlib
import time
from functools import partial

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.api import Sample
from cloudfs.fabric.stamp import Stamp
from cloudfs.kernel import zones
from cloudfs.tree.api import Handle, Node, Wait
from cloudfs.tree.others import Others
from cloudfs.tree.space import settle
from tests.kernel.town import ANN, Town


@pytest.fixture
async def town(autojump_clock, tmp_path, nursery):
    return Town(tmp_path, nursery)


async def wipe(node, id):
    """End an object and remove it; the others have heard of it then."""
    await node.echo("kill", f"/cloud/proc/{id}/ctl")
    await node.echo("wipe", f"/cloud/proc/{id}/ctl")
    await trio.sleep(1)


async def test_nodes_find_each_other_by_one_seed(town, autojump_clock):
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    for node in (one, two, three):
        assert await node.ls("/cloud/nodes") == ["n1", "n2", "n3"]
    status = ndb.parse(await one.cat("/cloud/nodes/n3/status"))
    assert (status["name"], status["state"], status["cluster"]) == ("n3", "alive", "paris")
    assert await one.cat("/cloud/nodes/n2/cpus") == await two.cat("/cloud/nodes/n2/cpus")


async def test_an_object_is_everywhere_and_runs_in_one_place(town, autojump_clock):
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    id = await two.start("sleep 1000", "app web", "label tier=front")
    await trio.sleep(1)
    for node in (one, two, three):
        assert await node.ls("/cloud/proc") == [id]
        assert await node.ls("/cloud/view/by-node/n2") == [id]
        assert await node.ls("/cloud/view/by-label/tier=front") == [id]
    assert await one.ls("/cloud/nodes/n2/proc") == [id]
    assert await one.ls("/cloud/nodes/n1/proc") == []
    assert await one.cat(f"/cloud/proc/{id}/args") == "sleep 1000\n"
    assert "state=running node=n2" in await three.cat(f"/cloud/proc/{id}/status")
    await one.echo("kill", f"/cloud/proc/{id}/ctl")
    assert "signal=KILL" in await three.cat(f"/cloud/.follow/proc/{id}/wait")
    await trio.sleep(1)
    assert await one.ls("/cloud/view/by-state/exited") == [id]
    await three.echo("wipe", f"/cloud/proc/{id}/ctl")
    await trio.sleep(1)
    assert await one.ls("/cloud/proc") == []


async def test_one_that_moved_is_found_before_its_new_node_was_heard(town, autojump_clock):
    """The old one's word that it is gone may come first, and it knows where it went."""
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    id = await two.start()
    await trio.sleep(1)
    was = one.cloud.catalog.find(id).status(0.0)
    await one.echo("move n3", f"/cloud/proc/{id}/ctl")
    await trio.sleep(1)

    def hear_the_old_one_only():
        one.cloud.catalog.drop("n3", id)
        one.cloud.catalog.put("n2", was, Stamp(1, 0, "n2"))
        one.cloud.catalog.drop("n2", id)
        assert one.cloud.catalog.find(id) is None

    hear_the_old_one_only()
    assert "state=running node=n3" in await one.cat(f"/cloud/proc/{id}/status")
    hear_the_old_one_only()
    assert one.cloud.catalog.find(id) is None  # nothing is kept that its end would not end
    await one.echo("stop", f"/cloud/proc/{id}/ctl")
    assert three.objects.all[id].state == "stopped"
    await wipe(one, id)
    for _ in range(2):
        with pytest.raises(CloudError, match="there is no object"):
            await one.cat(f"/cloud/proc/{id}/status")
    assert not one.cloud.catalog.left


async def test_one_that_was_placed_and_went_on_is_forgotten_with_its_end(town, autojump_clock):
    """The node that placed it remembers where, which is not where it ended."""
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    id = await one.start("sleep 1000", "on n2")
    assert "state=running node=n2" in await one.cat(f"/cloud/proc/{id}/status")
    await trio.sleep(1)
    await two.echo("move n3", f"/cloud/proc/{id}/ctl")
    await trio.sleep(1)
    assert one.objects.moved_to(id) == "n3"
    await wipe(three, id)
    for _ in range(2):
        with pytest.raises(CloudError, match="there is no object"):
            await one.cat(f"/cloud/proc/{id}/status")
        assert await one.ls("/cloud/proc") == []
    assert list(one.objects.handover.moved.of_group(("ann", "", ""))) == []


async def test_one_that_came_back_is_not_sought_elsewhere_after_its_end(town, autojump_clock):
    one, _ = await town.add("n1", "n2")
    await town.settle()
    id = await one.start()
    for node in ("n2", "n1"):
        await one.echo(f"move {node}", f"/cloud/proc/{id}/ctl")
        await trio.sleep(1)
    assert id in one.objects.all
    await wipe(one, id)
    assert (one.objects.moved_to(id), await one.ls("/cloud/proc")) == (None, [])
    with pytest.raises(CloudError, match="there is no object"):
        await one.cat(f"/cloud/nodes/n1/proc/{id}/status")


async def test_what_other_zones_told_of_is_forgotten_with_its_end(town, autojump_clock):
    p1, _ = await town.add("p1", "p2", cluster="paris")
    t1, t2 = await town.add("t1", "t2", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, t1, t2)), 60)
    ids = [await t2.start() for _ in range(3)]
    await trio.sleep(2)
    assert set(await p1.ls("/cloud/proc")) == set(ids)
    for id in ids[:2]:
        await wipe(t2, id)
    with pytest.raises(CloudError, match="there is no object"):
        await p1.cat(f"/cloud/proc/{ids[0]}/status")
    assert {seen.id for seen in p1.cloud.catalog.others()} == set(ids[1:])
    await trio.sleep(2)
    assert await p1.ls("/cloud/proc") == ids[2:]
    assert {seen.id for seen in p1.cloud.catalog.others()} == set(ids[2:])


async def test_objects_are_known_after_the_zone_was_split_and_merged(town, autojump_clock):
    """They only run, and nothing of them changes meanwhile."""
    nodes = await town.add(*(f"n{number}" for number in range(1, 33)))
    await town.settle()
    ids = [await node.start() for node in nodes]
    nodes.append(await town.add("n33"))
    await town.until(lambda: "paris" not in {n.neighbours.leaf for n in nodes}, 60)
    await trio.sleep(60)

    def known(node, others):
        seen = [other for other in others if other.neighbours.leaf == node.neighbours.leaf]
        of = {ids[nodes.index(other)] for other in seen if other not in (node, nodes[32])}
        return of - {found.id for found in node.cloud.catalog.others()}

    assert [known(node, nodes) for node in nodes] == [set()] * 33
    for node in (nodes[0], nodes[1], nodes[32]):
        assert set(await node.ls("/cloud/proc")) == set(ids)
    left = nodes[:14]
    for node in nodes[14:]:
        node.neighbours.leave()
        await trio.sleep(0.5)
    await town.until(lambda: {n.neighbours.leaf for n in left} == {"paris"}, 90)
    await trio.sleep(60)
    assert [known(node, left) for node in left] == [set()] * 14
    for node in left:
        assert set(await node.ls("/cloud/proc")) >= set(ids[:14])
    await wipe(left[0], ids[5])
    for node in left:
        assert ids[5] not in await node.ls("/cloud/proc")


async def test_a_node_that_was_forgotten_is_heard_with_its_objects_again(town, autojump_clock):
    nodes = one, two, three, four = await town.add("n1", "n2", "n3", "n4")
    await town.settle()
    id = await two.start("sleep 100000")
    await trio.sleep(1)
    town.partition([one, four], [two, three])
    await town.until(lambda: "n2" not in one.cloud.nodes, 4000)
    assert await one.ls("/cloud/proc") == []
    town.heal()
    await town.settle(*nodes, seconds=120)
    await trio.sleep(5)
    for node in nodes:
        assert await node.ls("/cloud/proc") == [id]


async def test_objects_of_a_node_that_changed_its_cluster_are_seen_where_it_was(
    town, autojump_clock
):
    p1, p2, p3 = await town.add("p1", "p2", "p3", cluster="paris")
    await town.add("t1", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, p2, p3)), 60)
    first, lost = await p2.start(), await p3.start()
    await trio.sleep(2)
    p2.neighbours.leave()
    p3.scope.cancel()  # its machine dies
    await town.until(lambda: p1.cloud.nodes["p3"].state == "gone", 30)
    moved = [await town.claim(name, "tokyo", boot=2, key=name) for name in ("p2", "p3")]
    await town.until(lambda: all(n.neighbours.leaf == "tokyo" for n in moved), 120)
    town.nodes |= {node.name: node for node in moved}  # whom others reach by that name
    ids = [await node.start() for node in moved]
    await trio.sleep(15)
    for _ in range(4):
        found = set(await p1.ls("/cloud/proc"))
        assert found >= set(ids)
        assert first not in found
        assert "state=running" in await p1.cat(f"/cloud/proc/{ids[0]}/status")
        await trio.sleep(7)
    with pytest.raises(CloudError, match="there is no object"):
        await p1.cat(f"/cloud/proc/{lost}/status")
    await p1.ls("/cloud/nodes")  # it hears that its node is elsewhere, with nothing
    await trio.sleep(2)
    assert set(await p1.ls("/cloud/proc")) == set(ids)


async def test_one_of_another_zone_that_was_looked_at_is_known_when_that_is_cut_off(
    town, autojump_clock
):
    p1, _ = await town.add("p1", "p2", cluster="paris")
    t1 = await town.add("t1", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, t1)), 60)
    id = await p1.start("sleep 1000", "on t1", "app web", "label tier=front")
    assert "state=running" in await p1.cat(f"/cloud/proc/{id}/status")
    assert "state=running" in await p1.cat(f"/cloud/proc/{id}/status")
    assert await p1.ls("/cloud/view/by-label/tier=front") == [id]
    town.partition([p1, town.nodes["p2"]], [t1])
    await trio.sleep(60)
    await p1.ls("/cloud/nodes")
    status = await p1.cat(f"/cloud/proc/{id}/status")
    assert "state=lost node=t1 user=ann app=web" in status
    assert await p1.ls("/cloud/proc") == [id]


async def test_one_that_was_sent_to_a_node_that_died_is_lost(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    await town.settle()
    id = await one.start("sleep 1000", "on n2")
    one.cloud.catalog.drop("n2", id)
    one.cloud.catalog.left.clear()
    one.objects.handover.moved.add(two.objects.all[id], "n2")
    two.scope.cancel()
    await town.until(lambda: one.cloud.nodes["n2"].state == "gone", 30)
    assert "state=lost node=n2" in await one.cat(f"/cloud/proc/{id}/status")


async def test_one_that_could_not_begin_is_not_listed_for_ever(town, autojump_clock):
    """Its node knows it still, and tells nobody when it forgets it."""
    one, two = await town.add("n1", "n2")
    await town.settle()
    id = two.objects.promise(ANN, None, [])
    one.cloud.catalog.put("n2", f"id={id} state=starting user=ann", Stamp(1, 0, "n2"))
    one.cloud.catalog.drop("n2", id)
    assert "state=new" in await one.cat(f"/cloud/proc/{id}/status")
    await trio.sleep(200)
    assert id not in two.objects.all
    assert await one.ls("/cloud/proc") == []
    with pytest.raises(CloudError, match="there is no object"):
        await one.cat(f"/cloud/proc/{id}/status")


async def test_nobody_tells_of_objects_for_another(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    await town.settle()
    id = await two.start()
    await trio.sleep(1)
    leaf = two.neighbours.sessions[two.neighbours.leaf]
    leaf.publish(f"object/n3/{id}", f"id={id} state=exited user=eve".encode())
    leaf.publish("object/n2/" + "b" * 16, f"id={id} state=exited user=eve".encode())
    await trio.sleep(1)
    assert "state=running node=n2 user=ann" in one.cloud.catalog.find(id).status(0.0)


async def test_nobody_makes_old_what_another_tells(town, autojump_clock):
    """By a stamp of a time to come, in its name or under its key."""
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    id = await two.start()
    await trio.sleep(1)
    leaf = three.neighbours.sessions[three.neighbours.leaf]
    for name, ahead in (("n2", 10**12), ("n3", 10**14)):
        late = Stamp(time.time_ns() + ahead, 0, name)
        leaf._put(Sample(f"object/n2/{id}", b"", late, gone=True))
    await trio.sleep(1)
    assert "state=running node=n2" in one.cloud.catalog.find(id).status(0.0)
    await two.echo("stop", f"/cloud/proc/{id}/ctl")
    await trio.sleep(1)
    assert "state=stopped node=n2" in one.cloud.catalog.find(id).status(0.0)


async def test_that_a_node_is_drained_is_told_at_once(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    await town.settle()
    for why, state in (("for repair", "drained"), ("", "alive")) * 3:
        two.cloud.machine.drain(why)
        await trio.sleep(1.1)  # two ticks, of the one who tells and of the one who hears
        assert one.cloud.nodes["n2"].state == state


async def test_a_node_that_dies_is_gone_and_its_objects_are_lost_with_their_age(
    town, autojump_clock
):
    one, two = await town.add("n1", "n2")
    await town.settle()
    id = await two.start("sleep 1000", "app web")
    await trio.sleep(1)
    two.scope.cancel()
    await town.until(lambda: one.cloud.nodes["n2"].state == "gone", 10)
    status = ndb.parse(await one.cat(f"/cloud/proc/{id}/status"))
    assert (status["state"], status["node"], status["app"]) == ("lost", "n2", "web")
    assert float(status["age"]) >= 4
    assert ndb.parse(await one.cat("/cloud/nodes/n2/status"))["state"] == "gone"
    assert await one.ls("/cloud/view/by-state") == ["lost"]
    assert await one.ls("/cloud/nodes") == ["n1", "n2"]
    with pytest.raises(CloudError, match="does not answer"):
        await one.cat(f"/cloud/proc/{id}/stdout")
    with pytest.raises(CloudError, match="does not answer"):
        await one.cat(f"/cloud/.fresh/proc/{id}/status")


async def test_both_sides_of_a_partition_go_on_and_agree_afterwards(town, autojump_clock):
    nodes = await town.add("n1", "n2", "n3", "n4", "n5", "n6")
    await town.settle()
    before = await nodes[4].start()
    left, right = nodes[:3], nodes[3:]
    town.partition(left, right)
    await town.until(lambda: all(n.cloud.nodes["n5"].state == "gone" for n in left), 10)
    made = {node.name: await node.start() for node in (nodes[0], nodes[5])}
    await trio.sleep(1)
    assert set(await nodes[1].ls("/cloud/proc")) == {before, made["n1"]}
    assert set(await nodes[4].ls("/cloud/proc")) == {before, made["n6"]}
    assert "state=lost" in await nodes[1].cat(f"/cloud/proc/{before}/status")
    await nodes[3].echo("kill", f"/cloud/proc/{made['n6']}/ctl")
    town.heal()
    await town.settle(seconds=10)
    await trio.sleep(2)
    for node in nodes:
        assert set(await node.ls("/cloud/proc")) == {before, *made.values()}
        assert await node.ls("/cloud/view/by-state/exited") == [made["n6"]]
        assert set(await node.ls("/cloud/view/by-state/running")) == {before, made["n1"]}


async def test_clusters_are_zones_that_ask_each_other(town, autojump_clock):
    p1, p2 = await town.add("p1", "p2", cluster="paris")
    t1, t2 = await town.add("t1", "t2", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, p2, t1, t2)), 60)
    id = await t2.start("sleep 1000", "app web")
    await trio.sleep(2)
    for node in (p1, p2, t1, t2):
        assert await node.ls("/cloud/nodes") == ["p1", "p2", "t1", "t2"]
        assert await node.ls("/cloud/clusters") == ["paris", "tokyo"]
        assert await node.ls("/cloud/clusters/tokyo/nodes") == ["t1", "t2"]
        assert await node.ls("/cloud/view/by-app/web") == [id]
        assert await node.ls("/cloud/proc") == [id]
        assert await node.ls("/cloud/view/by-cluster/tokyo") == [id]
        assert await node.cat(f"/cloud/proc/{id}/args") == "sleep 1000\n"
    for node in (p1, t2):
        status = (await node.cat("/cloud/clusters/tokyo/status")).splitlines()
        assert status[0] == "nodes count=2 zones=1 whole=yes"
        assert "alive count=2" in status
        assert [line for line in status if line.startswith("cpus count=2 min=")]
    with pytest.raises(CloudError, match="no object"):
        await p1.cat("/cloud/proc/aaaaaaaaaaaaaaaa/status")
    with pytest.raises(CloudError, match="no node"):
        await p1.ls("/cloud/nodes/nowhere")


async def test_an_object_of_another_zone_is_found_by_its_id_alone(town, autojump_clock):
    p1 = await town.add("p1", cluster="paris")
    t1 = await town.add("t1", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, t1)), 60)
    id = await t1.start()
    assert await p1.cat(f"/cloud/proc/{id}/node") == "t1\n"


async def test_events_of_all_nodes_come_once_to_all(town, autojump_clock):
    p1, p2 = await town.add("p1", "p2", cluster="paris")
    t1, t2 = await town.add("t1", "t2", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, p2, t1, t2)), 60)
    await trio.sleep(5)
    ids = [await node.start() for node in (p2, t1)]
    await trio.sleep(5)
    for node in (p1, p2, t1, t2):
        text = await node.cat("/cloud/events")
        for id in ids:
            assert len([x for x in text.splitlines() if f"event=began id={id}" in x]) == 1


async def test_a_node_that_leaves_is_not_missed(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    await town.settle()
    await two.start()
    await trio.sleep(1)
    two.neighbours.leave()
    await town.until(lambda: one.cloud.nodes["n2"].state == "left", 10)
    assert await one.ls("/cloud/proc") == []
    await trio.sleep(3)
    assert await two.ls("/cloud/nodes") == ["n2"]


async def test_an_object_runs_where_it_is_told_to(town, autojump_clock):
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    id = await one.start("sleep 1000", "on n3", "app web", "label tier=front")
    assert three.objects.all[id].state == "running"
    assert id not in one.objects.all
    # At once, before n3 told of it, and in the same place.
    assert "state=running node=n3 user=ann app=web" in await one.cat(f"/cloud/proc/{id}/status")
    await trio.sleep(1)
    assert await two.ls("/cloud/view/by-node/n3") == [id]
    with pytest.raises(CloudError, match="no node"):
        await one.start("sleep 1", "on n9")
    await two.echo("kill", f"/cloud/proc/{id}/ctl")
    assert three.objects.all[id].state == "exited"


async def test_requirements_choose_a_node_and_say_which_of_them_fail(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    two.machine.set_labels({"gpu": "a100"})
    await town.settle()
    await trio.sleep(5)
    id = await one.start("sleep 1000", "require label.gpu=a100")
    assert id in two.objects.all
    with pytest.raises(CloudError, match=r"label.gpu=h100.*2"):
        await one.start("sleep 1000", "require label.gpu=h100")


async def test_what_two_place_at_once_never_exceeds_what_a_node_offers(town, autojump_clock):
    one, two, three = await town.add("n1", "n2", "n3")
    await town.settle()
    cores = three.machine.reserve.offer.cores
    started, refused = [], []

    async def go(node):
        try:
            started.append(await node.start("sleep 1000", "on n3", f"limit cpu={cores * 0.6}"))
        except CloudError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go, one)
        nursery.start_soon(go, two)
    assert len(started) == len(refused) == 1
    assert "n3" in refused[0]
    await two.echo("kill", f"/cloud/proc/{started[0]}/ctl")
    assert three.machine.reserve.free.cores == cores


async def test_a_drained_node_takes_no_new_objects(town, autojump_clock):
    one, _ = await town.add("n1", "n2")
    await town.settle()
    await one.echo("drain for repairs", "/cloud/nodes/n2/ctl")
    with pytest.raises(CloudError, match="drained"):
        await one.start("sleep 1000", "on n2")
    await trio.sleep(5)
    assert "state=drained" in await one.cat("/cloud/nodes/n2/status")
    await one.echo("undrain", "/cloud/nodes/n2/ctl")
    await trio.sleep(5)
    await one.start("sleep 1000", "on n2")


async def test_a_node_that_dies_while_it_is_told_to_run_never_makes_two(town, autojump_clock):
    one, two = await town.add("n1", "n2")
    await town.settle()
    reach = one.reach

    class Lost(Node):
        """A file whose writes arrive and are not answered."""

        def __init__(self, real):
            self.real, self.mode, self.uid, self.gid = real, real.mode, "ann", "ann"
            self.name, self.qid = real.name, real.qid

        def walk(self, name, at, cues):
            return Lost(self.real.walk(name, at, cues))

        def open(self, mode, at, cues):
            handle = self.real.open(mode, at, cues)
            return Unheard(handle) if self.name == "place" else handle

    class Unheard(Handle):
        def __init__(self, real):
            self.real = real

        def write(self, offset, data):
            done = self.real.write(offset, data)
            return Wait(partial(self.lose, done)) if data.startswith(b"begin") else done

        async def lose(self, done):
            await settle(done)
            raise CloudError("timeout", "the answer is lost")

        def close(self):
            return self.real.close()

    class Losing:
        def reach(self, node, path=()):
            return Lost(reach(node, path))

    one.objects.join(Others(one.cloud, Losing()))
    id = one.objects.promise(ANN, None, [])
    await one.echo("on n2", f"/cloud/proc/{id}/ctl")
    with pytest.raises(CloudError, match="lost until"):
        await one.echo("exec sleep 1000", f"/cloud/proc/{id}/ctl")
    await trio.sleep(2)
    assert id in two.objects.all
    assert id not in one.objects.all  # n2 spoke for it
    assert "state=running node=n2" in await one.cat(f"/cloud/proc/{id}/status")


# --- names -------------------------------------------------------------------------------------


async def two_clusters(town):
    """Three nodes in each of two clusters, and a name that is the delegate of neither."""
    paris, tokyo = ("p1", "p2", "p3"), ("t1", "t2", "t3")
    await town.add(*paris, cluster="paris")
    await town.add(*tokyo, cluster="tokyo")
    every = list(town.nodes.values())
    await town.until(lambda: all(n.cloud.ask is not None for n in every), 60)
    await trio.sleep(15)
    letters = "abcdefghijklmnopqrstuvwxyz"
    name = next(x for x in letters if x not in zones.delegates("paris", [*paris, x]))
    assert name not in zones.delegates("tokyo", [*tokyo, name])
    return name, every


async def where(nodes, name):
    """What each says of a node: its cluster and state."""
    found = set()
    for node in nodes:
        with contextlib.suppress(CloudError):
            told = ndb.parse(await node.cat(f"/cloud/nodes/{name}/status"))
            found.add((told["cluster"], told["state"]))
    return found


async def test_a_name_of_another_cluster_is_refused(town, autojump_clock):
    name, every = await two_clusters(town)
    holder = (await town.claim(name, "paris", boot=5)).neighbours
    await trio.sleep(20)
    late = await town.claim(name, "tokyo", key="another", boot=3)
    await trio.sleep(40)
    why = f"a node named {name} with another key lives in cluster paris"
    assert (holder.core.phase, late.neighbours.core.phase) == ("joined", "asking")
    assert late.neighbours.core.why == why
    told = ndb.parse(await late.cat(f"/cloud/nodes/{name}/status"))
    assert (told["state"], told["why"]) == ("alone", why)
    refused = [x for x in late.machine.events.since(0)[0].splitlines() if "state=refused" in x]
    assert len(refused) == 1
    assert why in refused[0]
    assert await where(every, name) == {("paris", "alive")}
    town.nodes[f"{name} of paris"].scope.cancel()
    await town.until(lambda: late.neighbours.core.phase == "joined", 60)
    await trio.sleep(15)
    assert await where(every, name) == {("tokyo", "alive")}


async def test_a_node_may_move_to_another_cluster(town, autojump_clock):
    name, every = await two_clusters(town)
    here = await town.claim(name, "paris", key="own", boot=5)
    await trio.sleep(5)
    here.scope.cancel()
    there = await town.claim(name, "tokyo", key="own", boot=6)
    await town.until(lambda: there.neighbours.core.phase == "joined", 5)
    await trio.sleep(20)
    assert await where(every, name) == {("tokyo", "alive")}


@pytest.mark.parametrize("first", ["paris", "tokyo"])
async def test_of_two_that_met_no_refusal_the_earlier_one_stays(town, autojump_clock, first):
    name, every = await two_clusters(town)
    nodes = {}
    for cluster, start in (("paris", 7), ("tokyo", 7)):
        boot = start - (cluster == first)
        nodes[cluster] = await town.claim(name, cluster, key=cluster, boot=boot, naive=True)
        await town.until(lambda at=cluster: nodes[at].neighbours.core.phase == "joined", 30)
        nodes[cluster].naive = False
    stays = nodes.pop(first)
    (goes,) = nodes.values()
    await town.until(lambda: goes.neighbours.core.phase == "asking", 60)
    assert goes.neighbours.core.why.endswith(f"with another key lives in cluster {first}")
    await trio.sleep(30)
    assert (stays.neighbours.core.phase, goes.neighbours.core.phase) == ("joined", "asking")
    assert await where(every, name) == {(first, "alive")}
    said = ndb.parse(await stays.cat(f"/cloud/nodes/{name}/status"))
    assert (said["state"], said["why"]) == ("alive", "")


class Heard:
    """A node that takes words, and keeps telling those that it knows."""

    def __init__(self, node, nursery):
        self.node, self.words, self.own, self.times = node, {}, set(), 0
        self.over = set()  # what is too old to be taken
        node.neighbours.heard_word["word"] = self.hear
        nursery.start_soon(self.run)

    def hear(self, value):
        self.times += 1
        if value == b"bad":
            raise CloudError("denied", "not signed")
        new = value.decode() not in {*self.words, *self.over}
        if new:
            self.words[value.decode()] = value
        return new

    def say(self, name):
        self.words[name] = name.encode()
        self.own.add(name)
        self.node.neighbours.tell("word", name, name.encode())

    async def run(self):
        while True:
            await trio.sleep(0.5)
            self.node.neighbours.keep_telling("word", self.words, self.own)


async def test_words_reach_all_zones_and_those_who_come_later(town, autojump_clock, nursery):
    p1, p2 = await town.add("p1", "p2", cluster="paris")
    t1, t2 = await town.add("t1", "t2", cluster="tokyo")
    every = [Heard(node, nursery) for node in (p1, p2, t1, t2)]
    await town.until(lambda: all(n.cloud.ask is not None for n in (p1, p2, t1, t2)), 60)
    every[1].say("one")
    await trio.sleep(1)
    assert all(set(one.words) == {"one"} for one in every)
    # Both sides of a cut tell their own, and all hear of all when it is healed.
    town.partition([p1, p2], [t1, t2])
    await trio.sleep(30)
    every[0].say("two")
    every[3].say("three")
    await trio.sleep(5)
    assert set(every[2].words) == {"one", "three"}
    town.heal()
    await town.until(lambda: all(len(one.words) == 3 for one in every), 60)
    late = Heard(await town.add("t3", cluster="tokyo"), nursery)
    await town.until(lambda: set(late.words) == {"one", "two", "three"}, 20)
    # What is no good goes no further, and who said it is none the worse.
    every[1].say("bad")
    await trio.sleep(5)
    assert all("bad" not in one.words for one in every if one is not every[1])
    before = sum(one.times for one in every)
    await trio.sleep(60)
    assert sum(one.times for one in every) < before + 60  # it is told on change alone


async def test_words_that_are_over_are_withdrawn(town, autojump_clock, nursery):
    one, two = await town.add("n1", "n2")
    await town.settle()
    first, second = Heard(one, nursery), Heard(two, nursery)
    first.say("old")
    await trio.sleep(2)
    assert "old" in second.words
    for each in (first, second):
        each.words.clear()
        each.over.add("old")
    await trio.sleep(2)
    late = Heard(await town.add("n3"), nursery)
    await trio.sleep(20)
    assert late.words == {}
