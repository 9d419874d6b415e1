"""up and down; objects outlive the daemon."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from cloudfs.cli.up import stands
from tests.persons import Session

LOOP = ("sh", "-c", "i=0; while :; do echo $i; i=$((i + 1)); sleep 0.02; done")


def daemon(own: Session) -> int:
    return int((own.state / "pid").read_text())


def test_up_tells_where_and_down_stops_it(own: Session) -> None:
    assert own.cloudfs("down").stdout == "the node is not up\n"
    assert own.cloudfs("up").stdout == f"the node is up; its tree is at {own.mount}\n"
    assert own.cloudfs("up").stdout == f"the node is up already; its tree is at {own.mount}\n"
    assert "type: cloudfs down" in own.cloudfs("up", "--trace").stderr
    assert "proc" in own.sh("ls $CLOUDFS_MOUNT").split()
    assert own.cloudfs("down").stdout == "the node is down\n"
    assert own.sh("ls $CLOUDFS_MOUNT") == ""
    assert own.cloudfs("down").stdout == "the node is not up\n"


@pytest.mark.one_person
def test_without_a_node_every_command_says_what_to_type(own: Session) -> None:
    for args in (["ps"], ["run", "true"], ["why"], ["logs", "x"], ["ns"], ["bind", "/a", "/b"]):
        done = own.cloudfs(*args, status=1)
        assert "type: cloudfs up" in done.stderr
        assert done.stderr.count("\n") == 1


def test_commands_work_over_the_socket_when_nothing_is_mounted(own: Session) -> None:
    assert "not mounted" in own.cloudfs("up", "--no-mount", "--node", "plain").stdout
    assert own.cloudfs("run", "--wait", "tr", "a-z", "A-Z", stdin="over 9P\n").stdout == "OVER 9P\n"
    id = own.cloudfs("run", "--app", "x", "sleep", "600").stdout.strip()
    assert [r["app"] for r in json.loads(own.cloudfs("ps", "--json").stdout)] == ["x"]
    done = own.cloudfs("signal", "WINK", id, status=1)
    assert "no signal" in done.stderr
    assert "write: signal TERM" in done.stderr
    assert "WINK" in own.cloudfs("why").stdout
    own.cloudfs("kill", id)
    own.cloudfs("wait", id, status=128 + 9)
    assert "no tree is mounted" in own.cloudfs("ns", status=1).stderr


@pytest.mark.one_person
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_objects_outlive_the_daemon(own: Session, how: signal.Signals) -> None:
    own.cloudfs("up")
    id = own.cloudfs("run", *LOOP).stdout.strip()
    short = own.cloudfs("run", "sh", "-c", "sleep 0.5; echo late; exit 5").stdout.strip()
    if how == signal.SIGTERM:
        own.cloudfs("down")
    else:
        own.run("kill", "-9", str(daemon(own)))
    own.run("sleep", "0.8")
    own.cloudfs("up")
    assert "code=5" in own.cloudfs("wait", short, status=5).stdout
    assert own.cloudfs("logs", short).stdout == "late\n"
    own.cloudfs("kill", id)
    lines = own.cloudfs("logs", id).stdout.splitlines()
    assert lines == [str(i) for i in range(len(lines))]  # none lost, none doubled
    assert len(lines) > 10


@pytest.mark.one_person
@pytest.mark.parametrize("explained", [False, True])
def test_down_with_objects_ends_them(own: Session, explained: bool) -> None:
    own.cloudfs("up", "--node", "n7")
    id = own.cloudfs("run", "sleep", "600").stdout.strip()
    own.cloudfs("run", "true")
    again = own.cloudfs(
        "run", "--restart", "always", "sh", "-c", "sleep 0.1; exit 3"
    ).stdout.strip()
    file = f"{own.mount}/proc/{again}/status"
    own.sh(f"for i in $(seq 200); do grep -q state=exited {file} && exit; sleep 0.05; done; exit 1")
    if explained:
        own.sh(own.cloudfs("-x", "down", "--objects").stdout)
        own.sh(
            "for i in $(seq 200); do [ -e $CLOUDFS_MOUNT/proc ] || exit 0; sleep 0.05; done; exit 1"
        )
    else:
        assert own.cloudfs("down", "--objects").stderr == ""
    own.cloudfs("up", "--node", "n7")
    own.cloudfs("wait", id, status=128 + 9)
    own.run("sleep", "1.5")
    end = own.cloudfs("status", again).stdout
    assert "state=exited" in end
    assert "killed by" in end


def test_up_clears_a_stale_mount_and_doctor_sees_it(own: Session) -> None:
    own.cloudfs("up")
    own.run("kill", "-9", str(daemon(own)))
    found = json.loads(own.cloudfs("doctor", "--json", status=1).stdout)
    stale = next(f for f in found if f["name"] == "mounts")
    assert stale["result"] == "fail"
    assert str(own.mount) in stale["says"]
    assert stale["fix"] == "cloudfs doctor --fix"
    own.cloudfs("doctor", "--fix", status=None)
    assert own.sh("ls $CLOUDFS_MOUNT") == ""
    own.cloudfs("up")
    own.run("kill", "-9", str(daemon(own)))
    own.cloudfs("up")
    assert "proc" in own.sh("ls $CLOUDFS_MOUNT").split()


@pytest.mark.one_person
def test_a_mount_stands_when_it_answers(own: Session) -> None:
    assert not stands(own.mount)
    own.cloudfs("up")
    assert stands(own.mount)
    own.run("kill", "-9", str(daemon(own)))
    deadline = time.monotonic() + 10
    while stands(own.mount):  # until the kernel has closed what the daemon had open
        assert time.monotonic() < deadline, (
            "the mount of a dead daemon is taken for one that answers"
        )
        time.sleep(0.05)
    own.cloudfs("up")
    assert stands(own.mount)


@pytest.mark.one_person
def test_what_is_no_join_file_or_root_key_does_nothing(own: Session) -> None:
    own.cloudfs("up", "--no-mount", "--node", "n1", "--listen", "127.0.0.1:25640")
    assert "type cloudfs init" in own.cloudfs("nodes").stdout
    (own.home / "rubbish").write_text("rubbish")
    (own.home / "close").write_text("cloud=local cluster=local key=00\n")
    for file, said in (
        ("rubbish", "is no join file"),
        ("close", "is no join file"),
        ("nosuch", "No such file"),
    ):
        assert said in own.cloudfs("join", f"{own.home}/{file}", status=1).stderr
    done = own.cloudfs("init", "--root", f"{own.home}/rubbish", status=1)
    assert "no authority's key" in done.stderr
    assert not list(own.state.glob("*.key"))
    done = own.cloudfs("drain", "n9", status=1)
    assert "there is no node n9; see: ls /cloud/nodes" in done.stderr


@pytest.mark.one_person
def test_a_node_that_cannot_start_tells_why(own: Session) -> None:
    done = own.cloudfs("up", "--node", "No Such Name", status=1)
    assert "is no node name" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.one_person
def test_a_mount_point_in_use_is_refused(own: Session) -> None:
    own.run("mkdir", str(own.mount))
    own.run("touch", f"{own.mount}/file")
    done = own.cloudfs("up", status=1)
    assert "is not empty" in done.stderr
    own.run("rm", "-r", str(own.mount))


@pytest.mark.one_person
def test_a_state_directory_that_cannot_be_made_is_refused(own: Session) -> None:
    own.env["CLOUDFS_STATE"] = "/proc/nowhere"
    assert "set CLOUDFS_STATE" in own.cloudfs("up", status=1).stderr


def test_doctor_checks_everything(own: Session) -> None:
    own.cloudfs("up")
    found = json.loads(own.cloudfs("doctor", "--json").stdout)
    assert {f["name"] for f in found} >= {
        "fuse",
        "fusermount3",
        "cgroups",
        "process",
        "sandbox",
        "criu",
        "vm",
        "node",
    }
    for finding in found:
        assert finding["result"] in ("ok", "warn")
        assert bool(finding["fix"]) == (finding["result"] != "ok")
    assert next(f for f in found if f["name"] == "node")["result"] == "ok"
    if os.geteuid() == 0 and own.person.uid != 0:
        assert "root" in next(f for f in found if f["name"] == "criu")["says"]


@pytest.mark.one_person
def test_trace_writes_messages_to_the_log(own: Session) -> None:
    own.cloudfs("up", "--trace", "--no-mount")
    own.cloudfs("9p", "cat", f"unix:{own.state}/sock", "version")
    for _ in range(100):
        if "Twalk" in own.log():
            break
        time.sleep(0.05)
    assert "Rread" in own.log()
