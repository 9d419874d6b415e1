"""A virtual machine on real nodes: seen and told what to do by files, and moved."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests import vmimage
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, settle

BOOT = 180.0  # seconds on a computer that others keep busy
MOVE = 60.0
MEM = 128 << 20
COUNT = "i=0; while :; do echo count $i; i=$((i+1)); sleep 0.1; done &"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net({"east": "n1 n2"}) as found:
        yield settle(found)


@pytest.fixture(scope="module")
def booted(net: Net) -> str:
    """One that runs on n1."""
    node = net["n1"]
    id = node.read("proc/clone").strip()
    for line in ("runtime vm", f"limit cpu=1 mem={MEM}", "on n1"):
        node.write(line, "proc", id, "ctl")
    words = " ".join(map(ndb.quote, vmimage.words()))
    node.write(f"exec {words}", "proc", id, "ctl", seconds=MOVE)
    says(node, id, "ready\n", BOOT)
    return id


def says(node: Machine, id: str, text: str, seconds: float = MOVE) -> None:
    def seen() -> None:
        assert text in node.read("proc", id, "stdout")

    eventually(seen, seconds)


def asks(node: Machine, id: str, line: str, text: str) -> None:
    node.write(line, "proc", id, "stdin")
    says(node, id, text)


def test_its_guest_has_the_name_space_of_the_object(net: Net, booted: str) -> None:
    node = net["n1"]
    asks(node, booted, f"share; cat /cloud/proc/{booted}/limits", f"mem={MEM}")
    said = node.refused("move n2", ".MaxTime=60", "proc", booted, "ctl", seconds=MOVE)
    assert "name space mounted" in said
    asks(
        node,
        booted,
        f"echo app console >/cloud/proc/{booted}/ctl; umount /cloud; echo over",
        "over",
    )
    assert node.read("proc", booted, "app") == "console\n"
    assert node.status("proc", booted, "status")["state"] == "running"


def test_what_its_start_took_is_in_the_cost(net: Net, booted: str) -> None:
    def known() -> None:
        lines = [ndb.parse(line) for line in net["n2"].read("net/n1/cost").splitlines()]
        assert [line for line in lines if line.get("runtime") == "vm" and "seconds" in line]

    eventually(known, 2 * AGREE)


def test_a_counter_at_the_console_goes_on_at_another_node(net: Net, booted: str) -> None:
    one, two = net["n1"], net["n2"]
    asks(one, booted, COUNT, "count 5\n")
    one.write("stop", "proc", booted, "ctl")
    assert "is stopped" in one.refused("move n2", ".MaxTime=60", "proc", booted, "ctl")
    one.write("start", "proc", booted, "ctl")
    two.write("move n2", ".MaxTime=60", "proc", booted, "ctl", seconds=MOVE)
    status = two.status("proc", booted, "status")
    assert (status["node"], status["state"], status["runtime"]) == ("n2", "running", "vm")
    events = map(ndb.parse, two.read("proc", booted, "events").splitlines())
    (moved,) = [event for event in events if event["event"] == "moved"]
    assert float(moved["down"]) >= float(moved["qemu"]) >= 0
    said = two.read("proc", booted, "stdout").rpartition("\n")[0]  # what is whole of it
    last = int(said.split()[-1])
    says(two, booted, f"count {last + 5}\n")
    said = two.read("proc", booted, "stdout").rpartition("\n")[0]
    counted = [line for line in said.splitlines() if line[:6] == "count "]
    assert counted == [f"count {n}" for n in range(len(counted))]


def runs(net: Net, id: str) -> list[str]:
    """Where a QEMU of it is."""
    return net.where(f"name {id}")


def test_whichever_daemon_dies_while_it_moves_one_goes_on(net: Net, booted: str) -> None:
    """The move may be done by then or not: what counts is that there is one of it."""
    for dies in ("n1", "n2"):
        (source,) = runs(net, booted)
        target = "n1" if source == "n2" else "n2"
        path = net[source].path(".MaxTime=60", "proc", booted, "ctl")
        line = f"echo move {target} >{path}"
        move = net[source].start_command("sh", "-c", line, stderr=subprocess.DEVNULL)
        try:
            eventually(lambda at=target: expect(at in runs(net, booted), True), MOVE)
            net[dies].restart()
        finally:
            move.wait(MOVE)

        def one() -> None:
            found = runs(net, booted)
            expect(len(found), 1, f"machines at {found}")
            (at,) = found
            expect(net[at].status("nodes", at, "proc", booted, "status")["state"], "running")

        eventually(one, 2 * MOVE)
        (at,) = runs(net, booted)
        asks(net[at], booted, f"echo on after {dies}", f"on after {dies}\n")
    settle(net)
    if runs(net, booted) == ["n1"]:
        net["n1"].write("move n2", ".MaxTime=60", "proc", booted, "ctl", seconds=MOVE)
    eventually(lambda: expect(runs(net, booted), ["n2"]), MOVE)


def test_back_to_an_image_and_the_end(net: Net, booted: str) -> None:
    two = net["n2"]
    two.write("checkpoint safe", ".MaxTime=60", "proc", booted, "ctl", seconds=MOVE)
    held = two.ls("proc", booted, "checkpoint/safe")
    assert {"manifest", "ram", "shape", "sums"} <= set(held)
    asks(two, booted, "kill $!; echo counted", "counted\n")
    two.write("restore safe", ".MaxTime=60", "proc", booted, "ctl", seconds=MOVE)

    def counts_again() -> None:
        said = two.read("proc", booted, "stdout").rpartition("counted\n")[2].splitlines()
        assert len([line for line in said if line.startswith("count ")]) > 3

    eventually(counts_again, MOVE)
    two.restart()  # its daemon; the machine goes on
    eventually(lambda: expect(two.status("proc", booted, "status")["state"], "running"), AGREE)
    two.write("signal TERM", "proc", booted, "ctl", seconds=MOVE)
    ended = two.run("cat", two.path(".follow", "proc", booted, "wait"), seconds=MOVE).stdout
    assert ndb.parse(ended)["code"] == "0"
