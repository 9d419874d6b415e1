"""A node that is told to balance loses an object to an idle one, and says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, always, eventually, expect
from tests.cloud.views import settle

MOVE = 120.0  # seconds for a decision and a move on a loaded machine
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.5; done"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net(2) as found:
        yield settle(found)


def told(node: Machine) -> list[dict[str, str]]:
    """What a node's events say of balance."""
    records = map(ndb.parse, node.read("nodes", node.name, "events").splitlines())
    return [record for record in records if record["event"] == "balance"]


def test_an_overloaded_node_loses_an_object_to_an_idle_one(net: Net) -> None:
    # The nodes share the machine's processors and their load, so what is held tells them apart.
    one, two = net["n1"], net["n2"]
    cores = 0.475 * int(one.read("nodes/n1/cpus"))
    setup = (f"limit cpu={cores}", "prefer node=n1")  # which is a wish, and no order as `on`
    ids = [one.begin(COUNT, *setup, seconds=MOVE) for _ in range(2)]
    places = lambda: sorted(two.read("proc", id, "node").strip() for id in ids)  # noqa: E731
    expect(places(), ["n1", "n1"])
    always(lambda: expect(told(one), []), 2)  # it is off
    one.run("cloudfs", "balance", "on", "rest=10", "n1")
    eventually(lambda: expect(places(), ["n1", "n2"], f"where they are, by {told(one)}"), MOVE)
    said = {record["what"]: record for record in told(one)}
    busy = [record["why"] for record in told(one) if record["what"] == "busy"]
    assert any("cpu is 0.95, beyond 0.9" in why for why in busy), busy
    assert "cpu is 0.95 here and would be 0.4" in said["moves"]["why"]
    assert said["moves"]["to"] == "n2"
    (moved,) = [id for id in ids if two.status("proc", id, "status")["node"] == "n2"]
    assert said["moves"]["id"] == moved
    numbers = [int(word) for word in two.read("proc", moved, "stdout").split()]
    assert numbers == list(range(len(numbers)))
    two.run("cloudfs", "balance", "on", "rest=10", "n2")
    always(lambda: expect(places(), ["n1", "n2"]), 5)  # and it does not come back
    for node in net:
        node.run("cloudfs", "balance", "off")
    two.run("cloudfs", "kill", *ids, seconds=MOVE)
