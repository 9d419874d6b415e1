"""Certificates and the names in them: what nodes and authorities have in common.  Pure."""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cloudfs.errors import CloudError

EARLY = 3600.0  # seconds by which certificates begin before their time, for clocks that are slow
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_IS_LABEL = re.compile(_LABEL)
_IS_CLOUD = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NODE_URI = re.compile(rf"spiffe://({_LABEL})\.({_LABEL}(?:\.{_LABEL})*)/node/({_LABEL})")


def is_label(name: str) -> bool:
    """Whether a node or a cluster may be called so."""
    return bool(_IS_LABEL.fullmatch(name))


def is_cloud(name: str) -> bool:
    """Whether a cloud may be called so."""
    return bool(_IS_CLOUD.fullmatch(name))


def common_name(cluster: str, node: str) -> str:
    """By which the engine knows a node's certificate: at most 64 letters, as X.509 has it."""
    name = f"{node}.{cluster}"
    return name if len(name) <= 64 else hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Proof:
    """Whom a node's certificate names.  key: the node's id, 32 hex digits of SHA-256 of its
    public key.  made, ends: seconds since 1970."""

    cloud: str
    cluster: str
    node: str
    key: str
    made: float
    ends: float


@lru_cache(4096)
def proof(der: bytes) -> Proof:
    """What a certificate says; whether to believe it is checked elsewhere.

    Raises CloudError("denied") where it is no node's.
    """
    cloud, cluster, node = peer_name(der)
    cert = x509.load_der_x509_certificate(der)
    made = cert.not_valid_before_utc.timestamp() + EARLY
    return Proof(cloud, cluster, node, key_id(cert), made, cert.not_valid_after_utc.timestamp())


def peer_name(der: bytes) -> tuple[str, str, str]:
    """(cloud, cluster, node) that a peer's certificate, already verified, names.

    Raises CloudError("denied") where it is no node's.
    """
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = names.value.get_values_for_type(x509.DNSName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise CloudError("denied", "the peer's certificate names nobody") from None
    found = [match for match in map(_NODE_URI.fullmatch, uris) if match]
    if len(found) != 1 or len(uris) != 1:
        raise CloudError("denied", f"the peer's certificate is no node's: {uris!r:.200}")
    cluster, cloud, node = found[0].groups()
    # An authority is held to its cluster by the names for DNS alone (authority.py).
    if hosts != [f"{node}.{cluster}.{cloud}"]:
        raise CloudError("denied", f"the peer's certificate has two names: {uris + hosts!r:.200}")
    return cloud, cluster, node


def key_id(cert: x509.Certificate) -> str:
    """The id of the node whose certificate that is."""
    public = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:32]


def peer_fingerprint(der: bytes) -> str:
    """The id of the node that a peer's certificate belongs to."""
    try:
        return key_id(x509.load_der_x509_certificate(der))
    except ValueError:
        raise CloudError("denied", "the peer's certificate cannot be read") from None


def builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    """A certificate that lacks what its use needs, and the signature."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def usage(signs: bool) -> x509.KeyUsage:
    """A node signs handshakes, an authority certificates."""
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=not signs,
        crl_sign=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def pem(cert: x509.Certificate) -> bytes:
    """A certificate as it stands in files."""
    return cert.public_bytes(Encoding.PEM)


def pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as it stands in files, not encrypted: they are for the node's owner alone."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def der_public(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as it is asked with."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def when(at: float) -> str:
    """A time for people: 2026-01-31 12:00, in UTC."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
