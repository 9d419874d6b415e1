"""A node's files, and that TLS with them lets in whom it should."""

import socket
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloudfs.errors import CloudError
from cloudfs.factotum import authority, nodekeys
from cloudfs.factotum.certificates import EARLY, peer_fingerprint, peer_name, pem, proof
from cloudfs.factotum.nodekeys import (
    KeyFiles,
    client_context,
    fingerprint,
    server_context,
    stranger_context,
)
from tests.clouds import TestCloud


@pytest.fixture
def cloud(tmp_path):
    return TestCloud(tmp_path / "a", "home")


def der(files):
    return x509.load_pem_x509_certificate(files.cert.read_bytes()).public_bytes(Encoding.DER)


def handshake(server, client):
    """What each side makes of the other's certificate, or the error it met."""
    ours, theirs = socket.socketpair()
    met = {}

    def side(name, sock, context, **how):
        try:
            with context.wrap_socket(sock, **how) as tls:
                tls.settimeout(5)
                # TLS 1.3: only data from the server says that it let the client in.
                if name == "server":
                    tls.sendall(b"in")
                else:
                    assert tls.recv(2) == b"in"
                met[name] = tls.getpeercert(binary_form=True)
                assert tls.version() == "TLSv1.3"
        except (ssl.SSLError, OSError, AssertionError) as error:
            met[name] = error

    thread = threading.Thread(
        target=side, args=("server", ours, server), kwargs={"server_side": True}
    )
    thread.start()
    side("client", theirs, client)
    thread.join(10)
    return met["server"], met["client"]


def test_two_nodes_of_a_cloud_know_each_other(cloud):
    one, two = cloud.files("n1", "c1"), cloud.files("n2", "c2")
    seen, saw = handshake(server_context(one), client_context(two))
    assert peer_name(seen) == ("home", "c2", "n2")
    assert peer_name(saw) == ("home", "c1", "n1")
    assert peer_fingerprint(seen) == fingerprint(two) != fingerprint(one)
    assert len(fingerprint(one)) == 32
    int(fingerprint(one), 16)


def test_a_stranger_does_not_get_in(tmp_path, cloud):
    other = TestCloud(tmp_path / "b", "home")  # the same name, another key
    seen, saw = handshake(
        server_context(cloud.files("n1", "c1")), client_context(other.files("n1", "c1"))
    )
    assert isinstance(seen, Exception)
    assert isinstance(saw, Exception)


def test_who_has_no_certificate_proves_nothing_and_may_check_the_node(tmp_path, cloud):
    server = server_context(cloud.files("n1", "c1"))
    for context in (stranger_context(cloud.root.cert), stranger_context(None)):
        seen, saw = handshake(server, context)
        assert seen is None
        assert peer_name(saw) == ("home", "c1", "n1")
    other = TestCloud(tmp_path / "b", "home")
    _, saw = handshake(server, stranger_context(other.root.cert))
    assert isinstance(saw, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("stranger", [False, True])
def test_older_tls_is_refused(cloud, stranger):
    files = cloud.files("n1", "c1")
    old = stranger_context(None) if stranger else client_context(files)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    seen, _ = handshake(server_context(files), old)
    assert isinstance(seen, ssl.SSLError)


def test_secrets_are_for_the_owner_alone(cloud):
    files = cloud.files("n1", "c1")
    for secret in (files.key, cloud.folder / "root.key"):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in files.ca.read_bytes() + files.cert.read_bytes()


def test_a_new_certificate_is_of_the_same_key(cloud):
    files = cloud.files("n1", "c1")
    first, before = fingerprint(files), files.key.read_bytes()
    state, later = files.key.parent, time.time() + 5
    nodekeys.give(state, cloud.root.cert, cloud.cluster("c1"), "n1", later)
    assert fingerprint(files) == first
    assert files.key.read_bytes() == before
    found = nodekeys.read_proof(files)
    assert (found.cloud, found.cluster, found.node, found.key) == ("home", "c1", "n1", first)
    assert found.made == int(later)
    assert found.ends - found.made == authority.LIFE
    made = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert made.not_valid_before_utc.timestamp() == found.made - EARLY


def test_files_that_do_not_fit_are_said(tmp_path, cloud):
    files = cloud.files("n1", "c1")
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    with pytest.raises(CloudError, match="there is no"):
        nodekeys.read_proof(nodekeys.files_in(tmp_path))
    files.key.write_bytes(cloud.files("n2", "c1").key.read_bytes())
    with pytest.raises(CloudError, match="do not fit"):
        nodekeys.read_proof(files)
    files.key.write_bytes(key)
    files.ca.write_bytes(pem(TestCloud(tmp_path / "b", "home").root.cert))
    with pytest.raises(CloudError, match="no certificate of the cloud"):
        nodekeys.read_proof(files)
    files.cert.write_bytes(cert[: len(cert) // 2])
    with pytest.raises(CloudError, match="no certificate of the cloud"):
        nodekeys.read_proof(files)


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_broken_files_are_said(cloud, junk):
    files = cloud.files("n1", "c1")
    files.cert.write_bytes(junk)
    for use in (fingerprint, server_context, nodekeys.read_proof):
        with pytest.raises(CloudError) as caught:
            use(files)
        assert caught.value.kind == "bad"
    files.key.write_bytes(junk)
    with pytest.raises(CloudError, match="is no key"):
        nodekeys.node_key(files.key)
    (cloud.folder / "root.key").write_bytes(junk)
    with pytest.raises(CloudError, match="root.key: that is no authority's key"):
        nodekeys.authority_in(cloud.folder / "root.key")


def test_missing_files_are_said(tmp_path):
    nothing = KeyFiles(tmp_path / "root.crt", tmp_path / "node.crt", tmp_path / "node.key")
    with pytest.raises(CloudError):
        client_context(nothing)
    assert nodekeys.authority_in(tmp_path / "cluster.key") is None


def test_certificates_that_are_no_nodes(cloud):
    root = cloud.root.cert.public_bytes(Encoding.DER)
    for wrong in (b"", b"junk", root):
        for read in (peer_name, proof):
            with pytest.raises(CloudError) as caught:
                read(wrong)
            assert caught.value.kind == "denied"
    with pytest.raises(CloudError):
        peer_fingerprint(b"junk")


def test_a_certificate_whose_two_names_differ_is_nobodys(cloud):
    """Only names for DNS are held to the authority's cluster."""
    by = cloud.cluster("c1")
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.load_pem_x509_certificate(authority.issue(by, "n1", key.public_key(), time.time()))
    names = [
        x509.UniformResourceIdentifier("spiffe://c2.home/node/n9"),
        x509.DNSName("n1.c1.home"),
    ]
    again = (
        x509.CertificateBuilder(made.issuer, made.subject, made.public_key(), made.serial_number)
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
    )
    forged = again.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
        by.key, made.signature_hash_algorithm
    )
    with pytest.raises(CloudError, match="two names"):
        peer_name(forged.public_bytes(Encoding.DER))
