"""Frames to plain tuples and back, for each dialect.

A decoder takes (buffer, start of the body, end of the frame) and returns the fields
in the table's order: numbers, `str`, qids as (type, version, path), lists, bytes.
An encoder takes the tag and the same fields and returns the whole frame.

Decoders are strict: a frame that is too short or too long, a count beyond its bound
and a string that is not UTF-8 raise `BadMessage`; nothing else is raised.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

from cloudfs.wire.generate import (
    BadMessage,
    Caller,
    Decoder,
    Encoder,
    caller,
    decoder,
    encoder,
    names,
)
from cloudfs.wire.messages import DIRENT, MESSAGES, STAT, VERSIONS, Row

__all__ = [
    "HEAD",
    "HEAD_SIZE",
    "BadMessage",
    "Caller",
    "Codec",
    "Decoder",
    "Encoder",
    "Qid",
    "codec",
    "decode_dirents",
    "decode_stats",
    "dirent_encoder",
    "stat_codec",
]

Qid = tuple[int, int, int]  # type, version, path

HEAD = struct.Struct("<IBH")  # size, number, tag
HEAD_SIZE = HEAD.size
_ENTRY = struct.Struct("<BIQQBH")  # a DIRENT up to the bytes of its name


class Codec:
    """All messages of one dialect.

    decode, encode, fields, number: by message name; name: message number → name.
    """

    def __init__(self, key: str) -> None:
        rows = [row for row in MESSAGES if key in row.dialects]
        made = {row.name: _functions(row) for row in rows}
        self.key = key
        self.version = VERSIONS[key]
        self._rows = {row.name: row for row in rows}
        self.name = {row.number: row.name for row in rows}
        self.number = {row.name: row.number for row in rows}
        self.fields = {row.name: names(row.fields) for row in rows}
        self.decode: dict[str, Decoder] = {name: pair[0] for name, pair in made.items()}
        self.encode: dict[str, Encoder] = {name: pair[1] for name, pair in made.items()}

    def caller(self, name: str, handle: Callable[..., Any]) -> Caller:
        """What decodes the body of a message and gives its fields to handle."""
        return caller(name, self._rows[name].fields, handle)

    def parse(self, frame: bytes) -> tuple[str, int, tuple[Any, ...]]:
        """(name, tag, fields) of one whole frame.  Raises BadMessage."""
        if len(frame) < HEAD_SIZE:
            raise BadMessage("a frame has at least 7 bytes")
        size, number, tag = HEAD.unpack_from(frame)
        if size != len(frame):
            raise BadMessage(f"a frame of {len(frame)} bytes says that it has {size}")
        name, fields = self.body(number, frame, HEAD_SIZE, size)
        return name, tag, fields

    def body(self, number: int, buffer: bytes, at: int, end: int) -> tuple[str, tuple[Any, ...]]:
        """(name, fields) of the message of that number whose body lies there.  Raises
        BadMessage."""
        name = self.name.get(number)
        if name is None:
            raise BadMessage(f"{self.version} has no message number {number}")
        return name, self.decode[name](buffer, at, end)


@functools.cache
def codec(key: str) -> Codec:
    """The codec of a dialect: "9", "u" or "L"."""
    return Codec(key)


@functools.cache
def stat_codec(key: str) -> tuple[Decoder, Encoder]:
    """(decoder, encoder) of one stat of a dialect, "9" or "u", without its size[2]."""
    return decoder("stat", STAT[key]), encoder("stat", STAT[key])


@functools.cache
def dirent_encoder() -> Encoder:
    """The encoder of one entry of an Rreaddir."""
    return encoder("dirent", DIRENT)


def decode_stats(key: str, data: bytes) -> list[tuple[Any, ...]]:
    """All stats in a row, as a read of a directory gives them.  Raises BadMessage."""
    decode, _ = stat_codec(key)
    stats = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        if at + 2 > len(data) or end > len(data):
            raise BadMessage("a stat is longer than what holds it")
        stats.append(decode(data, at + 2, end))
        at = end
    return stats


def decode_dirents(data: bytes) -> list[tuple[Qid, int, int, str]]:
    """All (qid, offset, type, name) of an Rreaddir's data.  Raises BadMessage."""
    entries = []
    at = 0
    while at < len(data):
        begin = at + _ENTRY.size
        if begin > len(data):
            raise BadMessage("a directory entry is longer than what holds it")
        kind, version, path, offset, dtype, size = _ENTRY.unpack_from(data, at)
        at = begin + size
        if at > len(data):
            raise BadMessage("a directory entry is longer than what holds it")
        try:
            name = data[begin:at].decode()
        except UnicodeDecodeError:
            raise BadMessage("a name is not UTF-8") from None
        entries.append(((kind, version, path), offset, dtype, name))
    return entries


@functools.cache
def _functions(row: Row) -> tuple[Decoder, Encoder]:
    return decoder(row.name, row.fields), encoder(row.name, row.fields, row.number)
