"""A secret in n shares of which t give it and t - 1 say nothing (Shamir, CACM 1979).  Pure.

A share is the value of a random polynomial of degree t - 1 at its holder's number; the secret is
its value at 0.  The dealer commits to the coefficients (Feldman, FOCS 1987), so that a holder
checks what it was dealt, and everybody knows the *public share* by which a holder's answers are
proved.

When holders are lost, t of those left deal their shares out anew to another set (Desmedt and
Jajodia 1997; checked as in Wong, Wang and Wing, SISW 2002).  The secret stays and is never in one
place; shares of the two dealings do not mix, so that of one set t - 1 stolen ones are worthless
after the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cloudfs.errors import CloudError
from cloudfs.factotum import ristretto
from cloudfs.factotum.ristretto import ORDER, add, base, times

MOST = 16  # holders


@dataclass(frozen=True, slots=True)
class Dealing:
    """shares: by the holder's number, from 1.  commitments: t points, the first that of the
    secret itself."""

    shares: Mapping[int, int]
    commitments: tuple[bytes, ...]


def deal(secret: int, need: int, numbers: Collection[int]) -> Dealing:
    """Share a secret so that `need` of these holders give it.  CloudError("bad")."""
    _check(need, numbers)
    if not 0 < secret < ORDER:
        raise CloudError("bad", "that is no secret to share")
    rest = [ristretto.scalar() for _ in range(need - 1)]
    line = [secret, *rest]
    return Dealing({n: _at(line, n) for n in numbers}, tuple(base(c) for c in line))


def public_share(commitments: Sequence[bytes], number: int) -> bytes:
    """The point of the share of that holder."""
    return add(*(times(pow(number, k, ORDER), at) for k, at in enumerate(commitments)))


def check_share(share: int, commitments: Sequence[bytes], number: int) -> None:
    """CloudError("denied") where a share is not what the dealer committed to."""
    if not 0 < share < ORDER or base(share) != public_share(commitments, number):
        raise CloudError("denied", f"the share of holder {number} is not what was dealt")


def weights(numbers: Collection[int]) -> dict[int, int]:
    """Lagrange's: the secret is the sum of shares, each by its weight."""
    found = {}
    for i in numbers:
        over = under = 1
        for j in numbers:
            if j != i:
                over = over * j % ORDER
                under = under * (j - i) % ORDER
        found[i] = over * pow(under, -1, ORDER) % ORDER
    return found


def restore(shares: Mapping[int, int]) -> int:
    """The secret from t shares: for tests and for nobody else."""
    counted = weights(shares)
    return sum(counted[n] * share for n, share in shares.items()) % ORDER


# --- dealt anew ----------------------------------------------------------------------------


def join(
    number: int,
    parts: Mapping[int, tuple[int, Sequence[bytes]]],
    old: Sequence[bytes],
    need: int,
) -> tuple[int, tuple[bytes, ...]]:
    """What a holder of the new set makes of the parts that t of the old one dealt it.

    number: its own in the new set.  parts: by the old holder's number, its part for this one
    and its commitments.  old: the commitments of the old dealing.  need: of the new one.
    Its share, and the new commitments, which all that joined the same parts have alike.
    CloudError("denied") names the old holder that dealt something else than its share.
    """
    if len(parts) != len(old):
        raise CloudError("bad", f"{len(parts)} holders deal anew, it takes {len(old)}")
    for dealer, (part, commitments) in parts.items():
        if len(commitments) != need or commitments[0] != public_share(old, dealer):
            raise CloudError("denied", f"holder {dealer} deals anew what was not its share")
        check_share(part, commitments, number)
    counted = weights(parts)
    share = sum(counted[dealer] * part for dealer, (part, _) in parts.items()) % ORDER
    made = tuple(
        add(*(times(counted[dealer], told[k]) for dealer, (_, told) in parts.items()))
        for k in range(need)
    )
    return share, made


def _at(line: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(line):
        value = (value * x + coefficient) % ORDER
    return value


def _check(need: int, numbers: Collection[int]) -> None:
    if not 1 <= need <= len(numbers) <= MOST:
        raise CloudError(
            "bad", f"{need} of {len(numbers)} holders", f"write 1 to {MOST}, as 3 of 5"
        )
    if len(set(numbers)) != len(numbers) or not all(0 < n < 2**16 for n in numbers):
        raise CloudError("bad", "holders have numbers from 1, each its own")
