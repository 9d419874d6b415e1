"""A node's keys and ledger on disk: what is kept, moved out of the way, given and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudfs.credentials import FILES, Credentials
from cloudfs.errors import CloudError
from cloudfs.factotum import authority, enrol, nodekeys
from cloudfs.factotum.authority import LIFE, parse_join
from cloudfs.kernel.records import Records
from tests.factotum.test_authority import KEY, NOW


class Time:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def node(folder: Path, name: str, cluster: str = "paris", clock: Time | None = None) -> Credentials:
    folder.mkdir(exist_ok=True)
    made = Credentials(folder, name, Records(folder / "db"), clock or Time())
    made.load(cluster)
    return made


def join(issuer: Credentials, text: str, name: str, key: object = KEY) -> str:
    asked = enrol.parse(enrol.ask_join(parse_join(text), name, key))  # type: ignore[arg-type]
    assert issuer.issues_for(asked)
    return issuer.answer(asked)


def test_a_node_in_no_cloud_makes_no_keys(tmp_path: Path) -> None:
    made = node(tmp_path, "n1")
    assert not made.certified
    assert not list(tmp_path.glob("*.key"))
    assert "cloudfs init" in str(made.record()["why"])
    for refused in (lambda: made.invite(3600, 1, ["h:1"]), made.greeting):
        with pytest.raises(CloudError):
            refused()


def test_a_cloud_is_begun_once_and_its_first_node_can_be_renamed(tmp_path: Path) -> None:
    made = node(tmp_path, "n1")
    assert made.init("home", "paris") == tmp_path / "root.key"
    with pytest.raises(CloudError, match="in the cloud home already"):
        made.init("home", "paris")
    key = (tmp_path / "cluster.key").read_bytes()
    renamed = node(tmp_path, "n9")
    assert "its certificate is of node n1" in renamed.why
    with pytest.raises(CloudError, match="of the cloud home, not of work"):
        renamed.init("work", "paris")
    renamed.init("", "paris")
    assert (tmp_path / "cluster.key").read_bytes() == key
    assert renamed.record()["node"] == "n9"
    assert renamed.record()["issuer"] == "yes"


def test_keys_of_another_cloud_are_not_lost(tmp_path: Path) -> None:
    """Also where both clouds have the same name."""
    made = node(tmp_path / "a", "n1")
    made.init("local", "paris")
    before = {name: (tmp_path / "a" / name).read_bytes() for name in ("root.key", "cluster.key")}
    (tmp_path / "a" / "root.key").rename(tmp_path / "root.key")
    again = node(tmp_path / "a", "n2")  # another name: in no cloud
    again.init("local", "paris")
    assert again.certified
    kept = {path.name.partition(".key")[0]: path.read_bytes()
            for path in (tmp_path / "a").glob("*.key.*")}  # fmt: skip
    assert kept == {"cluster": before["cluster.key"]}

    other = node(tmp_path / "b", "n1")
    other.init("home", "rome")
    chain = join(other, other.invite(3600, 1, ["h:1"]), "n2", nodekeys.node_key(again.files.key))
    assert other.root is not None
    again.adopt(other.root, chain.encode())
    assert (again.record()["cloud"], again.record()["issuer"]) == ("home", "no")
    assert len(list((tmp_path / "a").glob("root.key.*"))) == 1
    assert not (tmp_path / "a" / "root.key").exists()


def test_another_node_with_the_clusters_key_is_an_issuer_as_well(tmp_path: Path) -> None:
    clock = Time()
    first = node(tmp_path / "a", "n1", clock=clock)
    first.init("home", "paris")
    second = node(tmp_path / "b", "n2", clock=clock)
    key = nodekeys.node_key(second.files.key)
    chain = join(first, first.invite(3600, 1, ["h:1"]), "n2", key)
    assert first.root is not None
    second.adopt(first.root, chain.encode())
    nodekeys.write(second.state / "cluster.key", (first.state / "cluster.key").read_bytes(), 0o600)
    assert second.renew_here()
    assert join(second, second.invite(3600, 1, ["h:1"]), "n3")
    # A join file is its maker's to count.
    asked = enrol.parse(enrol.ask_join(parse_join(first.invite(3600, 1, ["h:1"])), "n4", KEY))
    assert not second.issues_for(asked)


def test_who_had_a_name_before_does_not_come_back_to_it(tmp_path: Path) -> None:
    clock = Time()
    first = node(tmp_path, "n1", clock=clock)
    first.init("home", "paris")
    old = join(first, first.invite(3600, 1, ["h:1"]), "n2")
    clock.now += LIFE + 60  # its certificate ran out, so the name is free
    new = authority.ec.generate_private_key(authority.ec.SECP256R1())
    join(first, first.invite(3600, 1, ["h:1"]), "n2", new)
    cert = authority.x509.load_pem_x509_certificate(old.encode())
    with pytest.raises(CloudError, match="there is a node n2 with another key"):
        first.answer(enrol.parse(enrol.ask_renewal(cert, KEY)))


def test_the_ledger_outlives_the_daemon_and_is_bounded(tmp_path: Path) -> None:
    first = node(tmp_path, "n1")
    first.init("home", "paris")
    text = first.invite(3600, 1, ["h:1"])
    join(first, text, "n2")
    again = node(tmp_path, "n1")
    other = authority.ec.generate_private_key(authority.ec.SECP256R1())
    with pytest.raises(CloudError, match="a node has joined with this file already"):
        join(again, text, "n3", other)
    joins = {f"{number:016x}": {"ends": NOW + 99, "nodes": {}} for number in range(FILES)}
    again._records.set("joins", joins)
    with pytest.raises(CloudError) as caught:
        again.invite(3600, 1, ["h:1"])
    assert caught.value.kind == "toomany"
    with pytest.raises(CloudError, match="does not know this join file"):
        join(again, text, "n4", other)
    again.clock.now += 200  # type: ignore[attr-defined]
    again.invite(3600, 1, ["h:1"])


@pytest.mark.parametrize("name", ["cluster.key", "node.crt", "root.crt", "node.key"])
def test_broken_files_are_said(tmp_path: Path, name: str) -> None:
    node(tmp_path, "n1").init("home", "paris")
    (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(CloudError) as caught:
        node(tmp_path, "n1")
    assert caught.value.kind == "bad"
    assert str(tmp_path) in caught.value.why


def test_a_broken_list_of_the_revoked_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    made = node(tmp_path, "n1")
    made.init("home", "paris")
    made.revoke("n2", "paris")
    path = tmp_path / "revoked"
    path.write_bytes(b"\xff\xfe junk\n" + path.read_bytes())
    assert node(tmp_path, "n1").revoked.of("paris", "n2") is not None
