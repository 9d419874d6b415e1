"""cloudfs init, invite, join and node revoke, and the shell lines that do the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudfs import ndb
from cloudfs.cli.local import free_ports
from cloudfs.cli.up import until
from tests.persons import Person, Session, open_folder


@pytest.fixture
def pair(person: Person) -> Iterator[tuple[Session, Session]]:
    """Two daemons of one person, each with its own state, on loopback, in no cloud yet."""
    folder = open_folder()
    made = [Session(person, folder / name) for name in ("a", "b")]
    for own, port in zip(made, free_ports(2), strict=True):
        words = ("--no-mount", "--node", own.home.name, "--listen", f"127.0.0.1:{port}")
        own.cloudfs("up", *words)
    yield made[0], made[1]
    for own in made:
        own.cloudfs("down", "--objects", status=None)


def states(own: Session) -> dict[str, str]:
    lines = own.cloudfs("nodes").stdout.splitlines()[1:]
    return {line.split()[0]: line.split()[1] for line in lines}


def test_a_cloud_of_two_is_begun_joined_and_left(pair: tuple[Session, Session]) -> None:
    one, two = pair
    said = one.cloudfs("nodes").stdout
    assert "type cloudfs init, or cloudfs join FILE" in said
    assert not list(one.state.glob("*.key"))
    assert "in no cloud yet" in one.cloudfs("join", "127.0.0.1:1", status=1).stderr
    assert "has not its cluster's authority" in one.cloudfs("invite", status=1).stderr
    assert "no names" in one.cloudfs("init", "No Name", status=1).stderr

    said = one.cloudfs("init").stdout
    assert str(one.state / "root.key") in said
    assert "carry it away" in said
    assert "already" in one.cloudfs("init", status=1).stderr
    for name in ("root.key", "cluster.key", "node.key"):
        assert (one.state / name).stat().st_mode & 0o777 == 0o600
    for words, wrong in (
        (("--for", "1y"), "cannot be used"),
        (("--for", "1s"), "a minute at least"),
        (("--uses", "0"), "at least one node"),
    ):
        assert wrong in one.cloudfs("invite", *words, status=1).stderr

    assert "carry it to a place" in one.cloudfs("doctor", status=None).stdout
    one.run("rm", str(one.state / "root.key"))  # it works on without
    assert "root key is not on this machine" in one.cloudfs("doctor", status=None).stdout
    file = two.home / "join"
    file.write_text(one.cloudfs("invite", "--for", "10min").stdout)
    file.chmod(0o644)
    two.cloudfs("join", str(file))
    assert until(lambda: states(one) == states(two) == {"a": "alive", "b": "alive"}, 30)
    assert not (two.state / "cluster.key").exists()
    assert "in a cloud with a" in two.cloudfs("join", str(file), status=1).stderr

    for word in ndb.parse(file.read_text())["key"], "PRIVATE":
        for own in pair:
            assert word not in (own.state / "log").read_text()
    one.cloudfs("node", "revoke", "b")
    assert until(lambda: states(one).get("b") in ("gone", None), 30)
    assert until(lambda: "was revoked" in two.cloudfs("nodes").stdout, 10)
    assert "was revoked" in two.cloudfs("join", str(file), status=1).stderr
    assert "this node itself" in one.cloudfs("node", "revoke", "a", status=1).stderr


@pytest.mark.one_person
def test_the_shell_lines_do_the_same(pair: tuple[Session, Session]) -> None:
    one, two = pair
    one.env["CLOUDFS_MOUNT"] = str(one.mount)
    for own in pair:
        own.sh(f"mkdir -p {own.mount}; cloudfs mount unix:{own.state}/sock {own.mount}")
    try:
        one.sh(one.cloudfs("-x", "init", "home", "paris").stdout)
        file = two.home / "join"
        file.write_text(one.sh(one.cloudfs("-x", "invite", "--uses", "3").stdout))
        parsed = ndb.parse(file.read_text())
        assert (parsed["cloud"], parsed["cluster"], parsed["uses"]) == ("home", "paris", "3")
        two.sh(two.cloudfs("-x", "join", str(file)).stdout)
        assert until(lambda: states(one) == {"a": "alive", "b": "alive"}, 30)
        one.sh(one.cloudfs("-x", "node", "revoke", "b").stdout)
        assert "node=b" in one.sh(f"cat {one.mount}/nodes/a/revoked")
    finally:
        for own in pair:
            own.cloudfs("unmount", str(own.mount), status=None)


@pytest.mark.one_person
def test_another_cluster_is_begun_with_the_root_key(pair: tuple[Session, Session]) -> None:
    one, two = pair
    one.cloudfs("init", "home", "paris")
    key = two.home / "root.key"
    one.run("cp", str(one.state / "cluster.key"), str(key))
    assert "is no root key" in two.cloudfs("init", "--root", str(key), status=1).stderr
    one.run("cp", str(one.state / "root.key"), str(key))
    done = two.cloudfs("init", "--root", str(key), "other", "rome", status=1)
    assert "is of the cloud home, not of other" in done.stderr
    two.cloudfs("init", "--root", str(key), "home", "rome")
    two.cloudfs("join", ndb.parse(one.cloudfs("invite").stdout)["seeds"])
    assert until(lambda: states(one) == states(two) == {"a": "alive", "b": "alive"}, 60)
    one.run("rm", str(one.state / "root.key"))
    one.cloudfs("node", "revoke", "x", "--cluster", "rome")  # which rome's own issuer does
    assert "cluster=rome node=x" in two.sh(f"cat {two.state}/revoked")
    two.cloudfs("down")
    assert until(lambda: states(one).get("b") == "gone", 30)
    assert "authority of paris" in one.cloudfs("node", "revoke", "x", "--cluster", "rome",
                                               status=1).stderr  # fmt: skip
