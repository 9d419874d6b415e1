"""Links are cut, and heal.  After each: no object lost that runs, none doubled, every view
right within the bounds, nothing hangs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import count

import pytest

from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import (
    AGREE,
    FAR,
    GONE,
    LIST,
    OWN,
    SILENT,
    SLACK,
    UP,
    age,
    agree,
    all_up,
    nodes,
    see,
    settle,
    view,
    within,
)

MakeNet = Callable[..., Net]
_numbers = count(random.randrange(10**6) * 1000)

TWO = {"east": "n1 n2 n3", "west": "n4 n5 n6"}
SPLITS = {
    "along the clusters": ("n1 n2 n3", "n4 n5 n6"),
    "across the clusters": ("n1 n4 n5", "n2 n3 n6"),
    "in three": ("n1 n2", "n3 n4", "n5 n6"),
    "one alone": ("n1", "n2 n3 n4 n5 n6"),
    "a cluster and each for itself": ("n1 n2 n3", "n4", "n5", "n6"),
}


class Job:
    """An object whose program is one process that nothing else can be taken for."""

    def __init__(self, node: Machine, *setup: str) -> None:
        self.mark = f"1000.{next(_numbers):010}"
        self.node = node
        self.id = node.begin(f"exec sleep {self.mark}", *setup)

    def runs_once(self, net: Net) -> None:
        expect(net.where(self.mark), [self.node.name], f"where {self.id} really runs")


def nothing_hangs(net: Net) -> None:
    """On every node: all listings, and every file that a glob finds, in bounded time."""

    def look(node: Machine) -> None:
        for line in ("ls $cloud/nodes $cloud/proc", "ls $cloud/view/by-node/ $cloud/clusters"):
            began = time.monotonic()
            node.sh(line, seconds=LIST + 3)
            within(LIST, began, f"{line} on {node.name}")
        node.run("sh", "-c", "cat $cloud/nodes/*/load", status=None, seconds=6 * FAR)

    net.each(look)


def sides(net: Net, groups: tuple[str, ...]) -> list[list[Machine]]:
    return [[net[name] for name in group.split()] for group in groups]


def each_sees_its_side(net: Net, groups: tuple[str, ...]) -> None:
    for side in sides(net, groups):
        here = {node.name for node in side}
        wanted: dict[str, str | tuple[str, ...]] = dict.fromkeys(here, UP)
        wanted.update(dict.fromkeys(net.all.keys() - here, "gone"))
        agree(net, wanted, side)


@pytest.mark.parametrize("split", SPLITS)
def test_both_sides_go_on_and_agree_afterwards(make_net: MakeNet, split: str) -> None:
    groups = SPLITS[split]
    net = settle(make_net(TWO))
    jobs = {node.name: Job(node) for node in net}
    victims = {node.name: Job(node) for node in net}
    for job in (*jobs.values(), *victims.values()):
        eventually(lambda job=job: see(net, job.id, state="running", node=job.node.name), AGREE)

    net.partition(*groups)

    # Its own a side may start, list and kill at once, whatever it knows of the others yet.
    fresh = {}
    for node in net:
        began = time.monotonic()
        fresh[node.name] = Job(node)
        node.write("kill", "proc", victims[node.name].id, "ctl")
        assert fresh[node.name].id in node.ls("proc")
        within(3 * OWN, began, f"to start, kill and list on {node.name}")
        assert node.status("proc", victims[node.name].id, "status")["state"] == "exited"

    eventually(lambda: each_sees_its_side(net, groups), SILENT)
    for side in sides(net, groups):
        here = {node.name for node in side}
        for name, job in jobs.items():
            if name in here:
                see(net, job.id, side, state="running")
                continue
            for node in side:
                status = node.status("proc", job.id, "status", seconds=FAR)
                assert status["state"] == "lost", status
                assert float(status["age"]) > 0
                eventually(
                    lambda at=node, of=name: expect(age(nodes(at).get(of, {})) > 0, True), OWN
                )
        for name in here:
            new = fresh[name].id
            eventually(lambda id=new, at=side: see(net, id, at, state="running"), AGREE)
    nothing_hangs(net)
    for job in (*jobs.values(), *fresh.values()):
        job.runs_once(net)

    net.heal()

    eventually(lambda: all_up(net), AGREE)

    def objects_agree() -> None:
        for job in (*jobs.values(), *fresh.values()):
            see(net, job.id, state="running", node=job.node.name)
        for job in victims.values():
            see(net, job.id, state="exited", node=job.node.name)

    eventually(objects_agree, AGREE)
    for job in (*jobs.values(), *fresh.values()):
        job.runs_once(net)
    for job in victims.values():
        assert net.where(job.mark) == []
    nothing_hangs(net)


@pytest.mark.parametrize("way", [("n1", "n2"), ("n1", "n4"), ("n4", "n1")])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_one_link_is_cut(make_net: MakeNet, way: tuple[str, str], both: bool) -> None:
    """Others still reach both ends, so nobody has to be gone; but nothing may hang, and
    nobody may be gone for those whose links are whole."""
    net = settle(make_net(TWO))
    jobs = [Job(net[name]) for name in way]
    (net.cut if both else net.cut_one_way)(*way)
    end = time.monotonic() + SILENT / SLACK + 5
    while time.monotonic() < end:
        for node in net:
            if node.name not in way:
                seen = view(node)
                assert all(seen.get(name) != "gone" for name in net.all if name not in way), seen
        time.sleep(1)
    nothing_hangs(net)
    for job in jobs:
        job.runs_once(net)
        assert job.node.status("proc", job.id, "status")["state"] == "running"
    net.heal()
    eventually(lambda: all_up(net), AGREE)
    for job in jobs:
        eventually(lambda job=job: see(net, job.id, state="running"), AGREE)


def test_a_link_that_flaps(make_net: MakeNet) -> None:
    net = settle(make_net(TWO))
    job = Job(net["n5"])
    chance = random.Random(5)
    for _ in range(12):
        net.partition(*chance.choice(list(SPLITS.values())))
        time.sleep(chance.uniform(0.2, 3))
        net.heal()
        time.sleep(chance.uniform(0.2, 1))
    eventually(lambda: all_up(net), AGREE)
    eventually(lambda: see(net, job.id, state="running", node="n5"), AGREE)
    job.runs_once(net)


def test_from_one_partition_into_another(make_net: MakeNet) -> None:
    net = settle(make_net(TWO))
    for split in ("along the clusters", "across the clusters", "in three"):
        net.partition(*SPLITS[split])
        eventually(lambda split=split: each_sees_its_side(net, SPLITS[split]), SILENT + AGREE)
    net.heal()
    eventually(lambda: all_up(net), AGREE)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_objects_of_a_node_that_fails_are_lost_and_come_back(make_net: MakeNet, fault: str) -> None:
    net = settle(make_net(4))
    job = Job(net["n3"])
    rest = [node for node in net if node.name != "n3"]
    eventually(lambda: see(net, job.id, state="running", node="n3"), AGREE)
    getattr(net["n3"], fault)()
    eventually(
        lambda: see(net, job.id, rest, state="lost", node="n3"), GONE if fault == "kill" else SILENT
    )
    for node in rest:
        first = float(node.status("proc", job.id, "status")["age"])
        time.sleep(1.1)
        assert float(node.status("proc", job.id, "status")["age"]) > first
        assert job.id in node.ls("view/by-state/lost")
    job.runs_once(net)  # its program knows nothing of all this
    if fault == "kill":
        net["n3"].start()
    else:
        net["n3"].thaw()
    eventually(lambda: see(net, job.id, state="running", node="n3"), AGREE)
    job.runs_once(net)


def test_a_node_dies_while_cut_off_and_starts_again_there(make_net: MakeNet) -> None:
    net = settle(make_net(4))
    job = Job(net["n4"])
    net.isolate("n4")
    eventually(lambda: agree(net, {"n4": "gone"}, list(net)[:3]), SILENT)
    net["n4"].restart()
    see(net, job.id, [net["n4"]], state="running")
    assert view(net["n4"])["n4"] == "alive"
    net.heal()
    eventually(lambda: all_up(net), AGREE + GONE)
    eventually(lambda: see(net, job.id, state="running", node="n4"), AGREE)
    job.runs_once(net)


def test_a_whole_cluster_is_cut_off_and_its_delegates_die(make_net: MakeNet) -> None:
    net = settle(make_net({"east": "a1 a2 a3 a4", "west": "b1 b2 b3 b4"}))
    jobs = [Job(node) for node in net]
    net.partition("a1 a2 a3 a4", "b1 b2 b3 b4")
    net.each(lambda node: node.kill(), [net["b1"], net["b3"]])
    eventually(lambda: agree(net, {"b1": "gone", "b3": "gone"}, [net["b2"], net["b4"]]), SILENT)
    all_up(net, [net["b2"], net["b4"]])
    net.heal()
    living = [node for node in net if node.runs]
    eventually(lambda: all_up(net, living), AGREE)
    net.start()
    eventually(lambda: all_up(net), AGREE + GONE)
    for job in jobs:
        job.runs_once(net)
        eventually(lambda job=job: see(net, job.id, state="running"), AGREE)
