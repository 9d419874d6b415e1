"""/cloud/nodes/N of another node: cat, echo and ls behave through it as they do there."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator

import pytest

from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, FAR, GONE, LIST, SILENT, SLACK, all_up, settle, within

NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups --"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Three nodes that tests leave as they were."""
    with Net({"east": "n1 n2", "west": "n3"}) as found:
        yield settle(found)


@pytest.fixture
def far(net: Net) -> Iterator[Machine]:
    """A node to be looked at from n1; whole again after the test."""
    node = net["n3"]
    yield node
    net.heal()
    if not node.runs:
        node.start()
    node.thaw()
    eventually(lambda: all_up(net), AGREE + AGREE)


# --- as it is there --------------------------------------------------------------------


def test_files_say_there_and_here_the_same(net: Net) -> None:
    here, there = net["n1"], net["n2"]
    assert here.ls("nodes/n2") == there.ls("nodes/n2")
    for name in ("arch", "os", "cpus", "cluster", "addr", "labels", "ctl"):
        if name in there.ls("nodes/n2"):
            assert here.read("nodes/n2", name) == there.read("nodes/n2", name), name
    stat = "stat -c '%A %F' $cloud/nodes/n2/*"
    assert here.sh(stat) == there.sh(stat)


def test_an_object_through_its_node(net: Net) -> None:
    here, there = net["n1"], net["n2"]
    id = there.begin("echo begun; read x; echo got $x; read x; exit 5")
    far = f"nodes/n2/proc/{id}"
    eventually(lambda: expect(here.read(far, "stdout"), "begun\n"), AGREE)
    assert here.ls(far) == there.ls("proc", id)
    assert here.status(far, "status")["state"] == "running"
    here.write("one", far, "stdin")
    eventually(lambda: expect(here.read(far, "stdout"), "begun\ngot one\n"), AGREE)
    here.write("label by=n1", far, "ctl")
    assert "by=n1" in there.read("proc", id, "labels")
    here.write("stop", far, "ctl")
    assert there.status("proc", id, "status")["state"] == "stopped"
    here.write("start", far, "ctl")
    here.write("two", far, "stdin")
    end = here.status(".follow", far, "wait", seconds=20)
    assert end["code"] == "5"


def test_a_refusal_has_the_reason_it_has_there(net: Net) -> None:
    for line in ("nosuchverb", "label no/good=1", "price much"):
        where, _, reason = net["n2"].refused(line, "nodes/n2/ctl").strip().partition(": ")
        assert (where, len(reason) > 10) == ("/nodes/n2/ctl", True)
        assert reason in net["n1"].refused(line, "nodes/n2/ctl")


def test_what_is_not_there(net: Net) -> None:
    for path in ("nodes/n9/load", "nodes/n2/nothing", "nodes/n2/proc/aaaaaaaaaaaaaaaa/status"):
        done = net["n1"].run("cat", net["n1"].path(path), status=1)
        assert "No such file or directory" in done.stderr


def test_much_output_comes_whole(net: Net) -> None:
    there = net["n2"]
    id = there.begin("seq 1000000")
    there.read(".follow/proc", id, "wait", seconds=30)
    wanted = hashlib.sha256("".join(f"{n}\n" for n in range(1, 1000001)).encode()).hexdigest()
    for path in (f"nodes/n2/proc/{id}/stdout", f"proc/{id}/stdout"):
        assert net["n1"].sh(f"sha256sum <$cloud/{path}", seconds=30).split()[0] == wanted
        assert net["n1"].sh(f"tail -n 1 $cloud/{path}").strip() == "1000000"


def test_permissions_hold_from_afar(net: Net) -> None:
    id = net["n2"].begin("echo secret; sleep 1000")
    eventually(lambda: expect(id in net["n1"].ls("proc"), True), AGREE)
    for node, path in ((net["n2"], "proc"), (net["n1"], "nodes/n2/proc"), (net["n1"], "proc")):
        done = node.run("sh", "-c", f"{NOBODY} cat $cloud/{path}/{id}/stdout", status=1)
        assert "Permission denied" in done.stderr
        line = f"{NOBODY} sh -c 'echo kill >$cloud/{path}/{id}/ctl'"
        assert node.run("sh", "-c", line, status=None).returncode != 0
        assert f"id={id} state=running" in node.sh(f"{NOBODY} cat $cloud/{path}/{id}/status")
    net["n2"].write("kill", "proc", id, "ctl")


def test_the_tree_is_finite_and_holds_no_circle(net: Net) -> None:
    names = net["n1"].ls("nodes/n2")
    assert not {"nodes", "view", "query", "clusters"} & set(names)
    began = time.monotonic()
    found = net["n1"].sh("find $cloud -name nodes", seconds=60).split()
    clusters = {node.cluster for node in net}
    wanted = [net["n1"].path("clusters", name, "nodes") for name in clusters]
    assert sorted(found) == sorted([*wanted, net["n1"].path("nodes")])
    within(30, began, "find")
    net["n1"].sh("grep -rqs nosuchword $cloud/nodes || true", seconds=60)


def test_globs_reach_every_node(net: Net) -> None:
    lines = net["n1"].sh("cat $cloud/nodes/*/cpus").splitlines()
    assert len(lines) == 3
    net["n1"].sh("echo label seen=yes | tee $cloud/nodes/*/ctl >/dev/null")
    for node in net:
        assert "seen=yes" in node.read("nodes", node.name, "labels")


# --- reads that block ------------------------------------------------------------------


def test_following_from_afar(net: Net) -> None:
    id = net["n2"].begin("for i in 1 2 3 4 5; do echo $i; sleep 0.3; done")
    eventually(lambda: expect(id in net["n1"].ls("proc"), True), AGREE)
    for path in (f".follow/nodes/n2/proc/{id}/stdout", f".follow/proc/{id}/stdout"):
        assert net["n1"].read(path, seconds=20) == "1\n2\n3\n4\n5\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("path", ["nodes/n2/proc", "proc"])
def test_a_blocked_reader_can_be_interrupted(net: Net, number: int, path: str) -> None:
    id = net["n2"].begin("sleep 1000")
    eventually(lambda: expect(id in net["n1"].ls("proc"), True), AGREE)
    mark = f"{path}/{id}/stdout"
    reader = net["n1"].start_command("cat", net["n1"].path(".follow", mark))
    try:
        time.sleep(1.5)
        assert reader.poll() is None
        net["n1"].sh(f"pkill -{int(number)} -f '[.]follow/{mark}'")
        began = time.monotonic()
        eventually(lambda: expect(net["n1"].count(mark), 0, "readers"), 5 * SLACK)
        within(5 * SLACK, began, "to end a reader")
        assert reader.wait(timeout=5) != 0
    finally:
        reader.kill()
        reader.wait()
        net["n2"].write("kill", "proc", id, "ctl")
    # The node goes on, and so does the connection.
    assert net["n1"].read("nodes/n2/cpus")


# --- a node that does not answer -------------------------------------------------------


@pytest.mark.parametrize("fault", ["kill", "freeze", "cut", "half cut"])
def test_nothing_waits_longer_than_its_deadline(net: Net, far: Machine, fault: str) -> None:
    here = net["n1"]
    id = far.begin("sleep 1000")
    eventually(lambda: expect(id in here.ls("proc"), True), AGREE)
    assert here.read("nodes/n3/load")  # so that a connection is open
    {
        "kill": far.kill,
        "freeze": far.freeze,
        "cut": lambda: net.isolate("n3"),
        "half cut": lambda: net.cut_one_way("n3", "n1"),
    }[fault]()
    for path in ("nodes/n3/load", f"nodes/n3/proc/{id}/stdout", f"proc/{id}/stdout"):
        began = time.monotonic()
        here.run("cat", here.path(path), status=1, seconds=2 * FAR)
        within(FAR, began, f"cat {path}")
        began = time.monotonic()
        here.run("cat", here.path(".MaxTime=0.5", path), status=1, seconds=2 * FAR)
        within(1.0 * SLACK, began, f"cat .MaxTime=0.5/{path}")
    began = time.monotonic()
    here.run("sh", "-c", "echo kill >$cloud/nodes/n3/proc/" + id + "/ctl", status=None)
    within(FAR, began, "echo kill")
    for line, bound in (
        ("ls $cloud/nodes", LIST),
        ("ls $cloud/proc", LIST),
        ("cat $cloud/nodes/*/status", FAR),  # it may ask the one that does not answer
    ):
        began = time.monotonic()
        here.sh(line)
        within(bound, began, line)
    # What is known of it is still told, with its age.
    assert "age" in here.status("nodes/n3/status")
    assert "age" in here.status("proc", id, "status")
    # Others are as fast as ever.
    began = time.monotonic()
    assert here.read("nodes/n2/load")
    within(1.0 * SLACK, began, "to read from another node")


def test_a_follower_ends_when_the_node_dies(net: Net, far: Machine) -> None:
    id = far.begin("echo begun; sleep 1000")
    reader = net["n1"].start_command(
        "cat", net["n1"].path(f".follow/nodes/n3/proc/{id}/stdout"), stdout=-1, stderr=-1
    )
    time.sleep(1.5)
    far.kill()
    said, complaint = reader.communicate(timeout=GONE + SILENT)
    assert said == "begun\n"
    assert reader.returncode != 0
    assert complaint


def test_a_node_that_is_back_is_reached_again(net: Net, far: Machine) -> None:
    assert net["n1"].read("nodes/n3/load")
    far.restart()
    eventually(lambda: expect(bool(net["n1"].read("nodes/n3/load")), True), AGREE)
    net.isolate("n3")
    time.sleep(3)
    net.heal()
    eventually(lambda: expect(bool(net["n1"].read("nodes/n3/load")), True), AGREE)
