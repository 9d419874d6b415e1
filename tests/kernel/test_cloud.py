"""What a node knows of other nodes, and what it asks and answers across zones."""

import time

import pytest

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.stamp import Stamp
from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin

FAR = "aaaaaaaaaaaaaaaa"


def make(path, name, cluster):
    path.mkdir(exist_ok=True)
    records = Records(":memory:")
    machine = Machine(name, cluster, "ann", Metrics(path), records, Log(100))
    machine.public = f"{name}.example:5640"
    return Cloud(machine, Objects(Twin(), records, path, name, "ann"))


@pytest.fixture
def cloud(tmp_path):
    return make(tmp_path / "n1", "n1", "paris")


def info(name="n2", state="alive", near=True, age=0.0, cluster="tokyo", **told):
    heard = time.monotonic() - age
    return NodeInfo(name, cluster, state, f"{name}.example:5640", heard, near, told)


def test_nodes_come_change_and_go(cloud):
    before = cloud.version
    cloud.hear(info())
    assert cloud.version > before
    before = cloud.version
    cloud.hear(info(load="3"))  # what it tells of itself changes no listing
    assert cloud.version == before
    assert cloud.alive("n2")
    assert cloud.clusters() == {"paris": ["n1"], "tokyo": ["n2"]}
    cloud.hear(info(state="gone", age=12))
    assert not cloud.alive("n2")
    assert 12 <= cloud.age_of("n2") < 13
    cloud.forget("n2")
    assert cloud.address_of("n2") is None
    assert cloud.clusters() == {"paris": ["n1"]}


def test_nobody_speaks_for_this_node(cloud):
    cloud.hear(info("n1", "gone"))
    assert cloud.nodes == {}
    cloud.hear(info("../etc"))
    assert cloud.nodes == {}


def test_placement_goes_by_nodes_that_are_alive(cloud):
    cloud.hear(info("n2", cpus="8"))
    cloud.hear(info("n3", "suspect"))
    found = cloud.attributes()
    assert found.keys() == {"n1", "n2"}
    assert found["n2"]["cpus"] == "8"
    assert found["n1"]["age"] == 0.0


async def test_one_zone_asks_another(cloud, tmp_path):
    """What one cloud answers another takes: nodes with their age, objects with their node."""
    other = make(tmp_path / "n2", "n2", "tokyo")
    other.hear(info("n3", age=7, arch="riscv64"))
    other.hear(info("n9", near=False))  # of yet another zone, which answers for itself
    other.catalog.put("n3", f"id={FAR} state=running user=bob app=web label.k=v", Stamp(1, 0, "n3"))
    other.catalog.put("n9", "id=bbbbbbbbbbbbbbbb state=running user=bob")

    asked = []

    async def ask(question, seconds):
        asked.append(question)
        return [*other.answer(question), "no record", "id='"], True

    cloud.ask = ask
    assert await cloud.refresh("nodes", 2)
    assert cloud.nodes.keys() == {"n2", "n3"}
    assert cloud.nodes["n3"].told["arch"] == "riscv64"
    assert 7 <= cloud.age_of("n3") < 8
    assert cloud.node("n2").addr == "n2.example:5640"
    assert not cloud.node("n2").near
    await cloud.refresh("objects", 2)
    assert [seen.id for seen in cloud.catalog.others()] == [FAR]
    assert cloud.catalog.find(FAR).labels == {"k": "v"}
    assert cloud.catalog.values("cluster") == ["tokyo"]
    await cloud.refresh("objects", 2)  # a moment later: the answer of before will do
    assert asked == ["nodes", "objects"]


async def test_what_another_zone_told_of_is_forgotten_once_it_tells_all_without(cloud, tmp_path):
    """But not of a node that it does not hear itself."""
    other = make(tmp_path / "n2", "n2", "tokyo")
    other.hear(info("n3"))
    other.hear(info("n4", state="gone"))

    async def ask(question, seconds):
        return other.answer(question), True

    cloud.ask = ask
    ids = [letter * 16 for letter in "abcd"]
    for id, node in zip(ids, ("n2", "n3", "n4", "n5"), strict=True):
        cloud.catalog.put(node, f"id={id} state=running user=bob")
    await cloud.refresh("objects", 2)
    assert [seen.id for seen in cloud.catalog.others()] == ids[2:]


def test_a_question_about_one(cloud):
    cloud.hear(info("n2"))
    (record,) = cloud.answer("node n2")
    assert ndb.parse(record)["name"] == "n2"
    (record,) = cloud.answer("node n1")
    assert ndb.parse(record)["addr"] == "n1.example:5640"
    assert cloud.answer("node n7") == []
    assert cloud.answer(f"object {FAR}") == []
    with pytest.raises(CloudError, match="no question"):
        cloud.answer("everything")
