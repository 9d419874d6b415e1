"""Verbs for whole groups by the command line: with the ctl and progress of a view."""

from __future__ import annotations

import pytest

from cloudfs import ndb
from cloudfs.cli.groups import bar, group_of
from cloudfs.errors import CloudError
from tests.persons import Session


def test_words_that_name_groups() -> None:
    assert group_of("app=web") == "view/by-app/web"
    assert group_of("label=tier=front") == "view/by-label/tier=front"
    assert group_of("q" * 16) == ""
    assert group_of("arch=x86_64") == ""
    for word in ("app=", "app=a/b", "app=..", "node=.x"):
        with pytest.raises(CloudError, match="names no group"):
            group_of(word)


@pytest.mark.parametrize("width", [20, 60, 200])
@pytest.mark.parametrize("done", [0, 1, 7])
def test_a_bar_fills_its_line_and_no_more(width: int, done: int) -> None:
    head = {
        **{"group": "view/by-app/we\x1bb", "verb": "move n2", "state": "running", "total": "7"},
        **{"done": str(done), "failed": "0", "skipped": "0", "left": str(7 - done)},
        "seconds": "3.5",
    }
    text = bar(head, width)
    assert len(text) in (width - 1, width)
    assert "\x1b" not in text
    assert text.count("#") == 0 or done
    if width > 20:
        assert f"{done}/7" in text


def test_verbs_of_a_group(cloud: Session) -> None:
    ids = cloud.cloudfs("run", "-n", "3", "--app", "herd", "sleep", "600").stdout.split()
    cloud.cloudfs("stop", "app=herd")
    states = {ndb.parse(cloud.cloudfs("status", id).stdout)["state"] for id in ids}
    assert states == {"stopped"}
    cloud.sh("echo start > $CLOUDFS_MOUNT/view/by-app/herd/ctl")
    head, *items = cloud.sh("cat $CLOUDFS_MOUNT/view/by-app/herd/progress").splitlines()
    assert ndb.parse(head)["done"] == "3"
    assert {ndb.parse(item)["id"] for item in items} == set(ids)
    assert cloud.sh("cat $CLOUDFS_MOUNT/.follow/view/by-app/herd/progress").endswith(head + "\n")
    assert "there is no node 'n9'" in cloud.cloudfs("move", "app=herd", "n9", status=1).stderr
    # There is no other node: the first failure ends it, all of them run on.
    done = cloud.cloudfs("move", "app=herd", "label.gpu=a100", status=1)
    assert "move label.gpu=a100: 3 failed" in done.stdout
    assert done.stderr.count("  failed  ") == 3
    assert {ndb.parse(cloud.cloudfs("status", id).stdout)["state"] for id in ids} == {"running"}
    assert "--undo takes a group" in cloud.cloudfs("move", "--undo", "n9", status=1).stderr
    lines = cloud.cloudfs("-x", "move", "-k", "app=herd", "n9").stdout.splitlines()
    assert lines == [
        f"echo move -k n9 > {cloud.mount}/view/by-app/herd/ctl",
        f"cat {cloud.mount}/.follow/view/by-app/herd/progress",
    ]
    assert "-k is for a group" in cloud.cloudfs("move", "-k", ids[0], "n9", status=1).stderr
    cloud.cloudfs("kill", "app=herd")
    states = {ndb.parse(cloud.cloudfs("status", id).stdout)["state"] for id in ids}
    assert states == {"exited"}
    done = cloud.cloudfs("stop", "app=nosuch", status=1)
    assert "no object has app nosuch" in done.stderr


@pytest.mark.one_person
def test_balance_is_a_line_in_the_nodes_ctl(cloud: Session) -> None:
    node = cloud.sh("ls $CLOUDFS_MOUNT/nodes | grep -v help").strip()

    def status() -> str:
        return ndb.parse(cloud.sh(f"cat $CLOUDFS_MOUNT/nodes/{node}/status"))["balance"]

    assert status() == "off"
    cloud.cloudfs("balance", "on", "load=0.5", node)
    assert status() == "on load=0.5 gain=0.2 rest=600"
    assert "a number from 0.05 to 1000" in cloud.cloudfs("balance", "on", "load=0", status=1).stderr
    cloud.cloudfs("balance", "off")
    assert status() == "off"
