"""The everyday tools on the whole of a node's tree, with objects in it: each ends by
itself or when it is told to, and none makes, changes or ends an object."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from tests.cloud.test_outlive import file, start
from tests.persons import Person, Session, open_folder

# name: (shell line, its exit status, what it prints among other things)
TOOLS = {
    "ls": ("ls -lR .", 0, "by-label:"),
    "find": ("find . -type f -name status", 0, "/status"),
    "find-newer": ("find . -newer / -size +0 -ls", 0, "stdout"),
    "grep": ("grep -rl 'word 1' .", 0, "./proc/"),
    "du": ("du -a .", 0, "./view/by-app/web"),
    "cp": ("cp -r . $HOME/copy && cat $HOME/copy/version", 0, "cloudfs"),
    "tar": ("tar -cf $HOME/tar . && tar -tf $HOME/tar", 0, "stdout"),
    "diff": ("diff -r proc/$id nodes/*/proc/$id", 0, ""),
    "md5sum": ("md5sum $(find proc/$id -maxdepth 1 -type f)", 0, "/stdin"),
    "rm": ("rm -rf proc/$id 2>&1", 1, "Operation not permitted"),
    "rm-all": ("rm -rf proc view nodes 2>&1", 1, "Operation not permitted"),
    "rmdir": ("rmdir proc/$id 2>&1", 1, "Operation not permitted"),
    "mkdir": ("mkdir proc/new 2>&1", 1, "Operation not permitted"),
    "touch": ("touch proc/new 2>&1", 1, "Operation not permitted"),
    "mv": ("mv proc/$id proc/new 2>&1", 1, "Operation not permitted"),
    "ln": ("ln -s proc new 2>&1", 1, "Operation not permitted"),
    "sed": ("sed -i s/a/b/ proc/$id/status 2>&1", 4, "Operation not permitted"),
    "dd": ("dd if=/dev/zero of=proc/$id/ctl count=1 2>&1", 1, "Invalid argument"),
    "tail": ("timeout 1 tail -n 1 -f proc/$id/stdout", 124, "word 9"),
    "less": ('echo q | script -qec "less -e proc/$id/stdout" /dev/null', 0, "word 1"),
    "watch": (
        'script -qec "timeout --foreground -s INT 1 watch -t -n 0.2 cat proc/$id/app" /dev/null',
        None,
        "web",
    ),
    "follow": ("timeout 1 cat .follow/proc/$id/stdout", 124, "word 9"),
    "events": ("timeout 1 cat .follow/events", 124, "event=exec"),
}


SCRIPT = "i=0; while [ $i -lt 9 ]; do i=$((i+1)); echo word $i; done; exec sleep 1000"


@pytest.fixture(scope="module")
def seen(person: Person) -> Iterator[tuple[Session, str]]:
    """One cloud for all of them, and an object in it that has written what it will."""
    cloud = Session(person, open_folder() / "home")
    cloud.env["TERM"] = "xterm"
    cloud.cloudfs("up")
    id = start(cloud, SCRIPT, "app web", "label tier=front", "runtime process")
    cloud.sh(f"until grep -q 'word 9' {cloud.mount}/proc/{id}/stdout; do sleep 0.05; done")
    yield cloud, id
    cloud.cloudfs("down", "--objects", status=None)


@pytest.mark.parametrize("tool", TOOLS)
def test_looking_does_nothing(seen: tuple[Session, str], tool: str) -> None:
    cloud, id = seen
    line, status, said = TOOLS[tool]
    before = cloud.sh(f"ls {cloud.mount}/proc")
    done = cloud.run("sh", "-c", f"id={id}; cd {cloud.mount} && {line}", status=status)
    assert said in done.stdout
    assert cloud.sh(f"ls {cloud.mount}/proc") == before
    assert ndb.parse(file(cloud, "proc", id, "status"))["state"] == "running"
    assert "Traceback" not in cloud.log()
