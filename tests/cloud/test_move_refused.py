"""What cannot be moved, kept or brought back: each is refused with a reason that says so and
what to do, and the object runs on as if nobody had asked."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, SLACK, settle

SOON = 20.0 * SLACK  # seconds for a move or a refusal on a loaded machine
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net(3) as found:
        yield settle(found)


@pytest.fixture(scope="module")
def counter(net: Net) -> Iterator[str]:
    """One on n1 that all try in vain to move: no number is missing at the end."""
    id = net["n1"].begin(COUNT, "limit cpu=0.1", seconds=SOON)
    yield id
    lines = runs_on(net, id)
    assert lines == [str(number) for number in range(len(lines))]
    net["n1"].write("kill", "proc", id, "ctl")


def runs_on(net: Net, id: str) -> list[str]:
    """It is on n1 and goes on; its output."""
    status = net["n1"].status("proc", id, "status")
    assert (status["node"], status["state"]) == ("n1", "running")
    before = net["n1"].read("proc", id, "stdout").split()

    def more() -> list[str]:
        lines = net["n1"].read("proc", id, "stdout").split()
        assert len(lines) > len(before)
        return lines

    return eventually(more, SOON)


def refused(node: Machine, id: str, line: str, *words: str) -> str:
    """The line is refused for a reason with these words, which it gives."""
    why = node.refused(line, "proc", id, "ctl", seconds=SOON)
    for word in words:
        assert word in why, why
    return why


# --- where to -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("move nowhere", ["ctl: no node 'nowhere' was found", "ls /cloud/nodes"]),
        ("move n1", ["it is on node n1 already"]),
        ("move", ["write: move [-r] NODE|EXPR"]),
        ("move cluster=nowhere", ["cluster=nowhere"]),
        ("move cpus>>2", ["cpus>>2"]),
        ("move n2/x", ["n2/x"]),
        ("copy n2 0", ["1 to 64 copies"]),
    ],
)
def test_to_where_nothing_is(net: Net, counter: str, line: str, words: list[str]) -> None:
    refused(net["n1"], counter, line, *words)
    runs_on(net, counter)


def test_to_a_full_node(net: Net, counter: str) -> None:
    cpus = net["n2"].read("nodes/n2/cpus").strip()
    other = net["n2"].begin("exec sleep 1000", f"limit cpu={cpus}", seconds=SOON)
    try:
        refused(net["n1"], counter, "move n2", "n2: this node has 0 cores unreserved")
        runs_on(net, counter)
    finally:
        net["n2"].write("kill", "proc", other, "ctl")


def test_to_a_drained_node(net: Net, counter: str) -> None:
    def drained(*names: str) -> None:
        # A node's own status is of now; this is what the others go by, which hear of it later.
        expect(net["n1"].ls("query", "state=drained"), list(names))

    net["n2"].write("drain for repair", "nodes/n2/ctl")
    try:
        eventually(lambda: drained("n2"), AGREE)
        refused(net["n1"], counter, "move n2", "for repair")
        runs_on(net, counter)
    finally:
        net["n2"].write("undrain", "nodes/n2/ctl")
    moves = net["n1"].begin("exec sleep 1000", "limit cpu=0.1", seconds=SOON)
    net["n1"].write("move n2", "proc", moves, "ctl", seconds=SOON)  # at once
    net["n2"].write("kill", "proc", moves, "ctl")
    eventually(drained, AGREE)


# --- of what --------------------------------------------------------------------------


def test_of_one_without_processes_or_that_is_stopped(net: Net) -> None:
    node = net["n1"]
    id = node.read("proc/clone").strip()
    refused(node, id, "move n2", f"{id} is new", "it works while running")
    for line in ("runtime process", "on n1", "exec sleep 1000"):
        node.write(line, "proc", id, "ctl", seconds=SOON)
    node.write("stop", "proc", id, "ctl")
    for line in ("move n2", "checkpoint"):
        refused(node, id, line, f"{id} is stopped")
    node.write("kill", "proc", id, "ctl")
    for line in ("move n2", "copy n2", "checkpoint"):
        refused(node, id, line, f"{id} is exited")
    assert node.status("proc", id, "status")["state"] == "exited"


HOLDS = {
    "a device": ("f = open('/dev/fuse', 'rb')", "it has a file open that cannot be dumped"),
    "a tunnel": ("f = open('/dev/net/tun', 'rb')", "it has a network tunnel of this node"),
    "a ring": (
        "f = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(256))",
        "uses io_uring",
    ),
    "a fault handler": ("f = ctypes.CDLL(None).syscall(323, 1)", "uses userfaultfd"),
    "a file of this node": ("f = open('/run/own', 'w')", "its file /run/own is not there"),
    "a mount": (
        "ctypes.CDLL(None).unshare(0x20000); os.system('mount -t tmpfs none /mnt')",
        "it mounted something",
    ),
    "a stranger's socket": (
        "f = socket.socket(socket.AF_UNIX); f.connect(os.environ['SOCKET'])",
        "it talks over a unix socket to a process outside",
    ),
    "a daemon": (
        "os.fork() or (os.setsid(), os.fork() and os._exit(0), time.sleep(1000)); os.wait()",
        "has left its parent; runtime sandbox can be dumped all the same",
    ),
}


def program(node: Machine, text: str, **env: str) -> str:
    """One that runs Python and says `up`."""
    lines = f"import ctypes, os, socket, time\n{text}\nprint('up', flush=True)\nx = input()\n"
    lines += "print('on with', x, flush=True)\ntime.sleep(1000)\n"
    id = node.read("proc/clone").strip()
    setup = [f"env {name}={ndb.quote(word)}" for name, word in env.items()]
    run = f"exec python3 -c {ndb.quote(f'exec({lines!r})')}"
    for line in ("runtime process", "on n1", "limit cpu=0.1", *setup, run):
        node.write(line, "proc", id, "ctl", seconds=SOON)
    eventually(lambda: expect(node.read("proc", id, "stdout"), "up\n"), SOON)
    return id


@pytest.fixture
def stranger() -> Iterator[str]:
    """The path of a unix socket at which a process of none of the nodes listens."""
    with socket.socket(socket.AF_UNIX) as found:
        path = f"{tempfile.mkdtemp()}/socket"
        found.bind(path)
        found.listen()
        yield path


@pytest.mark.parametrize("what", HOLDS)
def test_of_one_that_holds(net: Net, stranger: str, what: str) -> None:
    node = net["n1"]
    text, reason = HOLDS[what]
    id = program(node, text, SOCKET=stranger)
    try:
        why = refused(node, id, "move n2", reason)
        assert "it cannot be dumped" in why or "node n2: it cannot be restored" in why
        node.write("it", "proc", id, "stdin")
        eventually(lambda: expect(node.read("proc", id, "stdout"), "up\non with it\n"), SOON)
        assert node.status("proc", id, "status")["state"] == "running"
    finally:
        node.write("kill", "proc", id, "ctl")


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_tcp_connection_is_closed_and_the_object_moves(net: Net, where: str) -> None:
    """As if its peer had gone: also one between two parts of itself."""
    connect = "l.getsockname()" if where == "here" else "('10.77.0.3', 5640)"
    text = f"l = socket.create_server(('127.0.0.1', 0)); s = socket.create_connection({connect})"
    text += "; a = l.accept()" if where == "here" else ""
    id = program(net["n1"], text)
    net["n1"].write("move n2", "proc", id, "ctl", seconds=SOON)
    assert net["n1"].run("cloudfs", "why", status=None).stdout.count(id) == 0
    net["n2"].write("it", "proc", id, "stdin")
    eventually(lambda: expect(net["n2"].read("proc", id, "stdout"), "up\non with it\n"), SOON)
    net["n2"].write("kill", "proc", id, "ctl")


def test_two_moves_at_once(net: Net) -> None:
    id = net["n1"].begin(COUNT, seconds=SOON)
    # From two mounts, since the kernel has writes of one mount to one file wait in turn.
    line = f"echo move n2 >$cloud/.MaxTime=60/proc/{id}/ctl || cloudfs why"
    asking = {
        name: net[name].start_command("sh", "-c", line, stdout=-1, stderr=-3)
        for name in ("n1", "n3")
    }
    said = [one.communicate(timeout=SOON)[0] for one in asking.values()]
    assert sorted(map(bool, said)) == [False, True], said
    late = "".join(said)  # the other one may be done before it comes
    assert f"{id} is moving" in late or "is on node n2 already" in late, said
    status = net["n2"].status("proc", id, "status")
    assert (status["node"], status["state"]) == ("n2", "running")
    net["n2"].write("kill", "proc", id, "ctl")


# --- no space -------------------------------------------------------------------------


@contextlib.contextmanager
def small(node: Machine, place: Path, size: str) -> Iterator[None]:
    """A directory of a node's has only so much space."""
    node.run("mkdir", "-p", str(place))
    node.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "none", str(place))
    try:
        yield
    finally:
        node.run("umount", "-l", str(place))


def test_no_space_for_its_image_here(net: Net, counter: str) -> None:
    with small(net["n1"], net["n1"].local.state / "objects" / counter / "checkpoint", "4m"):
        for line in ("move n2", "copy n2", "checkpoint"):
            refused(net["n1"], counter, line, "its image takes", "make space in the state")
    runs_on(net, counter)


def test_no_space_for_its_image_there(net: Net) -> None:
    id = program(net["n1"], "f = os.urandom(8 << 20)")
    with small(net["n2"], net["n2"].local.state / "objects", "4m"):
        refused(net["n1"], id, "move n2", "its image takes", "make space in the state")
    net["n1"].write("it", "proc", id, "stdin")
    eventually(lambda: expect(net["n1"].read("proc", id, "stdout"), "up\non with it\n"), SOON)
    net["n1"].write("move n2", "proc", id, "ctl", seconds=SOON)  # once there is
    net["n2"].write("kill", "proc", id, "ctl")


# --- images ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a/b", ".a", "..", "/tmp/a", "''", "'a\nb'", "a" * 65, "a\tb' '", "a b"]
)
def test_names_that_cannot_be(net: Net, counter: str, name: str) -> None:
    why = refused(net["n1"], counter, f"checkpoint {name}")
    assert why.strip()
    assert net["n1"].ls("proc", counter, "checkpoint") == []
    if name[0] != "/":
        assert refused(net["n1"], counter, f"restore {name}").strip()
    runs_on(net, counter)


def _flip(image: Path) -> None:
    path = max(image.iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(image: Path) -> None:
    path = max(image.iterdir(), key=lambda one: one.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte": (_flip, "has changed"),
    "an end": (_cut, "has changed"),
    "a file": (lambda image: next(image.glob("core-*")).unlink(), "is not whole"),
    "the manifest": (lambda image: (image / "manifest").write_text("{}\n"), "manifest"),
    "the sums": (lambda image: (image / "sums").unlink(), "is not whole"),
    "all sums": (lambda image: (image / "sums").write_text(""), "has no manifest"),
    "a path": (lambda image: (image / "sums").write_text("00  ../x\n"), "sums name"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_of_an_image_that_is_damaged(net: Net, counter: str, what: str) -> None:
    """It is looked at before what runs is killed."""
    node, (damage, reason) = net["n1"], DAMAGE[what]
    node.write("checkpoint kept", "proc", counter, "ctl", seconds=SOON)
    damage(node.local.state / "objects" / counter / "checkpoint" / "kept")
    try:
        refused(node, counter, "restore kept", reason)
    finally:
        node.run("rmdir", node.path("proc", counter, "checkpoint", "kept"))
    runs_on(net, counter)


def test_of_an_image_that_is_not_there(net: Net, counter: str) -> None:
    node = net["n1"]
    refused(node, counter, "restore unknown", "there is no image unknown")
    refused(node, counter, "restore /nowhere", "there is no image nowhere")
    node.write("checkpoint kept", "proc", counter, "ctl", seconds=SOON)
    node.run("rmdir", node.path("proc", counter, "checkpoint", "kept"))
    refused(node, counter, "restore kept", "there is no image kept")
    runs_on(net, counter)


def test_nothing_is_held_after_all_that(net: Net, counter: str) -> None:
    """The counter has its part of n1, and nobody anything of the others."""

    def free() -> None:
        for name, held in (("n1", 0.1), ("n2", 0.0), ("n3", 0.0)):
            status = net[name].status("nodes", name, "status")
            left = float(status["cpus"]) - float(status["cpu.unreserved"])
            assert abs(left - held) < 1e-6, f"{name} holds {left} cores"

    eventually(free, 40 + AGREE, every=1)
    for name in ("n2", "n3"):
        assert not list((net[name].local.state / "objects").glob("*/checkpoint/.*"))


def test_to_a_node_that_is_down(net: Net, counter: str) -> None:
    net["n3"].kill()
    refused(net["n1"], counter, "move n3", "n3")
    runs_on(net, counter)
