"""cloudfs 9p against a node's own socket, in all three dialects."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.persons import Session

pytestmark = pytest.mark.one_person


@pytest.mark.parametrize("dialect", ["9P2000", "9P2000.u", "9P2000.L"])
def test_files_by_9p(cloud: Session, dialect: str) -> None:
    def ninep(*args: str, **more: object) -> str:
        done = cloud.cloudfs("9p", "--dialect", dialect, *args, **more)
        return done.stdout

    address = f"unix:{cloud.state}/sock"
    assert {"proc", "nodes", "ctl", "help"} <= set(ninep("ls", address).split())
    assert ninep("cat", address, "version").startswith("cloudfs ")
    assert ninep("ls", "-l", address, "version").startswith("-r--r--r--")
    assert ninep("stat", address, "/proc").startswith("dr-xr-xr-x")
    id = cloud.cloudfs("run", "sleep", "600").stdout.strip()
    ninep("write", address, f"proc/{id}/ctl", stdin="label a=b\nkill\n")
    assert "signal=KILL" in ninep("cat", address, f".follow/proc/{id}/wait")
    assert ninep("cat", address, f"proc/{id}/labels") == "a=b\n"


def test_refusals(cloud: Session) -> None:
    address = f"unix:{cloud.state}/sock"
    for args, words in [
        (("cat", address, "nowhere"), "nowhere: file not found"),
        (("ls", "unix:/nowhere/sock"), "/nowhere/sock"),
        (("ls", "nonsense"), "is no address"),
        (("write", address, "proc/new"), "proc/new: "),
    ]:
        done = cloud.cloudfs("9p", *args, status=1)
        assert words in done.stderr.lower()
        assert done.stderr.count("\n") == 1


def test_trace_shows_messages(cloud: Session) -> None:
    done = cloud.cloudfs("9p", "--trace", "cat", f"unix:{cloud.state}/sock", "version")
    assert done.stdout.startswith("cloudfs ")
    assert "-> Tversion" in done.stderr
    assert "<- Rread" in done.stderr


def test_a_reader_that_goes_ends_it_quietly(cloud: Session) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for args in (("cat", "help"), ("ls", "proc"), ("ls", "-l", "/")):
        address = f"unix:{cloud.state}/sock"
        words = ("cloudfs", "9p", *args[:-1], address, args[-1])
        command = cloud.start(*words, stdout=writer, stderr=subprocess.PIPE)
        assert command.communicate(timeout=20)[1] == ""
        assert command.returncode == 1
    os.close(writer)


def test_a_followed_file_can_be_interrupted(cloud: Session) -> None:
    command = cloud.start(
        "cloudfs", "9p", "cat", f"unix:{cloud.state}/sock", ".follow/events",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    cloud.cloudfs("run", "true")
    assert command.stdout is not None
    assert command.stdout.readline().startswith("time=")
    command.send_signal(2)
    _, said = command.communicate(timeout=20)
    assert command.returncode == 130
    assert "Traceback" not in said
