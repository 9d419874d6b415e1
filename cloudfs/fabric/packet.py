"""Parts in one message: each is its length, u32 little-endian, and its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Sample
from cloudfs.fabric.stamp import Stamp

_LENGTH = Struct("<I")


def pack(*parts: bytes | str) -> bytes:
    out = []
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        out += [_LENGTH.pack(len(data)), data]
    return b"".join(out)


def unpack(data: bytes) -> list[bytes]:
    """The parts; raises CloudError("proto") where they do not fill the message."""
    parts, at, end = [], 0, len(data)
    while at < end:
        start = at + _LENGTH.size
        if start > end:
            raise CloudError("proto", "a message ends within a length")
        (length,) = _LENGTH.unpack_from(data, at)
        at = start + length
        if at > end:
            raise CloudError("proto", "a message ends within a part")
        parts.append(data[start:at])
    return parts


def text(part: bytes) -> str:
    """A part that is text; raises CloudError("proto") if it is not."""
    try:
        return part.decode()
    except UnicodeDecodeError:
        raise CloudError("proto", "a part of a message is not UTF-8") from None


def pack_samples(samples: Iterable[Sample]) -> list[bytes | str]:
    """Three parts for each that is not gone: key, stamp, value."""
    return [
        part
        for each in samples
        for part in (each.key, str(each.stamp), each.value)
        if not each.gone
    ]


def unpack_samples(parts: list[bytes]) -> list[Sample]:
    """The inverse; raises CloudError("proto")."""
    if len(parts) % 3:
        raise CloudError("proto", "half a sample")
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    try:
        return [Sample(text(key), value, Stamp.parse(text(at))) for key, at, value in triples]
    except CloudError as error:
        raise CloudError("proto", error.why) from None
