"""The files of a state directory that say whose word counts for users.

root.crt       the cloud's root certificate, on every node
cluster.key    the cluster's authority, where users are made and ended (0600)
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from cloudfs.errors import CloudError
from cloudfs.factotum.authority import Authority, load

MOST = 64 << 10  # bytes of either file

Rooted = tuple[x509.Certificate, str]  # the root's certificate, and the cloud's name


def root(state: Path) -> Rooted | None:
    """The root's certificate and the cloud's name; None where this node knows no root.
    CloudError("bad") for a file that is none."""
    try:
        with open(state / "root.crt", "rb") as file:
            data = file.read(MOST)
    except OSError:
        return None
    try:
        cert = x509.load_pem_x509_certificate(data)
        name = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    except (ValueError, IndexError) as error:
        raise CloudError("bad", f"{state / 'root.crt'} is no certificate: {error}") from None
    return cert, str(name)


class Roots:
    """The root of a state directory, read again when its file is another one."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._seen: tuple[int, int, int] | None = None
        self._root: Rooted | None = None

    def __call__(self) -> Rooted | None:
        try:
            now = (self._state / "root.crt").stat()
        except OSError:
            self._seen = self._root = None
            return None
        mark = now.st_ino, now.st_mtime_ns, now.st_size
        if mark != self._seen:
            self._root = root(self._state)
            self._seen = mark
        return self._root


def authority(state: Path) -> Authority:
    """The cluster's authority.  CloudError: "absent" where this node has none, "denied" for
    who may not read it, "bad"."""
    place = state / "cluster.key"
    try:
        with open(place, "rb") as file:
            return load(file.read(MOST))
    except FileNotFoundError:
        raise CloudError(
            "absent",
            f"this node has no authority to make users: there is no {place}",
            "type it on a node that issues certificates of the cluster",
        ) from None
    except OSError as error:
        raise CloudError(
            "denied", f"{place}: {error.strerror}", "type it as the node's owner"
        ) from None
