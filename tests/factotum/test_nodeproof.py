"""A node's certificates, as a user's factotum checks them: by the root's key alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import authority, nodeproof
from cloudfs.factotum.nodeproof import Check, NodeProof, root_key
from tests.factotum.town import Town

DATA = b"what was said"


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def check(town: Town) -> Check:
    return Check(root_key(town.root.cert), "local", town.clock)


def test_a_node_of_the_cloud_is_known_by_its_chain(town: Town) -> None:
    proof = NodeProof(town.node("n1"))
    chain, sign = proof.load()
    assert (proof.cloud, proof.cluster, proof.node) == ("local", "paris", "n1")
    assert len(nodeproof.split(chain)) == 2
    assert check(town)(chain, sign(DATA), DATA) == "n1"


def test_a_renewed_certificate_is_read_again(town: Town) -> None:
    files = town.node("n1")
    proof = NodeProof(files)
    before = proof.load()[0], proof.binding
    town.node("n1")
    after = proof.load()[0], proof.binding
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_who_is_no_node_of_this_cloud(town: Town, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Town(tmp_path / "other")
    chain, sign = NodeProof(other.node("n1")).load()
    with pytest.raises(CloudError, match="no node of the cloud local"):
        check(town)(chain, sign(DATA), DATA)
    mine, _ = NodeProof(town.node("n1")).load()
    with pytest.raises(CloudError, match="not the node that it says"):
        check(town)(mine, sign(DATA), DATA)
    mixed = nodeproof.split(mine)[0] + nodeproof.split(chain)[1]
    with pytest.raises(CloudError, match="no node of the cloud"):
        check(town)(mixed, sign(DATA), DATA)


def test_an_authority_makes_no_nodes_of_another_cluster(town: Town) -> None:
    rome = authority.make_cluster(town.root, "rome", town.now)
    files = town.node("n1")
    chain, sign = NodeProof(files).load()
    forged = nodeproof.split(chain)[0] + nodeproof.split(chain)[1]
    assert check(town)(forged, sign(DATA), DATA) == "n1"
    town.paris = authority.Authority(rome.cert, rome.key, "local", "paris")
    files = town.node("n2")  # signed by rome, says that it is in paris
    chain, sign = NodeProof(files).load()
    with pytest.raises(CloudError, match="no node of the cloud"):
        check(town)(chain, sign(DATA), DATA)


def test_a_certificate_that_ended_says_which_clock_may_be_wrong(town: Town) -> None:
    chain, sign = NodeProof(town.node("n1", life=60.0)).load()
    known = check(town)
    assert known(chain, sign(DATA), DATA) == "n1"
    town.now += 86400
    with pytest.raises(CloudError, match="is good from .* and here it is") as caught:
        known(chain, sign(DATA), DATA)
    assert "clocks" in caught.value.fix
    town.now -= 3 * 86400
    with pytest.raises(CloudError, match="and here it is"):
        check(town)(chain, sign(DATA), DATA)


def test_a_damaged_root_is_said(town: Town) -> None:
    for root in ("", "zz", "02" + "ff" * 32, "00"):
        with pytest.raises(CloudError, match="root of the cloud local is damaged"):
            Check(root, "local", town.clock)


def test_a_certificate_is_not_taken_in_another_encoding(town: Town) -> None:
    """Of a signature that ends in a 0 that bit may be called unused, which changes no value."""
    odd = True
    while odd:
        chain, sign = NodeProof(town.node("n1")).load()
        first = nodeproof.split(chain)[0]
        odd = bool(first[-1] & 1)
    place = len(first) - len(x509.load_der_x509_certificate(first).signature) - 1
    other = chain[:place] + b"\1" + chain[place + 1 :]
    assert check(town)(chain, sign(DATA), DATA) == "n1"
    with pytest.raises(CloudError, match="no node of the cloud"):
        check(town)(other, sign(DATA), DATA)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(data=st.binary(max_size=1600), at=st.integers(0, 1200), bit=st.integers(1, 255))
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_sent_in_its_place_is_refused(
    town: Town, data: bytes, at: int, bit: int
) -> None:
    chain, sign = NodeProof(town.node("n1")).load()
    place = at % len(chain)
    for sent in (data, chain[:place] + bytes([chain[place] ^ bit]) + chain[place + 1 :]):
        with pytest.raises(CloudError):
            check(town)(sent, sign(DATA), DATA)
