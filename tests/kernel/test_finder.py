"""Queries answered by one node: own zone, others, and the nearest by probes."""

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.finder import Finder
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.nearest import MOST
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin
from tests.kernel.ways import Ways, at


class World:
    """A node n1 that knows others, and what other zones would answer."""

    def __init__(self, path):
        records = Records(":memory:")
        self.machine = Machine("n1", "paris", "ann", Metrics(path), records, Log(9))
        self.cloud = Cloud(
            self.machine, Objects(Twin(), records, path, "n1", "ann"), trio.current_time
        )
        self.ways = Ways(self.cloud, {"n1": at()})
        self.finder = Finder(self.cloud, self.ways)
        self.asked = []  # questions
        self.pause = 0.01  # seconds until other zones answer
        self.whole = True
        self.beyond = {}  # node → what it tells

    def add(self, name, place=None, *, near=True, state="alive", age=0.0, **told):
        told = {"node": name, "cpus": "4", "load": "0", **told}
        told = {attr.replace("_", "."): value for attr, value in told.items()}
        heard = trio.current_time() - age
        info = NodeInfo(name, "paris", state, f"{name}:1", heard, near, told)
        if near:
            self.cloud.hear(info)
        else:
            self.beyond[name] = ndb.record(
                {**told, "name": name, "state": state, "cluster": "tokyo", "addr": f"{name}:1"}
            )
            self.cloud.ask = self.ask
        if place is not None:
            self.ways.places[name] = place

    async def ask(self, question, seconds):
        self.asked.append(question)
        await trio.sleep(self.pause)
        kind, _, name = question.partition(" ")
        if kind == "node":
            return [text for node, text in self.beyond.items() if node == name], True
        return list(self.beyond.values()), self.whole

    async def find(self, text, seconds=2.0, **more):
        exprs = self.finder.parse(text.split())
        with trio.fail_after(seconds + 0.001):
            return await self.finder.find(exprs, seconds, **more)

    async def names(self, text, **more):
        return [found.node for found in (await self.find(text, **more)).found]


@pytest.fixture
async def world(autojump_clock, tmp_path):
    return World(tmp_path)


async def test_the_own_zone_is_answered_at_once(autojump_clock, world):
    world.add("n2", cpus="9999", label_gpu="a100", age=4)
    world.add("n3", cpus="9998", state="drained")
    world.add("n4", cpus="9999", state="gone")
    world.add("n5", cpus="9999", state="suspect")
    exprs = world.finder.parse(["cpus>=9998", "sort=cpus"])
    found = world.finder.at_once(exprs)
    assert [each.node for each in found.found] == ["n3", "n2"]
    assert found.lines()[1] == "node=n2 cpus=9999 age=4"
    assert await world.names("label.gpu=a100") == ["n2"]
    assert await world.names("state=gone") == ["n4"]
    assert await world.names("label.gpu=none") == []
    assert "n1" in await world.names("node=n1")


async def test_without_an_order_the_most_idle_come_first(autojump_clock, world):
    world.machine.labels = {"in": "no"}
    for name, load in (("n2", "3"), ("n3", "0"), ("n4", "1")):
        world.add(name, load=load, label_in="yes")
    assert await world.names("label.in=yes") == ["n3", "n4", "n2"]
    assert await world.names("label.in=yes sort=-load count=2") == ["n2", "n4"]


async def test_an_attribute_that_nodes_tell_is_known(autojump_clock, world):
    world.add("n2", site_power="3")
    assert await world.names("site.power>=2") == ["n2"]
    with pytest.raises(CloudError, match=r"no node has an attribute coordinate"):
        world.finder.parse(["coordinate=here"])


async def test_other_zones_are_asked_once_for_many(autojump_clock, world):
    world.add("n2", label_gpu="a100")
    world.add("m1", near=False, label_gpu="a100")
    world.add("m2", near=False)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(world.names, "label.gpu=a100")
    assert sorted(await world.names("label.gpu=a100")) == ["m1", "n2"]
    assert world.asked == ["query label.gpu=a100"]
    await trio.sleep(1.1)
    del world.beyond["m1"]
    assert await world.names("label.gpu=a100") == ["n2"]  # although m1 is known of before


async def test_what_no_zone_tells_now_is_told_with_its_age(autojump_clock, world):
    world.add("m1", near=False)
    assert await world.names("node=m1") == ["m1"]
    await trio.sleep(20)
    world.beyond.clear()
    world.whole = False
    found = await world.find("node=m1")
    assert [round(each.age) for each in found.found] == [20]
    assert found.lines()[-1] == "whole=no why='not every zone answered in time'"
    with pytest.raises(CloudError, match="not every zone answered"):
        await world.find("node=m1", fresh=True)
    assert world.asked[-1] == "query all node=m1"


async def test_zones_that_answer_nothing_do_not_hold_up(autojump_clock, world):
    world.add("m1", near=False)
    world.pause = 1000
    before = trio.current_time()
    with pytest.raises(CloudError, match="no answer within 0.5 s"):
        await world.find("cpus>=1", 0.5)
    assert trio.current_time() - before <= 0.5


async def test_times_are_conditions_and_orders(autojump_clock, world):
    world.add("n2", at(0.010))
    world.add("n3", at(0.030))
    world.add("n4")  # nobody knows where it is
    world.ways.measured["n2"] = 0.012
    assert await world.names("rtt<0.02 sort=rtt") == ["n1", "n2"]
    assert await world.names("rtt(n3)<0.0215 sort=rtt(n3)") == ["n3", "n2"]
    lines = (await world.find("rtt<0.02 sort=rtt")).lines()
    assert lines[0].startswith("node=n1 rtt=0 how=measured error=0 age=0")
    assert lines[1].startswith("node=n2 rtt=0.012 how=measured error=0.0001 age=2")


async def test_other_zones_hear_where_the_nodes_of_a_time_are(autojump_clock, world):
    world.add("n2", at(0.010))
    world.add("m1", at(0.012), near=False)
    assert sorted(await world.names("rtt(n2)<0.004 rtt<1")) == ["m1", "n2"]
    (question,) = world.asked
    assert question.startswith("query rtt(n2)<0.004 rtt(n1)<1 ")
    assert f"@n2={at(0.010)}" in question
    assert f"@n1={at()}" in question


async def test_other_zones_leave_to_probes_what_these_will_tell(autojump_clock, world):
    world.add("n2", at(0.010))
    world.add("m1", at(0.9), near=False)
    world.ways.true[("n2", "m1")] = 0.001
    assert await world.names("near=n2 rtt(n2)<0.002") == ["m1"]
    assert world.asked[0].startswith("query near=n2 '@n2=")


async def test_a_node_that_is_not_there_has_no_times(autojump_clock, world):
    world.add("n2", at(0.01), state="gone", age=30)
    for text, kind, why in (
        ("near=n9", "absent", "near=n9: there is no node n9"),
        ("rtt(n2)<1", "unreachable", "n2 is gone, nothing was heard of it for 30 s"),
        ("near=n2", "unreachable", "n2 is gone"),
        ("sort=rtt(n9)", "absent", "no node n9"),
    ):
        with pytest.raises(CloudError, match=why.replace("(", r"\(")) as caught:
            await world.find(text)
        assert caught.value.kind == kind


def line_up(world, count, near=True):
    """Nodes a1, a2, … that coordinates put ever farther from n1 — the wrong way round."""
    for n in range(1, count + 1):
        world.add(f"a{n}", at(0.001 * n), near=near)
        for other in ("n1", "t"):
            world.ways.true[(other, f"a{n}")] = 0.05 - 0.002 * n


async def test_probes_decide_who_is_nearest(autojump_clock, world):
    line_up(world, 8)
    found = await world.find("near=n1")
    assert [each.node for each in found.found] == [f"a{n}" for n in range(8, 0, -1)]
    assert {each.probed for each in found.found} == {"yes"}
    assert found.lines()[0] == "node=a8 rtt=0.034 how=measured error=0.0001 age=0 probed=yes told=0"
    assert sorted(world.ways.probes) == [("n1", f"a{n}") for n in range(1, 9)]
    await world.find("near=n1")  # a moment later
    assert len(world.ways.probes) == 8


async def test_a_query_sends_ten_probes_at_most(autojump_clock, world):
    line_up(world, 40)
    found = await world.find("near=n1 count=12")
    assert len(world.ways.probes) == MOST == 10
    assert len(found.found) == 12
    assert [each.probed for each in found.found[:5]] == ["yes"] * 5
    times = [each.times["rtt(n1)"].value for each in found.found[:5]]
    assert times == sorted(times)
    assert times[0] == min(world.ways.rtt("n1", node) for _, node in world.ways.probes)


async def test_the_target_probes_those_that_meet_the_rest(autojump_clock, world):
    world.add("t", at(0.5))
    line_up(world, 6)
    world.add("g1", at(0.51), label_gpu="yes")
    world.add("g2", at(0.49), label_gpu="yes")
    world.ways.true[("t", "g1")] = 0.9
    assert await world.names("near=t label.gpu=yes") == ["g2", "g1"]
    assert sorted(world.ways.probes) == [("t", "g1"), ("t", "g2")]


async def test_this_node_is_a_candidate_too(autojump_clock, world):
    world.add("t", at(0.004))
    world.add("n2", at(0.3))
    found = await world.find("near=t")
    assert [each.node for each in found.found] == ["n1", "n2"]
    assert sorted(world.ways.probes) == [("n1", "t"), ("t", "n2")]


async def test_where_the_target_does_not_probe_the_candidates_do(autojump_clock, world):
    world.add("t", at(0.5))
    line_up(world, 6)
    world.ways.deaf.add("t")
    found = await world.find("near=t")
    assert len(world.ways.probes) <= MOST
    assert found.found[0].probed == "yes"
    assert any(node == "t" for _, node in world.ways.probes)


async def test_silent_candidates_neither_hold_up_nor_come_first(autojump_clock, world):
    for n in range(1, 6):
        world.add(f"s{n}", at(0.001 * n))
        world.ways.silent.add(f"s{n}")
    world.add("ok", at(0.3))
    found = await world.find("near=n1", 2.0)
    assert found.found[0].node == "ok"
    assert {each.probed for each in found.found[1:]} <= {"silent", "no"}
    assert "silent" in {each.probed for each in found.found}


async def test_what_probes_did_not_reach_is_predicted(autojump_clock, world):
    line_up(world, 8)
    world.ways.slow = 60.0
    found = await world.find("near=n1", 1.0)
    assert len(found.found) == 8
    assert {each.times["rtt(n1)"].how for each in found.found} == {"predicted"}


async def test_hearsay_leads_to_the_nearest(autojump_clock, world):
    """Of two hundred that look alike one knows the nearest."""
    for n in range(200):
        world.add(f"a{n}", at(0.02, height=0.02))
        world.ways.true[("n1", f"a{n}")] = 0.003
    world.add("best", at(0.9))
    world.ways.true[("n1", "best")] = 0.0002
    world.ways.tell()
    world.ways.said = {f"a{n}": "best  0.0001\nnobody 0.1\nbad x\n" for n in range(200)}
    assert (await world.names("near=n1 count=1")) == ["best"]


async def test_what_was_probed_holds_for_a_while(autojump_clock, world):
    """So that who is listed by a time that was measured can be walked to by it."""
    world.add("t", at(0.5))
    world.add("a", at(0.9))
    world.ways.true[("t", "a")] = 0.003
    exprs = world.finder.parse(["near=t", "rtt(t)<0.01"])
    assert not world.finder.holds(exprs, "a")
    assert await world.names("near=t rtt(t)<0.01") == ["a"]
    assert world.finder.holds(exprs, "a")
    await trio.sleep(30)
    (line,) = (await world.find("rtt(t)<0.01 node=a")).lines()
    assert line.startswith("node=a rtt=0.003 how=measured error=0.0001 age=30")
    await trio.sleep(31)
    assert not world.finder.holds(exprs, "a")


async def test_placing_measures_what_it_wishes(autojump_clock, world):
    world.add("t", at(0.5))
    line_up(world, 4)
    nodes = world.cloud.attributes()
    exprs = world.finder.parse(["near=t", "rtt<0.1"])
    await world.finder.measure(exprs, nodes, 1.0)
    assert nodes["a4"]["rtt(t)"] == pytest.approx(0.042)
    assert nodes["t"]["rtt(t)"] == 0.0
    assert nodes["a1"]["rtt"] == pytest.approx(0.002)
    world.add("t", at(0.5), state="gone")
    await world.finder.measure(exprs, world.cloud.attributes(), 1.0)


async def test_a_node_that_probes_no_more_tells_what_it_measured(autojump_clock, world):
    """And who was probed a moment ago is not probed again for another query."""
    world.add("t", at(0.5))
    line_up(world, 3)
    world.ways.tired = {"t"}
    world.ways.tell()
    world.ways.said["t", "a2"] = "value=0.046 age=4.0 how=measured error=0.001\n"
    world.ways.said["t", "a1"] = "value=0.001 age=4.0 how=predicted error=0.001\n"
    found = await world.find("near=t node!=n1")
    assert [(each.node, each.probed) for each in found.found] == [
        *(("a3", "yes"), ("a2", "yes"), ("a1", "yes"))
    ]
    assert found.found[1].times["rtt(t)"].age == 4.0
    sent = [probe for probe in world.ways.probes if probe[1]]
    assert sorted(sent) == [("a1", "t"), ("a3", "t")]
    world.ways.probes.clear()
    assert await world.names("near=t node!=n1 cpus>=1") == ["a3", "a2", "a1"]
    assert world.ways.probes == []
