"""ps, status, logs, wait and the verbs, against a node that runs."""

from __future__ import annotations

import json

import pytest

from cloudfs import ndb
from tests.persons import Session

LOOP = ("sh", "-c", "echo begun; exec sleep 600")


def begin(cloud: Session, *args: str) -> str:
    """An object that has begun its loop."""
    id = cloud.cloudfs("run", *args, *LOOP).stdout.strip()
    assert len(id) == 16
    assert cloud.sh(f"head -n 1 $CLOUDFS_MOUNT/.follow/proc/{id}/stdout") == "begun\n"
    return id


def state(cloud: Session, id: str) -> str:
    return ndb.parse(cloud.cloudfs("status", id).stdout)["state"]


def test_an_object_from_run_to_kill(cloud: Session) -> None:
    id = begin(cloud, "--app", "web", "--label", "a=b c")
    assert state(cloud, id) == "running"
    cloud.cloudfs("stop", id)
    assert state(cloud, id) == "stopped"
    cloud.cloudfs("start", id)
    assert state(cloud, id) == "running"
    assert cloud.cloudfs("logs", id).stdout == "begun\n"
    cloud.cloudfs("kill", id)
    end = cloud.cloudfs("wait", id, status=128 + 9)
    assert ndb.parse(end.stdout)["signal"] == "KILL"
    assert state(cloud, id) == "exited"


def test_ps_lists_those_that_live_and_with_all_the_ended(cloud: Session) -> None:
    alive, dead = begin(cloud, "--app", "lives"), begin(cloud, "--app", "dies")
    cloud.cloudfs("kill", dead)
    lines = {line.split()[0]: line for line in cloud.cloudfs("ps").stdout.splitlines()}
    assert lines["ID"].split() == "ID NODE STATE USER APP AGE CPU MEM EXIT COMMAND".split()
    assert " running " in lines[alive]
    assert " lives " in lines[alive]
    assert lines[alive].endswith("sh -c 'echo begun; exec sleep 600'")
    assert dead not in lines
    every = {
        line.split()[0]: line.split() for line in cloud.cloudfs("ps", "--all").stdout.splitlines()
    }
    assert every[dead][2] == "exited"
    cloud.cloudfs("kill", alive)


@pytest.mark.one_person
def test_json_has_numbers_where_there_are_numbers(cloud: Session) -> None:
    id = begin(cloud)
    found = json.loads(cloud.cloudfs("ps", "--json").stdout)
    record = next(r for r in found if r["id"] == id)
    assert record["args"] == list(LOOP)
    assert isinstance(record["pid"], int)
    assert isinstance(record["started"], float)
    assert record["app"] is None
    assert json.loads(cloud.cloudfs("status", "--json", id).stdout)["pid"] == record["pid"]
    cloud.cloudfs("kill", id)


@pytest.mark.one_person
def test_ids_may_be_shortened(cloud: Session) -> None:
    id = begin(cloud)
    assert cloud.cloudfs("logs", id[:10]).stdout == "begun\n"
    cloud.cloudfs("kill", id[:10])
    assert state(cloud, id) == "exited"


def test_verbs_take_many_and_go_on_after_a_failure(cloud: Session) -> None:
    one, two = begin(cloud), begin(cloud)
    done = cloud.cloudfs("kill", one, "q" * 16, two, status=1)
    assert "there is no object qqqq" in done.stderr
    assert [state(cloud, one), state(cloud, two)] == ["exited", "exited"]


def test_signal(cloud: Session) -> None:
    id = cloud.cloudfs(
        "run",
        "sh",
        "-c",
        "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done",
    ).stdout.strip()
    cloud.sh(f"head -n 1 $CLOUDFS_MOUNT/.follow/proc/{id}/stdout")
    cloud.cloudfs("signal", "TERM", id)
    assert "code=7" in cloud.cloudfs("wait", id, status=7).stdout
    assert cloud.cloudfs("logs", id).stdout == "ready\ncaught\n"


@pytest.mark.one_person
def test_logs_follow_to_the_end_and_stderr_apart(cloud: Session) -> None:
    id = cloud.cloudfs(
        "run", "sh", "-c", "echo out; echo err >&2; sleep 0.3; echo more; exit 0"
    ).stdout.strip()
    assert cloud.cloudfs("logs", "-f", id).stdout == "out\nmore\n"
    assert cloud.cloudfs("logs", "--stderr", id).stdout == "err\n"
    assert cloud.cloudfs("wait", id).stdout.startswith("pid=")


def test_an_ended_object_can_be_started_again(cloud: Session) -> None:
    id = cloud.cloudfs("run", "echo", "again").stdout.strip()
    cloud.cloudfs("wait", id)
    cloud.cloudfs("start", id)
    cloud.cloudfs("wait", id)
    assert cloud.cloudfs("logs", id).stdout == "again\nagain\n"


@pytest.mark.one_person
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("status", "q" * 16), "there is no object"),
        (("kill", "../x"), "is no object's id; see: cloudfs ps --all"),
        (("logs", "q" * 16), "there is no object"),
        (("wait", "q" * 16), "there is no object"),
        (("run", "no-such-program"), "no-such-program"),
        (("run", "--dir", "/no/such/directory", "true"), "/no/such/directory"),
        (("run", "--limit", "mem=-1", "true"), "above 0"),
        (("run", "--limit", "ram=1", "true"), "limits: cpu mem pids time"),
        (("run", "--env", "noequals", "true"), "NAME=VALUE"),
        (("run", "--app", "a/b", "true"), "cannot be a name"),
        (("run", "echo", "two\nlines"), "newline"),
        (("signal", "WINK", "q" * 16), "there is no object"),
    ],
)
def test_refusals_say_why_and_what_to_do(cloud: Session, args: tuple[str, ...], words: str) -> None:
    before = cloud.cloudfs("ps", "--all").stdout.count("\n")
    done = cloud.cloudfs(*args, status=1)
    assert words in done.stderr
    assert done.stderr.startswith("cloudfs: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert cloud.cloudfs("ps").stdout.count("\n") <= before  # nothing half done


def test_a_wrong_verb_shows_the_errno_to_the_shell_and_the_reason_in_why(cloud: Session) -> None:
    id = begin(cloud)
    done = cloud.run("sh", "-c", f"echo dance > $CLOUDFS_MOUNT/proc/{id}/ctl", status=None)
    assert done.returncode != 0
    assert "Invalid argument" in done.stderr or "I/O error" in done.stderr
    why = cloud.cloudfs("why").stdout
    assert "dance" in why
    assert f"/proc/{id}/ctl: " in why
    assert "exec" in why or "cat" in why  # what to do
    assert cloud.cloudfs("why", "--all").stdout.endswith(why)
    cloud.cloudfs("kill", id)
