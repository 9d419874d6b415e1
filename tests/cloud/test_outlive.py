"""Objects outlive the daemon: nothing they write and no way they end is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cloudfs import ndb
from cloudfs.tree.idmap import user_of
from tests.persons import Session

COUNT = "i=0; while [ $i -lt {} ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit {}"


def start(cloud: Session, script: str, *setup: str) -> str:
    """An object that runs a script, made through the mount, as a shell would."""
    lines = "".join(f"echo {line} > $p/ctl; " for line in setup)
    text = "cd {0}; id=$(cat proc/clone); p=proc/$id; {1}cat > $p/ctl && echo $id"
    line = f"exec sh -c {ndb.quote(script)}"
    return cloud.run("sh", "-c", text.format(cloud.mount, lines), stdin=f"{line}\n").stdout.strip()


def pid_of(cloud: Session) -> int:
    return int((cloud.state / "pid").read_text())


def kill_daemon(cloud: Session) -> None:
    """As a fault would: it gets no chance to say anything."""
    pid = pid_of(cloud)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process is there and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def file(cloud: Session, *parts: str) -> str:
    return cloud.sh(f"timeout 30 cat {cloud.mount.joinpath(*parts)}")


def mounts(cloud: Session) -> list[str]:
    return [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(cloud.mount) in line
    ]


def test_killed_at_random_points_while_objects_write(cloud: Session) -> None:
    chance = random.Random(7)
    wanted = {
        start(cloud, COUNT.format(count, code)): (count, code)
        for count, code in ((60, 0), (120, 3), (180, 0), (240, 7))
    }
    for _ in range(4):
        time.sleep(chance.uniform(0.05, 0.6))
        kill_daemon(cloud)
        time.sleep(chance.uniform(0.0, 0.4))
        cloud.cloudfs("up")
    for id, (count, code) in wanted.items():
        end = ndb.parse(file(cloud, ".follow/proc", id, "wait"))
        assert (end["code"], end["why"]) == (str(code), "")
        assert file(cloud, "proc", id, "stdout") == "".join(f"{n + 1}\n" for n in range(count))
        status = ndb.parse(file(cloud, "proc", id, "status"))
        assert (status["state"], status["exit"]) == ("exited", str(code))


def test_a_stopped_node_leaves_objects_and_no_mount(cloud: Session) -> None:
    id = start(cloud, COUNT.format(80, 5), "app web", "label tier=front")
    cloud.cloudfs("down")
    assert mounts(cloud) == []
    time.sleep(0.5)
    cloud.cloudfs("up")
    assert ndb.parse(file(cloud, "proc", id, "status"))["app"] == "web"
    assert ndb.parse(file(cloud, ".follow/proc", id, "wait"))["code"] == "5"
    assert file(cloud, "view/by-label/tier=front", id, "stdout").endswith("\n80\n")


def test_what_ended_while_no_daemon_looked(cloud: Session) -> None:
    id = start(cloud, "sleep 0.5; echo late; exit 9")
    pids = [line.split()[0] for line in file(cloud, "proc", id, "pids").splitlines()]
    kill_daemon(cloud)
    until(lambda: not any(alive(int(pid)) for pid in pids))
    cloud.cloudfs("up")
    assert file(cloud, "proc", id, "stdout") == "late\n"
    assert ndb.parse(file(cloud, "proc", id, "wait"))["code"] == "9"


def test_stdin_and_kill_work_on_what_an_earlier_daemon_started(cloud: Session) -> None:
    id = start(cloud, "cat; sleep 1000")
    cloud.sh(f"echo one > {cloud.mount}/proc/{id}/stdin")
    kill_daemon(cloud)
    cloud.cloudfs("up")
    cloud.sh(f"echo two > {cloud.mount}/proc/{id}/stdin")
    cloud.sh(f"echo close stdin > {cloud.mount}/proc/{id}/ctl")
    until(lambda: file(cloud, "proc", id, "stdout") == "one\ntwo\n")
    cloud.sh(f"echo kill > {cloud.mount}/proc/{id}/ctl")
    end = ndb.parse(file(cloud, "proc", id, "wait"))
    assert (end["signal"], end["why"]) == ("KILL", f"killed by {user_of(cloud.person.uid)}")


def test_a_stopped_object_stays_stopped(cloud: Session) -> None:
    id = start(cloud, COUNT.format(100000, 0))
    cloud.sh(f"echo stop > {cloud.mount}/proc/{id}/ctl")
    kill_daemon(cloud)
    cloud.cloudfs("up")
    assert ndb.parse(file(cloud, "proc", id, "status"))["state"] == "stopped"
    before = file(cloud, "proc", id, "stdout")
    time.sleep(0.3)
    assert file(cloud, "proc", id, "stdout") == before
    cloud.sh(f"echo start > {cloud.mount}/proc/{id}/ctl")
    until(lambda: len(file(cloud, "proc", id, "stdout")) > len(before))


def test_double_forked_descendants_die_with_it(cloud: Session) -> None:
    script = "for i in 1 2 3; do (setsid sh -c 'sleep 1000 & sleep 1000' &) ; done; sleep 1000"
    id = start(cloud, script)
    until(lambda: len(file(cloud, "proc", id, "pids").splitlines()) >= 10)
    pids = [line.split()[0] for line in file(cloud, "proc", id, "pids").splitlines()]
    cloud.sh(f"echo kill > {cloud.mount}/proc/{id}/ctl")
    assert not any(alive(int(pid)) for pid in pids)


def test_one_daemon_for_one_state_directory(cloud: Session) -> None:
    done = cloud.run("cloudfsd", "--state", str(cloud.state), "--no-mount", status=1)
    assert f"a daemon with pid {pid_of(cloud)} serves" in done.stderr
    assert "cloudfs down" in done.stderr


def test_sigterm_ends_it_with_readers_blocked(cloud: Session) -> None:
    id = start(cloud, "sleep 1000")
    reader = cloud.start("cat", f"{cloud.mount}/.follow/proc/{id}/stdout")
    time.sleep(0.3)
    pid = pid_of(cloud)
    os.kill(pid, signal.SIGTERM)
    assert reader.wait(timeout=10) != 0
    until(lambda: not mounts(cloud))
    cloud.cloudfs("up")
    assert ndb.parse(file(cloud, "proc", id, "status"))["state"] == "running"


def test_a_sandbox_has_its_cloud_back_under_the_next_daemon(cloud: Session) -> None:
    script = "while :; do cat /cloud/version; sleep 0.1; done"
    id = start(cloud, script)
    status = ndb.parse(file(cloud, "proc", id, "status"))
    if status["runtime"] != "sandbox":
        assert cloud.person.uid != 0  # an ordinary user's node has no sandboxes
        return
    kill_daemon(cloud)
    time.sleep(0.3)
    cloud.cloudfs("up")
    seen = len(file(cloud, "proc", id, "stdout"))
    deadline = time.monotonic() + 15
    while "cloudfs" not in file(cloud, "proc", id, "stdout")[seen:]:
        assert time.monotonic() < deadline, file(cloud, "proc", id, "stderr")[-500:]
        time.sleep(0.1)
