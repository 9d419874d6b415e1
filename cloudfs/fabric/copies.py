"""One node's copy of a table: no clock, no I/O.

Of each owner's key the version with the last stamp stays, so copies that have met come to
the same in whatever order they met.  Whether two copies are the same shows in digests: one
of the whole, and one for each of `BUCKETS` parts.  Times are seconds that only grow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from cloudfs.fabric.record import Record
from cloudfs.fabric.stamp import Stamp

BUCKETS = 64
DIGEST = 8  # bytes of one digest
MOST = 1 << 16  # records
# A deleted record is kept as long as an older copy may be: its lifetime, or this many seconds.
GONE_KEPT = 7 * 86400.0

Name = tuple[str, str]  # owner, key


class Copies:
    """The records that hold, and those deleted of late."""

    def __init__(self) -> None:
        self._records: dict[Name, Record] = {}
        self._ends: dict[Name, float] = {}  # when it holds no more
        self._by_key: dict[str, set[str]] = {}  # owners
        self._buckets = [0] * BUCKETS  # of each: its records' marks, xor

    def __len__(self) -> int:
        return len(self._records)

    def merge(self, record: Record, left: float | None, now: float) -> bool:
        """Take a version, which holds for `left` seconds from now, None for ever.

        Whether it is newer than what was there.  One over `MOST` records is not taken.
        """
        if left is not None and left <= 0:
            return False
        have = self._records.get(record.name)
        if have is None and len(self._records) >= MOST:
            return False
        if have is not None and have.stamp >= record.stamp:
            return False
        if have is not None:
            self._mark(have)
        self._mark(record)
        self._records[record.name] = record
        self._by_key.setdefault(record.key, set()).add(record.owner)
        self._ends.pop(record.name, None)
        if left is not None:
            self._ends[record.name] = now + left
        return True

    def expire(self, now: float) -> list[Record]:
        """Let go of what does not hold any more; those that were not deleted before."""
        over = [self._records[name] for name, end in self._ends.items() if end <= now]
        for record in over:
            del self._records[record.name], self._ends[record.name]
            self._mark(record)
            owners = self._by_key[record.key]
            owners.discard(record.owner)
            if not owners:
                del self._by_key[record.key]
        return [record for record in over if not record.gone]

    def left(self, record: Record, now: float) -> float | None:
        """Seconds for which our version of it holds, None for ever."""
        end = self._ends.get(record.name)
        return None if end is None else max(0.0, end - now)

    def version(self, name: Name) -> Record | None:
        """The last version, deleted or not."""
        return self._records.get(name)

    def get(self, key: str) -> Record | None:
        """What the key holds: of several owners' records the last."""
        found = [self._records[owner, key] for owner in self._by_key.get(key, ())]
        return max((each for each in found if not each.gone), key=_stamp, default=None)

    def owned(self, key: str) -> list[Record]:
        """All owners' records of the key, the last first."""
        found = [self._records[owner, key] for owner in self._by_key.get(key, ())]
        return sorted((each for each in found if not each.gone), key=_stamp, reverse=True)

    def keys(self) -> Iterator[str]:
        return (key for key in self._by_key if self.get(key) is not None)

    # --- comparing copies ---------------------------------------------------------------------

    def root(self) -> bytes:
        """The digest of all."""
        return hashlib.blake2b(b"".join(self.buckets()), digest_size=DIGEST).digest()

    def buckets(self) -> list[bytes]:
        """The digest of each part."""
        return [each.to_bytes(DIGEST, "little") for each in self._buckets]

    def heads(self, buckets: Iterable[int]) -> dict[Name, Stamp]:
        """The stamp of each version in these parts."""
        wanted = set(buckets)
        return {
            name: record.stamp
            for name, record in self._records.items()
            if bucket_of(name) in wanted
        }

    def _mark(self, record: Record) -> None:
        """Put the record into its part's digest, or take it out again."""
        said = f"{record.owner} {record.key} {record.stamp}".encode()
        mark = hashlib.blake2b(said, digest_size=DIGEST).digest()
        self._buckets[bucket_of(record.name)] ^= int.from_bytes(mark, "little")


def bucket_of(name: Name) -> int:
    """The part that a record is in, the same on all nodes."""
    return hashlib.blake2b("\0".join(name).encode(), digest_size=2).digest()[0] % BUCKETS


def compare(mine: dict[Name, Stamp], theirs: dict[Name, Stamp]) -> tuple[list[Name], list[Name]]:
    """What to take from them, and what to give them."""
    take = [name for name, at in theirs.items() if name not in mine or mine[name] < at]
    give = [name for name, at in mine.items() if name not in theirs or theirs[name] < at]
    return take, give


def lifetime_of(record: Record) -> float | None:
    """Seconds for which a version that is new now is kept, None for ever."""
    if record.gone:
        return record.lifetime or GONE_KEPT
    return record.lifetime or None


def _stamp(record: Record) -> Stamp:
    return record.stamp
