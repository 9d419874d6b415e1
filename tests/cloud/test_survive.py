"""Objects that survive their nodes, on real nodes: one dies, one stands still, one is cut off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import settle

SOON = 60.0  # seconds for what takes a few, on a loaded machine
LOST = 90.0  # for a node to be taken for lost, and the object to go on elsewhere
TERMS = "availability checkpoint=2 replicas=2 patience=6"
# Each number with the node on which it was counted; the file is one that all nodes share.
COUNT = (
    "i=0; while :; do read node </proc/sys/kernel/hostname; echo $i $node >>{log}; echo $i;"
    " i=$((i+1)); sleep 0.1; done"
)
# All of the machine but its process 1, and what that waits for.
EVERYBODY = """for at in /proc/[0-9]*; do
pid=${at#/proc/}; read name <$at/comm 2>/dev/null || continue
[ $pid = 1 ] || [ $pid = $$ ] || [ $name = cat ] || kill -SIGNAL $pid
done 2>/dev/null; true"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net({"east": "n1", "west": "n2", "north": "n3"}) as found:
        yield settle(found)


def guarded(net: Net, log: Path) -> str:
    """A counter on n1 of which the others have images."""
    node = net["n1"]
    id = node.begin(COUNT.format(log=log), TERMS, "app counting", seconds=SOON)
    eventually(lambda: expect(copies(node, id), "2 of 2 copies"), SOON)
    reach(log, "n1", 40)
    eventually(lambda: expect(copies(node, id), "2 of 2 copies"), SOON)
    return id


def copies(node: Machine, id: str) -> str:
    return node.status("proc", id, "status").get("availability", "")


def counted(log: Path) -> list[tuple[int, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines if " " in line]


def reach(log: Path, node: str, number: int) -> None:
    """It counts on at that node, to that number at least."""
    eventually(
        lambda: expect(any(n >= number and at == node for n, at in counted(log)), True), SOON
    )


def elsewhere(net: Net, id: str, log: Path) -> str:
    """The node at which it goes on that ran on n1."""

    def found() -> str:
        nodes = {at for _, at in counted(log)} - {"n1"}
        assert nodes, "it does not go on"
        return nodes.pop()

    name = eventually(found, LOST)
    eventually(lambda: expect(net[name].status("proc", id, "status")["state"], "running"), SOON)
    return name


def once(net: Net, id: str, log: Path, name: str) -> None:
    """It was counted on n1 up to some moment, and from then on at that node alone, which
    went on where an image was; the output says the same."""
    found = counted(log)
    places = [at for _, at in found]
    first = places.index(name)
    assert places == ["n1"] * first + [name] * (len(places) - first)
    numbers = [number for number, _ in found]
    assert numbers[first:] == list(range(numbers[first], numbers[first] + len(places) - first))
    assert 0 <= numbers[first - 1] + 1 - numbers[first] < 200
    out = [int(line) for line in net[name].read("proc", id, "stdout").split()]
    assert out == list(range(len(out)))
    events = net[name].read("proc", id, "events")
    assert re.search("event=restarted why='restarted from checkpoint [0-9.]+ s old", events)


def freeze(node: Machine) -> Callable[[], None]:
    node.freeze()
    return node.thaw


@pytest.mark.parametrize("how", ["its daemon stands still", "it is cut off"])
def test_one_that_comes_back_runs_no_second_copy(net: Net, tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    tmp_path.chmod(0o777)
    id = guarded(net, log)
    if how == "it is cut off":
        net.isolate("n1")
        back: Callable[[], None] = net.heal
    else:
        back = freeze(net["n1"])
    try:
        name = elsewhere(net, id, log)
    finally:
        back()
    eventually(lambda: expect(net.where(str(log)), [name]), LOST)
    eventually(lambda: expect(net["n1"].status("proc", id, "status")["node"], name), SOON)
    reach(log, name, counted(log)[-1][0] + 10)
    once(net, id, log, name)
    net[name].write("kill", "proc", id, "ctl", seconds=SOON)
    eventually(lambda: expect(net.where(str(log)), []), SOON)
    settle(net)


def test_a_machine_that_dies_and_returns(net: Net, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tmp_path.chmod(0o777)
    id = guarded(net, log)
    net["n1"].run("sh", "-c", EVERYBODY.replace("SIGNAL", "KILL"), status=None)
    name = elsewhere(net, id, log)
    net["n1"].start()
    eventually(lambda: expect(net["n1"].status("proc", id, "status")["node"], name), LOST)
    reach(log, name, counted(log)[-1][0] + 10)
    eventually(lambda: expect(net.where(str(log)), [name]), SOON)
    once(net, id, log, name)
    eventually(lambda: expect(copies(net[name], id), "2 of 2 copies"), LOST)
    net[name].write("kill", "proc", id, "ctl", seconds=SOON)
    eventually(lambda: expect(net.where(str(log)), []), SOON)
