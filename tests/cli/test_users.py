"""Two users of one node: each runs objects, neither touches the other's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.persons import Person, Session, nobody, open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as two users, which takes root")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Session, Session]]:
    """root, whose node it is, and nobody, who has none and uses root's."""
    root = Session(Person("root", 0), open_folder() / "home")
    root.cloudfs("up")
    with nobody(open_folder()) as person:  # its mount name space is a copy made now
        other = Session(person, open_folder() / "home")
        other.env |= {name: root.env[name] for name in ("CLOUDFS_STATE", "CLOUDFS_MOUNT")}
        yield root, other
    root.cloudfs("down", "--objects")


def test_each_runs_objects_of_its_own(pair: tuple[Session, Session]) -> None:
    root, other = pair
    done = other.cloudfs("run", "--wait", "sh", "-c", "echo mine; id -u")
    assert done.stdout.startswith("mine\n")
    id = other.cloudfs("run", "sleep", "600").stdout.strip()
    record = ndb.parse(root.cloudfs("status", id).stdout)
    assert (record["user"], record["runtime"]) == ("nobody", "sandbox")
    root.cloudfs("kill", id)  # the node's owner may
    other.cloudfs("wait", id, status=128 + 9)


def test_what_is_anothers_is_closed_and_says_so(pair: tuple[Session, Session]) -> None:
    root, other = pair
    id = root.cloudfs("run", "sh", "-c", "echo secret; exec sleep 600").stdout.strip()
    assert id in other.cloudfs("ps").stdout  # that it runs is no secret
    for args in (("kill", id), ("stop", id), ("logs", id), ("signal", "TERM", id)):
        done = other.cloudfs(*args, status=1)
        assert "ermission denied" in done.stderr or "may not" in done.stderr
        assert "secret" not in done.stdout + done.stderr
    assert ndb.parse(root.cloudfs("status", id).stdout)["state"] == "running"
    root.cloudfs("kill", id)


def test_reasons_are_each_users_own(pair: tuple[Session, Session]) -> None:
    root, other = pair
    mine = other.cloudfs("run", "sleep", "600").stdout.strip()
    other.cloudfs("signal", "WINK", mine, status=1)
    assert "WINK" in other.cloudfs("why").stdout
    assert "WINK" not in root.cloudfs("why", "--all").stdout
    other.cloudfs("kill", mine)


def test_the_node_is_not_a_users_to_stop(pair: tuple[Session, Session]) -> None:
    _, other = pair
    assert "is not yours; type it as root" in other.cloudfs("down", status=1).stderr


def test_the_runtime_for_the_owner_is_refused_to_others(pair: tuple[Session, Session]) -> None:
    _, other = pair
    done = other.cloudfs("run", "--runtime", "process", "true", status=1)
    assert "use runtime sandbox" in done.stderr


def test_what_runs_for_another_sees_the_cloud_as_his(pair: tuple[Session, Session]) -> None:
    _, other = pair
    done = other.cloudfs("run", "--wait", "sh", "-c", "cat /cloud/user; ls /cloud")
    assert done.stdout.startswith("nobody\n")
    assert "proc\n" in done.stdout


def test_nobody_gets_past_the_ceilings_of_the_node(pair: tuple[Session, Session]) -> None:
    root, other = pair
    ctl = f"{root.mount}/nodes/*/ctl"
    root.sh(f"echo most pids=20 | tee {ctl}")
    try:
        bomb = "i=0; while [ $i -lt 60 ]; do sleep 600 & i=$((i+1)); done; echo all 60"
        id = other.cloudfs("run", "sh", "-c", f"sh -c '{bomb}'; sleep 600").stdout.strip()
        refused = other.sh(f"echo limit pids=100 > {root.mount}/proc/{id}/ctl || cloudfs why")
        assert "lets an object have 20" in refused
        count = f"grep -c . {root.mount}/proc/{id}/pids"
        root.sh(f"while [ $({count}) -lt 15 ]; do sleep 0.1; done", seconds=20)
        assert int(root.sh(f"sleep 0.5; {count}")) <= 20
        assert other.cloudfs("logs", id).stdout == ""
        other.cloudfs("kill", id)
    finally:
        root.sh(f"echo most pids=none | tee {ctl}")


def test_the_socket_keeps_the_same_permissions(pair: tuple[Session, Session]) -> None:
    root, other = pair
    id = root.cloudfs("run", "sleep", "600").stdout.strip()
    address = f"unix:{root.state}/sock"
    done = other.cloudfs("9p", "cat", address, f"proc/{id}/stdout", status=1)
    assert "ermission denied" in done.stderr
    other.cloudfs("9p", "write", address, f"proc/{id}/ctl", stdin="kill\n", status=1)
    assert ndb.parse(root.cloudfs("status", id).stdout)["state"] == "running"
    root.cloudfs("kill", id)
