"""Credentials: a token, and whom its holder lets use it instead, hop after hop.  Pure.

    credential   token, or 0; token with its length (u16, big-endian); 1 to HOPS delegations
    delegation   the next holder's key with its length (u8); its end, u64 seconds since 1970;
                 signature, 64 bytes

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

from cloudfs.errors import CloudError
from cloudfs.factotum import holders
from cloudfs.factotum.holders import SIGNATURE, Holder
from cloudfs.factotum.tokens import MOST, Powers

HOPS = 4
_END = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Credential:
    """powers: of the token, until the earliest end.  holders: who may use it, in the order in
    which each was let by the one before; the last is the one that may now."""

    powers: Powers
    holders: tuple[str, ...]

    def used_at(self, node: str) -> Powers:
        """The powers with the holder who may use them at that node (a holder's name): the last,
        or the one before it where the last is the node itself, to which it was lent."""
        lent = len(self.holders) > 1 and self.holders[-1] == node
        return replace(self.powers, holder=self.holders[-2 if lent else -1])


def delegate(credential: bytes, by: Holder, to: bytes, until: float) -> bytes:
    """The credential for one more holder.

    by: its last holder.  to: the raw public key of the next.  until: seconds since 1970.
    Raises CloudError "toomany" after HOPS, "toobig" where it would be over MOST bytes.
    """
    holders.name_of(to)
    token, hops = _split(credential)
    if len(hops) == HOPS:
        raise CloudError("toomany", f"a token goes on {HOPS} times at most")
    made = credential if hops else b"\0" + len(token).to_bytes(2, "big") + token
    made += bytes([len(to)]) + to + _END.pack(int(until))
    made += by.sign(_to_sign(made))
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
    names = [powers.holder]
    until = powers.limits.until
    for to, end in hops:
        signed, signature = credential[: end - SIGNATURE], credential[end - SIGNATURE : end]
        last = float(*_END.unpack(signed[-_END.size :]))
        try:
            holders.check(holders.public_of(names[-1]), signature, _to_sign(signed))
        except CloudError:
            raise CloudError(
                "denied", f"its hop {len(names)} is not signed by the holder"
            ) from None
        if now >= last:
            raise CloudError("denied", f"its hop {len(names)} is over", "log in again")
        until = last if until is None else min(until, last)
        names.append(holders.name_of(to))
    return Credential(replace(powers, limits=replace(powers.limits, until=until)), tuple(names))


def last(credential: bytes) -> bytes:
    """The raw key of the last to whom a credential was lent; b"" for a bare token, or nothing."""
    try:
        hops = _split(credential)[1]
    except CloudError:
        return b""
    return hops[-1][0] if hops else b""


def _split(credential: bytes) -> tuple[bytes, list[tuple[bytes, int]]]:
    """The token, and of each delegation the next holder's raw key and where it ends."""
    if len(credential) > MOST:
        raise CloudError("toobig", f"a token has at most {MOST} bytes, this one {len(credential)}")
    if credential[:1] != b"\0":
        return credential, []
    at = start = 3 + int.from_bytes(credential[1:3], "big")
    hops: list[tuple[bytes, int]] = []
    while at < len(credential):
        size = credential[at]
        end = at + 1 + size + _END.size + SIGNATURE
        if size not in holders.LENGTHS or end > len(credential):
            raise CloudError("bad", "that is no token")
        hops.append((credential[at + 1 : at + 1 + size], end))
        at = end
    if len(credential) < start or not 1 <= len(hops) <= HOPS:
        raise CloudError("bad", "that is no token")
    return credential[3:start], hops


def _to_sign(made: bytes) -> bytes:
    return b"cloudfs delegation\0" + made
