"""Who may be a node: a root key that stays offline, an authority a cluster, short certificates.

    root.key       the cloud's root: certificate and key, PEM.  Signs clusters' authorities
    cluster.key    a cluster's authority, signed by the root, on the nodes that issue (0600)
    node.crt       a node's certificate, for LIFE seconds, and the authority's behind it

A certificate names spiffe://CLUSTER.CLOUD/node/NAME, and NODE.CLUSTER.CLOUD for DNS; both must say
the same (`names`).  The authority is constrained to its cluster (RFC 5280, 4.2.1.10) by DNS names:
Zenoh's TLS knows no constraints on URIs and refuses chains that have them, OpenSSL knows both.

A *join file* is what a person carries to a new machine: it names the root by its hash and holds a
key that only asks for a certificate.  The node's own key never leaves the machine.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.certificates import (
    EARLY,
    builder,
    common_name,
    is_cloud,
    is_label,
    pem,
    pem_key,
    usage,
    when,
)

LIFE = 72 * 3600.0  # seconds of a node's certificate
RENEW = 24 * 3600.0  # seconds after which it is made anew
FOREVER = 50 * 365.25 * 86400  # seconds of root and authorities
JOIN = 86400.0  # seconds that a join file is good for, unless it is said
SEEDS = 16
ANEW = "make a new one on a node of the cloud: cloudfs invite"
_FIELDS = ("cloud", "cluster", "root", "seeds", "issuer", "id", "ends", "uses", "sign", "key")
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Authority:
    """The root (cluster "") or a cluster's authority, with its key."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    cloud: str
    cluster: str = ""

    def pem(self) -> bytes:
        return pem(self.cert) + pem_key(self.key)

    def under(self, root: x509.Certificate) -> bool:
        """Whether this is a cluster's that the root made."""
        try:
            self.cert.verify_directly_issued_by(root)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return bool(self.cluster)


def make_root(cloud: str, now: float) -> Authority:
    """A new cloud.  CloudError("bad") for a name that is none."""
    if not is_cloud(cloud):
        raise CloudError("bad", f"{cloud!r} is no cloud name", "use labels of a-z, 0-9 and -")
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(cloud)
    cert = (
        builder(name, name, key.public_key(), *_time(now, FOREVER))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(cert, key, cloud)


def make_cluster(root: Authority, cluster: str, now: float) -> Authority:
    """An authority that makes names of this cluster and of no other."""
    if not is_label(cluster) or root.cluster:
        raise CloudError("bad", f"{cluster!r} is no cluster name", "use a-z, 0-9 and -")
    key = ec.generate_private_key(ec.SECP256R1())
    only = x509.NameConstraints([x509.DNSName(f"{cluster}.{root.cloud}")], None)
    cert = (
        builder(
            _name(cluster, root.cloud), root.cert.subject, key.public_key(), *_time(now, FOREVER)
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .add_extension(only, critical=True)
        .sign(root.key, hashes.SHA256())
    )
    return Authority(cert, key, root.cloud, cluster)


def load(data: bytes) -> Authority:
    """An authority from its PEM; CloudError("bad")."""
    try:
        cert = x509.load_pem_x509_certificate(data)
        key = load_pem_private_key(data, None)
        subject, issuer = (
            str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
            for name in (cert.subject, cert.issuer)
        )
    except (ValueError, TypeError, IndexError) as error:
        raise CloudError("bad", f"that is no authority's key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise CloudError("bad", "that is no authority's key: its two parts do not fit")
    return Authority(cert, key, issuer, "" if cert.subject == cert.issuer else subject)


def issue(
    by: Authority, node: str, public: ec.EllipticCurvePublicKey, now: float, life: float = LIFE
) -> bytes:
    """A node's certificate and its authority's, PEM.  CloudError("bad")."""
    if not is_label(node) or not by.cluster or not isinstance(public.curve, ec.SECP256R1):
        raise CloudError("bad", f"{node!r} is no node name, or its key none of P-256")
    where = f"{by.cluster}.{by.cloud}"
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    uri = x509.UniformResourceIdentifier(f"spiffe://{where}/node/{node}")
    cert = (
        builder(_name(common_name(by.cluster, node)), by.cert.subject, public, *_time(now, life))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .add_extension(both, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([uri, x509.DNSName(f"{node}.{where}")]), critical=False
        )
        .sign(by.key, hashes.SHA256())
    )
    return pem(cert) + pem(by.cert)


def root_hash(root: x509.Certificate) -> str:
    """By which a join file knows the cloud: 64 hexadecimal digits."""
    return hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()


# --- join files -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join:
    """What a join file says.

    root: the root's hash.  seeds: addresses.  issuer: the node that counts its uses.
    ends: seconds since 1970.  uses: how many nodes may join with it.  sign: the authority's, over
    all that and the public half of key.  key: Ed25519, its secret half; what an issuer is shown
    is the file without it (`shown`), where it is the public one.
    """

    cloud: str
    cluster: str
    root: str
    seeds: tuple[str, ...]
    issuer: str
    id: str
    ends: float
    uses: int
    sign: str
    key: str = field(repr=False)

    def text(self) -> str:
        """The file: one line, for a person to carry."""
        return f"{self._signed()} sign={self.sign} key={self.key}\n"

    def shown(self) -> Join:
        """What is shown to an issuer: without the secret."""
        public = _secret(self.key).public_key().public_bytes_raw().hex()
        return Join(*self._parts(), self.sign, public)

    def prove(self, node: str, public: bytes) -> bytes:
        """The signature by which this file asks for a certificate for a node of that name and
        public key (DER)."""
        return _secret(self.key).sign(_asked(self.id, node, public))

    def _parts(self) -> tuple[str, str, str, tuple[str, ...], str, str, float, int]:
        return (
            self.cloud,
            self.cluster,
            self.root,
            self.seeds,
            self.issuer,
            self.id,
            self.ends,
            self.uses,
        )

    def _signed(self) -> str:
        pairs = dict(zip(_FIELDS, self._parts(), strict=False))
        return ndb.record({**pairs, "seeds": ",".join(self.seeds), "ends": int(self.ends)})


def make_join(
    by: Authority,
    root: x509.Certificate,
    seeds: Iterable[str],
    issuer: str,
    now: float,
    life: float = JOIN,
    uses: int = 1,
) -> Join:
    """A new join file of a cluster."""
    secret = Ed25519PrivateKey.generate()
    public = secret.public_key().public_bytes_raw()
    id = hashlib.sha256(public).hexdigest()[:16]
    where = tuple(seeds)
    if not 0 < len(where) <= SEEDS or not 0 < uses < 10**6:
        raise CloudError("bad", f"a join file has 1 to {SEEDS} seeds, and serves at least one node")
    ends = float(int(now + life))
    bare = Join(
        by.cloud, by.cluster, root_hash(root), where, issuer, id, ends, uses, "", public.hex()
    )
    sign = by.key.sign(_to_sign(bare), ec.ECDSA(hashes.SHA256()))
    return Join(*bare._parts(), sign.hex(), secret.private_bytes_raw().hex())


def parse_join(text: str) -> Join:
    """A join file; CloudError("bad") for what is none."""
    try:
        pairs = ndb.parse(text[:8192])
        joined = Join(
            pairs["cloud"],
            pairs["cluster"],
            pairs["root"],
            tuple(pairs["seeds"].split(",")),
            pairs["issuer"],
            pairs["id"],
            float(int(pairs["ends"])),
            int(pairs["uses"]),
            pairs["sign"],
            pairs["key"],
        )
        whole = tuple(pairs) == _FIELDS and joined.text().strip() == text.strip()
    except (CloudError, KeyError, ValueError):
        whole = False
    if not whole or not all(map(_HEX.fullmatch, (joined.root, joined.sign, joined.key))):
        raise CloudError("bad", "that is no join file", "make one: cloudfs invite")
    return joined


def check_join(
    shown: Join,
    proof: bytes,
    node: str,
    public: bytes,
    authority: x509.Certificate,
    now: float,
    used: Callable[[str], int],
) -> None:
    """Whether an issuer is to give a certificate for a node of that name and public key (DER)
    to who showed this.

    used(id): how many have joined with it.  CloudError("denied") with the reason.
    """
    key = authority.public_key()
    try:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(bytes.fromhex(shown.sign), _to_sign(shown), ec.ECDSA(hashes.SHA256()))
        asking = Ed25519PublicKey.from_public_bytes(bytes.fromhex(shown.key))
        asking.verify(proof, _asked(shown.id, node, public))
    except (InvalidSignature, ValueError):
        raise CloudError("denied", "the join file was changed, or is another cluster's") from None
    if now >= shown.ends:
        why = f"the join file ended {when(shown.ends)}, and here it is {when(now)} (UTC)"
        raise CloudError("denied", why, ANEW)
    if used(shown.id) >= shown.uses:
        many = "a node has" if shown.uses == 1 else f"{shown.uses} nodes have"
        raise CloudError("denied", f"{many} joined with this file already", ANEW)


def check_root(joined: Join, root: x509.Certificate) -> None:
    """CloudError("denied") unless this is the root that the join file names."""
    if not hmac.compare_digest(root_hash(root), joined.root):
        raise CloudError("denied", "the node that answers is of another cloud than the join file")


# --- small things ---------------------------------------------------------------------------


def _to_sign(joined: Join) -> bytes:
    return f"cloudfs join\0{joined._signed()} key={joined.key}".encode()


def _asked(id: str, node: str, public: bytes) -> bytes:
    return f"cloudfs certificate\0{id}\0{node}\0".encode() + public


def _secret(key: str) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key))
    except ValueError:
        raise CloudError("bad", "the join file's key is none") from None


def _name(common: str, cloud: str = "") -> x509.Name:
    """cloud: of a cluster's authority, which would be taken for its own issuer where it is
    called as its cloud is."""
    within = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, cloud)] if cloud else []
    return x509.Name([*within, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _time(now: float, life: float) -> tuple[datetime.datetime, datetime.datetime]:
    at = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(microsecond=0)
    second = datetime.timedelta(seconds=1)
    return at - EARLY * second, at + life * second
