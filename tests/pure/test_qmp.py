"""QMP as bytes: messages whole and in pieces, and what is none."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.node import qmp

# A conversation with QEMU 7.2, as a socket brought it.
SAID = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}\r\n'
    b'{"return": {}}\r\n'
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n'
    b'{"return": {}}\r\n'
    b'{"error": {"class": "GenericError", "desc": "Migration is disabled"}}\r\n'
)


@given(st.lists(st.integers(0, len(SAID)), max_size=9))
def test_pieces_make_the_same_messages(cuts):
    whole = qmp.Lines().feed(SAID)
    assert [next(iter(one)) for one in whole] == ["QMP", "return", "timestamp", "return", "error"]
    lines, found = qmp.Lines(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(SAID)], strict=True):
        found += lines.feed(SAID[start:end])
    assert found == whole


def test_answers():
    greeting, first, event, _, failed = qmp.Lines().feed(SAID)
    assert qmp.answer(first) == (True, {})
    assert qmp.answer(event)[0] is qmp.answer(greeting)[0] is False
    with pytest.raises(CloudError, match="QEMU: Migration is disabled"):
        qmp.answer(failed)
    with pytest.raises(CloudError, match="no reason"):
        qmp.answer({"error": 3})


@given(st.binary(min_size=1, max_size=100))
def test_what_comes_is_messages_or_none(data):
    with suppress(CloudError):
        assert all(isinstance(one, dict) for one in qmp.Lines().feed(data + b"\n"))


@pytest.mark.parametrize("line", [b"x", b"[]", b"3", b"{", b"\xff\xfe"])
def test_what_is_no_message(line):
    with pytest.raises(CloudError) as error:
        qmp.Lines().feed(line + b"\n")
    assert error.value.kind == "proto"


def test_lines_are_bounded():
    lines = qmp.Lines()
    with pytest.raises(CloudError, match="over"):
        for _ in range(20):
            lines.feed(bytes(1 << 17))
    with pytest.raises(CloudError):
        qmp.message(b"[" * 100000)


def test_a_command():
    assert json.loads(qmp.command("stop")) == {"execute": "stop"}
    told = qmp.command("migrate", {"uri": "fd:a"})
    assert json.loads(told) == {"execute": "migrate", "arguments": {"uri": "fd:a"}}
    assert told.endswith(b"\n")
