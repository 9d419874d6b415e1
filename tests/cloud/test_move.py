"""Objects that go on at another node with their memory, on real nodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

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


def test_it_is_known_where_it_is_the_moment_it_has_moved(net: Net) -> None:
    """By the node that asked, which is neither the old place nor the new one."""
    id = counter(net["n1"], "on n2")
    # One shell, since a new one each time would come too late to see it.
    script = """
        for turn in 1 2 3 4 5; do
            for node in n3 n2; do
                echo move $node >"$0/.MaxTime=60/proc/$1/ctl" || { cloudfs why >&2; exit 1; }
                sed 's/.* node=\\([^ ]*\\).*/\\1/' "$0/.fresh/.MaxTime=60/proc/$1/status" || cloudfs why >&2
            done
        done
    """
    try:
        done = net["n1"].run("sh", "-c", script, net["n1"].path(), id, seconds=5 * MOVE)
        assert done.stdout.split() == ["n3", "n2"] * 5, done.stderr
    finally:
        net["n2"].write("kill", "proc", id, "ctl", seconds=MOVE)


# What criu cannot dump: a userfaultfd, and a netlink socket with an answer that nobody read.
UNDUMPABLE = {
    "process": "import ctypes; ctypes.CDLL(None).syscall(323, 1)",
    "sandbox": "import socket; s = socket.socket(16, 3, 16); s.bind((0, 0)); "
    's.send(bytes.fromhex("1400000010000503010000000000000003020000"))',
}


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


@pytest.mark.parametrize("runtime", ["process", "sandbox"])
def test_what_cannot_be_moved_starts_anew_when_asked(
    net: Net, runtime: str, tmp_path: Path
) -> None:
    """With its output so far and its files; and it is told as what it was."""
    stay = f"exec python3 -c '{UNDUMPABLE[runtime]}; import time; print(1, flush=True); "
    program = f"echo a >>kept; cat kept; {stay}time.sleep(1000)'"
    where = ("dir " + str(tmp_path),) if runtime == "process" else ()
    id = net["n1"].begin(program, f"runtime {runtime}", *where, seconds=MOVE)
    source, target = net["n1"], net["n3"]
    eventually(lambda: expect(source.read("proc", id, "stdout"), "a\n1\n"), MOVE)
    why = source.refused("move n3", ".MaxTime=60", "proc", id, "ctl", seconds=MOVE)
    assert "it cannot be dumped" in why
    assert source.status("proc", id, "status")["node"] == "n1"
    source.run("cloudfs", "move", "-r", id, "n3", seconds=MOVE)
    status = target.status("proc", id, "status")
    assert (status["node"], status["state"], status["runtime"]) == ("n3", "running", runtime)
    assert status["addr"] == target.local.address.rpartition(":")[0]
    assert status["why"] == "restarted, since it could not be moved from n1"
    eventually(lambda: expect(target.read("proc", id, "stdout"), "a\n1\na\na\n1\n"), MOVE)
    words = target.read("proc", id, "events")
    assert "event=restarted from=n1" in words
    assert "event=moved" not in words
    target.write("kill", "proc", id, "ctl", seconds=MOVE)
