"""Nodes that lost their place: records signed by their cluster's authority or by the root.

    cloud=local cluster=paris node=n3 at=1790000000 by=… sign=…

`by` is the certificate of the authority that signed, empty for the root.  The record speaks of
a name: no certificate for it counts while the record lives, whichever key it has.  That is
longer than any certificate made before could be renewed, so that a machine that was stolen
never comes back by itself.  What is done with records stands in cloudfs/credentials.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.authority import LIFE, Authority
from cloudfs.factotum.certificates import EARLY, common_name, is_label, when

REGAIN = 7 * 86400.0  # seconds for which an issuer renews a certificate that has run out
LIVES = LIFE + REGAIN + 86400.0  # seconds of a record
MOST = 4096  # bytes of a record
MANY = 1024  # records of a cluster that a node keeps
_FIELDS = ("cloud", "cluster", "node", "at", "by", "sign")


@dataclass(frozen=True, slots=True)
class Revocation:
    """A node that lost its place, and since when (seconds since 1970)."""

    cloud: str
    cluster: str
    node: str
    at: float
    by: bytes  # X.509, DER
    sign: bytes

    def text(self) -> str:
        """The record, one line without its newline."""
        return f"{self.signed()} by={self.by.hex()} sign={self.sign.hex()}"

    def signed(self) -> str:
        parts = (self.cloud, self.cluster, self.node, int(self.at))
        return ndb.record(dict(zip(_FIELDS, parts, strict=False)))

    @property
    def why(self) -> str:
        return f"node {self.node} was revoked {when(self.at)} (UTC)"


def revoke(by: Authority, cluster: str, node: str, now: float) -> Revocation:
    """A new record.  CloudError: `bad` for what is no name, `denied` where that authority is
    another cluster's."""
    if not is_label(cluster) or not is_label(node):
        raise CloudError("bad", f"{cluster[:64]!r} or {node[:64]!r} is no name of a node")
    if by.cluster not in ("", cluster):
        raise CloudError(
            "denied",
            f"node {node} is of cluster {cluster}, and this is the authority of {by.cluster}",
            f"revoke it on an issuer of {cluster}, or where root.key is",
        )
    cert = by.cert.public_bytes(Encoding.DER) if by.cluster else b""
    bare = Revocation(by.cloud, cluster, node, float(int(now)), cert, b"")
    sign = by.key.sign(_to_sign(bare), ec.ECDSA(hashes.SHA256()))
    return Revocation(bare.cloud, cluster, node, bare.at, cert, sign)


def parse(text: str) -> Revocation:
    """A record from its line, not checked yet; CloudError("bad")."""
    try:
        pairs = ndb.parse(text) if len(text) <= MOST else {}
        found = Revocation(
            pairs["cloud"],
            pairs["cluster"],
            pairs["node"],
            float(int(pairs["at"])),
            bytes.fromhex(pairs["by"]),
            bytes.fromhex(pairs["sign"]),
        )
    except (CloudError, KeyError, ValueError):
        raise CloudError("bad", "that is no record of a revocation") from None
    if found.text() != text or not is_label(found.cluster) or not is_label(found.node):
        raise CloudError("bad", "that is no record of a revocation")
    return found


def check(record: Revocation, root: x509.Certificate, cloud: str) -> None:
    """CloudError("denied") unless the root, or the authority of the node's cluster, signed it."""
    try:
        by = root
        if record.by:
            by = x509.load_der_x509_certificate(record.by)
            by.verify_directly_issued_by(root)
            name = by.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            can = by.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            if name != record.cluster or not can:
                raise ValueError
        public = by.public_key()
        if record.cloud != cloud or not isinstance(public, ec.EllipticCurvePublicKey):
            raise ValueError
        public.verify(record.sign, _to_sign(record), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError, IndexError, x509.ExtensionNotFound):
        raise CloudError(
            "denied", f"the revocation of {record.node} was not made by who may make it"
        ) from None


class Revoked:
    """The records that a node knows, by cluster and node; the first of a node counts, and a
    cluster has so many at most, of which the oldest go."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], Revocation] = {}

    def add(self, record: Revocation, now: float) -> bool:
        """Take a checked record; whether it is new."""
        self.tidy(now)
        key = record.cluster, record.node
        have = self.all.get(key)
        late = record.at + LIVES <= now or record.at > now + 2 * 86400  # from a wrong clock
        if late or (have is not None and have.at <= record.at):
            return False
        self.all[key] = record
        same = sorted((r.at, r.node) for r in self.all.values() if r.cluster == record.cluster)
        for _, node in same[: max(0, len(same) - MANY)]:
            del self.all[record.cluster, node]
        return key in self.all

    def tidy(self, now: float) -> None:
        """Forget those whose time is over."""
        self.all = {key: each for key, each in self.all.items() if each.at + LIVES > now}

    def of(self, cluster: str, node: str) -> Revocation | None:
        return self.all.get((cluster, node))

    def shut_out(self, now: float) -> frozenset[str]:
        """The common names of nodes' certificates that may not have run out yet."""
        late = [r for r in self.all.values() if r.at + LIFE + EARLY > now]
        return frozenset(common_name(r.cluster, r.node) for r in late)


def known(lines: Iterable[str], root: x509.Certificate, cloud: str, now: float) -> Revoked:
    """What a file of records holds; a line that is none is passed over."""
    found = Revoked()
    for line in lines:
        try:
            record = parse(line)
            check(record, root, cloud)
        except CloudError:
            continue
        found.add(record, now)
    return found


def _to_sign(record: Revocation) -> bytes:
    return f"cloudfs revoked\0{record.signed()}".encode()
