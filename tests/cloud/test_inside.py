"""What an object sees and may do through the /cloud of its sandbox, and what it may not."""

from __future__ import annotations

import time

from cloudfs import ndb
from tests.cloud.test_outlive import file, start
from tests.persons import Session


def until(cloud: Session, wanted: str, *parts: str) -> str:
    deadline = time.monotonic() + 15
    while wanted not in (text := file(cloud, *parts)):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    return text


def runtime(cloud: Session, id: str) -> str:
    return ndb.parse(file(cloud, "proc", id, "status"))["runtime"]


def test_an_object_may_act_on_itself(cloud: Session) -> None:
    script = (
        "p=${CLOUDFS_TEST_PLACE:-/cloud}/proc/$CLOUDFS_ID; echo label phase=two > $p/ctl;"
        "cat $p/labels; echo note done > $p/ctl; sleep 1000"
    )
    id = start(cloud, script, *place(cloud))
    assert until(cloud, "phase=two", "proc", id, "stdout") == "phase=two\n"
    assert "text=done" in until(cloud, "text=done", "proc", id, "note")
    assert file(cloud, "view/by-label/phase=two", id, "labels") == "phase=two\n"


def place(cloud: Session) -> list[str]:
    """Where an object that is in no sandbox finds the tree."""
    return [] if cloud.person.uid == 0 else [f"env CLOUDFS_TEST_PLACE={cloud.mount}"]


def test_binds_of_a_session_go_with_the_object(cloud: Session) -> None:
    cloud.cloudfs("bind", f"{cloud.mount}/view/by-user", f"{cloud.mount}/view/by-app")
    id = start(cloud, "ls /cloud/view/by-app 2>&1; sleep 1000")
    assert "bind /cloud/view/by-user /cloud/view/by-app" in file(cloud, "proc", id, "ns")
    if runtime(cloud, id) == "sandbox":
        until(cloud, cloud.person.name, "proc", id, "stdout")
    cloud.cloudfs("unmount", f"{cloud.mount}/view/by-app")


def test_messages_are_traced_for_the_owner(cloud: Session) -> None:
    node = cloud.sh(f"ls {cloud.mount}/nodes | grep -v help").strip()
    reader = cloud.start(
        "timeout", "10", "head", "-n", "4", f"{cloud.mount}/.follow/nodes/{node}/trace", stdout=-1
    )
    deadline = time.monotonic() + 8
    while reader.poll() is None and time.monotonic() < deadline:
        cloud.cloudfs("9p", "cat", str(cloud.state / "sock"), "version")
    text = reader.communicate(timeout=10)[0]
    assert "Tversion" in text
    assert "Rversion" in text


def test_the_daemon_does_not_wait_for_its_own_mount(cloud: Session) -> None:
    id = start(cloud, "pwd", "runtime process", f"dir {cloud.mount}/nodes")
    assert until(cloud, "nodes", "proc", id, "stdout") == f"{cloud.mount}/nodes\n"
    for name in (f"{cloud.mount}/version", f"{cloud.mount}/proc/nosuch"):
        line = f"echo runtime process > $p; echo exec {name} > $p"
        done = cloud.run(
            "sh",
            "-c",
            f"p={cloud.mount}/proc/$(cat {cloud.mount}/proc/clone)/ctl; {line}",
            status=None,
        )
        assert done.returncode != 0
    assert file(cloud, "version").startswith("cloudfs")
