"""cloudfs run --wait: the object's stdio and end are the command's own."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from cloudfs import ndb
from tests.persons import Session


def test_output_and_exit_status_come_back(cloud: Session) -> None:
    done = cloud.cloudfs("run", "--wait", "sh", "-c", "echo out; echo err >&2; exit 3", status=3)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_what_is_typed_goes_in_and_its_end_too(cloud: Session) -> None:
    text = "".join(f"line {i}\n" for i in range(5000))
    assert cloud.cloudfs("run", "--wait", "sort", "-r", stdin="a\nb\n").stdout == "b\na\n"
    assert cloud.cloudfs("run", "--wait", "cat", stdin=text).stdout == text


def test_a_signal_ends_with_128_and_its_number(cloud: Session) -> None:
    # In a sandbox the program is process 1, which its own signals do not end.
    args = ("run", "--wait", "--runtime", "process", "sh", "-c", "kill -TERM $$")
    cloud.cloudfs(*args, status=128 + 15)


def test_a_time_limit_is_told(cloud: Session) -> None:
    done = cloud.cloudfs("run", "--wait", "--limit", "time=0.3", "sleep", "60", status=128 + 9)
    assert "time limit" in done.stderr


@pytest.mark.one_person
def test_words_arrive_as_they_are(cloud: Session) -> None:
    words = ["a b", "it's", '"', "$HOME", "*", "", "-x", "\\n", "ünï", "a=b", "#"]
    done = cloud.cloudfs("run", "--wait", "printf", "[%s]", *words)
    assert done.stdout == "".join(f"[{word}]" for word in words)


@pytest.mark.one_person
def test_options_of_the_program_are_the_programs(cloud: Session) -> None:
    assert cloud.cloudfs("run", "--wait", "echo", "--wait", "-h").stdout == "--wait -h\n"


@pytest.mark.one_person
def test_setup(cloud: Session) -> None:
    done = cloud.cloudfs(
        "run", "--wait", "--env", "A=1 2", "--env", "B=it's", "--dir", "/usr", "--nice", "5",
        "sh", "-c", 'echo "$A|$B|$(pwd)|$(nice)"',
    )  # fmt: skip
    assert done.stdout == "1 2|it's|/usr|5\n"


@pytest.mark.one_person
def test_labels_and_app_show_in_views(cloud: Session) -> None:
    id = cloud.cloudfs(
        "run", "--app", "shop", "--label", "tier=front", "--restart", "never", "sleep", "600"
    ).stdout.strip()
    assert id in cloud.sh("ls $CLOUDFS_MOUNT/view/by-app/shop")
    assert id in cloud.sh("ls $CLOUDFS_MOUNT/view/by-label/tier=front")
    cloud.cloudfs("kill", id)


@pytest.mark.one_person
def test_availability_is_asked_for(cloud: Session) -> None:
    """Alone there is nobody to keep an image, and its status says so."""
    words = ("--availability", "checkpoint=5,replicas=3", "--availability", "patience=20")
    id = cloud.cloudfs("run", *words, "sleep", "600").stdout.strip()
    assert "availability='checkpoint=5 replicas=3 patience=20'" in cloud.sh(
        f"cat $CLOUDFS_MOUNT/proc/{id}/spec"
    )
    assert " availability='none: " in cloud.sh(f"cat $CLOUDFS_MOUNT/proc/{id}/status")
    said = cloud.cloudfs("run", "--availability", "often=1", "sleep", "600", status=1).stderr
    assert "no 'often'" in said
    cloud.cloudfs("kill", id)


def running(cloud: Session) -> set[str]:
    names = cloud.sh("ls $CLOUDFS_MOUNT/view/by-state/running 2>/dev/null || true").split()
    return {name for name in names if len(name) == 16}


def test_interrupt_kills_the_object(cloud: Session) -> None:
    before = running(cloud)
    command = cloud.start(
        "cloudfs", "run", "--wait", "sh", "-c", "echo begun; exec sleep 600",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert command.stdout is not None
    assert command.stdout.readline() == "begun\n"
    (id,) = running(cloud) - before
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=20)
    assert command.returncode == 128 + 9
    assert "killed by" in said
    assert ndb.parse(cloud.cloudfs("status", id).stdout)["exit"] == "KILL"


@pytest.mark.one_person
def test_a_reader_that_goes_ends_the_object(cloud: Session) -> None:
    before = running(cloud)
    assert cloud.sh("cloudfs run --wait yes | head -n 1", seconds=20) == "y\n"
    for _ in range(100):
        if running(cloud) <= before:
            break
        time.sleep(0.05)
    assert running(cloud) <= before


@pytest.mark.one_person
@pytest.mark.parametrize("size", [70_000, 1_000_000])
def test_long_output_is_whole(cloud: Session, size: int) -> None:
    done = cloud.cloudfs("run", "--wait", "sh", "-c", f"yes abcdefg | head -c {size}")
    assert len(done.stdout) == size


# --- several at once


@pytest.mark.one_person
def test_several_are_of_one_app_and_their_ids_printed(cloud: Session) -> None:
    ids = cloud.cloudfs(
        "run", "-n", "3", "--spread", "cluster", "--require", "cpus>=1", "sleep", "600"
    ).stdout.split()
    assert len(set(ids)) == 3
    assert set(ids) <= set(cloud.sh("ls $CLOUDFS_MOUNT/view/by-app/sleep").split())
    cloud.cloudfs("kill", *ids)


@pytest.mark.one_person
def test_several_are_waited_for_and_the_worst_counts(cloud: Session) -> None:
    script = "cat; echo out; echo err >&2; exit 3"
    args = ("run", "--wait", "-n", "4", "--spread", "node", "sh", "-c", script)
    done = cloud.cloudfs(*args, stdin="not for four", status=3)
    assert (done.stdout, done.stderr) == ("out\n" * 4, "err\n" * 4)
    told = cloud.run("sh", "-c", cloud.cloudfs("-x", *args).stdout, stdin="no", status=3)
    assert (told.stdout, told.stderr) == ("out\n" * 4, "err\n" * 4)


@pytest.mark.one_person
def test_if_one_cannot_be_started_none_is_left(cloud: Session) -> None:
    before = running(cloud)
    total = int(cloud.sh("nproc"))
    said = cloud.cloudfs(
        "run", "-n", "3", "--limit", f"cpu={total / 2}", "sleep", "600", status=1
    ).stderr
    assert "it has 0 unreserved" in said
    assert running(cloud) == before


@pytest.mark.one_person
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--on", "paris-7"), "there is no node 'paris-7'"),
        (("--require", "cpus>=10000"), "no node meets cpus>=10000 (it has"),
        (("--require", "cpus"), "is no expression"),
        (("--spread", "a/b"), "is no expression"),
        (("-n", "0"), "0 is not in the range"),
    ],
)
def test_where_it_cannot_run_is_said(cloud: Session, args: tuple[str, ...], said: str) -> None:
    assert said in cloud.cloudfs("run", *args, "true", status=None).stderr


@pytest.mark.one_person
def test_a_drained_node_takes_nothing_new(own: Session) -> None:
    own.cloudfs("up")
    kept = own.cloudfs("run", "sleep", "600").stdout.strip()
    own.sh("echo drain new disk > $(echo $CLOUDFS_MOUNT/nodes/*/ctl)")
    assert "drained: new disk" in own.cloudfs("run", "true", status=1).stderr
    assert "state=drained" in own.sh("cat $CLOUDFS_MOUNT/nodes/*/status")
    own.cloudfs("down")
    own.cloudfs("up")
    assert "drained: new disk" in own.cloudfs("run", "true", status=1).stderr
    assert "state=running" in own.cloudfs("status", kept).stdout
    own.sh("echo undrain > $(echo $CLOUDFS_MOUNT/nodes/*/ctl)")
    own.cloudfs("run", "true")
    own.cloudfs("kill", kept)
    own.cloudfs("down")
