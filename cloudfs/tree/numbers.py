"""Qid numbers: 64 bits, the same for a file however it is reached, 256 apart for tables."""

from __future__ import annotations

import hashlib

_FIXED, _OBJECT, _NAMED = 1 << 60, 2 << 60, 3 << 60


def fixed(number: int) -> int:
    """Of a directory that is always there."""
    return _FIXED | number << 8


def of_object(number: int) -> int:
    """Of an object's directory, by the object's number."""
    return _OBJECT | number << 8


def named(*path: str) -> int:
    """Of a directory that is known by its path only."""
    digest = hashlib.blake2b("/".join(path).encode(), digest_size=6).digest()
    return _NAMED | int.from_bytes(digest, "big") << 8


ROOT, PROC, NODES, SELF, VIEW, NODE_PROC, PLACE, CLUSTERS, INTRODUCE = map(fixed, range(9))
FACTOTUM, HOLD = map(fixed, (25, 26))
NET, PROBE, OWN_NET, TRAIN = map(fixed, (16, 17, 18, 24))
ENROL, STRANGERS = map(fixed, (40, 41))
SECSTORE, USERS, GROUPS, HOLDER = map(fixed, range(32, 36))
