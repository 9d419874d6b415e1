"""cloudfs login, logout and keys: local users who are somebody in the cloud, and those who are not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudfs import config
from cloudfs.cli.login import get_keys, seconds
from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, authority, nodekeys, sealed
from cloudfs.tree.api import OREAD
from cloudfs.wire.connect import connect
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

    def __init__(self, root: Session) -> None:
        self.root = root
        root.state.mkdir(mode=0o711)
        held = authority.make_root("local", time.time())
        self.authority = authority.make_cluster(held, "local", time.time())
        nodekeys.write(root.state / "cluster.key", self.authority.pem(), 0o600)
        nodekeys.give(root.state, held.cert, self.authority, config.node_name(""), time.time())
        self.seeds: dict[str, Ed25519PrivateKey] = {}
        self.records: dict[str, accounts.User] = {}

    def settle(self, one: Session, two: Session) -> None:
        self.one, self.two = one, two
        for name in ("ana", "bob"):
            self.user(name)
        group = accounts.make_group("web", "ana", ["ana", "bob"], self.seeds["ana"])
        self.tell(group.text())

    def tell(self, record: str) -> None:
        """Have the node know a record."""
        self.root.run("tee", f"{self.root.mount}/secstore/ctl", stdin=record)

    def user(self, name: str) -> None:
        """A record for the node, and a sealed file for whoever is to be that user."""
        seed = self.seeds[name] = Ed25519PrivateKey.generate()
        record = self.records[name] = accounts.make_user(self.authority, name, seed)
        self.tell(record.text())
        self.seal(name)

    def seal(self, name: str) -> None:
        seed = self.seeds[name]
        line = f"key proto=cap25519 dom=local user={name} "
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
    made = Cloud(root)
    root.cloudfs("up", "--node", "n1")
    with nobody(open_folder()) as person:
        become = [word.replace(str(NOBODY), str(ANA)) for word in person.become]
        one = Session(Person("one", ANA, become), open_folder() / "home")
        two = Session(person, open_folder() / "home")
        made.settle(one, two)
        for session in (one, two):
            session.env |= {name: root.env[name] for name in ("CLOUDFS_STATE", "CLOUDFS_MOUNT")}
        yield made
        for session in (one, two, root):
            session.cloudfs("logout", status=None)
        root.cloudfs("down", "--objects")


def as_user(session: Session, path: str, *names: str) -> str:
    """What a file says to this person over the 9P socket at a path, or why it does not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.setgroups([])
        os.setresgid(*[session.person.uid] * 3)
        os.setresuid(*[session.person.uid] * 3)
        said: list[str] = []

        async def read() -> None:
            async with connect(f"unix:{path}") as client, await client.walk(names) as file:
                await file.open(OREAD)
                said.append(bytes(await file.read(0, 8192)).decode())

        try:
            trio.run(read)
        except BaseException as error:
            said = [str(error)]
        os.write(writer, said[0].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said_by:
        found = said_by.read().decode()
    os.waitpid(pid, 0)
    return found


def who(cloud: Cloud, session: Session) -> str:
    return as_user(session, f"{cloud.root.state}/sock", "user").strip()


def test_a_login_from_its_beginning_to_its_end(cloud: Cloud) -> None:
    one, two, root = cloud.one, cloud.two, cloud.root
    assert (who(cloud, one), who(cloud, two), who(cloud, root)) == ("none", "none", "root")
    assert "you are ana" in cloud.login(one, "ana")
    assert (who(cloud, one), who(cloud, two), who(cloud, root)) == ("ana", "none", "root")
    factotum = one.env["CLOUDFS_FACTOTUM"]
    shown = one.cloudfs("keys").stdout
    assert shown == as_user(one, factotum, "ctl")
    assert "key proto=cap25519 dom=local user=ana epoch=1 root=" in shown
    assert "!seed?" in shown
    assert f"login addr=unix:{root.state}/sock user=ana state=up why=" in shown
    assert cloud.seeds["ana"].private_bytes_raw().hex() not in shown
    assert "ermission denied" in as_user(two, factotum, "ctl")

    # In the tree each sees his own, and who has none an empty file.
    sock = f"{root.state}/sock"
    assert as_user(one, sock, "factotum", "ctl") == shown
    assert as_user(two, sock, "factotum", "ctl") == ""
    assert as_user(root, sock, "factotum", "ctl") == ""

    one.cloudfs("keys", "--add", stdin="key proto=pass service=x !password=sesame\n")
    added = as_user(one, factotum, "ctl")
    assert "key proto=pass service=x !password?" in added
    done = one.cloudfs("keys", "--add", stdin="ky proto=pass !password=sesame\n", status=1)
    assert "no verb of a factotum" in done.stderr
    assert "sesame" not in done.stderr + added + as_user(one, factotum, "log")
    one.cloudfs("keys", "--remove", "proto=pass")
    assert "proto=pass" not in as_user(one, factotum, "ctl")

    # A new epoch voids what was proved before it.
    record = accounts.change_user([cloud.records["ana"]], cloud.seeds["ana"], epoch=True)
    cloud.tell(record.text())
    until(lambda: who(cloud, one) == "none")
    one.cloudfs("keys", "--remove", "user=ana")
    cloud.login(one, "ana")
    assert who(cloud, one) == "ana"

    follow = one.start(
        "cloudfs", "9p", "cat", f"unix:{sock}", ".follow/events", stdout=-1, stderr=-1
    )
    assert follow.stdout is not None
    assert follow.stdout.readline()
    assert "you are logged out" in one.cloudfs("logout").stdout
    assert "closed the connection" in follow.communicate(timeout=20)[1]
    assert who(cloud, one) == "none"
    assert "not logged in" in one.cloudfs("logout").stdout


def test_what_is_anas_is_closed_to_bob_until_she_grants_it_and_open_no_further(
    cloud: Cloud,
) -> None:
    one, two = cloud.one, cloud.two
    cloud.login(one, "ana")
    cloud.login(two, "bob")
    shell = ("sh", "-c", "echo hers; exec sleep 600")
    web = one.cloudfs("run", "--app", "web", *shell).stdout.strip()
    sock = f"{cloud.root.state}/sock"
    assert "user=ana" in as_user(two, sock, "proc", web, "status")
    until(lambda: as_user(one, sock, "proc", web, "stdout") == "hers\n")
    assert "ermission denied" in as_user(two, sock, "proc", web, "stdout")
    assert two.cloudfs("kill", web, status=1).stderr

    holder = two.cloudfs("keys", "--holder").stdout.strip()
    assert holder == f"ed25519:{cloud.seeds['bob'].public_key().public_bytes_raw().hex()}"
    limits = ("--op", "kill,read", "--app", "web", "--cluster", "local", "--for", "1h")
    token = one.cloudfs("grant", holder, *limits).stdout
    assert token.startswith("granted ")
    two.cloudfs("keys", "--add", stdin=token)

    def as_ana(*args: str, **more: object) -> str:
        done = two.cloudfs("9p", "--user", "ana", *args, **more)
        return done.stdout + done.stderr

    at = f"unix:{sock}"
    assert as_ana("cat", at, f"proc/{web}/stdout") == "hers\n"
    assert "denied" in as_ana("write", at, f"proc/{web}/ctl", stdin="stop\n", status=1)
    as_ana("write", at, f"proc/{web}/ctl", stdin="kill\n")
    one.cloudfs("wait", web, status=128 + 9)
    done = one.cloudfs("grant", "nobody-knows", status=1)
    assert "cloudfs keys --holder" in done.stderr
    for session in (one, two):
        session.cloudfs("logout")


def test_what_is_granted_may_have_a_highest_price(cloud: Cloud) -> None:
    one, two, sock = cloud.one, cloud.two, f"unix:{cloud.root.state}/sock"
    cloud.login(one, "ana")
    cloud.login(two, "bob")
    cloud.root.run("tee", f"{cloud.root.mount}/nodes/n1/ctl", stdin="price 2\n")
    try:
        line = one.cloudfs("grant", "bob", "--app", "web", "--price", "1.5").stdout
        two.cloudfs("keys", "--add", stdin=line)

        def as_ana(*args: str, **more: object) -> str:
            done = two.cloudfs("9p", "--user", "ana", *args, **more)
            return done.stdout + done.stderr

        id = one.cloudfs("run", "--app", "web", "sleep", "600").stdout.strip()
        ctl = f"proc/{id}/ctl"
        for words, reason in (
            ("limit cpu=1", "2 an hour"),
            ("move n2", "may use any number of cores"),
        ):
            assert "denied" in as_ana("write", sock, ctl, stdin=f"{words}\n", status=1)
            assert reason in as_ana("cat", sock, "err").splitlines()[-1]
        as_ana("write", sock, ctl, stdin="limit cpu=0.5\n")
        as_ana("write", sock, ctl, stdin="move n2\n", status=1)
        assert "token" not in as_ana("cat", sock, "err").splitlines()[-1]
        as_ana("write", sock, ctl, stdin="kill\n")

        # What runs by the token is bound by it in its own /cloud too.
        inside = "read x; cd /cloud/proc/$(cat /cloud/proc/clone); echo exec sleep 9 >ctl || cat /cloud/err"
        words = ("--app", "web", "--limit", "cpu=0.5", "sh", "-c", f"{inside}; sleep 600")
        id = one.cloudfs("run", *words).stdout.strip()
        as_ana("write", sock, f"proc/{id}/ctl", stdin="restart always\n")
        one.run("sh", "-c", f"echo >{cloud.root.mount}/proc/{id}/stdin")
        until(lambda: "number of cores" in as_user(one, sock[5:], "proc", id, "stdout"))
        as_ana("write", sock, f"proc/{id}/ctl", stdin="kill\n")
        for wrong in ("-1", "much", "inf", "nan"):
            assert "number" in one.cloudfs("grant", "bob", "--price", wrong, status=1).stderr
    finally:
        cloud.root.run("tee", f"{cloud.root.mount}/nodes/n1/ctl", stdin="price 0\n")
        for session in (one, two):
            session.cloudfs("logout")


def test_a_mount_knows_who_has_logged_in(cloud: Cloud) -> None:
    """The kernel checks permissions too, by numbers: ana's files are her uid's."""
    one, two, at = cloud.one, cloud.two, cloud.root.mount
    assert one.sh(f"cat {at}/user; cat {at}/factotum/*").startswith("none\nYour factotum")
    cloud.login(one, "ana")
    until(lambda: one.sh(f"cat {at}/user") == "ana\n")
    script = f"""
        id=$(cat {at}/proc/clone); cd {at}/proc/$id
        echo exec echo mine >ctl; cat {at}/.follow/proc/$id/wait >/dev/null
        stat -c '%u %a' stdout; cat stdout; pwd
    """
    stat, mine, there = one.sh(script).splitlines()
    assert (stat, mine) == (f"{ANA} 440", "mine")
    assert "ermission denied" in two.run("cat", f"{there}/stdout", status=1).stderr
    rpc = f"exec 3<>{at}/factotum/rpc; echo start proto=p9any >&3; cat <&3; echo attr >&3; cat <&3"
    assert one.sh(rpc) == "okok "
    assert "login addr" in one.sh(f"cat {at}/factotum/ctl")
    assert two.sh(f"cat {at}/factotum/ctl") == ""
    assert two.run("sh", "-c", f"echo delkey user? >{at}/factotum/ctl", status=None).returncode
    assert "have not logged in" in two.cloudfs("why").stdout
    one.cloudfs("logout")
    until(lambda: one.sh(f"cat {at}/user") == "none\n")


def test_a_user_whom_the_node_does_not_know_stays_nobody(cloud: Cloud) -> None:
    cloud.seeds["mallory"] = Ed25519PrivateKey.generate()
    cloud.seal("mallory")
    said = cloud.login(cloud.one, "mallory", status=1)
    assert "there is no user mallory that this node knows" in said
    assert "login addr" not in as_user(cloud.one, cloud.one.env["CLOUDFS_FACTOTUM"], "ctl")
    cloud.one.cloudfs("logout")


def test_wrong_passwords_and_what_is_no_sealed_file(cloud: Cloud) -> None:
    said = cloud.login(cloud.one, "ana", stdin="wrong\n", status=1)
    assert "the password is wrong" in said
    assert not Path(cloud.one.env["CLOUDFS_FACTOTUM"]).exists(), "nothing was started for it"
    home = cloud.one.home
    for name, words in (
        (f"{home}/bob.keys", "the keys of bob"),
        (f"{home}/none", "No such file"),
        ("/proc/self/exe", "is no text"),
        ("/etc/passwd", "no sealed key file"),
    ):
        with pytest.raises(CloudError, match=words):
            get_keys("ana", Path(name), lambda: WORD)
    assert get_keys("ana", home / "ana.keys", lambda: WORD)[0].startswith("key proto=cap25519")


def test_a_node_that_comes_back_knows_who_is_logged_in(cloud: Cloud) -> None:
    """Without a word of theirs.  The last one: the mount in their name spaces ends by it."""
    cloud.login(cloud.one, "ana")
    cloud.root.cloudfs("down")
    until(lambda: "state=lost" in as_user(cloud.one, cloud.one.env["CLOUDFS_FACTOTUM"], "ctl"))
    cloud.root.cloudfs("up", "--node", "n1", "--no-mount")
    until(lambda: who(cloud, cloud.one) == "ana")
    cloud.one.cloudfs("logout")


@pytest.mark.parametrize("text", ["", "12", "h", "-1h", "0s", "1e3s", "1w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CloudError, match="no time"):
        seconds(text)
    assert (seconds("90m"), seconds("1.5h"), seconds("7d")) == (5400, 5400, 604800)


def test_a_user_of_the_cloud_logs_in_by_a_password(cloud: Cloud) -> None:
    """One command makes a user, and one logs in: the keys come out of the secstore."""
    word = "a long and plain sentence"
    code = cloud.root.cloudfs("user", "add", "eve", stdin=f"{word}\n").stdout
    assert code.strip()
    wrong = cloud.two.cloudfs("login", "eve", stdin="no such word\n", status=1)
    assert "password" in wrong.stderr
    cloud.two.cloudfs("logout", status=None)
    assert "you are eve" in cloud.two.cloudfs("login", "eve", stdin=f"{word}\n").stdout
    assert who(cloud, cloud.two) == "eve"
    assert word not in cloud.root.log()


def test_what_was_granted_can_be_taken_back(cloud: Cloud) -> None:
    word = "a long and plain sentence"
    cloud.root.cloudfs("user", "add", "gil", stdin=f"{word}\n")
    cloud.one.cloudfs("login", "gil", stdin=f"{word}\n")
    cloud.login(cloud.two, "bob")
    line = cloud.one.cloudfs("grant", "bob", "--op", "read").stdout
    cloud.two.cloudfs("keys", "--add", stdin=line)
    sock = f"unix:{cloud.root.state}/sock"
    asked = ("9p", "--user", "gil", "cat", sock, "user")
    assert cloud.two.cloudfs(*asked).stdout == "gil\n"
    granted = cloud.one.home / "granted"
    granted.write_text(line)
    os.chown(granted, cloud.one.person.uid, -1)
    assert (
        "password"
        in cloud.one.cloudfs("revoke", str(granted), stdin="no such word\n", status=1).stderr
    )
    cloud.one.cloudfs("revoke", str(granted), stdin=f"{word}\n")
    assert "revoked" in cloud.two.cloudfs(*asked, status=1).stderr
    assert who(cloud, cloud.one) == "gil"
    granted.write_text("nothing of it\n")
    said = cloud.one.cloudfs("revoke", str(granted), stdin=f"{word}\n", status=1).stderr
    assert "cloudfs grant printed" in said
    cloud.one.cloudfs("logout")
    cloud.two.cloudfs("logout")
