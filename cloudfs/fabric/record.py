"""A record of a replicated table, and its form on the way: an ndb line and the value."""

from __future__ import annotations

from dataclasses import dataclass

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.fabric.packet import pack, text, unpack
from cloudfs.fabric.stamp import Stamp

MAX_VALUE = 64 << 10  # bytes


@dataclass(frozen=True, slots=True)
class Record:
    """The value that its owner gave a key at that stamp.

    owner: the node that alone may change it; "" where a majority of replicas decides.
    lifetime: seconds from then on for which it holds unless it is told again, 0 for ever.
    gone: it was deleted; kept for a while so that older copies do not bring it back.
    """

    key: str
    owner: str
    value: bytes
    stamp: Stamp
    lifetime: float = 0.0
    gone: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """What it is a version of."""
        return self.owner, self.key


def pack_record(record: Record, left: float | None) -> bytes:
    """left: seconds it still holds, None for ever."""
    pairs: list[tuple[str, object]] = [
        ("key", record.key),
        ("owner", record.owner),
        ("stamp", str(record.stamp)),
        ("lifetime", record.lifetime),
        ("left", left),
    ]
    if record.gone:
        pairs.append(("gone", 1))
    return pack(ndb.record(pairs), record.value)


def unpack_record(data: bytes) -> tuple[Record, float | None]:
    """The record and for how many seconds it still holds; raises CloudError("proto")."""
    try:
        head, value = unpack(data)
        pairs = ndb.parse(text(head))
        left = float(pairs["left"]) if pairs["left"] else None
        record = Record(
            pairs["key"],
            pairs["owner"],
            value,
            Stamp.parse(pairs["stamp"]),
            float(pairs["lifetime"]),
            "gone" in pairs,
        )
    except (CloudError, ValueError, KeyError) as error:
        raise CloudError("proto", f"a record that cannot be read: {error}") from None
    if len(value) > MAX_VALUE or not 0 <= record.lifetime < 1e10 or (left and not left < 1e10):
        raise CloudError("proto", f"a record out of bounds: {record.key[:80]!r}")
    return record, left
