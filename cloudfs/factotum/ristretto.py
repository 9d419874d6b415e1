"""The group ristretto255 (RFC 9496) over libsodium: points as 32 bytes, scalars as integers.  Pure.

What comes from others goes through `point`, which refuses what is no point, and the neutral
element, with which a peer could make an answer that says nothing of a secret look like one.
"""

from __future__ import annotations

import hashlib
import secrets

import pysodium

from cloudfs.errors import CloudError

ORDER = 2**252 + 27742317777372353535851937790883648493
BYTES = 32
_NEUTRAL = bytes(BYTES)


def scalar() -> int:
    """A random scalar, 1 to ORDER - 1."""
    return 1 + secrets.randbelow(ORDER - 1)


def pack(number: int) -> bytes:
    """A scalar as 32 bytes, little-endian."""
    return (number % ORDER).to_bytes(BYTES, "little")


def unpack(data: bytes) -> int:
    """The inverse of `pack`; CloudError("bad") for what is no reduced scalar."""
    number = int.from_bytes(data, "little")
    if len(data) != BYTES or number >= ORDER:
        raise CloudError("bad", "that is no scalar of ristretto255")
    return number


def point(data: bytes) -> bytes:
    """A point from elsewhere, as it is; CloudError("bad") where it is none or neutral."""
    # libsodium up to 1.0.18 takes an encoding with its highest bit set (RFC 9496, 4.3.1, says no).
    canonical = len(data) == BYTES and data[-1] < 0x80 and data != _NEUTRAL
    if not canonical or not pysodium.crypto_core_ristretto255_is_valid_point(data):
        raise CloudError("bad", "that is no point of ristretto255")
    return data


def base(number: int) -> bytes:
    """number times the generator; the number is not a multiple of ORDER."""
    return bytes(pysodium.crypto_scalarmult_ristretto255_base(pack(number)))


def times(number: int, at: bytes) -> bytes:
    """number times a point; the neutral element for 0."""
    if number % ORDER == 0 or at == _NEUTRAL:
        return _NEUTRAL
    return bytes(pysodium.crypto_scalarmult_ristretto255(pack(number), at))


def add(*points: bytes) -> bytes:
    """The sum of points, the neutral element for none."""
    total = _NEUTRAL
    for one in points:
        total = bytes(pysodium.crypto_core_ristretto255_add(total, one))
    return total


def expand(message: bytes, domain: bytes) -> bytes:
    """64 uniform bytes: expand_message_xmd of RFC 9380 (5.3.1) with SHA-512."""
    tail = domain + bytes([len(domain)])
    first = hashlib.sha512(bytes(128) + message + b"\0\x40\0" + tail).digest()
    return hashlib.sha512(first + b"\1" + tail).digest()


def hash_point(message: bytes, domain: bytes) -> bytes:
    """A point of which nobody knows the logarithm."""
    return bytes(pysodium.crypto_core_ristretto255_from_hash(expand(message, domain)))


def hash_scalar(message: bytes, domain: bytes) -> int:
    return int.from_bytes(expand(message, domain), "little") % ORDER
