"""A node's keys on disk, and TLS with them.

    root.crt     the cloud's root, without its key: the only one that this node trusts
    node.key     the node's key, ECDSA P-256, 0600; made once: it is the node's identity
    node.crt     the node's certificate, and behind it that of its cluster's authority
    cluster.key  on issuers, the authority itself (authority.py), 0600
    root.key     the root itself, where a cloud was begun, until it is carried away, 0600

Contexts speak TLS 1.3 and nothing older.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cloudfs.errors import CloudError
from cloudfs.factotum.authority import Authority, issue, load
from cloudfs.factotum.certificates import Proof, key_id, pem, pem_key, proof


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where TLS finds the root it trusts and what it proves itself with; all PEM."""

    ca: Path
    cert: Path
    key: Path


def files_in(state: Path) -> KeyFiles:
    """Where a node with that state directory has them."""
    return KeyFiles(state / "root.crt", state / "node.crt", state / "node.key")


def give(state: Path, root: x509.Certificate, by: Authority, node: str, now: float) -> KeyFiles:
    """Make a node's key, unless it is there, and its certificate, at once and without asking:
    by who holds the authority."""
    files = files_in(state)
    chain = issue(by, node, node_key(files.key).public_key(), now)
    put(files, root, chain)
    return files


def put(files: KeyFiles, root: x509.Certificate, chain: bytes) -> None:
    """Put a certificate, with its authority's, into the place of the one there is."""
    write(files.ca, pem(root), 0o644)
    write(files.cert, chain, 0o644)


def read_proof(files: KeyFiles) -> Proof:
    """Whom the node's certificate names.  CloudError("bad") where the files are not of one
    node and one cloud, "absent" where there are none."""
    if not files.cert.exists():
        raise CloudError("absent", f"there is no {files.cert}")
    try:
        cert, authority = x509.load_pem_x509_certificates(files.cert.read_bytes())
        root = certificate(files.ca)
        authority.verify_directly_issued_by(root)
        cert.verify_directly_issued_by(authority)
        made = proof(cert.public_bytes(Encoding.DER))
    except (OSError, ValueError, TypeError, InvalidSignature):
        raise CloudError("bad", f"{files.cert} is no certificate of the cloud of {files.ca}") from (
            None
        )
    if cert.public_key() != node_key(files.key).public_key():
        raise CloudError("bad", f"{files.cert} and {files.key} do not fit")
    return made


def authority_in(path: Path) -> Authority | None:
    """The authority of a file, None where there is no file; CloudError("bad")."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CloudError("bad", f"{path}: {error.strerror}") from None
    except CloudError as error:
        raise CloudError("bad", f"{path}: {error.why}") from None


def node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key that is there, or a new one.  CloudError("bad")."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        made = ec.generate_private_key(ec.SECP256R1())
        write(path, pem_key(made), 0o600)
        return made
    except (OSError, ValueError, TypeError):
        raise CloudError("bad", f"{path} is no key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CloudError("bad", f"{path} is no ECDSA key")
    return key


def certificate(path: Path) -> x509.Certificate:
    """The first certificate of a file; CloudError("bad")."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CloudError("bad", f"{path} is no certificate: {error}") from error


def fingerprint(files: KeyFiles) -> str:
    """The node's id: 32 hex digits of SHA-256 of its public key."""
    return key_id(certificate(files.cert))


# --- TLS ------------------------------------------------------------------------------------


def server_context(files: KeyFiles) -> ssl.SSLContext:
    """For a listener: a certificate is asked for, and who shows one must be of this cloud;
    who shows none is a stranger.

    Raises CloudError("bad") where the files cannot be used, as `client_context` does.
    """
    return _context(files, ssl.PROTOCOL_TLS_SERVER, ssl.CERT_OPTIONAL)


def client_context(files: KeyFiles) -> ssl.SSLContext:
    """For a caller.  Which node answers is not checked here: look at `peer_name`.

    With TLS 1.3 a handshake ends here before the other side has looked at our
    certificate; only its first answer says that it let us in.
    """
    return _context(files, ssl.PROTOCOL_TLS_CLIENT, ssl.CERT_REQUIRED)


def stranger_context(root: x509.Certificate | None) -> ssl.SSLContext:
    """For a caller that proves nothing, to nodes of the cloud of that root; with None to
    whoever answers, to be told nothing that others may not know."""
    context = _bare(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE if root is None else ssl.CERT_REQUIRED
    if root is not None:
        context.load_verify_locations(cadata=pem(root).decode())
    return context


def _context(files: KeyFiles, protocol: int, verify: ssl.VerifyMode) -> ssl.SSLContext:
    context = _bare(protocol)
    context.verify_mode = verify
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ssl.SSLError) as error:
        raise CloudError("bad", f"the node's keys cannot be used: {error}") from error
    return context


def _bare(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # nodes have names, not fixed addresses
    return context


# --- files ----------------------------------------------------------------------------------


def write(path: Path, data: bytes, mode: int) -> None:
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
