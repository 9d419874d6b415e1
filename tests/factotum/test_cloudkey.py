"""The cloud key and the node's files, and that TLS with them lets in whom it should."""

import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudfs.errors import CloudError
from cloudfs.factotum.cloudkey import (
    KeyFiles,
    client_context,
    fingerprint,
    make_cloud,
    node_files,
    peer_fingerprint,
    peer_name,
    server_context,
)


@pytest.fixture
def state(tmp_path):
    make_cloud(tmp_path / "a", "home")
    return tmp_path / "a"


def other_node(tmp_path, state, node, cluster="c1"):
    """The files of another node of the same cloud: the cloud key was carried there."""
    place = tmp_path / node
    place.mkdir()
    (place / "cloud.key").write_bytes((state / "cloud.key").read_bytes())
    return node_files(place, node, cluster)


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


def test_two_nodes_of_a_cloud_know_each_other(tmp_path, state):
    one, two = node_files(state, "n1", "c1"), other_node(tmp_path, state, "n2", "c2")
    seen, saw = handshake(server_context(one), client_context(two))
    assert peer_name(seen) == ("home", "c2", "n2")
    assert peer_name(saw) == ("home", "c1", "n1")
    assert peer_fingerprint(seen) == fingerprint(two) != fingerprint(one)
    assert len(fingerprint(one)) == 32
    int(fingerprint(one), 16)


def test_a_stranger_does_not_get_in(tmp_path, state):
    make_cloud(tmp_path / "b", "home")  # the same name, another key
    mine, stranger = node_files(state, "n1", "c1"), node_files(tmp_path / "b", "n1", "c1")
    seen, saw = handshake(server_context(mine), client_context(stranger))
    assert isinstance(seen, Exception)
    assert isinstance(saw, Exception)


def test_who_has_no_certificate_does_not_get_in(state):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    seen, saw = handshake(server_context(node_files(state, "n1", "c1")), bare)
    assert isinstance(seen, ssl.SSLError)
    assert isinstance(saw, Exception)


def test_older_tls_is_refused(state):
    files = node_files(state, "n1", "c1")
    old = client_context(files)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    seen, _ = handshake(server_context(files), old)
    assert isinstance(seen, ssl.SSLError)


def test_files_are_kept_and_secret(state):
    files = node_files(state, "n1", "c1")
    before = [path.read_bytes() for path in (files.ca, files.cert, files.key)]
    assert node_files(state, "n1", "c1") == files
    assert [path.read_bytes() for path in (files.ca, files.cert, files.key)] == before
    for secret in (files.key, state / "cloud.key"):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in files.ca.read_bytes() + files.cert.read_bytes()


def test_another_name_is_the_same_identity(state):
    first = fingerprint(node_files(state, "n1", "c1"))
    files = node_files(state, "n9", "c3")
    assert fingerprint(files) == first
    assert peer_name(der(files)) == ("home", "c3", "n9")


def test_the_cloud_key_is_only_needed_once(state):
    files = node_files(state, "n1", "c1")
    (state / "cloud.key").unlink()
    assert node_files(state, "n1", "c1") == files
    with pytest.raises(CloudError) as caught:
        node_files(state, "n2", "c1")
    assert caught.value.kind == "absent"
    assert caught.value.fix


def test_a_node_can_change_to_another_cloud(tmp_path, state):
    first = fingerprint(node_files(state, "n1", "c1"))
    make_cloud(tmp_path / "b", "work")
    (state / "cloud.key").write_bytes((tmp_path / "b" / "cloud.key").read_bytes())
    files = node_files(state, "n1", "c1")
    assert peer_name(der(files)) == ("work", "c1", "n1")
    assert fingerprint(files) == first


def test_a_cloud_is_not_made_twice(state):
    before = (state / "cloud.key").read_bytes()
    with pytest.raises(CloudError) as caught:
        make_cloud(state)
    assert caught.value.kind == "exists"
    assert (state / "cloud.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", "A", "a/b", "a\nb", "-a", "a" * 64, "a b"])
def test_bad_names(tmp_path, state, name):
    for wrong in (
        lambda: make_cloud(tmp_path / "new", name),
        lambda: node_files(state, name, "c1"),
        lambda: node_files(state, "n1", name),
    ):
        with pytest.raises(CloudError) as caught:
            wrong()
        assert caught.value.kind == "bad"


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_broken_files_are_said(state, junk):
    files = node_files(state, "n1", "c1")
    files.cert.write_bytes(junk)
    with pytest.raises(CloudError):
        fingerprint(files)
    with pytest.raises(CloudError):
        server_context(files)
    assert fingerprint(node_files(state, "n1", "c1"))  # made anew
    (state / "cloud.key").write_bytes(junk)
    with pytest.raises(CloudError) as caught:
        node_files(state, "n1", "c1")
    assert caught.value.kind == "bad"
    files.key.write_bytes(junk)
    (state / "cloud.key").unlink()
    with pytest.raises(CloudError):
        node_files(state, "n1", "c1")


def test_missing_files_are_said(tmp_path):
    nothing = KeyFiles(tmp_path / "ca.crt", tmp_path / "node.crt", tmp_path / "node.key")
    with pytest.raises(CloudError):
        client_context(nothing)


def test_certificates_that_are_no_nodes(state):
    node_files(state, "n1", "c1")
    authority = KeyFiles(state / "ca.crt", state / "ca.crt", state / "node.key")
    for wrong in (b"", b"junk", der(authority)):
        with pytest.raises(CloudError) as caught:
            peer_name(wrong)
        assert caught.value.kind == "denied"
    with pytest.raises(CloudError):
        peer_fingerprint(b"junk")
