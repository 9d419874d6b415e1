"""Keys of a cloud and of its nodes, and that TLS takes those and no others."""

import socket
import ssl
import threading

import pytest

from cloudfs.errors import CloudError
from cloudfs.factotum import cloudkey


@pytest.fixture
def state(tmp_path):
    cloudkey.make_cloud(tmp_path, "demo")
    return tmp_path


def der(path):
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def handshake(server, client):
    """Both ends' peers as DER, or the error of each end."""
    ends = socket.socketpair()
    found = [None, None]

    def go(index, context, side):
        with ends[index]:
            ends[index].settimeout(5)
            try:
                with context.wrap_socket(ends[index], server_side=side) as tls:
                    # A client of TLS 1.3 is done before the server has looked at it.
                    tls.sendall(b"x")
                    tls.recv(1)
                    found[index] = tls.getpeercert(binary_form=True)
            except (ssl.SSLError, OSError) as error:
                found[index] = error

    threads = [
        threading.Thread(target=go, args=(0, server, True)),
        threading.Thread(target=go, args=(1, client, False)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def test_nodes_of_a_cloud_know_each_other(state, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "cloud.key").write_bytes((state / "cloud.key").read_bytes())
    one = cloudkey.node_files(state, "n1", "paris")
    two = cloudkey.node_files(other, "n2", "tokyo")
    server, client = cloudkey.server_context(one), cloudkey.client_context(two)
    at_server, at_client = handshake(server, client)
    assert cloudkey.peer_name(at_server) == ("demo", "tokyo", "n2")
    assert cloudkey.peer_name(at_client) == ("demo", "paris", "n1")
    assert cloudkey.peer_fingerprint(at_server) == cloudkey.fingerprint(two)


def test_a_node_of_another_cloud_is_refused(state, tmp_path):
    rogue = tmp_path / "rogue"
    rogue.mkdir()
    cloudkey.make_cloud(rogue, "demo")  # the name is the same, the key is not
    ours = cloudkey.node_files(state, "n1", "paris")
    theirs = cloudkey.node_files(rogue, "n2", "paris")
    for server, client in ((ours, theirs), (theirs, ours)):
        found = handshake(cloudkey.server_context(server), cloudkey.client_context(client))
        assert all(isinstance(end, OSError) for end in found)


def test_a_client_without_a_certificate_is_refused(state):
    ours = cloudkey.node_files(state, "n1", "paris")
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
    assert isinstance(handshake(cloudkey.server_context(ours), plain)[0], ssl.SSLError)


def test_files_are_made_once_and_again_when_the_name_or_the_cloud_changes(state, tmp_path):
    one = cloudkey.node_files(state, "n1", "paris")
    before = [path.read_bytes() for path in (one.ca, one.cert, one.key)]
    cloudkey.make_cloud(state, "demo")
    cloudkey.node_files(state, "n1", "paris")
    assert [path.read_bytes() for path in (one.ca, one.cert, one.key)] == before
    who = cloudkey.fingerprint(one)
    cloudkey.node_files(state, "n1", "tokyo")
    assert cloudkey.peer_name(der(one.cert))[1] == "tokyo"
    assert cloudkey.fingerprint(one) == who  # the node is still the same
    (state / "cloud.key").unlink()
    cloudkey.make_cloud(state, "second")
    cloudkey.node_files(state, "n1", "tokyo")
    assert cloudkey.peer_name(der(one.cert))[0] == "second"


def test_nobody_else_reads_a_key(state):
    files = cloudkey.node_files(state, "n1", "paris")
    for path in (state / "cloud.key", files.key):
        assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_key_says_so(tmp_path):
    with pytest.raises(CloudError, match="there is no .*cloud.key"):
        cloudkey.node_files(tmp_path, "n1", "paris")
    cloudkey.make_cloud(tmp_path)
    good = (tmp_path / "cloud.key").read_bytes()
    node = cloudkey.node_files(tmp_path, "n1", "paris")
    for bad in (b"", b"\xff" * 100, good[:300], node.cert.read_bytes() + node.key.read_bytes()):
        (tmp_path / "cloud.key").write_bytes(bad)
        with pytest.raises(CloudError, match="no cloud's key"):
            cloudkey.node_files(tmp_path, "n1", "paris")
    with pytest.raises(CloudError, match="names no node"):
        cloudkey.peer_name(der(node.ca))
    with pytest.raises(CloudError, match="names no node"):
        cloudkey.peer_name(b"nonsense")
    with pytest.raises(CloudError, match="no cloud name"):
        (tmp_path / "cloud.key").unlink()
        cloudkey.make_cloud(tmp_path, "a/b")
