"""A node proves in cap25519 that it is one: its certificates, and a signature of its key.

The certificates are sent as they are in DER, one after the other, the node's own first and then
that of its cluster's authority where there is one; the root is known to the other end by its public
key alone, 33 bytes, which a user's key carries as `root=HEX`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from cloudfs.errors import CloudError
from cloudfs.factotum import holders
from cloudfs.factotum.cap25519 import CERTIFICATE
from cloudfs.factotum.certificates import peer_name
from cloudfs.factotum.holders import Holder
from cloudfs.factotum.nodekeys import KeyFiles

DEPTH = 2  # certificates of a node
KEPT = 64  # certificates that were checked
_ECDSA = ec.ECDSA(hashes.SHA256())
Sign = Callable[[bytes], bytes]
# What comes of reading and checking certificates that a stranger made up.
UNREADABLE = (
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    ValueError,
    TypeError,
    IndexError,
)


def root_key(root: x509.Certificate) -> str:
    """How a user's key names the root of its cloud: 66 hexadecimal digits."""
    public = root.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise CloudError("bad", "the root's key is none of ECDSA")
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


class NodeProof:
    """What a node proves itself with; read again where its certificate was renewed.

    cloud, cluster, node: whom it names.  binding: see `bound_to`.
    """

    def __init__(self, files: KeyFiles) -> None:
        self._files = files
        self._read: tuple[int, int] | None = None  # of the file's state when it was read
        self._certificates = b""
        self._key: ec.EllipticCurvePrivateKey | None = None
        self.cloud = self.cluster = self.node = ""
        self.binding = b""

    def load(self) -> tuple[bytes, Sign]:
        """The certificates, and what signs.  CloudError("bad") for files that are no keys."""
        try:
            stat = self._files.cert.stat()
            now = (stat.st_mtime_ns, stat.st_ino)
            if self._read != now:
                self._load(self._files.cert, self._files.key)
                self._read = now
        except (OSError, ValueError, TypeError) as error:
            raise CloudError("bad", f"the node's keys cannot be used: {error}") from None
        return self._certificates, self.sign

    def _load(self, cert: Path, key: Path) -> None:
        chain = x509.load_pem_x509_certificates(cert.read_bytes())
        ders = [one.public_bytes(Encoding.DER) for one in chain]
        made = load_pem_private_key(key.read_bytes(), None)
        if not isinstance(made, ec.EllipticCurvePrivateKey):
            raise ValueError("no ECDSA key")
        self._certificates, self._key = b"".join(ders[:DEPTH]), made
        self.cloud, self.cluster, self.node = peer_name(ders[0])
        self.binding = bound_to(ders[0])

    def holder(self) -> Holder:
        """This node, to whom users lend their tokens.  It has been loaded."""
        assert self._key is not None
        return Holder(self._key)

    def sign(self, data: bytes) -> bytes:
        assert self._key is not None
        return self._key.sign(data, _ECDSA)


def bound_to(certificate: bytes) -> bytes:
    """The binding of a TLS connection whose server showed this certificate (DER)."""
    return hashlib.sha256(certificate).digest()


def shown_by(files: KeyFiles) -> bytes:
    """The binding of connections whose server has these keys.  CloudError("bad")."""
    proof = NodeProof(files)
    proof.load()
    return proof.binding


class Check:
    """Whose a node's certificates are (cap25519.Client).

    root: of the cloud, as `root_key` names it.  cloud: its name.  now: seconds since 1970.
    """

    def __init__(self, root: str, cloud: str, now: Callable[[], float]) -> None:
        try:
            point = bytes.fromhex(root)
            self._root = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        except ValueError:
            raise CloudError(
                "bad", f"the root of the cloud {cloud} is damaged in the key"
            ) from None
        self._cloud = cloud
        self._now = now
        self._checked: dict[bytes, tuple[str, ec.EllipticCurvePublicKey, float]] = {}

    def __call__(self, certificates: bytes, signature: bytes, data: bytes) -> str:
        """The node that signed data; CloudError("denied") where it is none of the cloud."""
        kept = self._checked.get(certificates)
        if kept is None or self._now() >= kept[2]:
            if len(self._checked) >= KEPT:
                self._checked.clear()
            kept = self._checked[certificates] = self._chain(certificates)
        node, public, _ = kept
        try:
            public.verify(signature, data, _ECDSA)
        except InvalidSignature:
            raise CloudError("denied", "who answers is not the node that it says it is") from None
        return node

    def _chain(self, certificates: bytes) -> tuple[str, ec.EllipticCurvePublicKey, float]:
        """(node, its public key, when one of its certificates ends)"""
        try:
            ders = split(certificates)
            chain = [x509.load_der_x509_certificate(der) for der in ders]
            if not all(d.endswith(b"\0" + c.signature) for d, c in zip(ders, chain, strict=True)):
                raise ValueError  # its last bits, where they are 0, may be called unused
            for one, by in pairwise(chain):
                one.verify_directly_issued_by(by)
                _may_issue(by)
            last = chain[-1]
            if last.signature_hash_algorithm is None:
                raise ValueError
            how = ec.ECDSA(last.signature_hash_algorithm)
            self._root.verify(last.signature, last.tbs_certificate_bytes, how)
            cloud, cluster, node = peer_name(ders[0])
            public = chain[0].public_key()
            named = [_common(one) for one in chain[1:]] in ([], [cluster])
            if (
                cloud != self._cloud
                or not named
                or not isinstance(public, ec.EllipticCurvePublicKey)
            ):
                raise ValueError
        except UNREADABLE:
            raise CloudError(
                "denied", f"who answers is no node of the cloud {self._cloud}"
            ) from None
        ends = min(one.not_valid_after_utc for one in chain)
        begins = max(one.not_valid_before_utc for one in chain)
        here = datetime.datetime.fromtimestamp(self._now(), datetime.UTC)
        if not begins <= here < ends:
            raise CloudError(
                "denied",
                f"the certificate of node {node} is good from {begins:%Y-%m-%d %H:%M} to"
                f" {ends:%Y-%m-%d %H:%M}, and here it is {here:%Y-%m-%d %H:%M} (UTC)",
                "see that both clocks are right",
            )
        return node, public, ends.timestamp()


def node_key(certificates: bytes) -> bytes:
    """The raw key of the node whose certificates were checked (holders.py)."""
    public = x509.load_der_x509_certificate(split(certificates)[0]).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return holders.point(public)


def split(certificates: bytes) -> list[bytes]:
    """The certificates of a chain.  Raises ValueError for what is none of 1 to DEPTH."""
    found: list[bytes] = []
    rest = certificates if len(certificates) <= CERTIFICATE else b""
    while rest and len(found) < DEPTH:
        # A SEQUENCE of 256 to 65535 bytes in DER (X.690, 8.1.3.5); no certificate is shorter.
        size = 4 + int.from_bytes(rest[2:4], "big")
        if rest[:2] != b"\x30\x82" or len(rest) < size:
            break
        found.append(rest[:size])
        rest = rest[size:]
    if rest or not found:
        raise ValueError("that is no chain of certificates")
    return found


def _may_issue(cert: x509.Certificate) -> None:
    found = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    if not found.value.ca:
        raise ValueError("an issuer that is no authority")


def _common(cert: x509.Certificate) -> str:
    return str(cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
