"""All messages of all dialects, there and back; and everything else refused."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.wire.codec import (
    BadMessage,
    codec,
    decode_dirents,
    decode_stats,
    dirent_encoder,
    stat_codec,
)
from cloudfs.wire.generate import BULK
from cloudfs.wire.messages import MESSAGES, STAT, Row
from cloudfs.wire.session import dialect
from tests.wire.talk import STEADY

FIELD = re.compile(r"(\w+)\[(\*?\w+)\]")
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
QID = st.tuples(
    st.integers(0, 0xFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFFFFFFFFFF)
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "1": st.integers(0, 0xFF),
    "2": st.integers(0, 0xFFFF),
    "4": st.integers(0, 0xFFFFFFFF),
    "8": st.integers(0, 0xFFFFFFFFFFFFFFFF),
    "s": TEXT,
    "13": QID,
    "*s": st.lists(TEXT, max_size=16),
    "*13": st.lists(QID, max_size=16),
    "d": st.binary(max_size=100),
    "n": st.binary(max_size=100),
}
CASES = [
    pytest.param(key, row, id=f"{row.name}-{key}")
    for key in "9uL"
    for row in MESSAGES
    if key in row.dialects
]


def values(fields: str) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(KINDS[kind] for _, kind in FIELD.findall(fields)))


@pytest.mark.parametrize(("key", "row"), CASES)
@settings(STEADY, max_examples=15)
@given(st.data())
def test_there_and_back(key: str, row: Row, data: st.DataObject) -> None:
    fields = data.draw(values(row.fields))
    tag = data.draw(KINDS["2"])
    frame = codec(key).encode[row.name](tag, *fields)
    assert int.from_bytes(frame[:4], "little") == len(frame)
    assert frame[4] == row.number
    assert codec(key).parse(frame) == (row.name, tag, fields)
    call = codec(key).caller(row.name, lambda *given: given)
    for _ in range(2):  # the second time a list of names is known
        session, heard, *given_fields = call("session", tag, frame, 7, len(frame))
        assert (session, heard) == ("session", tag)
        assert [tuple(f) if isinstance(f, list) else f for f in given_fields] == [
            tuple(f) if isinstance(f, list) else f for f in fields
        ]


@pytest.mark.parametrize(("key", "row"), CASES)
@settings(STEADY, max_examples=5)
@given(st.data())
def test_wrong_lengths_are_refused(key: str, row: Row, data: st.DataObject) -> None:
    """Cut anywhere, or longer by a byte: never accepted, and never another exception."""
    frame = codec(key).encode[row.name](1, *data.draw(values(row.fields)))
    decode = codec(key).decode[row.name]
    call = codec(key).caller(row.name, lambda *given: given)
    optional = len(frame) - 4 if "?" in row.fields else None
    for end in range(7, len(frame)):
        if end != optional:
            with pytest.raises(BadMessage):
                decode(frame[:end] + b"\0" * 64, 7, end)
            with pytest.raises(BadMessage):
                call(None, 1, frame[:end] + b"\0" * 64, 7, end)
    with pytest.raises(BadMessage):
        decode(frame + b"\0", 7, len(frame) + 1)
    with pytest.raises(BadMessage):
        call(None, 1, frame + b"\0", 7, len(frame) + 1)


@pytest.mark.parametrize(("key", "row"), [c for c in CASES if "s]" in c.values[1].fields])  # type: ignore[union-attr]
def test_bad_utf8_is_refused(key: str, row: Row) -> None:
    fields = [
        ["name"] if kind == "*s" else "name" if kind == "s" else (0, 0, 0) if kind == "13" else 0
        for _, kind in FIELD.findall(row.fields)
    ]
    frame = codec(key).encode[row.name](1, *fields)
    for bad in (b"n\xffme", b"\xc0\xafme", b"n\xed\xa0\x80"):  # no UTF-8, overlong, surrogate
        broken = frame.replace(b"name", bad)
        with pytest.raises(BadMessage, match="UTF-8"):
            codec(key).parse(broken)
        with pytest.raises(BadMessage, match="UTF-8"):
            codec(key).caller(row.name, lambda *given: given)(None, 1, broken, 7, len(broken))


def test_an_error_of_the_handler_is_its_own() -> None:
    def broken(*given: Any) -> None:
        b"\xff".decode()

    frame = codec("L").encode["Twalk"](1, 0, 1, ["name"])
    with pytest.raises(UnicodeDecodeError):
        codec("L").caller("Twalk", broken)(None, 1, frame, 7, len(frame))


def test_strings_may_hold_anything_that_is_utf8() -> None:
    for text in ("", "\0", "ünïcode/日本", "\U0001f600"):
        frame = codec("9").encode["Tversion"](1, 8192, text)
        assert codec("9").parse(frame)[2] == (8192, text)


def test_more_than_16_names_are_refused() -> None:
    with pytest.raises(BadMessage):
        codec("L").encode["Twalk"](1, 0, 1, ["x"] * 17)
    frame = codec("L").encode["Twalk"](1, 0, 1, ["x"] * 16)
    longer = frame[:15] + (17).to_bytes(2, "little") + frame[17:] + b"\1\0x"
    with pytest.raises(BadMessage, match="too many"):
        codec("L").decode["Twalk"](longer, 7, len(longer))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Tread", (1 << 32, 0, 0)),
        ("Tread", (-1, 0, 0)),
        ("Twalk", (0, 1, ["x" * 65536])),
        ("Tversion", (8192, "\ud800")),
    ],
)
def test_what_does_not_fit_is_not_encoded(name: str, fields: tuple[Any, ...]) -> None:
    with pytest.raises(BadMessage):
        codec("9").encode[name](1, *fields)


def test_much_data_is_not_copied() -> None:
    frame = codec("9").encode["Twrite"](1, 2, 3, b"x" * BULK)
    _, _, (_, _, data) = codec("9").parse(frame)
    assert isinstance(data, memoryview)
    assert data == b"x" * BULK


def test_frames_are_checked_before_bodies() -> None:
    for frame in (b"", b"\x06\0\0\0\x6c\0", b"\x09\0\0\0\x6c\0\0\0\0\0"):
        with pytest.raises(BadMessage):
            codec("9").parse(frame)
    with pytest.raises(BadMessage, match="no message number 24"):
        codec("9").parse(codec("L").encode["Tgetattr"](1, 0, 0))


def test_an_older_tfsync_without_its_last_field() -> None:
    assert codec("L").parse(b"\x0b\0\0\0\x32\x01\0\x05\0\0\0") == ("Tfsync", 1, (5, 0))


@pytest.mark.parametrize("key", ["9", "u"])
@settings(STEADY)
@given(st.data())
def test_stats(key: str, data: st.DataObject) -> None:
    stats = data.draw(st.lists(values(STAT[key]), max_size=4))
    _, encode = stat_codec(key)
    packed = b""
    for fields in stats:
        body = encode(*fields)
        packed += len(body).to_bytes(2, "little") + body
    assert decode_stats(key, packed) == stats
    for cut in range(1, min(len(packed), 50)):
        with contextlib.suppress(BadMessage):
            assert len(decode_stats(key, packed[:-cut])) < len(stats)


@settings(STEADY)
@given(st.lists(st.tuples(QID, KINDS["8"], KINDS["1"], TEXT), max_size=4), st.integers(1, 30))
def test_directory_entries(entries: list[tuple[Any, ...]], cut: int) -> None:
    packed = b"".join(dirent_encoder()(*entry) for entry in entries)
    assert decode_dirents(packed) == entries
    with contextlib.suppress(BadMessage):
        assert len(decode_dirents(packed[:-cut])) < max(len(entries), 1)
    if entries:
        with pytest.raises(BadMessage):
            decode_dirents(packed + b"\0")


def test_a_name_in_a_directory_is_utf8() -> None:
    with pytest.raises(BadMessage):
        decode_dirents(dirent_encoder()((0, 0, 0), 1, 8, "name").replace(b"name", b"n\xffme"))


@pytest.mark.parametrize("key", ["9", "u", "L"])
def test_every_request_has_a_handler(key: str) -> None:
    """All T-messages of each dialect are answered by somebody who knows them."""
    spoken, table = dialect(key)
    unknown = table[0]
    for number, name in spoken.name.items():
        if name.startswith("T"):
            assert table[number] is not unknown, name
