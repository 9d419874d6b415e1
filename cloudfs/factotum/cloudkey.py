"""The cloud's key and the keys of nodes: a stand-in until nodes have join files.

`cloud.key` is a certificate authority in one file: its certificate and its private key.
Whoever holds it can add nodes to the cloud, so it is carried by hand and kept like a
root password.  A node makes its own key from it; its certificate names it
`spiffe://CLUSTER.CLOUD/node/NAME`, and that is all that other nodes believe of it.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudfs.errors import CloudError

YEARS = 10
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_URI = re.compile(rf"spiffe://({_LABEL})\.({_LABEL})/node/({_LABEL})")
_MAX_KEY = 64 << 10  # bytes of a cloud.key


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """PEM files: the cloud's certificate, the node's certificate, the node's key (0600)."""

    ca: Path
    cert: Path
    key: Path


def make_cloud(state: Path, cloud: str = "local") -> None:
    """Make state/cloud.key for a new cloud of that name; one that is there is kept."""
    place = state / "cloud.key"
    if place.exists():
        return
    if not re.fullmatch(_LABEL, cloud):
        raise CloudError("bad", f"{cloud[:64]!r} is no cloud name", "use a-z, 0-9 and -")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cloud)])
    made = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(place, made.public_bytes(serialization.Encoding.PEM) + _pem(key))


def node_files(state: Path, node: str, cluster: str) -> KeyFiles:
    """The node's files under state, made from state/cloud.key where they are not there or
    are another cloud's, node's or cluster's.  The node's key itself is made once.

    Raises CloudError: `absent` without a cloud.key, `bad` where it is none.
    """
    files = KeyFiles(state / "ca.crt", state / "node.crt", state / "node.key")
    ca, ca_key = _read_cloud(state / "cloud.key")
    cloud = ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    uri = f"spiffe://{cluster}.{cloud!s}/node/{node}"
    key = _node_key(files.key)
    ca_pem = ca.public_bytes(serialization.Encoding.PEM)
    if not _fits(files, ca_pem, uri):
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri), x509.DNSName(node)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        made = (
            _builder(subject, ca.subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        _write(files.cert, made.public_bytes(serialization.Encoding.PEM))
        _write(files.ca, ca_pem)
    return files


def peer_name(der: bytes) -> tuple[str, str, str]:
    """(cloud, cluster, node) that a verified certificate names; CloudError("denied") for
    one that names no node."""
    try:
        made = x509.load_der_x509_certificate(der)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        uris = []
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise CloudError("denied", "the certificate names no node of a cloud")
    cluster, cloud, node = found.groups()
    return cloud, cluster, node


def fingerprint(files: KeyFiles) -> str:
    """32 hex digits of the hash of the node's public key: who it is, whatever its name."""
    made = x509.load_pem_x509_certificate(files.cert.read_bytes())
    return _print_of(made)


def peer_fingerprint(der: bytes) -> str:
    """The same of a peer's certificate."""
    return _print_of(x509.load_der_x509_certificate(der))


def _print_of(made: x509.Certificate) -> str:
    public = made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()[:32]


def server_context(files: KeyFiles) -> ssl.SSLContext:
    """TLS 1.3 that takes only clients with a certificate of this cloud."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def client_context(files: KeyFiles) -> ssl.SSLContext:
    """TLS 1.3 that takes only servers with a certificate of this cloud; which node it is
    `peer_name` tells, so names of hosts are not looked at."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(protocol: int, files: KeyFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))  # another machine's clock is late
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_cloud(place: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        with open(place, "rb") as file:
            data = file.read(_MAX_KEY)
    except FileNotFoundError:
        raise CloudError(
            "absent", f"there is no {place}", "get it from a node of the cloud: cloudfs key"
        ) from None
    try:
        ca = x509.load_pem_x509_certificate(data)
        key = serialization.load_pem_private_key(data[data.rindex(b"-----BEGIN") :], None)
        signs = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        signs, ca, key = False, None, None
    if ca is None or not signs or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CloudError("bad", f"{place} is no cloud's key", "it is what `cloudfs key` prints")
    if key.public_key() != ca.public_key():
        raise CloudError("bad", f"{place}: its key is not that of its certificate")
    return ca, key


def _node_key(place: Path) -> ec.EllipticCurvePrivateKey:
    if place.exists():
        found = serialization.load_pem_private_key(place.read_bytes(), None)
        if isinstance(found, ec.EllipticCurvePrivateKey):
            return found
    made = ec.generate_private_key(ec.SECP256R1())
    _write(place, _pem(made))
    return made


def _fits(files: KeyFiles, ca_pem: bytes, uri: str) -> bool:
    """Whether the certificate there is of this cloud, key, node and cluster, and holds."""
    try:
        made = x509.load_pem_x509_certificate(files.cert.read_bytes())
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        same = files.ca.read_bytes() == ca_pem and made.public_key() == key.public_key()
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return same and uris == [uri] and made.not_valid_after_utc > soon


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(place: Path, data: bytes) -> None:
    """The file, whole or not at all, for nobody else to read."""
    draft = place.with_name(f"{place.name}.new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(draft, place)
