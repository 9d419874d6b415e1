"""-x prints shell lines that do the same: they are run here, by sh."""

from __future__ import annotations

import pytest

from cloudfs import ndb
from tests.persons import Session


def lines(cloud: Session, *args: str) -> str:
    return cloud.cloudfs("-x", *args).stdout


def test_nothing_is_done(cloud: Session) -> None:
    before = cloud.cloudfs("ps", "--all").stdout.count("\n")
    assert lines(cloud, "run", "sleep", "60").splitlines() == [
        f"id=$(cat {cloud.mount}/proc/clone)",
        f"echo exec sleep 60 > {cloud.mount}/proc/$id/ctl",
        "echo $id",
    ]
    assert cloud.cloudfs("ps", "--all").stdout.count("\n") == before


def test_run_and_verbs(cloud: Session) -> None:
    script = lines(
        cloud, "run", "--app", "it's", "--env", "A=$x \\n", "sh", "-c", "echo $A; exec sleep 600"
    )
    id = cloud.sh(script).strip()
    assert cloud.sh(f"head -n 1 {cloud.mount}/.follow/proc/{id}/stdout").startswith("$x")
    assert ndb.parse(cloud.sh(lines(cloud, "status", id)))["app"] == "it's"
    cloud.sh(lines(cloud, "stop", id))
    assert " state=stopped " in cloud.cloudfs("status", id).stdout
    cloud.sh(lines(cloud, "start", id))
    assert id in cloud.sh(lines(cloud, "ps"))
    cloud.sh(lines(cloud, "signal", "HUP", id))
    cloud.sh(lines(cloud, "wait", id), status=128 + 1)
    assert cloud.sh(lines(cloud, "logs", id)) == cloud.cloudfs("logs", id).stdout


@pytest.mark.one_person
@pytest.mark.parametrize("program", ["exit 3", "kill -TERM $$", "exit 0"])
def test_waiting_ends_as_the_object_did(cloud: Session, program: str) -> None:
    args = ("run", "--wait", "sh", "-c", f"tr a-z A-Z; echo oops >&2; {program}")
    real = cloud.cloudfs(*args, stdin="abc\n", status=None)
    told = cloud.run("sh", "-c", lines(cloud, *args), stdin="abc\n", status=None)
    assert (told.stdout, told.stderr) == ("ABC\n", "oops\n")
    assert (told.stdout, told.returncode) == (real.stdout, real.returncode)


@pytest.mark.one_person
def test_why_and_ns(cloud: Session) -> None:
    cloud.cloudfs("signal", "WINK", "q" * 16, status=1)
    assert cloud.sh(lines(cloud, "why")).partition(" ")[2] == cloud.cloudfs("why").stdout
    assert cloud.sh(lines(cloud, "ns")) == cloud.cloudfs("ns").stdout


def test_bind_and_unmount(cloud: Session) -> None:
    root = cloud.mount
    cloud.sh(lines(cloud, "bind", f"{root}/view", f"{root}/nodes"))
    assert "by-user" in cloud.sh(f"ls {root}/nodes").split()
    cloud.sh(lines(cloud, "unmount", f"{root}/nodes"))
    assert "by-user" not in cloud.sh(f"ls {root}/nodes").split()


@pytest.mark.one_person
def test_up_and_down(own: Session) -> None:
    own.sh(own.cloudfs("-x", "up").stdout)
    own.sh("for i in $(seq 200); do [ -e $CLOUDFS_MOUNT/proc ] && exit; sleep 0.05; done; exit 1")
    assert "up already" in own.cloudfs("up").stdout
    running, stopped = (own.cloudfs("run", "sleep", "600").stdout.strip() for _ in range(2))
    own.cloudfs("stop", stopped)
    own.sh(own.cloudfs("-x", "down", "--objects").stdout)
    own.sh("for i in $(seq 200); do [ -e $CLOUDFS_MOUNT/proc ] || exit 0; sleep 0.05; done; exit 1")
    own.cloudfs("up")
    for id in (running, stopped):
        assert ndb.parse(own.cloudfs("status", id).stdout)["exit"] == "KILL"
