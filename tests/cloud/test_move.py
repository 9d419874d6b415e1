"""Objects that go on at another node with their memory, on real nodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import settle

MOVE = 60.0  # seconds for a move of something small on a loaded machine
MOVES = 20 if os.environ.get("CLOUDFS_TEST_LONG") else 3
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net({"east": "n1 n2", "west": "n3 n4"}) as found:
        yield settle(found)


def counter(node: Machine, *setup: str) -> str:
    return node.begin(COUNT, *setup, seconds=MOVE)


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.split()]


def reaches(node: Machine, id: str, number: int) -> None:
    eventually(lambda: expect(str(number) in node.read("proc", id, "stdout").split(), True), MOVE)


@pytest.mark.parametrize("runtime", ["process", "sandbox"])
def test_a_counter_followed_from_a_fourth_place(net: Net, runtime: str) -> None:
    """No number is missing and none comes twice."""
    id = counter(net["n1"], f"runtime {runtime}", "on n1", "app counting", "label a=b")
    path = net["n4"].path(".follow", "proc", id, "stdout")
    reader = net["n4"].start_command("cat", path, stdout=subprocess.PIPE)
    try:
        places = ["n1", "n2", "n3"]
        for move in range(MOVES):
            source, target = places[move % 3], places[(move + 1) % 3]
            reaches(net[source], id, 5 * move + 3)
            net["n4"].write(f"move {target}", ".MaxTime=60", "proc", id, "ctl", seconds=MOVE)
            status = net[target].status("proc", id, "status")
            assert (status["node"], status["state"]) == (target, "running")
            assert (status["app"], status["runtime"]) == ("counting", runtime)
        last = places[MOVES % 3]
        reaches(net[last], id, 5 * MOVES + 10)
        net[last].write("kill", "proc", id, "ctl", seconds=MOVE)
        out, _ = reader.communicate(timeout=MOVE)
    finally:
        reader.kill()
        reader.wait()
    found = numbers(out)
    assert found == list(range(len(found)))
    assert found == numbers(net["n4"].read("proc", id, "stdout"))
