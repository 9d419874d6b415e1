"""A set of names in at most a kilobyte that never denies one it holds (Bloom 1970).  Pure.

Every filter has the same 8,192 bits and 4 hashes, so that two are joined by "or": a leaf of
32 names is wrong once in ten million times, 600 names once in 200.  Where half of the bits
are set (about 1,400 names, wrong 1 in 16 times) the filter is *full*: it then answers yes to
every name and costs nothing.  So the bound on a wrong yes holds for all but full ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable
from functools import lru_cache

from cloudfs.errors import CloudError

BITS = 8192
HASHES = 4
HALF = BITS // 2
FULL = -1  # the map of a full filter


@lru_cache(1 << 14)
def _mask(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=2 * HASHES).digest()
    mask = 0
    for at in range(0, 2 * HASHES, 2):
        mask |= 1 << (int.from_bytes(digest[at : at + 2]) % BITS)
    return mask


def of(names: Iterable[str]) -> int:
    """The filter of some names: its bits as one number."""
    found = 0
    for name in names:
        found |= _mask(name)
    return _whole(found)


def _whole(found: int) -> int:
    return FULL if found.bit_count() > HALF else found


def join(one: int, other: int) -> int:
    """The filter of both sets; associative and commutative, since full ones stay full."""
    return FULL if FULL in (one, other) else _whole(one | other)


def without(found: int, known: int) -> int:
    """What must be joined to the known filter to make one that has all of the found."""
    if FULL in (found, known):
        return FULL if found != known and found == FULL else 0
    return found & ~known


def holds(found: int, name: str) -> bool:
    """Whether the name may be in the set; False is sure."""
    mask = _mask(name)
    return found & mask == mask


def error(found: int) -> float:
    """How often a name that is not in the set gets a yes, a fraction of 1."""
    return 1.0 if found == FULL else float((found.bit_count() / BITS) ** HASHES)


def text(found: int) -> str:
    """The filter as one word: "*" if full, else its packed bits in base 64."""
    if found == FULL:
        return "*"
    return base64.b64encode(zlib.compress(found.to_bytes(BITS // 8, "little"), 9)).decode()


def parse(word: str) -> int:
    """The inverse of `text`; CloudError("bad") where it is none."""
    if word == "*":
        return FULL
    try:
        packed = zlib.decompressobj()
        data = packed.decompress(base64.b64decode(word, validate=True), BITS // 8 + 1)
    except (binascii.Error, ValueError, zlib.error) as failure:
        raise CloudError("bad", f"no filter of names: {failure}") from None
    if len(data) != BITS // 8:
        raise CloudError("bad", f"a filter of names has {BITS // 8} bytes, this one {len(data)}")
    return _whole(int.from_bytes(data, "little"))
