"""A password made hard by others who do not learn it: an oblivious function.  Pure.

RFC 9497's VOPRF over ristretto255 with SHA-512.  The client blinds its password, holders of a
key multiply the blinded point and prove it, the client takes the blind away: it has a value that
nobody finds without asking the holders once for each password tried, and they have seen nothing
but a random point.  The key is shared (factotum/shares.py), so that it takes t holders to answer,
as in Jarecki, Kiayias, Krawczyk and Xu (TOPPSS, ACNS 2017).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cloudfs.errors import CloudError
from cloudfs.factotum import ristretto
from cloudfs.factotum.ristretto import ORDER, add, base, hash_point, hash_scalar, pack, times
from cloudfs.factotum.shares import weights

CONTEXT = b"OPRFV1-\x01-ristretto255-SHA512"
MOST = 1024  # bytes of a password
PROOF = 2 * ristretto.BYTES


@dataclass(frozen=True, slots=True)
class Blinded:
    """What the client keeps to itself while it asks, and `point`, which it sends."""

    password: bytes
    blind: int
    point: bytes


def blind(password: bytes, number: int | None = None) -> Blinded:
    """Begin.  number: the blind, at random.  CloudError("bad") for an empty or endless password."""
    if not 0 < len(password) <= MOST:
        raise CloudError("bad", f"a password has 1 to {MOST} bytes")
    number = number or ristretto.scalar()
    at = hash_point(password, b"HashToGroup-" + CONTEXT)
    return Blinded(password, number, times(number, at))


def evaluate(share: int, blinded: bytes) -> tuple[bytes, bytes]:
    """A holder's answer: the point times its share, and a proof that it is so.

    CloudError("bad") where it was asked with no point.
    """
    ristretto.point(blinded)
    answer = times(share, blinded)
    return answer, _prove(share, blinded, answer, ristretto.scalar())


def check(public: bytes, blinded: bytes, answer: bytes, proof: bytes) -> None:
    """CloudError("denied") unless the holder whose share is that of `public` gave this answer."""
    ristretto.point(answer)
    if len(proof) != PROOF:
        raise CloudError("bad", "a proof has 64 bytes")
    challenge, response = ristretto.unpack(proof[:32]), ristretto.unpack(proof[32:])
    m, z = _composites(public, blinded, answer)
    t2 = add(_base(response), times(challenge, public))
    t3 = add(times(response, m), times(challenge, z))
    if _challenge(public, m, z, t2, t3) != challenge:
        raise CloudError("denied", "a holder's answer is not what its share gives")


def combine(answers: Mapping[int, bytes]) -> bytes:
    """The answer of the whole key from those of t holders, by their numbers."""
    counted = weights(answers)
    return add(*(times(counted[number], at) for number, at in answers.items()))


def finish(asked: Blinded, answer: bytes) -> bytes:
    """64 bytes: the password, hardened."""
    bare = times(pow(asked.blind, -1, ORDER), answer)
    parts = (asked.password, bare)
    told = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return hashlib.sha512(told + b"Finalize").digest()


# --- the proof: equal discrete logarithms, RFC 9497, 2.2 -----------------------------------


def _prove(share: int, blinded: bytes, answer: bytes, nonce: int) -> bytes:
    public = base(share)
    m, z = _composites(public, blinded, answer)
    challenge = _challenge(public, m, z, base(nonce), times(nonce, m))
    return pack(challenge) + pack(nonce - challenge * share)


def _composites(public: bytes, blinded: bytes, answer: bytes) -> tuple[bytes, bytes]:
    seed = hashlib.sha512(_told(public) + _told(b"Seed-" + CONTEXT)).digest()
    said = _told(seed) + bytes(2) + _told(blinded) + _told(answer) + b"Composite"
    number = hash_scalar(said, b"HashToScalar-" + CONTEXT)
    return times(number, blinded), times(number, answer)


def _challenge(*points: bytes) -> int:
    said = b"".join(map(_told, points)) + b"Challenge"
    return hash_scalar(said, b"HashToScalar-" + CONTEXT)


def _told(part: bytes) -> bytes:
    return len(part).to_bytes(2, "big") + part


def _base(number: int) -> bytes:
    return base(number) if number % ORDER else bytes(ristretto.BYTES)
