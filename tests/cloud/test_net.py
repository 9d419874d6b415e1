"""The harness itself: nodes are machines of their own, do what is asked, and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cloudfs.node import claims
from cloudfs.node.machines import Machines, sweep
from cloudfs.node.netns import HOME
from tests.cloud.net import Net, always, eventually, expect

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Three nodes that tests may use and leave as they were; a clock of one is ahead."""
    with Net({"east": "n1 n2", "west": "n3"}, clocks={"n2": 500_000}) as found:
        yield found


# --- apart ----------------------------------------------------------------------------


def test_each_has_its_own_names_processes_and_network(net: Net) -> None:
    for node in net:
        assert node.sh("cat /proc/sys/kernel/hostname").strip() == node.name
        assert len(node.sh("ls -d /proc/[0-9]*").split()) < 12
        assert net.machines.switch.ports[node.name].address in node.sh("cat /proc/net/fib_trie")
        assert node.sh("ls /run") == ""
    for kind in ("net", "pid", "mnt", "uts", "ipc"):
        seen = net.each(lambda node, kind=kind: node.sh(f"readlink /proc/self/ns/{kind}"))
        assert len({*seen.values(), os.readlink(f"/proc/self/ns/{kind}") + "\n"}) == 4


def test_each_serves_its_own_tree(net: Net) -> None:
    for node in net:
        assert node.name in node.ls("nodes")
        assert node.status("nodes", node.name, "status").get("cluster", node.cluster)
        assert node.read("version").startswith("cloudfs ")
        # Seen through the node's root, and not where the machine has that directory.
        assert node.local.seen(node.mount / "version").read_text().startswith("cloudfs ")
        assert not any(node.mount.iterdir())


def test_what_runs_in_one_is_not_in_another(net: Net) -> None:
    mark = "1000.220022"
    id = net["n1"].begin(f"exec sleep {mark}")
    assert net.where(mark) == ["n1"]
    net["n1"].write("kill", "proc", id, "ctl")
    assert net.where(mark) == []


def test_process_1_collects_the_dead(net: Net) -> None:
    net["n1"].sh("(true &) ; (sleep 0.1 &)")

    def no_zombie() -> None:
        expect([x for x in net["n1"].sh("ps -eo stat").split() if x.startswith("Z")], [])

    eventually(no_zombie, 5)


def test_a_sandbox_runs_in_a_node(net: Net) -> None:
    node = net["n3"]
    id = node.begin("hostname; ls /cloud/nodes; exec sleep 1000", "runtime sandbox")
    eventually(lambda: expect("n3" in node.read("proc", id, "stdout"), True), 20)
    assert node.status("proc", id, "status")["runtime"] == "sandbox"
    node.write("kill", "proc", id, "ctl")


def test_a_clock_may_be_ahead(net: Net) -> None:
    line = "python3 -c 'import time; print(time.monotonic())'"
    clocks = {name: float(text) for name, text in net.each(lambda n: n.sh(line)).items()}
    assert abs(clocks["n1"] - clocks["n3"]) < 30
    assert abs(clocks["n2"] - clocks["n1"] - 500_000) < 30


# --- faults ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_objects_and_their_output_outlive_a_daemon(net: Net, how: str) -> None:
    node = net["n1"]
    id = node.begin(COUNT)
    getattr(node, how)()
    assert not node.runs
    assert node.run("ls", node.path("nodes"), status=None).stdout == ""
    time.sleep(0.3)
    node.start()
    assert node.status("proc", id, "status")["state"] == "running"
    node.write("kill", "proc", id, "ctl")
    numbers = node.read("proc", id, "stdout").split()
    assert len(numbers) > 15
    assert numbers == [str(n + 1) for n in range(len(numbers))]
    assert node.status("proc", id, "wait")["signal"] == "KILL"


def test_a_frozen_daemon_answers_nobody_until_it_thaws(net: Net) -> None:
    node = net["n2"]
    node.freeze()
    assert node.runs
    with pytest.raises(AssertionError, match=r"on n2, cat .*version: did not end in 0\.5 s"):
        node.read("version", seconds=0.5)
    reader = node.start_command("cat", node.path("version"), stdout=subprocess.PIPE)
    node.thaw()
    assert reader.communicate(timeout=10)[0].startswith("cloudfs ")


def test_restart_twice(net: Net) -> None:
    for _ in range(2):
        net["n3"].restart()
        assert "n3" in net["n3"].ls("nodes")


# --- what goes wrong is told ------------------------------------------------------------


def test_commands_that_fail_or_hang_say_so(net: Net) -> None:
    with pytest.raises(AssertionError, match=r"(?s)on n1, sh -c .*status 3, not 0.*oops.*serves"):
        net["n1"].sh("echo oops >&2; exit 3")
    with pytest.raises(AssertionError, match=r"did not end in 0\.3 s"):
        net["n1"].sh("sleep 100", seconds=0.3)
    assert net.where("sleep 100") == []


def test_a_command_dies_with_what_stands_for_it(net: Net) -> None:
    sleeper = net["n1"].start_command("sleep", "1000.550055")
    eventually(lambda: expect(net.where("1000.550055"), ["n1"]), 5)
    sleeper.kill()
    sleeper.wait()
    eventually(lambda: expect(net.where("1000.550055"), []), 5)


def test_a_daemon_that_cannot_start_shows_its_log() -> None:
    with Net(1, start=False) as net:
        (net["n1"].local.state / "cloudfs.db").mkdir()
        with pytest.raises(AssertionError, match=r"(?s)n1 ended at once:.*Error"):
            net["n1"].start()


def test_eventually_and_always() -> None:
    left = [3]

    def fewer() -> int:
        left[0] -= 1
        assert left[0] <= 0, f"{left[0]} left"
        return 7

    assert eventually(fewer, 5, every=0.01) == 7
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: found: 1, wanted 2"):
        eventually(lambda: expect(1, 2), 0.1)
    with pytest.raises(AssertionError, match="found"):
        always(lambda: expect(1, 2), 0.1)


# --- taken away -----------------------------------------------------------------------


def left(tag: str, base: Path, mark: str) -> list[str]:
    """What is still there of a net."""
    found = [str(path) for path in HOME.glob(f"cloudfs-{tag}*")]
    found += [str(path) for path in (base, claims.HOME / tag) if path.exists()]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if (mark.encode() in line or f"{base}/".encode() in line) and int(pid) != os.getpid():
            found.append(f"{pid} {line!r}")
    return found


@pytest.mark.parametrize("failing", [False, True])
def test_nothing_is_left_of_a_net(failing: bool) -> None:
    mark = "1000.330033"
    on_purpose = pytest.raises(ZeroDivisionError) if failing else nullcontext()
    with on_purpose, Net(2) as net:
        tag, base = net.machines.tag, net.machines.base
        for node in net:
            for runtime in ("process", "sandbox"):
                id = node.begin(f"exec sleep {mark}", f"runtime {runtime}")
        group = Path(f"/sys/fs/cgroup/freezer/cloudfs/n2/{id}")
        net["n1"].freeze()
        assert left(tag, base, mark)
        assert not failing or 1 / 0
    assert left(tag, base, mark) == []
    assert not group.exists()


OWNER = """
import sys
from tests.cloud.net import Net
with Net(2) as net:
    net["n1"].begin("exec sleep 1000.440044")
    print(net.machines.tag, net.machines.base, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_owner_leaves_is_cleared_by_the_next() -> None:
    command = [sys.executable, "-c", OWNER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=Path(__file__).parents[2], **pipes) as owner:  # type: ignore[call-overload]
        tag, base = owner.stdout.readline().split()
        mark = "1000.440044"
        sweep()  # which is not for those whose owners live
        assert len(left(tag, Path(base), mark)) > 5
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    try:
        # Nobody has to do anything for the processes to go.
        eventually(lambda: expect([x for x in left(tag, Path(base), mark) if "sleep" in x], []), 10)
    finally:
        with Machines(["m1"]):  # the next one
            assert left(tag, Path(base), mark) == []


def test_thirty_at_once(make_net: Callable[..., Net]) -> None:
    net = make_net(30)
    assert net.each(lambda node: node.name in node.ls("nodes")) == dict.fromkeys(net.all, True)
    net.partition(" ".join(list(net.all)[:15]), " ".join(list(net.all)[15:]))
    net.heal()
