"""Nodes come, go, die and return, and all others know it within the bounds."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudfs.cli import local
from cloudfs.factotum import nodekeys
from tests.cloud.net import Net, always, eventually, expect
from tests.cloud.views import (
    AGREE,
    GONE,
    JOIN,
    LIST,
    MANY,
    SILENT,
    SLACK,
    UP,
    age,
    agree,
    all_up,
    nodes,
    settle,
    view,
    within,
)
from tests.clouds import TestCloud

MakeNet = Callable[..., Net]

# Seconds for which nodes under full load must see no death; the promise is 600.
LOAD = float(os.environ.get("CLOUDFS_TEST_LOAD_SECONDS", "20"))


def others(net: Net, *names: str) -> list[str]:
    return [name for name in net.all if name not in names]


def rest(net: Net, *names: str) -> list:  # type: ignore[type-arg]
    """The nodes but these."""
    return [node for node in net if node.name not in names]


# --- joining ---------------------------------------------------------------------------


def test_all_see_all_with_cluster_and_age(make_net: MakeNet) -> None:
    net = settle(make_net(5))
    for seen in net.each(nodes).values():
        assert set(seen) == set(net.all)
        for other, record in seen.items():
            assert record["name"] == other
            assert record["cluster"] == net[other].cluster
            assert age(record) < AGREE
    clusters = {node.cluster for node in net}
    for node in net:
        assert clusters <= set(node.ls("clusters"))


def test_thirty_at_once(make_net: MakeNet) -> None:
    net = settle(make_net(30), MANY)
    for node in (net["n1"], net["n30"]):
        began = time.monotonic()
        assert len(node.ls("nodes")) == 30
        within(LIST, began, "ls nodes")


def test_a_newcomer_joins_at_any_node(make_net: MakeNet) -> None:
    net = make_net(4, start=False)
    first = [net["n1"], net["n2"], net["n3"]]
    local.start([node.local for node in first])
    eventually(lambda: all_up(net, first), JOIN)
    local.start([net["n4"].local], [net["n3"].local.address])
    eventually(lambda: all_up(net), JOIN)


def test_the_first_of_a_cluster_joins_and_leaves_by_hand(make_net: MakeNet) -> None:
    net = make_net({"east": "n1 n2", "west": "n3"}, start=False)
    first, late = [net["n1"], net["n2"]], net["n3"]
    for node in first:
        node.start()
    late.local.launch([])
    late.local.wait(time.monotonic() + JOIN)
    eventually(lambda: all_up(net, first), JOIN)
    late.run("cloudfs", "join", net["n2"].local.address, seconds=JOIN)
    eventually(lambda: all_up(net), AGREE)
    assert "is in a cloud" in late.refused(f"join {net['n1'].local.address}", "nodes/n3/ctl")
    late.run("cloudfs", "leave", seconds=JOIN)
    assert set(view(late)) == {"n3"}
    assert "in no cloud with others" in late.refused("leave", "nodes/n3/ctl")


def test_seeds_may_die(make_net: MakeNet) -> None:
    net = settle(make_net(5))
    net["n1"].kill()  # at which all others joined
    agree_gone = {"n1": "gone", **dict.fromkeys(others(net, "n1"), UP)}
    eventually(lambda: agree(net, agree_gone, rest(net, "n1")), GONE)
    net["n5"].restart()
    eventually(lambda: all_up(net, rest(net, "n1")), JOIN)
    net["n1"].start()
    eventually(lambda: all_up(net), JOIN)


def test_a_node_told_of_dead_seeds_lives_and_finds_the_cloud_later(make_net: MakeNet) -> None:
    net = make_net(3, start=False)
    local.start([net["n3"].local], [net["n1"].local.address])
    assert net["n3"].ls("nodes") == ["n3"]
    assert net["n3"].status("nodes/n3/status")["state"] == "alive"
    local.start([net["n1"].local, net["n2"].local])
    eventually(lambda: all_up(net), JOIN + AGREE)


# --- leaving and dying -----------------------------------------------------------------


def test_a_killed_node_is_gone_everywhere_and_comes_back(make_net: MakeNet) -> None:
    net = settle(make_net(5))
    net["n3"].kill()
    eventually(lambda: agree(net, {"n3": "gone"}, rest(net, "n3")), GONE)
    all_up(net, rest(net, "n3"))
    for node in rest(net, "n3"):
        assert any("n3" in line and "gone" in line for line in node.read("events").splitlines()), (
            node.read("events")
        )
    net["n3"].start()
    eventually(lambda: all_up(net), AGREE)


def test_a_stopped_node_is_gone_everywhere_and_goes_on(make_net: MakeNet) -> None:
    net = settle(make_net(5))
    net["n4"].freeze()
    eventually(lambda: agree(net, {"n4": "gone"}, rest(net, "n4")), SILENT)
    time.sleep(5)  # beyond every lease
    net["n4"].thaw()
    eventually(lambda: all_up(net), AGREE)


def test_a_short_stop_is_no_death(make_net: MakeNet) -> None:
    net = settle(make_net(4))
    net["n2"].freeze()
    time.sleep(1)
    net["n2"].thaw()
    always(lambda: agree(net, {"n2": (*UP, "suspect")}, rest(net, "n2")), GONE / SLACK)
    all_up(net)


def test_who_leaves_has_left_and_may_join_again(make_net: MakeNet) -> None:
    net = settle(make_net(4))
    net["n2"].write("leave", "nodes/n2/ctl")
    eventually(lambda: agree(net, {"n2": "left"}, rest(net, "n2")), AGREE)

    def apart() -> None:
        agree(net, {"n2": "left"}, rest(net, "n2"))
        expect(view(net["n2"]), {"n2": "alive"}, "what n2 sees")

    always(apart, 8)  # nobody draws it in again
    net["n2"].write(f"join {net['n3'].local.address}", "nodes/n2/ctl", seconds=20)
    eventually(lambda: all_up(net), JOIN)


def test_one_restart_after_another(make_net: MakeNet) -> None:
    """So that every delegate of every zone goes once."""
    net = settle(make_net(6))
    for node in net:
        node.kill()
        eventually(lambda n=node: agree(net, {n.name: "gone"}, rest(net, n.name)), GONE)
        node.start()
        eventually(lambda: all_up(net), AGREE)


def test_half_of_all_die_at_once(make_net: MakeNet) -> None:
    net = settle(make_net(8))
    dead = ["n1", "n3", "n5", "n7"]
    net.each(lambda node: node.kill(), [net[name] for name in dead])
    eventually(lambda: agree(net, dict.fromkeys(dead, "gone"), rest(net, *dead)), SILENT)
    all_up(net, rest(net, *dead))
    net.start()
    eventually(lambda: all_up(net), JOIN)


def test_a_whole_cluster_dies_and_returns(make_net: MakeNet) -> None:
    net = settle(make_net({"east": "a1 a2 a3", "west": "b1 b2 b3"}))
    west = ["b1", "b2", "b3"]
    net.each(lambda node: node.kill(), [net[name] for name in west])
    eventually(lambda: agree(net, dict.fromkeys(west, "gone"), rest(net, *west)), SILENT)
    net.start()
    eventually(lambda: all_up(net), JOIN)


# --- clocks and load -------------------------------------------------------------------


def test_clocks_may_differ(make_net: MakeNet) -> None:
    net = settle(make_net(5, clocks={"n2": 500_000, "n3": 3_600}))
    always(lambda: all_up(net), 5)
    net["n2"].kill()
    eventually(lambda: agree(net, {"n2": "gone"}, rest(net, "n2")), GONE)
    net["n2"].start()
    eventually(lambda: all_up(net), AGREE)


def test_no_false_death_at_full_load(make_net: MakeNet) -> None:
    net = settle(make_net(20), MANY)
    busy = [
        node.start_command("timeout", f"{LOAD + 60:g}", "sh", "-c", "while :; do :; done")
        for node in net
    ]
    try:
        end = time.monotonic() + LOAD
        while time.monotonic() < end:
            for name, seen in net.each(view, list(net)[:4]).items():
                dead = {other for other, state in seen.items() if state in ("gone", "left")}
                assert not dead, f"{name} takes {dead} for dead"
            time.sleep(2)
        for node in net:
            gone = [x for x in node.read("events").splitlines() if "state=gone" in x]
            assert gone == [], f"{node.name} took a node for dead in between"
    finally:
        for one in busy:
            one.kill()
            one.wait()


# --- what is no member -----------------------------------------------------------------


def test_a_name_that_is_taken_is_refused_with_the_reason(make_net: MakeNet) -> None:
    net = make_net(3, start=False)
    first = [net["n1"], net["n2"]]
    local.start([node.local for node in first])
    eventually(lambda: all_up(net, first), JOIN)
    before = net["n2"].read("nodes/n1/addr")
    impostor = net["n3"]
    net.rename(impostor, "n1")
    impostor.local.launch([net["n2"].local.address])

    def told() -> None:
        said = impostor.read("events")
        assert "state=refused" in said, said
        assert "n1" in said.partition("state=refused")[2], said

    impostor.local.wait(time.monotonic() + JOIN)
    eventually(told, JOIN)
    always(lambda: all_up(net, first), 5)
    assert net["n2"].read("nodes/n1/addr") == before
    assert set(view(net["n2"])) == {"n1", "n2"}


def test_a_node_of_another_cloud_gets_nowhere(make_net: MakeNet) -> None:
    net = make_net(3, start=False)
    rogue = net["n3"]
    _other_cloud(rogue.local.state)
    first = [net["n1"], net["n2"]]
    local.start([node.local for node in first])
    eventually(lambda: all_up(net, first), JOIN)
    local.start([rogue.local], [net["n1"].local.address])
    always(lambda: expect(set(view(net["n1"])), {"n1", "n2"}), 8)
    assert set(view(rogue)) == {"n3"}
    all_up(net, first)
    address = net["n1"].local.address
    said = rogue.refused(f"join {address}", "nodes/n3/ctl", seconds=30)
    assert address in said
    # The others are none the worse.
    assert net["n1"].read("version").startswith("cloudfs ")


def _other_cloud(state: Path) -> None:
    """Have a certificate of another cloud, of the same names."""
    named = nodekeys.read_proof(nodekeys.files_in(state))
    cloud = TestCloud(state / "other")
    nodekeys.give(state, cloud.root.cert, cloud.cluster(named.cluster), named.node, time.time())


def test_an_address_in_use_is_told(make_net: MakeNet) -> None:
    net = make_net(1, start=False)
    host, _, port = net["n1"].local.address.partition(":")
    line = f"import socket, time; s = socket.create_server(('{host}', {port})); print(1, flush=True); time.sleep(60)"
    holder = net["n1"].start_command("python3", "-c", line, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "1\n"
        with pytest.raises(AssertionError, match=r"(?i)ended at once:\n(.|\n)*address"):
            net["n1"].start()
    finally:
        holder.kill()
        holder.wait()
    net["n1"].start()


@pytest.mark.parametrize(
    "line",
    ["join", "join nowhere", "join 10.77.9.9:5640", "join a/b:1", "join 10.77.0.1:99999"],
)
def test_bad_words_get_a_reason_and_the_daemon_lives(make_net: MakeNet, line: str) -> None:
    net = make_net(1)
    assert net["n1"].refused(line, "nodes/n1/ctl", seconds=30).strip()
    assert view(net["n1"]) == {"n1": "alive"}
