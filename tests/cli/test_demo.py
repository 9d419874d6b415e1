"""cloudfs demo: several nodes for as long as one looks at them, and nothing afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cloudfs.cli.up import until
from cloudfs.fuse.stale import mounts
from tests.persons import Person, Session, open_folder


@pytest.fixture
def own(person: Person) -> Session:
    """Somebody who has no node and no file."""
    return Session(person, open_folder() / "home")


def left(own: Session) -> list[str]:
    """Mounts, files and daemons below the person's home."""
    found = [m.directory for m in mounts() if m.directory.startswith(f"{own.home}/")]
    found += [path.name for path in own.home.iterdir()]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if f"{own.home}/".encode() in line:
            found.append(f"{pid} {line!r}")
    return found


def test_a_line_in_it_and_its_status(own: Session) -> None:
    line = "ls $CLOUDFS_MOUNT/nodes; id=$(cloudfs run sleep 1000); cloudfs ps; echo $id; exit 7"
    done = own.cloudfs("demo", "3", "-c", line, status=7, seconds=120)
    first, *_ = done.stdout.splitlines()
    where = "each a machine of its own" if own.person.uid == 0 else "on loopback ports"
    assert first == f"3 nodes are up, {where}:"
    assert "n1" in done.stdout.split()
    assert done.stdout.split()[-1] in done.stdout.split()[:-1]  # the object is listed
    assert left(own) == []


@pytest.mark.one_person
def test_five_lines_to_try_work(own: Session) -> None:
    line = "head -n 1 $CLOUDFS_MOUNT/nodes/*/load; ip -br link | wc -l"
    done = own.cloudfs("demo", "--ports", "2", "-c", line, seconds=120)
    said = done.stdout.partition("Try:\n")[2].splitlines()
    assert len([text for text in said if text.startswith("  ")]) >= 5
    assert left(own) == []


@pytest.mark.one_person
def test_a_mount_where_it_is_wanted(own: Session) -> None:
    point = own.home / "here"
    done = own.cloudfs("demo", "1", "--mount", str(point), "-c", f"cat {point}/version")
    assert done.stdout.splitlines()[-1].startswith("cloudfs ")
    assert left(own) == []
    done = own.cloudfs("demo", "1", "--mount", "/proc/nowhere", "-c", "true", status=1)
    assert "/proc/nowhere" in done.stderr
    assert left(own) == []


@pytest.mark.parametrize("how", ["end of input", "SIGTERM", "SIGINT", "SIGHUP"])
def test_it_stays_until_told(own: Session, how: str) -> None:
    if how != "SIGTERM" and own.person.name == "nobody":
        return  # once is enough
    demo = own.start("cloudfs", "demo", "2", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert demo.stdin is not None
    assert demo.stdout is not None
    for text in demo.stdout:
        if "stays until" in text:
            break
    assert left(own) != []
    if how == "end of input":
        demo.stdin.close()
        wanted = 0
    else:
        time.sleep(0.2)
        os.kill(demo.pid, number := signal.Signals[how])
        wanted = 130 if how == "SIGINT" else 128 + number
    assert demo.wait(timeout=60) == wanted
    demo.stdin.close()
    demo.stdout.close()
    assert left(own) == []


@pytest.mark.one_person
def test_a_signal_while_it_starts(own: Session) -> None:
    for seconds in (0.5, 1.5):
        demo = own.start("cloudfs", "demo", "4", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        demo.terminate()
        # It may not even have begun to listen to signals.
        assert demo.wait(timeout=60) in (128 + signal.SIGTERM, -signal.SIGTERM)
        assert demo.stdin is not None
        demo.stdin.close()
        # A compiler that was killed leaves a child for a moment.
        assert until(lambda: left(own) == [], 5), left(own)


@pytest.mark.one_person
def test_bad_words(own: Session) -> None:
    for count in ("0", "61", "five"):
        assert "N" in own.cloudfs("demo", count, status=2).stderr
    text = own.cloudfs("-x", "demo", "2").stdout
    assert text.count("cloudfs up ") == text.count("cloudfs init ") == 2
    own.run("sh", "-n", stdin=text)
    assert left(own) == []


@pytest.mark.one_person
def test_links_are_as_long_as_asked_for(own: Session) -> None:
    if own.person.uid:
        done = own.cloudfs("demo", "2", "--delay", "0.05", "-c", "true", status=1)
        assert "be root" in done.stderr
        return
    (own.home / "trips").write_text("0 300 1\n300 0 1\n1 1 0\n")
    # A first look at a node asks it, and so takes one round trip at least.
    line = 'a=$(date +%s%N); cat "$CLOUDFS_MOUNT/nodes/n2/load"; b=$(date +%s%N); echo $((b - a))'
    done = own.cloudfs("demo", "3", "--wan", str(own.home / "trips"), "-c", line, seconds=120)
    assert int(done.stdout.splitlines()[-1]) > 300e6
    done = own.cloudfs("demo", "4", "--wan", str(own.home / "trips"), "-c", "true", status=1)
    assert "3 rows, for 4 nodes" in done.stderr
    done = own.cloudfs("demo", "2", "--wan", "example", "--delay", "1", "-c", "true", status=1)
    assert "--wan and --delay" in done.stderr
