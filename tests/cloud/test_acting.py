"""One login serves every node: nodes act as the caller, and for whom nobody lent them nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.machine import Machine
from tests.cloud.net import Net, eventually, expect
from tests.cloud.views import AGREE, settle

UID = 65534
WORD = "sesame-sesame"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Three nodes, and the users ana and bob."""
    with Net({"east": "n1 n2", "west": "n3"}) as found:
        settle(found)
        for user in ("ana", "bob"):
            add = ("cloudfs", "user", "add", user)
            found["n1"].run(*add, stdin=f"{WORD}\n", seconds=20)
        eventually(lambda: [expect(node.ls("secstore/users"), ["ana", "bob"]) for node in found],
                   AGREE)  # fmt: skip
        yield found


# So that the interpreter can be read wherever it lies; the tree asks for the uid all the same.
READS = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


class Guest:
    """Somebody with an account on a node."""

    def __init__(self, node: Machine, uid: int) -> None:
        self.node, self.uid = node, uid
        self.home = node.local.state.parent / f"home{uid}"
        node.run("install", "-d", "-m", "700", "-o", str(uid), str(self.home))

    def run(self, *words: str, **more: object) -> str:
        become = ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *READS)
        env = ("env", f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.home}")
        done = self.node.run(*become, "--", *env, *words, **more)  # type: ignore[arg-type]
        return done.stdout + done.stderr

    def sh(self, line: str, **more: object) -> str:
        return self.run("sh", "-c", line, **more)

    def log_in(self, user: str) -> None:
        said = self.run("cloudfs", "login", user, stdin=f"{WORD}\n", seconds=30)
        assert f"you are {user}" in said


@pytest.fixture
def ana(net: Net) -> Iterator[Guest]:
    guest = Guest(net["n1"], UID)
    guest.log_in("ana")
    yield guest
    guest.run("cloudfs", "logout", status=None)


def begin(guest: Guest, node: str, program: str) -> str:
    """An object of the guest's on a node."""
    id = guest.sh("cat $cloud/proc/clone").strip()
    ctl = f"$cloud/proc/{id}/ctl"
    line = f"exec sh -c {ndb.quote(program)}"
    guest.sh(f"echo on {node} >{ctl} && cat >{ctl} || cloudfs why", stdin=f"{line}\n", seconds=20)
    return id


def test_one_login_serves_every_node(net: Net, ana: Guest) -> None:
    id = begin(ana, "n3", "echo from $CLOUDFS_NODE; sleep 600")
    there = net["n3"]
    eventually(lambda: expect(there.status("proc", id, "status")["user"], "ana"), AGREE)
    far = f"$cloud/nodes/n3/proc/{id}"
    eventually(lambda: expect(ana.sh(f"cat {far}/stdout"), "from n3\n"), AGREE)
    bob = Guest(net["n2"], UID)
    bob.log_in("bob")
    try:
        assert "ermission denied" in bob.sh(f"cat {far}/stdout", status=1)
        assert "ermission denied" in bob.sh(f"echo kill > {far}/ctl", status=None)
    finally:
        bob.run("cloudfs", "logout")
    ana.sh(f"echo kill > {far}/ctl", seconds=20)
    eventually(lambda: expect(there.status("proc", id, "status")["state"], "exited"), AGREE)


def test_what_runs_for_a_user_acts_for_the_user(net: Net, ana: Guest) -> None:
    """An object on n3, which n1 placed there for ana, starts one on n2."""
    program = (
        "id=$(cat /cloud/proc/clone); echo $id; cd /cloud/proc/$id;"
        " echo on n2 >ctl && echo exec sleep 600 >ctl; sleep 600"
    )
    id = begin(ana, "n3", program)
    far = f"$cloud/nodes/n3/proc/{id}/stdout"
    eventually(lambda: expect(bool(ana.sh(f"cat {far}").strip()), True), AGREE)
    other = ana.sh(f"cat {far}").strip()
    eventually(lambda: expect(net["n2"].status("proc", other, "status")["user"], "ana"), AGREE)
    assert net["n2"].status("proc", other, "status")["node"] == "n2"
    for one in (other, id):
        ana.sh(f"echo kill > $cloud/proc/{one}/ctl", seconds=20)


def test_who_has_not_logged_in_is_nobody_on_every_node(net: Net) -> None:
    guest = Guest(net["n2"], UID - 1)
    assert guest.sh("cat $cloud/user") == "none\n"
    assert "ermission denied" in guest.sh("cat $cloud/proc/clone || cloudfs why", status=None)


def test_who_is_logged_in_is_who_types_it(net: Net, ana: Guest) -> None:
    """A group of ana's, by her login's name and not by the account's, serves bob in a mount."""
    id = begin(ana, "n3", "echo from $CLOUDFS_NODE; sleep 600")
    ana.sh("cloudfs group add web bob", stdin=f"{WORD}\n", seconds=20)
    ana.sh(f"echo group web > $cloud/proc/{id}/ctl", seconds=20)
    bob = Guest(net["n2"], UID)
    bob.log_in("bob")
    try:
        path = f"$cloud/proc/{id}"
        eventually(lambda: expect(bob.sh(f"cat {path}/stdout", status=None), "from n3\n"), AGREE)
        bob.sh(f"echo kill > {path}/ctl", seconds=20)
        there = net["n3"]
        eventually(lambda: expect(there.status("proc", id, "status")["state"], "exited"), AGREE)
    finally:
        bob.run("cloudfs", "logout")
