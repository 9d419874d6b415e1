"""cloudfs login, logout and keys: local users who are somebody in the cloud, and those who are not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudfs import ndb
from cloudfs.factotum import accounts, authority, cloudkey, sealed
from tests.persons import NOBODY, Person, Session, nobody, open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")
ANA = 40123  # a uid of which this machine knows no name
WORD = "correct horse"


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


class Cloud:
    """root's node, which knows the user ana and bob, and two people with an account on it."""

    def __init__(self, root: Session, one: Session, two: Session) -> None:
        self.root, self.one, self.two = root, one, two
        root.state.mkdir(mode=0o711)
        cloudkey.make_cloud(root.state)
        self.authority = authority.load((root.state / "cloud.key").read_bytes())
        (root.state / "people").mkdir()
        self.seeds: dict[str, Ed25519PrivateKey] = {}
        for name in ("ana", "bob"):
            self.user(name)
        group = accounts.make_group("web", "ana", ["ana", "bob"], self.seeds["ana"])
        (root.state / "people" / "web.group").write_text(group.text())

    def user(self, name: str) -> None:
        """A record for the node, and a sealed file for whoever is to be that user."""
        seed = self.seeds[name] = Ed25519PrivateKey.generate()
        record = accounts.make_user(self.authority, name, seed)
        (self.root.state / "people" / f"{name}.user").write_text(record.text())
        line = f"key proto=cap25519 dom=local user={name} epoch=1 "
        line += f"!seed={seed.private_bytes_raw().hex()}\n"
        blob = sealed.seal(line.encode(), name, WORD.encode(), sealed.new_code(), seed)
        for session in (self.root, self.one, self.two):
            path = session.home / f"{name}.keys"
            path.write_text(blob.text())
            os.chown(path, session.person.uid, session.person.uid)

    def login(self, session: Session, name: str, **more: object) -> str:
        given = {"stdin": f"{WORD}\n"} | more
        done = session.cloudfs("login", name, "--key", f"{session.home}/{name}.keys", **given)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    root = Session(Person("root", 0), open_folder() / "home")
    with nobody(open_folder()) as person:
        become = [word.replace(str(NOBODY), str(ANA)) for word in person.become]
        one = Session(Person("one", ANA, become), open_folder() / "home")
        two = Session(person, open_folder() / "home")
        made = Cloud(root, one, two)
        root.cloudfs("up", "--node", "n1", "--no-mount")
        for session in (one, two):
            session.env |= {name: root.env[name] for name in ("CLOUDFS_STATE", "CLOUDFS_MOUNT")}
        yield made
        for session in (one, two, root):
            session.cloudfs("logout", status=None)
        root.cloudfs("down", "--objects")


def who(session: Session) -> str:
    """Whose an object is that this person makes, or what is said instead."""
    done = session.cloudfs("run", "sleep", "600", status=None)
    if done.returncode:
        return done.stderr
    id = done.stdout.strip()
    record = ndb.parse(session.cloudfs("status", id).stdout)
    session.cloudfs("kill", id)
    return record["user"]


def test_who_has_not_logged_in_is_nobody_and_who_has_is_that_user(cloud: Cloud) -> None:
    assert "you are ana" in cloud.login(cloud.one, "ana")
    assert who(cloud.one) == "ana"
    assert who(cloud.two) != "nobody", "which is but the local name"
    assert who(cloud.root) == "root", "the node's owner needs no login"
    shown = cloud.one.cloudfs("keys").stdout
    assert "key proto=cap25519 dom=local user=ana epoch=1 root=" in shown
    assert "!seed?" in shown
    assert f"login addr=unix:{cloud.root.state}/sock user=ana state=up why=" in shown
    assert cloud.seeds["ana"].private_bytes_raw().hex() not in shown
    assert "you are logged out" in cloud.one.cloudfs("logout").stdout
    assert who(cloud.one) not in ("ana", "#40123")
    assert "not logged in" in cloud.one.cloudfs("logout").stdout


def test_what_is_anas_is_closed_to_bob_on_the_same_machine(cloud: Cloud) -> None:
    cloud.login(cloud.one, "ana")
    cloud.login(cloud.two, "bob")
    id = cloud.one.cloudfs("run", "sh", "-c", "echo mine; exec sleep 600").stdout.strip()
    until(lambda: cloud.one.cloudfs("logs", id).stdout == "mine\n")
    assert cloud.two.cloudfs("kill", id, status=1).stderr
    cloud.two.cloudfs("logs", id, status=1)
    cloud.one.cloudfs("logout")
    cloud.one.cloudfs("logs", id, status=1)
    cloud.login(cloud.one, "ana")
    assert cloud.one.cloudfs("logs", id).stdout == "mine\n"
    cloud.one.cloudfs("kill", id)
    for session in (cloud.one, cloud.two):
        session.cloudfs("logout")


def test_a_connection_ends_with_the_login_by_which_it_came(cloud: Cloud) -> None:
    cloud.login(cloud.one, "ana")
    follow = cloud.one.start(
        "cloudfs", "9p", "cat", f"unix:{cloud.root.state}/sock", ".follow/events",
        stdout=-1, stderr=-1,
    )  # fmt: skip
    assert follow.stdout is not None
    cloud.root.cloudfs("run", "true")
    assert follow.stdout.readline()
    cloud.one.cloudfs("logout")
    assert "closed the connection" in follow.communicate(timeout=20)[1]


@pytest.mark.parametrize(
    ("name", "stdin", "words"),
    [
        ("ana", "wrong\n", "the password is wrong"),
        ("ana", "", "the password is wrong"),
    ],
)
def test_wrong_passwords(cloud: Cloud, name: str, stdin: str, words: str) -> None:
    assert words in cloud.login(cloud.one, name, stdin=stdin, status=1)
    assert "you have no factotum" in cloud.one.cloudfs("keys", status=1).stderr


def test_what_is_no_sealed_file_of_that_user(cloud: Cloud) -> None:
    home = cloud.one.home
    for file, words in ((f"{home}/bob.keys", "the keys of bob"), (f"{home}/none", "No such file")):
        done = cloud.one.cloudfs("login", "ana", "--key", file, stdin=WORD, status=1)
        assert words in done.stderr
    done = cloud.one.cloudfs("login", "ana", "--key", "/proc/self/exe", stdin=WORD, status=1)
    assert "is no text" in done.stderr
    done = cloud.one.cloudfs("login", "ana", "--key", f"{home}/ana.keys", "--for", "x", status=1)
    assert "is no time" in done.stderr


def test_a_user_whom_the_node_does_not_know_stays_nobody(cloud: Cloud) -> None:
    cloud.user("eve")
    (cloud.root.state / "people" / "eve.user").unlink()
    said = cloud.login(cloud.one, "eve", status=1)
    assert "there is no user eve that this node knows" in said
    assert "login addr" not in cloud.one.cloudfs("keys").stdout
    cloud.one.cloudfs("logout")


def test_a_factotum_comes_back_to_a_node_that_was_gone(cloud: Cloud) -> None:
    cloud.login(cloud.one, "ana")
    cloud.root.cloudfs("down")
    until(lambda: "state=lost" in cloud.one.cloudfs("keys").stdout)
    cloud.root.cloudfs("up", "--node", "n1", "--no-mount")
    until(lambda: "state=up" in cloud.one.cloudfs("keys").stdout)
    assert who(cloud.one) == "ana"
    cloud.one.cloudfs("logout")


def test_a_new_epoch_ends_what_was_proved_in_the_one_before(cloud: Cloud) -> None:
    cloud.login(cloud.one, "ana")
    path = cloud.root.state / "people" / "ana.user"
    before = path.read_text()
    record = accounts.change_user([accounts.parse_user(before)], cloud.seeds["ana"], epoch=True)
    path.write_text(record.text())
    until(lambda: who(cloud.one) != "ana")
    path.write_text(before)
    os.utime(path, (1, 1))
    until(lambda: who(cloud.one) == "ana")
    cloud.one.cloudfs("logout")


def test_keys_are_added_and_removed(cloud: Cloud) -> None:
    cloud.login(cloud.one, "ana")
    cloud.one.cloudfs("keys", "--add", stdin="key proto=pass service=x !password=sesame\n")
    shown = cloud.one.cloudfs("keys").stdout
    assert "key proto=pass service=x !password?" in shown
    assert "event=key proto=pass" in cloud.one.cloudfs("keys", "--log").stdout
    done = cloud.one.cloudfs("keys", "--add", stdin="ky proto=pass !password=sesame\n", status=1)
    assert "no verb of a factotum" in done.stderr
    assert "sesame" not in done.stderr + shown
    cloud.one.cloudfs("keys", "--remove", "proto=pass")
    assert "proto=pass" not in cloud.one.cloudfs("keys").stdout
    done = cloud.one.cloudfs("keys", "--remove", "proto=pass", status=1)
    assert "no key matches that" in done.stderr
    assert "cloudfs 9p cat" in cloud.one.cloudfs("-x", "keys").stdout
    cloud.one.cloudfs("logout")


def test_another_user_cannot_use_ones_factotum(cloud: Cloud) -> None:
    cloud.login(cloud.one, "ana")
    path = Path(cloud.one.env["CLOUDFS_FACTOTUM"])
    done = cloud.two.cloudfs("9p", "cat", f"unix:{path}", "ctl", status=1)
    assert "ermission denied" in done.stderr
    cloud.one.cloudfs("logout")
