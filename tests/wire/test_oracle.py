"""plan9port's own C codec, by way of python-9p, reads our 9P2000 frames as we do.

It is installed beside, not into, our environment: it has a module py9p as well.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudfs.wire.codec import BadMessage, codec, stat_codec
from cloudfs.wire.messages import MESSAGES
from tests.wire.test_codec import FIELD

PACKAGE = "python-9p==0.1.0"
FRAMES = 40  # of each message
NINE = codec("9")
ROWS = [row for row in MESSAGES if "9" in row.dialects]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--target", path, PACKAGE],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"pip cannot install {PACKAGE}: {done.stderr.strip()[-200:]}")
        yield Path(path)


def ask(folder: Path, frames: list[bytes]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("oracle.py"))],
        input="".join(f"{frame.hex()}\n" for frame in frames),
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def value(kind: str, chance: random.Random) -> Any:
    """A value that C can hold as well: no NUL in strings, no offset beyond 2**63."""
    if kind == "s":
        return "".join(chance.choices("abc é日\U0001f600/.\n", k=chance.choice([0, 1, 5, 40])))
    if kind == "13":
        return tuple(chance.randrange(1 << bits) for bits in (8, 32, 64))
    if kind[0] == "*":
        return [value(kind[1:], chance) for _ in range(chance.choice([0, 1, 2, 16]))]
    if kind == "d":
        return chance.randbytes(chance.choice([0, 1, 100]))
    if kind == "n":
        _, encode = stat_codec("9")
        numbers = (value("2", chance), value("4", chance), value("13", chance))
        times = [value("4", chance) for _ in range(3)]
        names = [value("s", chance) for _ in range(4)]
        body = encode(*numbers, *times, chance.randrange(1 << 63), *names)
        return len(body).to_bytes(2, "little") + body
    bits = 8 * int(kind)
    return chance.choice([0, 1, (1 << min(bits, 63)) - 1, chance.randrange(1 << min(bits, 63))])


def made() -> list[bytes]:
    chance = random.Random(9)
    frames = []
    for row in ROWS:
        for _ in range(FRAMES):
            fields = [value(kind, chance) for _, kind in FIELD.findall(row.fields)]
            frames.append(NINE.encode[row.name](chance.randrange(1 << 16), *fields))
    return frames


def plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def check(frame: bytes, found: dict[str, Any]) -> None:
    name, tag, values = NINE.parse(frame)
    assert found["name"] == name
    assert found["again"] == frame.hex()
    theirs = found["fields"]
    assert theirs.pop("tag") == tag
    ours = dict(zip(NINE.fields[name], map(plain, values), strict=True))
    if "stat" in ours and not isinstance(theirs["stat"], str):
        decode, _ = stat_codec("9")
        raw = bytes.fromhex(ours["stat"])
        ours["stat"] = plain(decode(raw, 2, len(raw)))
    assert theirs == ours


def test_both_read_every_frame_alike(folder: Path) -> None:
    frames = made()
    answers = ask(folder, frames)
    assert len(answers) == len(frames) == FRAMES * len(ROWS)
    for frame, found in zip(frames, answers, strict=True):
        assert "error" not in found, (NINE.parse(frame), found)
        check(frame, found)


def test_what_we_take_of_spoilt_frames_it_takes_too(folder: Path) -> None:
    """Ours is the stricter: it never takes what the other refuses or reads otherwise."""
    chance = random.Random(10)
    frames = []
    refused = 0
    for frame in made():
        spoilt = bytearray(frame)
        for _ in range(chance.randrange(1, 3)):
            spoilt[chance.randrange(4, len(spoilt))] = chance.randrange(256)
        try:
            name, _, values = NINE.parse(bytes(spoilt))
        except BadMessage:
            refused += 1
            continue
        numbers = [v for v in values if isinstance(v, int)]
        if b"\0" in json.dumps(plain(values)).encode() or max(numbers, default=0) >= 1 << 63:
            continue
        if "\\u0000" in json.dumps(plain(values)) or name in ("Rstat", "Twstat"):
            continue
        frames.append(bytes(spoilt))
    assert refused > 100
    assert len(frames) > 100
    for frame, found in zip(frames, ask(folder, frames), strict=True):
        assert "error" not in found, (NINE.parse(frame), found)
        check(frame, found)
