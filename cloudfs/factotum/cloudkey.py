"""The cloud key: one self-made certificate authority; whoever holds it may add nodes.

    state/cloud.key    certificate and key of the authority, PEM, 0600: what a person carries
    state/ca.crt       its certificate alone, the only root that this node trusts
    state/node.key     the node's key, ECDSA P-256, 0600; made once: it is the node's identity
    state/node.crt     spiffe://CLUSTER.CLOUD/node/NAME, signed by the authority

A node that has its certificate needs the cloud key no more.
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
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudfs.errors import CloudError

# A node whose clock is wrong must still get in, so neither end of the time says much;
# the last is RFC 5280's word for "no end" (4.1.2.5).
_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_IS_LABEL = re.compile(_LABEL)
_IS_CLOUD = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NODE_URI = re.compile(rf"spiffe://({_LABEL})\.({_LABEL}(?:\.{_LABEL})*)/node/({_LABEL})")
_NO_KEY = "copy the file cloud.key of a node of the cloud into the state directory"


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where TLS finds the root it trusts and what it proves itself with; all PEM."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class _Authority:
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cloud(self) -> str:
        return str(self.cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def is_label(name: str) -> bool:
    """Whether a node or a cluster may be called so."""
    return bool(_IS_LABEL.fullmatch(name))


def is_cloud(name: str) -> bool:
    """Whether a cloud may be called so."""
    return bool(_IS_CLOUD.fullmatch(name))


def make_cloud(state: Path, cloud: str = "local") -> None:
    """Make a new cloud's key, state/cloud.key.

    cloud: one or more DNS labels.  Raises CloudError: `bad` for another name, `exists` if
    there is a key already, since the nodes made with it would be cut off.
    """
    if not _IS_CLOUD.fullmatch(cloud):
        raise CloudError("bad", f"{cloud!r} is no cloud name", "use labels of a-z, 0-9 and -")
    path = state / "cloud.key"
    if path.exists():
        raise CloudError("exists", f"{path} is there already", "to leave that cloud, move it away")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cloud)])
    cert = (
        builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(path, pem(cert) + pem_key(key), 0o600)


def node_files(state: Path, node: str, cluster: str) -> KeyFiles:
    """This node's files, made from state/cloud.key where they are not there yet or say
    something else than these names.

    Raises CloudError: `bad` for names that are no DNS labels, `absent` where the cloud
    key is needed and missing.
    """
    for label, what in ((node, "node"), (cluster, "cluster")):
        if not _IS_LABEL.fullmatch(label):
            raise CloudError("bad", f"{label!r} is no {what} name", "use a-z, 0-9 and -")
    files = KeyFiles(state / "ca.crt", state / "node.crt", state / "node.key")
    carried = state / "cloud.key"
    authority = _authority(carried) if carried.exists() else None
    key = _node_key(files.key)
    if _fits(files, key, authority, node, cluster):
        return files
    if authority is None:
        raise CloudError("absent", f"node {node} needs the cloud's key, {carried}", _NO_KEY)
    uri = x509.UniformResourceIdentifier(f"spiffe://{cluster}.{authority.cloud}/node/{node}")
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    cert = (
        builder(subject, authority.cert.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectAlternativeName([uri, x509.DNSName(node)]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    _write(files.ca, pem(authority.cert), 0o644)
    _write(files.cert, pem(cert), 0o644)
    return files


def peer_name(der: bytes) -> tuple[str, str, str]:
    """(cloud, cluster, node) that a peer's certificate, already verified, names.

    Raises CloudError("denied") where it is no node's.
    """
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise CloudError("denied", "the peer's certificate names nobody") from None
    found = [match for match in map(_NODE_URI.fullmatch, uris) if match]
    if len(found) != 1 or len(uris) != 1:
        raise CloudError("denied", f"the peer's certificate is no node's: {uris!r:.200}")
    cluster, cloud, node = found[0].groups()
    return cloud, cluster, node


def root_of(state: Path) -> x509.Certificate:
    """The root that the node of a state directory trusts.  CloudError("bad")."""
    return _certificate(state / "ca.crt")


def fingerprint(files: KeyFiles) -> str:
    """The node's id: 32 hex digits of SHA-256 of its public key."""
    return _fingerprint(_certificate(files.cert))


def peer_fingerprint(der: bytes) -> str:
    """The id of the node that a peer's certificate belongs to."""
    try:
        return _fingerprint(x509.load_der_x509_certificate(der))
    except ValueError:
        raise CloudError("denied", "the peer's certificate cannot be read") from None


def server_context(files: KeyFiles) -> ssl.SSLContext:
    """TLS 1.3 for a listener: who has no certificate of this cloud does not get in.

    Raises CloudError("bad") where the files cannot be used, as `client_context` does.
    """
    return _context(files, ssl.PROTOCOL_TLS_SERVER)


def client_context(files: KeyFiles) -> ssl.SSLContext:
    """TLS 1.3 for a caller.  Which node answers is not checked here: look at `peer_name`.

    With TLS 1.3 a handshake ends here before the other side has looked at our
    certificate; only its first answer says that it let us in.
    """
    return _context(files, ssl.PROTOCOL_TLS_CLIENT)


def _context(files: KeyFiles, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # nodes have names, not fixed addresses
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ssl.SSLError) as error:
        raise CloudError("bad", f"the node's keys cannot be used: {error}") from error
    return context


# --- certificates ---------------------------------------------------------------------------


def builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime.datetime = _FROM,
    ends: datetime.datetime = _UNTIL,
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
    """A node signs handshakes, the authority certificates."""
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


def _fits(
    files: KeyFiles,
    key: ec.EllipticCurvePrivateKey,
    authority: _Authority | None,
    node: str,
    cluster: str,
) -> bool:
    """Whether the certificates that are there prove these names to this cloud."""
    try:
        cert, root = _certificate(files.cert), _certificate(files.ca)
        cert.verify_directly_issued_by(root)
        cloud, *names = peer_name(cert.public_bytes(Encoding.DER))
    except (CloudError, InvalidSignature, ValueError, TypeError):
        return False
    return (
        names == [cluster, node]
        and cert.public_key() == key.public_key()
        and (authority is None or (cloud == authority.cloud and root == authority.cert))
    )


def check_key(path: Path) -> None:
    """Raises CloudError("bad") where the file is no cloud key."""
    _authority(path)


def _authority(path: Path) -> _Authority:
    try:
        data = path.read_bytes()
        cert, key = x509.load_pem_x509_certificate(data), load_pem_private_key(data, None)
    except OSError as error:
        raise CloudError("bad", f"{path}: {error.strerror}", _NO_KEY) from error
    except (ValueError, TypeError) as error:
        raise CloudError("bad", f"{path} is no cloud key", _NO_KEY) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise CloudError("bad", f"{path} is no cloud key: its two parts do not fit", _NO_KEY)
    return _Authority(cert, key)


def _node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key that is there, or a new one."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        made = ec.generate_private_key(ec.SECP256R1())
        _write(path, pem_key(made), 0o600)
        return made
    except (OSError, ValueError, TypeError) as error:
        raise CloudError("bad", f"{path} is no key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CloudError("bad", f"{path} is no ECDSA key")
    return key


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CloudError("bad", f"{path} is no certificate: {error}") from error


def _fingerprint(cert: x509.Certificate) -> str:
    public = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:32]


# --- files ----------------------------------------------------------------------------------


def pem(cert: x509.Certificate) -> bytes:
    """A certificate as it stands in files."""
    return cert.public_bytes(Encoding.PEM)


def pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as it stands in files, not encrypted: they are for the node's owner alone."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put the whole file there or none; never readable for more than `mode` allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)  # what a crash left
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise CloudError("io", f"{path} cannot be written: {error.strerror}") from error
