"""An application that moves as a whole, and a node that is emptied, with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import see, settle

MOVE = 90.0  # seconds for some moves on a loaded machine
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net({"east": "n1 n2", "west": "n3"}) as found:
        yield settle(found)


def progress(node: Machine, path: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    head, *items = map(ndb.parse, node.read(path, "progress").splitlines())
    return head, {item["id"]: item for item in items}


def places(net: Net, ids: list[str]) -> list[str]:
    return [net["n2"].read("proc", id, "node").strip() for id in ids]


def counts_on(node: Machine, ids: list[str]) -> None:
    """Each counts on, and no number is missing."""
    for id in ids:
        before = len(node.read("proc", id, "stdout").split())
        after = lambda id=id: node.read("proc", id, "stdout").split()  # noqa: E731
        eventually(lambda: expect(len(after()) > before + 2, True), MOVE)  # noqa: B023
        found = [int(word) for word in after()]
        assert found == list(range(len(found)))


def test_an_app_moves_is_brought_back_and_drained_away(net: Net) -> None:
    one, two, three = net
    db = one.begin(COUNT, "app shop", "label tier=db", seconds=MOVE)
    webs = [
        one.begin(COUNT, "app shop", f"after {db}", seconds=MOVE),
        two.begin(COUNT, "app shop", f"after {db}", seconds=MOVE),
    ]
    ids = [db, *webs]
    group = "view/by-app/shop"
    eventually(lambda: expect(set(ids) <= set(three.ls(group)), True), MOVE)
    out = three.run("cloudfs", "move", "app=shop", "n3", seconds=MOVE).stdout
    assert "move n3: 3 done" in out
    assert places(net, ids) == ["n3"] * 3
    head, items = progress(three, group)
    assert (head["state"], head["total"], head["done"]) == ("done", "3", "3")
    assert [items[id]["from"] for id in ids] == ["n1", "n1", "n2"]
    counts_on(three, ids)

    # A daemon that comes back knows what was moved, and brings it back.
    three.restart()
    settle(net)
    assert progress(three, group)[0] == head
    three.write("undo", group, "ctl", seconds=MOVE)
    assert places(net, ids) == ["n1", "n1", "n2"]
    counts_on(one, ids)

    # Two leave n1, the one on n2 stays; one that is gone from n1 comes back with undo.
    out = two.run("cloudfs", "drain", "n1", seconds=MOVE).stdout
    assert "drain: 2 done" in out
    assert "n1" not in places(net, ids)
    assert one.status("nodes/n1/status")["state"] == "drained"
    assert "2 done" in two.run("cloudfs", "drain", "--undo", "n1", seconds=MOVE).stdout
    assert places(net, ids) == ["n1", "n1", "n2"]
    counts_on(two, ids)
    two.run("cloudfs", "kill", "app=shop", seconds=MOVE)
    for id in ids:
        eventually(lambda id=id: see(net, id, [one], state="exited"), MOVE)
