"""How a certificate is asked for: one line there, the certificate back.  Pure.

    ← (greeting)  cloud=local cluster=paris node=n1 now=1790000000
                  the root's certificate, PEM
    → ask         join node=n5 public=… proof=… cloud=… … key=…    a join file's, without its secret
                  renew cert=… proof=…                            for a key that has one
    ← (answer)    the certificate and its authority's, PEM

Nothing in it is secret.  What proves a joiner is the signature by the join file's key over its
own name and public key, what proves a node its own key's over the certificate it has: a node
that passes a question on can do no more with it than that.  `passed` before the first word says
that a node did so; what was passed on once goes no further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.authority import Authority, Join, check_join, issue, parse_join
from cloudfs.factotum.certificates import EARLY, Proof, der_public, is_label, pem, proof, when
from cloudfs.factotum.revocation import REGAIN

MOST = 16 << 10  # bytes of a question, and of an answer
PASSED = "passed "


@dataclass(frozen=True, slots=True)
class Asked:
    """A question.  shown: the join file's public side, None where a certificate is renewed.
    cert: the certificate that there is, DER, where there is one."""

    node: str
    cluster: str
    public: bytes  # DER
    proof: bytes
    shown: Join | None = None
    cert: bytes = b""
    passed: bool = False


# --- who asks -------------------------------------------------------------------------------


def ask_join(joined: Join, node: str, key: ec.EllipticCurvePrivateKey) -> str:
    """The question of a node that has a join file."""
    public = der_public(key.public_key())
    pairs = {"node": node, "public": public.hex(), "proof": joined.prove(node, public).hex()}
    return f"join {ndb.record(pairs)} {joined.shown().text().strip()}"


def ask_renewal(cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> str:
    """The question of a node whose certificate gets old."""
    der = cert.public_bytes(Encoding.DER)
    sign = key.sign(_to_sign(der), ec.ECDSA(hashes.SHA256()))
    return f"renew {ndb.record({'cert': der.hex(), 'proof': sign.hex()})}"


def check_answer(
    text: str, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, node: str
) -> tuple[bytes, Proof]:
    """The certificate of an answer, PEM, and what it says.  CloudError("denied") unless it is
    for that node and key, by an authority of that root."""
    try:
        cert, authority = x509.load_pem_x509_certificates(text.encode())
        authority.verify_directly_issued_by(root)
        cert.verify_directly_issued_by(authority)
        made = proof(cert.public_bytes(Encoding.DER))
    except (ValueError, TypeError, InvalidSignature):
        raise CloudError("denied", "the answer is no certificate of this cloud") from None
    if made.node != node or cert.public_key() != key.public_key():
        raise CloudError("denied", f"the answer is a certificate of {made.node}, not of {node}")
    return pem(cert) + pem(authority), made


def greeting(cloud: str, cluster: str, node: str, root: x509.Certificate, now: float) -> str:
    """What is read before anything is asked."""
    pairs = {"cloud": cloud, "cluster": cluster, "node": node, "now": int(now)}
    return f"{ndb.record(pairs)}\n{pem(root).decode()}"


def read_greeting(text: str) -> tuple[str, float, x509.Certificate]:
    """(node, its clock, root) of a greeting; nothing is proved by it.  CloudError("proto")."""
    try:
        line, _, rest = text.partition("\n")
        pairs = ndb.parse(line)
        root = x509.load_pem_x509_certificate(rest.encode())
        return pairs["node"], float(int(pairs["now"])), root
    except (CloudError, KeyError, ValueError):
        raise CloudError("proto", "what answers is no node, or one of another version") from None


def check_clock(node: str, there: float, here: float) -> None:
    """CloudError("denied") where this machine's clock is too far from a node's for certificates
    to be of use."""
    if abs(there - here) <= EARLY:
        return
    which = "behind" if here < there else "ahead of"
    raise CloudError(
        "denied",
        f"this machine's clock is {span(abs(there - here))} {which} that of {node}:"
        f" here it is {when(here)}, there {when(there)} (UTC)",
        "set the clock of the one that is wrong",
    )


def span(seconds: float) -> str:
    """A length of time for people."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"


# --- who is asked ---------------------------------------------------------------------------


def parse(text: str) -> Asked:
    """A question; CloudError("bad")."""
    passed = text.startswith(PASSED)
    kind, _, rest = text.removeprefix(PASSED).strip().partition(" ")
    try:
        pairs = ndb.parse(rest) if len(text) <= MOST else {}
        if kind == "join":
            node = pairs.pop("node")
            public, signed = (bytes.fromhex(pairs.pop(name)) for name in ("public", "proof"))
            shown = parse_join(ndb.record(pairs))
            if not is_label(node):
                raise ValueError
            return Asked(node, shown.cluster, public, signed, shown, b"", passed)
        if kind == "renew":
            der, signed = (bytes.fromhex(pairs[name]) for name in ("cert", "proof"))
            named = proof(der)
            key = x509.load_der_x509_certificate(der).public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise ValueError
            return Asked(named.node, named.cluster, der_public(key), signed, None, der, passed)
    except (CloudError, KeyError, ValueError):
        pass
    raise CloudError("bad", "that asks for no certificate", "type: cloudfs join FILE")


def answer(asked: Asked, by: Authority, now: float, used: Callable[[str], int]) -> bytes:
    """The certificate, PEM, for a question, if it may have one.

    used(id): how many have joined with that join file.  Whether the node was revoked, and
    whether another has its name, is for the caller to know.  CloudError: `denied`, `bad`.
    """
    if asked.shown is not None:
        check_join(asked.shown, asked.proof, asked.node, asked.public, by.cert, now, used)
    else:
        _check_renewal(asked, by, now)
    try:
        key = load_der_public_key(asked.public)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CloudError("bad", f"the key of {asked.node} is none of P-256")
    return issue(by, asked.node, key, now)


def _check_renewal(asked: Asked, by: Authority, now: float) -> None:
    cert = x509.load_der_x509_certificate(asked.cert)
    try:
        cert.verify_directly_issued_by(by.cert)
        key = cert.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(asked.proof, _to_sign(asked.cert), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError):
        why = f"the certificate of {asked.node} is not by this authority, {by.cluster}'s"
        raise CloudError("denied", why) from None
    ends = proof(asked.cert).ends
    if now > ends + REGAIN:
        raise CloudError(
            "denied",
            f"the certificate of {asked.node} ran out {when(ends)}, and here it is {when(now)}"
            " (UTC)",
            "join anew, with a join file: cloudfs invite, over there",
        )


def _to_sign(der: bytes) -> bytes:
    return b"cloudfs renewal\0" + der
