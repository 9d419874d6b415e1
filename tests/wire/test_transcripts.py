"""The sessions of tests/transcripts, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wire.transcript import play, same, sections

FOLDER = Path(__file__).parent.parent / "transcripts"
CASES = [
    pytest.param(lines, id=f"{path.stem}: {title}")
    for path in sorted(FOLDER.glob("*.txt"))
    for title, lines in sections(path)
]


@pytest.mark.parametrize("lines", CASES)
async def test_transcript(lines: list[str]) -> None:
    said = await play(lines)
    wrong = [
        f"{got}\n    but the transcript says: {wanted}"
        for wanted, got in zip([*lines, *[""] * len(said)], said, strict=False)
        if not same(wanted, got)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(said) == len(lines)


def test_a_wrong_word_is_seen() -> None:
    assert same("Rwalk tag 1 wqid 1 (* 0 d)", "Rwalk tag 1 wqid 1 (12 0 d)") is False
    assert same("Rread tag 1 count *", "Rread tag 1 count 5")
    assert not same("Rread tag 1 count *", "Rread tag 2 count 5")
    assert not same("Rread tag 1", "Rread tag 1 count 5")
