"""Authorities, certificates and join files, against OpenSSL and the engine's own TLS."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.fabric.zenoh import ZenohEngine
from cloudfs.factotum import authority, certificates, nodekeys
from cloudfs.factotum.authority import Authority, Join
from cloudfs.factotum.nodekeys import KeyFiles
from tests.fabric.conftest import eventually, free_ports

NOW = 1_790_000_000.0
ROOT = authority.make_root("local", NOW)
PARIS, ROME = (authority.make_cluster(ROOT, name, NOW) for name in ("paris", "rome"))
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rename(by: Authority, cluster: str) -> Authority:
    """An authority that makes names of another cluster all the same."""
    return Authority(by.cert, by.key, by.cloud, cluster)


def files(at: Path, by: Authority, node: str, now: float) -> KeyFiles:
    at.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    made = KeyFiles(at / "ca.crt", at / "node.crt", at / "node.key")
    made.ca.write_bytes(certificates.pem(ROOT.cert))
    made.cert.write_bytes(authority.issue(by, node, key.public_key(), now))
    made.key.write_bytes(certificates.pem_key(key))
    return made


def handshake(server: KeyFiles, client: KeyFiles) -> tuple[str, str, str]:
    """The client's name as the server sees it; raises ssl.SSLError."""
    contexts = nodekeys.server_context(server), nodekeys.client_context(client)
    there, here = (ssl.MemoryBIO() for _ in range(2))
    ends = (
        contexts[0].wrap_bio(here, there, server_side=True),
        contexts[1].wrap_bio(there, here),
    )
    for _ in range(6):
        for end in reversed(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return certificates.peer_name(ends[0].getpeercert(binary_form=True))


@pytest.fixture
def now() -> float:
    import time

    return time.time()


def test_nodes_of_two_clusters_know_each_other(tmp_path: Path, now: float) -> None:
    one, two = files(tmp_path / "1", PARIS, "n1", now), files(tmp_path / "2", ROME, "n2", now)
    assert handshake(one, two) == ("local", "rome", "n2")
    assert handshake(two, one) == ("local", "paris", "n1")


def test_a_clusters_authority_cannot_make_names_of_another(tmp_path: Path, now: float) -> None:
    good = files(tmp_path / "1", PARIS, "n1", now)
    bad = files(tmp_path / "2", rename(PARIS, "rome"), "n2", now)
    with pytest.raises(ssl.SSLError, match="permitted subtree violation"):
        handshake(good, bad)


def test_a_node_cannot_make_nodes(tmp_path: Path, now: float) -> None:
    good = files(tmp_path / "1", PARIS, "n1", now)
    chain = x509.load_pem_x509_certificates(good.cert.read_bytes())
    key = nodekeys.node_key(good.key)
    bad = files(tmp_path / "2", Authority(chain[0], key, "local", "paris"), "n2", now)
    bad.cert.write_bytes(bad.cert.read_bytes() + certificates.pem(chain[1]))
    with pytest.raises(ssl.SSLError, match="invalid CA certificate"):
        handshake(good, bad)


@pytest.mark.parametrize("off", [-80 * 3600.0, +2 * 3600.0])
def test_certificates_are_good_in_their_time_alone(tmp_path: Path, now: float, off: float) -> None:
    good, bad = (
        files(tmp_path / "1", PARIS, "n1", now),
        files(tmp_path / "2", ROME, "n2", now + off),
    )
    with pytest.raises(ssl.SSLError, match="expired|not yet valid"):
        handshake(good, bad)


async def test_the_engine_holds_to_the_constraint_as_well(tmp_path: Path, now: float) -> None:
    ports = free_ports(3)
    made = [files(tmp_path / "1", PARIS, "n1", now), files(tmp_path / "2", ROME, "n2", now)]
    made.append(files(tmp_path / "3", rename(PARIS, "rome"), "n3", now))
    engines = [
        ZenohEngine(f"n{i + 1}", "z", f"127.0.0.1:{ports[i]}", [f"127.0.0.1:{ports[0]}"], made[i])
        for i in range(3)
    ]
    async with trio.open_nursery() as nursery:
        for engine in engines:
            await nursery.start(engine.run)
        await eventually(lambda: engines[0].members() == engines[1].members() == {"n1", "n2"})
        await trio.sleep(1)
        assert engines[0].members() == {"n1", "n2"}
        assert engines[2].members() == {"n3"}
        nursery.cancel_scope.cancel()


def test_a_cluster_may_be_called_as_its_cloud(tmp_path: Path, now: float) -> None:
    """As both are where nobody gave them a name."""
    same = authority.make_cluster(ROOT, "local", now)
    assert authority.load(same.pem()).cluster == "local"
    one, two = files(tmp_path / "1", same, "n1", now), files(tmp_path / "2", same, "n2", now)
    assert handshake(one, two) == ("local", "local", "n2")


def test_authorities_are_read_back() -> None:
    for made in (ROOT, PARIS):
        again = authority.load(made.pem())
        assert (again.cert, again.cloud, again.cluster) == (made.cert, made.cloud, made.cluster)
        assert again.pem() == made.pem()
    with pytest.raises(CloudError, match="no authority's key"):
        authority.load(b"nothing")
    with pytest.raises(CloudError, match="do not fit"):
        authority.load(certificates.pem(ROOT.cert) + certificates.pem_key(KEY))


@pytest.mark.parametrize("name", ["", "Paris", "a.b", "-a", "a/b", "a" * 64, "ä"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(CloudError, match="is no"):
        authority.make_cluster(ROOT, name, NOW)
    with pytest.raises(CloudError, match="is no"):
        authority.issue(PARIS, name, KEY.public_key(), NOW)


# --- join files -----------------------------------------------------------------------------


def make(**more) -> Join:
    return authority.make_join(PARIS, ROOT.cert, ["192.0.2.1:5640"], "n1", NOW, **more)


def admit(joined: Join, now: float = NOW, used: int = 0, by: Authority = PARIS) -> None:
    shown = joined.shown()
    proof = joined.prove("n5", PUBLIC)
    authority.check_join(shown, proof, "n5", PUBLIC, by.cert, now, lambda id: used)


def test_a_join_file_lets_a_key_in() -> None:
    joined = authority.parse_join(make().text())
    admit(joined)
    authority.check_root(joined, ROOT.cert)
    assert joined.seeds == ("192.0.2.1:5640",)


def test_what_an_issuer_is_shown_holds_no_secret() -> None:
    joined = make()
    assert joined.key not in joined.shown().text()
    assert joined.key not in repr(joined)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"now": NOW + 86400}, "ended 2026-09-22 .* and here it is 2026-09-22"),
        ({"used": 1}, "a node has joined with this file already"),
        ({"by": ROME}, "another cluster's"),
    ],
)
def test_join_files_that_do_not_let_in(more, why) -> None:
    with pytest.raises(CloudError, match=why) as caught:
        admit(make(), **more)
    assert caught.value.kind == "denied"


@pytest.mark.parametrize(
    "change",
    [
        {"uses": 99},
        {"ends": NOW + 1e6},
        {"cluster": "rome"},
        {"seeds": ("198.51.100.1:1",)},
        {"issuer": "n2"},
        {"key": "ab" * 32},
    ],
)
def test_an_edited_join_file_does_not(change) -> None:
    with pytest.raises(CloudError, match="was changed"):
        admit(replace(make(), **change))


def test_a_proof_is_for_one_nodes_key_alone() -> None:
    joined = make()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    shown, proof = joined.shown(), joined.prove("n5", PUBLIC)
    for node, public in (("n5", der), ("n6", PUBLIC)):
        with pytest.raises(CloudError, match="was changed"):
            authority.check_join(shown, proof, node, public, PARIS.cert, NOW, lambda id: 0)


def test_another_clouds_root_is_not_the_one() -> None:
    with pytest.raises(CloudError, match="another cloud"):
        authority.check_root(make(), authority.make_root("local", NOW).cert)


@given(st.text(max_size=200))
def test_other_text_is_no_join_file(text: str) -> None:
    with pytest.raises(CloudError, match="no join file"):
        authority.parse_join(text)


@given(st.data())
def test_a_join_file_with_a_wrong_byte(data: st.DataObject) -> None:
    text = TEXT
    at = data.draw(st.integers(0, len(text) - 2))
    byte = data.draw(st.sampled_from("0123456789abcdef= ,'z\n"))
    changed = text[:at] + byte + text[at + 1 :]
    if changed.strip() == text.strip():
        return
    with pytest.raises(CloudError):
        admit(authority.parse_join(changed))


TEXT = make().text()


@pytest.mark.parametrize("more", [{"uses": 0}, {"uses": 10**6}])
def test_join_files_that_make_no_sense(more) -> None:
    with pytest.raises(CloudError, match="at least one node"):
        make(**more)


def test_long_names_have_certificates_too(tmp_path: Path, now: float) -> None:
    node, cluster = "n" * 63, "c" * 63
    by = authority.make_cluster(ROOT, cluster, now)
    one, two = files(tmp_path / "1", by, node, now), files(tmp_path / "2", PARIS, "n2", now)
    assert handshake(two, one) == ("local", cluster, node)
