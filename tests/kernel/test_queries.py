"""Queries in a cloud of several zones, as files; times are those of a plain map."""

import math
import xml.etree.ElementTree as ET

import pytest
import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import choose
from cloudfs.tree.api import ORDWR
from cloudfs.wait import settle
from tests.kernel.town import Town

PLACES = {
    **{"p1": (0, 0), "p2": (0, 1), "p3": (1, 0), "p4": (2, 2)},
    **{"t1": (120, 0), "t2": (121, 0), "t3": (120, 2)},
    **{"o1": (40, 60), "o2": (41, 60)},
}
CLUSTERS = {"paris": ("p1", "p2", "p3", "p4"), "tokyo": ("t1", "t2", "t3"), "oslo": ("o1", "o2")}


def rtt(one, other):
    """Seconds: a millisecond for each step on the map, and one for the way out of the house."""
    return (1 + math.dist(PLACES[one], PLACES[other])) / 1000


@pytest.fixture
async def town(autojump_clock, tmp_path, nursery):
    town = Town(tmp_path, nursery)
    town.rtt = rtt
    for cluster, names in CLUSTERS.items():
        await town.add(*names, cluster=cluster)
    for node in town.nodes.values():
        node.machine.set_labels({"here": node.name[0]})
    town.nodes["t2"].machine.set_labels({"gpu": "a100"})
    p1 = town.nodes["p1"]
    names = set(PLACES)

    def agreed():
        return all(node.cloud.ask is not None for node in town.nodes.values())

    await town.until(agreed, 90)
    while set(await p1.ls("/cloud/nodes")) != names:
        await trio.sleep(1)
    await trio.sleep(60)
    return town


def answers(town):
    """Which nodes answer a query for their zone, from now on."""
    found = []
    for node in town.nodes.values():
        router = node.neighbours.router

        def answer(question, node=node, plain=router.answer):
            if choose.is_query(question):
                found.append(node.name)
            return plain(question)

        router.answer = answer
    return found


async def say(node, text):
    """What cs answers, as cat and echo of one shell have it."""
    handle = await node.open("/cloud/net/cs", ORDWR)
    line = f"{text}\n".encode()
    await settle(handle.write(0, line))
    at, data = len(line), b""
    while piece := await settle(handle.read(at, 4096)):
        assert piece.endswith(b"\n")
        assert piece.count(b"\n") == 1
        at, data = at + len(piece), data + piece
    await settle(handle.close())
    return [ndb.parse(line) for line in data.decode().splitlines()]


async def test_queries_over_zones(autojump_clock, town):
    p1 = town.nodes["p1"]
    asked = answers(town)
    assert await p1.ls("/cloud/query") == []
    assert await p1.ls("/cloud/query/label.gpu=a100") == ["t2"]
    assert {name[0] for name in asked} == {"t"}  # oslo's digest denies it
    assert sorted(await p1.ls("/cloud/query/cluster!=paris/cpus>=1/label.here!=o")) == [
        *("t1", "t2", "t3")
    ]
    assert await p1.ls("/cloud/query/label.gpu=b200") == []
    assert await p1.ls("/cloud/query/cpus>=100000") == []
    status = ndb.parse(await p1.cat("/cloud/query/label.gpu=a100/t2/status"))
    assert (status["name"], status["cluster"]) == ("t2", "tokyo")
    with pytest.raises(CloudError, match="node t1 does not meet label.gpu=a100"):
        await p1.cat("/cloud/query/label.gpu=a100/t1/status")
    (line,) = (await p1.cat("/cloud/query/label.gpu=a100/.answer")).splitlines()
    found = ndb.parse(line)
    assert (found["node"], found["label.gpu"]) == ("t2", "a100")
    assert 0 <= float(found["age"]) < 90


async def test_only_the_best_come_from_other_zones(autojump_clock, town):
    p1 = town.nodes["p1"]
    for number, name in enumerate(PLACES):
        town.nodes[name].machine.set_price(0.01 * (number + 1))
    await trio.sleep(25)
    came = []
    plain = p1.cloud.ask

    async def ask(question, seconds):
        records, whole = await plain(question, seconds)
        came.extend(ndb.parse(record)["name"] for record in records)
        return records, whole

    p1.cloud.ask = p1.neighbours.router.gather = ask
    assert await p1.ls("/cloud/query/sort=-price/count=1") == ["o2"]
    assert len(came) == 1


async def test_a_zone_that_does_not_answer_is_said(autojump_clock, town):
    p1 = town.nodes["p1"]
    assert sorted(await p1.ls("/cloud/query/label.here=t")) == ["t1", "t2", "t3"]
    town.partition([town.nodes[n] for n in PLACES if n[0] != "t"],
                   [town.nodes[n] for n in PLACES if n[0] == "t"])  # fmt: skip
    await trio.sleep(2)
    lines = (await p1.cat("/cloud/.MaxTime=1/query/label.here=t/.answer")).splitlines()
    assert lines[-1].startswith("whole=no")
    assert all(float(ndb.parse(line)["age"]) >= 2 for line in lines[:-1])
    assert {ndb.parse(line)["node"] for line in lines[:-1]} == {"t1", "t2", "t3"}
    with pytest.raises(CloudError, match="not every zone answered"):
        await p1.ls("/cloud/.fresh/.MaxTime=1/query/label.here=t")


async def test_the_nearest_is_found_by_probes(autojump_clock, town):
    p1 = town.nodes["p1"]
    town.probes.clear()
    near = await p1.ls("/cloud/query/near=t3/count=2")
    assert near == ["t1", "t2"]
    (line, *_) = (await p1.cat("/cloud/query/near=t3/count=2/.answer")).splitlines()
    found = ndb.parse(line)
    assert (found["how"], found["probed"]) == ("measured", "yes")
    assert float(found["rtt"]) == pytest.approx(rtt("t3", "t1"), rel=0.2)
    assert (await p1.ls("/cloud/query/near=t3/label.here=p/count=1"))[0] in ("p3", "p4")
    assert await p1.ls("/cloud/query/near=t3/rtt(t3)<0.0031") == ["t1"]
    assert (await p1.ls("/cloud/query/rtt(t3)<0.06/sort=rtt(t3)"))[0] == "t3"
    assert set(await p1.ls("/cloud/query/rtt(t3)<0.06")) == {"t1", "t2", "t3"}
    assert await p1.ls("/cloud/query/rtt<0.001") == ["p1"]


async def test_a_conversation(autojump_clock, town):
    p1 = town.nodes["p1"]
    assert [found["node"] for found in await say(p1, "near o1")] == ["o2"]
    found = await say(p1, "near t1 count=2 label.here!=o")
    assert [each["node"] for each in found] == ["t2", "t3"]
    assert {"rtt", "how", "age", "probed"} <= found[0].keys()
    assert [each["node"] for each in await say(p1, "query label.gpu=a100")] == ["t2"]
    assert await say(p1, "query label.gpu=b200") == []
    text = await p1.cat("/cloud/net/cs")
    assert "near NODE [count=N] [EXPR...]" in text
    for bad, why in (
        ("near", "takes not 0 arguments"),
        ("dial tcp", "no verb 'dial'"),
        ("near nobody", "there is no node nobody"),
        ("query cpus>=4GB", "base units"),
        ("query " + "x" * 10_000, "at most 4096 bytes"),
        ("query cpus>1\nquery cpus>2", "one question a write"),
        ("", "one question a write"),
    ):
        with pytest.raises(CloudError, match=why):
            await say(p1, bad)


async def test_an_answer_is_read_from_wherever_the_offset_stands(autojump_clock, town):
    p1 = town.nodes["p1"]
    handle = await p1.open("/cloud/net/cs", ORDWR)
    await settle(handle.write(0, b"query label.here=p sort=node"))
    first = handle.read(28, 4096)
    assert first.startswith(b"node=p1 ")
    assert handle.read(28 + len(first), 4096).startswith(b"node=p2 ")
    assert handle.read(0, 4096) == first
    assert handle.read(0, 6) == first[:6]
    assert handle.read(6, 4096) == first[6:]
    await settle(handle.write(900, b"query label.gpu=a100\n"))
    assert handle.read(921, 4096).startswith(b"node=t2 ")


async def test_objects_go_near_to_another_node(autojump_clock, town):
    p1 = town.nodes["p1"]
    id = await p1.start("sleep 1000", "require label.here!=p node!=t3", "prefer near=t3")
    assert id in town.nodes["t1"].objects.all or id in town.nodes["t2"].objects.all
    id = await p1.start("sleep 1000", "require rtt(o1)<0.01")
    assert any(id in town.nodes[name].objects.all for name in ("o1", "o2"))
    with pytest.raises(CloudError, match=r"rtt\(o1\)<0.00001 fails on 8"):
        await p1.start("sleep 1000", "require rtt(o1)<0.00001 node!=o1")
    with pytest.raises(CloudError, match="near=o1 is no condition; write: prefer near=o1"):
        await p1.start("sleep 1", "require near=o1")


async def test_the_map_shows_every_node(autojump_clock, town):
    p1 = town.nodes["p1"]
    await p1.ls("/cloud/nodes")
    root = ET.fromstring(await p1.cat("/cloud/net/map.svg"))
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    names = {circle[0].text.partition(":")[0] for circle in circles}
    assert names == set(PLACES)


REFUSED = [
    ("query/nonsense", "absent", "is no expression"),
    ("query/cpus>=4/cpus<2", "bad", "no node can have both cpus>=4 and cpus<2"),
    ("query/mem.free>=4GB", "bad", "mem.free>=4e9"),
    ("query/color=red", "bad", "no node has an attribute color"),
    ("query/near=nobody", "absent", "there is no node nobody"),
    ("query/cpus>1/nobody", "absent", "there is no node nobody"),
    ("query/" + "/".join(["label.a!=" + "x" * 200] * 24), "toobig", "4096 characters"),
]


async def test_what_cannot_be_asked_and_how_to_ask(autojump_clock, town):
    p1 = town.nodes["p1"]
    for path, kind, why in REFUSED:
        with pytest.raises(CloudError, match=why) as caught:
            await p1.ls(f"/cloud/{path}")
        assert caught.value.kind == kind
    for path in ("query", "query/cpus>=1"):
        text = await p1.cat(f"/cloud/{path}/help")
        assert "near=NODE" in text
        assert "mem.free        bytes" in text
        handle = await p1.open(f"/cloud/{path}")
        assert "help" not in handle.entries.nodes
