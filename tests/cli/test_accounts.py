"""user, group and passwd with a real node; groups that hold over the mount and over the socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudfs.factotum import authority, nodekeys
from tests.persons import Person, Session, nobody, open_folder

RIGHT, NEW = "sesame-sesame", "another-one"


def trusted(state: Path) -> None:
    """Make a cloud's root, the authority of a cluster, and a node's keys in a state directory."""
    root = authority.make_root("local", time.time())
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    place = state / "cluster.key"
    place.touch(0o600)
    east = authority.make_cluster(root, "east", time.time())
    place.write_bytes(east.pem())
    nodekeys.give(state, root.cert, east, "n1", time.time())


@pytest.fixture(scope="module")
def node() -> Iterator[Session]:
    """root's node, which may make users; ana is one."""
    me = Person("root" if os.geteuid() == 0 else "me", os.geteuid())
    session = Session(me, open_folder() / "home")
    trusted(session.state)
    with socket.create_server(("127.0.0.1", 0)) as free:
        session.port = free.getsockname()[1]  # type: ignore[attr-defined]
    session.cloudfs("up", "--node", "n1", "--tcp", f"127.0.0.1:{session.port}")  # type: ignore[attr-defined]
    session.code = session.cloudfs("user", "add", "ana", stdin=f"{RIGHT}\n").stdout.strip()  # type: ignore[attr-defined]
    yield session
    session.cloudfs("down", "--objects")


def test_a_user_is_made_listed_and_ended(node: Session) -> None:
    done = node.cloudfs("user", "add", "bob", stdin="bobs-password\n")
    assert len(done.stdout.strip()) == 31
    assert "shown only now" in done.stderr
    listed = node.cloudfs("user", "list").stdout
    assert "bob   1      -       1 of 1  -" in listed
    assert "users=2" in node.sh("cat $CLOUDFS_MOUNT/secstore/status")
    assert "need=1" in node.sh("cat $CLOUDFS_MOUNT/secstore/users/bob/status")
    node.cloudfs("user", "del", "bob")
    assert "bob" not in node.cloudfs("user", "list").stdout
    done = node.cloudfs("user", "add", "bob", stdin="bobs-password\n", status=1)
    assert "was a user before" in done.stderr
    node.cloudfs("user", "add", "--again", "bob", stdin="bobs-password\n")
    node.cloudfs("user", "del", "bob")


def test_passwords_change_and_are_recovered(node: Session) -> None:
    done = node.cloudfs("passwd", "ana", stdin=f"wrong-wrong\n{NEW}\n", status=1)
    assert "the password is wrong" in done.stderr
    node.cloudfs("passwd", "ana", stdin=f"{RIGHT}\n{NEW}\n")
    done = node.cloudfs("passwd", "ana", stdin=f"{RIGHT}\n{NEW}\n", status=1)
    assert "the password is wrong" in done.stderr
    code = node.code  # type: ignore[attr-defined]
    node.cloudfs("user", "recover", "ana", stdin=f"{code}\n{RIGHT}\n")
    node.cloudfs("passwd", "ana", stdin=f"{RIGHT}\n{RIGHT}\n")


@pytest.mark.parametrize(
    ("words", "stdin", "why"),
    [
        (("user", "add", "ana"), RIGHT, "a user ana already"),
        (("user", "add", "Ana"), RIGHT, "no name of a user"),
        (("user", "add", "../x"), RIGHT, "no name of a user"),
        (("user", "add", "root"), RIGHT, "no name of a user"),
        (("user", "add", "x" * 99), RIGHT, "no name of a user"),
        (("user", "add", "eve"), "", "no new password of eve came"),
        (("user", "add", "eve"), "short", "at least 8"),
        (("user", "add", "eve"), "x" * 5000, "2048 characters or more"),
        (("user", "add", "eve"), "x" * 1500, "at most 1024"),
        (("user", "del", "nobody-there"), "", "there is no user"),
        (("user", "recover", "ana"), "nonsense", "26 letters"),
        (("user", "recover", "none-such"), "x", "there is no user"),
        (("passwd", "none-such"), RIGHT, "there is no user"),
        (("group", "add", "web"), "", "at least one member"),
        (("group", "add", "web", "nobody-there"), RIGHT, "there is no user"),
        (("group", "add", "ana", "ana", "--as", "ana"), RIGHT, "a user's name"),
        (("group", "add", "a b", "ana", "--as", "ana"), RIGHT, "no name of a user"),
        (("group", "del", "nothing", "--as", "ana"), RIGHT, "there is no group"),
    ],
)
def test_bad_input(node: Session, words: tuple[str, ...], stdin: str, why: str) -> None:
    done = node.cloudfs(*words, stdin=f"{stdin}\n" if stdin else "", status=1)
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    for secret in (RIGHT, "x" * 100):
        assert secret not in done.stdout + done.stderr


GET = """
import sys
from cloudfs.cli import secstore
from cloudfs.cli.wired import Wired
keys = secstore.get_keys(Wired(sys.argv[1]), "ana", sys.stdin.readline().strip(), say=print)
print(len(keys), keys[0].partition("!")[0])
"""


def test_who_has_not_logged_in_gets_keys_and_nothing_else(node: Session) -> None:
    address = f"tcp:127.0.0.1:{node.port}"  # type: ignore[attr-defined]
    done = node.run("python3", "-c", GET, address, stdin=f"{RIGHT}\n")
    assert done.stdout == "1 key proto=cap25519 dom=local user=ana \n"
    listed = node.cloudfs("9p", "ls", address, "nodes").stdout.split()
    name = next(one for one in listed if one != "help")
    done = node.cloudfs("9p", "write", address, f"nodes/{name}/ctl", stdin="drain\n", status=1)
    assert "ermission denied" in done.stderr


def test_without_the_authority_nobody_is_made(node: Session) -> None:
    place = node.state / "cluster.key"
    place.rename(node.state / "away")
    try:
        done = node.cloudfs("user", "add", "eve", stdin=f"{RIGHT}\n", status=1)
        assert "no authority to make users" in done.stderr
    finally:
        (node.state / "away").rename(place)


def test_what_has_no_shell_line_says_so(node: Session) -> None:
    assert "users/*/status" in node.cloudfs("-x", "user", "list").stdout
    assert "groups/*" in node.cloudfs("-x", "group", "list").stdout
    assert "no shell line" in node.cloudfs("-x", "passwd", "ana", status=1).stderr


def test_files_answer_bad_requests(node: Session) -> None:
    ask = (
        "import os,sys; f=os.open(sys.argv[1],os.O_RDWR); os.write(f,sys.argv[2].encode());"
        "print(os.pread(f,4096,0).decode())"
    )
    folder = f"{node.mount}/secstore"
    for file, request in (
        ("choose", ""), ("choose", "../x"), ("give", ""), ("give", "x\ny\nz"),
        ("users/ana/harden", ""), ("users/ana/harden", "point=00"), ("users/ana/keys", "x"),
        ("users/ana/harden", "'"), ("users/ana/keys", "user=ana"),
    ):  # fmt: skip
        done = node.run("python3", "-c", ask, f"{folder}/{file}", request, status=None)
        assert "holder=" not in done.stdout or "kind=" in done.stdout or done.stdout == "\n"
    for line in ("user=ana", "nonsense", "group=x owner=ana", "gone=ana"):
        assert node.run("sh", "-c", f"echo '{line}' >{folder}/ctl", status=None).returncode
    node.run("grep", "-r", "no-such-thing", folder, status=1)  # looking ends
    assert "users=1" in node.sh(f"cat {folder}/status")


def test_nothing_secret_is_in_the_state_or_the_log(node: Session) -> None:
    found = node.run("grep", "-rl", RIGHT, str(node.state), status=None).stdout
    assert found == ""
    found = node.run("grep", "-rl", node.code, str(node.state), status=None).stdout  # type: ignore[attr-defined]
    assert found == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as two users, which takes root")
def test_a_group_holds_over_the_mount_and_the_socket_until_it_does_not(node: Session) -> None:
    node.cloudfs("user", "add", "nobody", stdin="nobodys-own\n")
    node.cloudfs("group", "add", "web", "nobody", "ana", "--as", "ana", stdin=f"{RIGHT}\n")
    assert "web    ana    ana nobody" in node.cloudfs("group", "list").stdout
    id = node.cloudfs("run", "sh", "-c", "echo shared; exec sleep 600").stdout.strip()
    with nobody(open_folder()) as person:
        other = Session(person, open_folder() / "home")
        other.env |= {name: node.env[name] for name in ("CLOUDFS_STATE", "CLOUDFS_MOUNT")}
        other.cloudfs("login", "nobody", stdin="nobodys-own\n")
        other.sh("until [ $(cat $CLOUDFS_MOUNT/user) = nobody ]; do sleep 0.1; done", seconds=20)
        address = f"unix:{node.state}/sock"
        stdout = f"{node.mount}/proc/{id}/stdout"
        ctl = f"{node.mount}/proc/{id}/ctl"
        other.run("cat", stdout, status=1)
        done = other.run("sh", "-c", f"echo group web >{ctl}", status=None)
        assert done.returncode  # nobody shares what is another's
        node.sh(f"echo group web >{ctl}")
        assert other.run("cat", stdout).stdout == "shared\n"
        assert other.cloudfs("9p", "cat", address, f"proc/{id}/stdout").stdout == "shared\n"
        other.sh(f"echo label by=nobody >{ctl}")
        done = other.run("sh", "-c", f"echo group nobody >{ctl}", status=None)
        assert done.returncode  # it stays the owner's to share
        node.cloudfs("group", "del", "web", "nobody", "--as", "ana", stdin=f"{RIGHT}\n")
        # A mount believes a caller's groups for two seconds (fuse/callers.py).
        other.sh(f"while cat {stdout}; do sleep 0.1; done", seconds=20)
        other.cloudfs("9p", "cat", address, f"proc/{id}/stdout", status=1)
        node.cloudfs("group", "add", "web", "nobody", "--as", "ana", stdin=f"{RIGHT}\n")
        other.sh(f"until cat {stdout}; do sleep 0.1; done; echo kill >{ctl}", seconds=20)
        other.cloudfs("logout")
    node.cloudfs("wait", id, status=128 + 9)
    node.cloudfs("group", "del", "web", "--as", "ana", stdin=f"{RIGHT}\n")
    assert "web" not in node.cloudfs("group", "list").stdout
    node.cloudfs("user", "del", "nobody")
