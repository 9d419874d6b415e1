"""Noise: the parser and the session take anything and stay what they are."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.wire.codec import BadMessage, codec, decode_dirents, decode_stats
from cloudfs.wire.fids import MAX_FIDS, MAX_TAGS
from cloudfs.wire.messages import MESSAGES
from tests.wire.talk import GUEST, STEADY, Talk
from tests.wire.test_codec import FIELD

NAMES = ["hello", "dir", "a", "never", "slow", "x", "open", "new", "..", ".follow", "", "é", "a/b"]
FRAMES = 300


@settings(STEADY, max_examples=300)
@given(st.sampled_from("9uL"), st.binary(max_size=200), st.sampled_from(MESSAGES))
def test_the_parser_knows_only_its_own_exception(key: str, body: bytes, row: Any) -> None:
    size = (7 + len(body)).to_bytes(4, "little")
    with contextlib.suppress(BadMessage):
        codec(key).parse(size + bytes([row.number]) + b"\1\0" + body)
    with contextlib.suppress(BadMessage):
        decode_dirents(body)
    with contextlib.suppress(BadMessage):
        decode_stats("u" if key == "u" else "9", body)


def noise(key: str, chance: random.Random) -> bytes:
    """A frame that is a request more or less, with small numbers so that fids meet."""
    spoken = codec(key)
    name = chance.choice([name for name in spoken.number if name[0] == "T" and name != "Tversion"])
    fields: list[Any] = []
    rows = [row for row in MESSAGES if row.name == name and key in row.dialects]
    for field, kind in FIELD.findall(rows[0].fields):
        if kind == "s":
            fields.append(chance.choice(NAMES))
        elif kind == "*s":
            fields.append(chance.choices(NAMES, k=chance.choice([0, 1, 1, 2, 3, 16])))
        elif kind == "d":
            fields.append(chance.randbytes(chance.choice([0, 3, 100])))
        elif kind == "n":
            fields.append(chance.randbytes(chance.choice([0, 2, 49, 61])))
        elif kind == "1":
            fields.append(chance.choice([0, 0, 1, 2, 0x10, chance.randrange(256)]))
        else:
            top = 1 << 8 * int(kind)
            fid = [chance.randrange(6)] * 8 if "fid" in field else [0, 1, 100]
            fields.append(chance.choice([*fid, top - 1, chance.randrange(top)]) % top)
    if name == "Tattach":
        fields[1] = chance.choice([0xFFFFFFFF, 0xFFFFFFFF, 3])
    frame = bytearray(spoken.encode[name](chance.randrange(20), *fields))
    if chance.random() < 0.2:  # spoil some of them, but for the size in front
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(4, len(frame))] = chance.randrange(256)
    if chance.random() < 0.05:
        frame += chance.randbytes(chance.randrange(9))
        frame[:4] = len(frame).to_bytes(4, "little")
    return bytes(frame)


@pytest.mark.parametrize("key", ["9", "u", "L"])
@pytest.mark.parametrize("seed", range(12))
async def test_noise_to_a_session(key: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Every frame is answered or waits; nothing fails in our own code; all is bounded."""
    chance = random.Random(seed)
    talk = Talk(key, **({"who": GUEST} if seed % 2 else {}))
    never = talk.root.children["never"]  # type: ignore[attr-defined]
    for _ in range(FRAMES):
        frame = noise(key, chance)
        if frame[4] in (100, 101):  # a spoilt one may have become a Tversion
            continue
        cut = chance.randrange(len(frame) + 1)
        talk.session.feed(frame[:cut])
        talk.session.step()
        before = len(talk.session.out) + len(talk.jobs) + len(talk.session.started)
        talk.session.feed(frame[cut:])
        talk.session.step()
        after = len(talk.session.out) + len(talk.jobs) + len(talk.session.started)
        assert cut == len(frame) or after > before
        talk.replies()
        assert len(talk.session.fids) + len(talk.session.coming) <= MAX_FIDS
        assert len(talk.session.jobs) <= MAX_TAGS
        assert talk.session.answered > 0
    never.feed(b"in the end")
    for _, _, values in await talk.wait():
        assert values is not None
    talk.session.close()
    talk.replies()
    await talk.wait()
    assert not talk.session.fids
    assert not talk.session.jobs
    assert not talk.session.coming
    assert len(talk.closed) == len(talk.spaces)
    assert "failed in the daemon itself" not in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_noise_that_is_no_frame_ends_the_connection(seed: int) -> None:
    chance = random.Random(seed)
    talk = Talk()
    with pytest.raises(BadMessage):
        for _ in range(1000):
            talk.session.feed(chance.randbytes(100))
            while talk.session.step():
                pass
            talk.session.take()
