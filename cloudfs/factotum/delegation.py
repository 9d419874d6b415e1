"""Credentials: a token, and whom its holder lets use it instead, hop after hop.  Pure.

    credential   token, or 0; token with its length (u16, big-endian); 1 to HOPS delegations
    delegation   the next holder's key, 32 bytes; its end, u64 seconds since 1970; signature, 64

A user's factotum holds a token and lets the node of its mount act for it; that node lets another
one, on which it starts the user's object, and so on.  Each signs, with the key that the one before
named, everything before its own signature.  So nobody can take a hop out, or make an end later,
and whoever has a credential can do nothing with it but as its last holder.

Biscuit's own blocks cannot say this: a block only adds checks, and "the holder is A" and "the
holder is B" are never both true.  No token begins with a zero byte (it is a protocol buffer, and
there is no field 0), so that a bare token is a credential as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudfs.errors import CloudError
from cloudfs.factotum.tokens import MOST, Powers

HOPS = 4
KEY, SIGNATURE = 32, 64
_END = struct.Struct(">Q")
_ONE = KEY + _END.size + SIGNATURE
_SCHEME = "ed25519:"


@dataclass(frozen=True, slots=True)
class Credential:
    """powers: of the token, until the earliest end.  holders: who may use it, in the order in
    which each was let by the one before; the last is the one that may now."""

    powers: Powers
    holders: tuple[str, ...]

    def used_by(self, holder: str) -> Powers:
        """The powers for the one who proved to be the holder; CloudError("denied") for another."""
        if holder != self.holders[-1]:
            raise CloudError("denied", "the token is for another holder's key")
        return replace(self.powers, holder=holder)


def holder(public: bytes) -> str:
    """How a token names the one who may use it.  public: Ed25519, 32 bytes."""
    return f"{_SCHEME}{public.hex()}"


def public_of(name: str) -> bytes:
    """The key of a holder's name; CloudError("bad") where it names none."""
    try:
        key = bytes.fromhex(name.removeprefix(_SCHEME))
    except ValueError:
        key = b""
    if len(key) != KEY or not name.startswith(_SCHEME):
        raise CloudError("bad", f"{name[:80]!r} names no holder")
    return key


def delegate(credential: bytes, key: Ed25519PrivateKey, to: bytes, until: float) -> bytes:
    """The credential for one more holder.

    key: of its last holder.  to: the public key of the next, 32 bytes.  until: seconds since
    1970.  Raises CloudError "toomany" after HOPS, "toobig" where it would be over MOST bytes.
    """
    token, hops = _split(credential)
    if len(hops) == HOPS:
        raise CloudError("toomany", f"a token goes on {HOPS} times at most")
    made = credential if hops else b"\0" + len(token).to_bytes(2, "big") + token
    made += to + _END.pack(int(until))
    made += key.sign(_to_sign(made))
    if len(made) > MOST:
        raise CloudError(
            "toobig", f"the token would have {len(made)} bytes", f"at most {MOST}: restrict it less"
        )
    return made


def verify(credential: bytes, now: float, read: Callable[[bytes], Powers]) -> Credential:
    """What a credential allows whom.

    read: the powers of a token (tokens.verify).  Raises what it raises; CloudError "bad" for what
    is no credential, "denied" for a hop that nobody signed or that is over.
    """
    token, hops = _split(credential)
    powers = read(token)
    holders = [powers.holder]
    until = powers.limits.until
    for end in hops:
        signed, signature = credential[: end - SIGNATURE], credential[end - SIGNATURE : end]
        to, last = signed[-KEY - _END.size : -_END.size], float(*_END.unpack(signed[-_END.size :]))
        try:
            Ed25519PublicKey.from_public_bytes(public_of(holders[-1])).verify(
                signature, _to_sign(signed)
            )
        except (InvalidSignature, ValueError):
            raise CloudError("denied", f"its hop {len(holders)} is not signed by the holder")
        if now >= last:
            raise CloudError("denied", f"its hop {len(holders)} is over", "log in again")
        until = last if until is None else min(until, last)
        holders.append(holder(to))
    return Credential(replace(powers, limits=replace(powers.limits, until=until)), tuple(holders))


def _split(credential: bytes) -> tuple[bytes, list[int]]:
    """The token, and where each delegation ends."""
    if len(credential) > MOST:
        raise CloudError("toobig", f"a token has at most {MOST} bytes, this one {len(credential)}")
    if credential[:1] != b"\0":
        return credential, []
    start = 3 + int.from_bytes(credential[1:3], "big")
    count, rest = divmod(len(credential) - start, _ONE)
    if len(credential) < 3 or rest or not 1 <= count <= HOPS:
        raise CloudError("bad", "that is no token")
    return credential[3:start], [start + _ONE * (number + 1) for number in range(count)]


def _to_sign(made: bytes) -> bytes:
    return b"cloudfs delegation\0" + made
