"""Who may use a token: a key, by its name, and what it signs.  Pure.

    ed25519:HEX    a user's factotum, 32 bytes
    p256:HEX       a node, by the key of its certificate: a compressed point, 33 bytes

Raw keys are told apart by their length.  A signature has 64 bytes in both cases; that of P-256 is
r and s, 32 bytes each (RFC 7515, 3.4, has it so), as its usual form in DER has no fixed length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudfs.errors import CloudError

SIGNATURE = 64
_SIZES = {"ed25519": 32, "p256": 33}
LENGTHS = frozenset(_SIZES.values())  # of raw keys, in bytes
_NAMES = {size: name for name, size in _SIZES.items()}
_ECDSA = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Holder:
    """A key that signs.  public: raw, 32 or 33 bytes."""

    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.public_key().public_bytes_raw()
        return point(self.key.public_key())

    @property
    def name(self) -> str:
        return name_of(self.public)

    def sign(self, data: bytes) -> bytes:
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(data)
        r, s = decode_dss_signature(self.key.sign(data, _ECDSA))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(public: ec.EllipticCurvePublicKey) -> bytes:
    """The raw form of a node's key, 33 bytes.  CloudError("bad") for another curve's."""
    if not isinstance(public.curve, ec.SECP256R1):
        raise CloudError("bad", "a node's key is one of P-256")
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def name_of(public: bytes) -> str:
    """The name of a raw key; CloudError("bad") for what is none by its length."""
    kind = _NAMES.get(len(public))
    if kind is None:
        raise CloudError("bad", f"a key of {len(public)} bytes is no holder's")
    return f"{kind}:{public.hex()}"


def public_of(name: str) -> bytes:
    """The raw key of a name; CloudError("bad") where it names none."""
    kind, _, text = name.partition(":")
    try:
        public = bytes.fromhex(text)
    except ValueError:
        public = b""
    if not public or _SIZES.get(kind) != len(public):
        raise CloudError("bad", f"{name[:80]!r} names no holder")
    return public


def check(public: bytes, signature: bytes, data: bytes) -> None:
    """CloudError("denied") unless the holder of this raw key signed data."""
    try:
        if len(public) == _SIZES["ed25519"]:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
            return
        if len(signature) != SIGNATURE:
            raise ValueError
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
        key.verify(encode_dss_signature(r, s), data, _ECDSA)
    except (InvalidSignature, ValueError):
        raise CloudError("denied", "it is not signed by its holder") from None
