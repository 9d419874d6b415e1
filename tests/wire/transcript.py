"""Transcripts: what a client says and what it must hear, as lines of text.

    == a title: a new session over the tree of tests/synthetic.py
    who guest                 who the connection proves to be (root, if not said)
    proofs                    the server knows a user and can be proved to
    Tread tag 3 fid 1 offset 0 count 100
    Rread tag 3 count 13 data 'hello, world\\n'
    feed never 'some text'    what the file `never` waits for
    wait                      all that waits may go on to its end
    closed 1                  so many name spaces were given back since the beginning

The R lines after a line are all that it brings, in order; `*` stands for any one word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloudfs.factotum.proofs import Proofs
from cloudfs.ndb import quote, words
from cloudfs.wire.messages import NOFID
from cloudfs.wire.trace import text
from tests.factotum.town import Town
from tests.synthetic import Never
from tests.wire.talk import BOSS, GUEST, Reply, Talk

WHO = {"root": BOSS, "guest": GUEST}


def sections(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of each session of a file."""
    title = ""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("== "):
            if lines:
                yield title, lines
            title, lines = line[3:], []
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    yield title, lines


async def play(lines: list[str]) -> list[str]:
    """The lines with what was really answered in place of their R lines."""
    said: list[str] = []
    talk = Talk(attach=False)
    for line in lines:
        word, *rest = words(line)
        if word.startswith("R"):
            continue
        said.append(line)
        replies: list[Reply] = []
        if word.startswith("T"):
            replies = talk.raw(frame(talk, line))
        elif word == "who":
            talk = Talk(attach=False, who=WHO[rest[0]], root=talk.root)
        elif word == "proofs":
            talk = Talk(attach=False, who=GUEST, root=talk.root, proofs=proofs())
        elif word == "feed":
            never = talk.root.children[rest[0]]  # type: ignore[attr-defined]
            assert isinstance(never, Never)
            never.feed(rest[1].encode())
        elif word == "wait":
            replies = await talk.wait()
        elif word == "closed":
            said[-1] = f"closed {len(talk.closed)}"
        else:
            raise ValueError(line)
        said += [show(talk, reply) for reply in replies]
    return said


def proofs() -> Proofs:
    """Those of a node n1 of a cloud with the user ana."""
    town = Town(Path(tempfile.mkdtemp()))
    town.user("ana")
    return town.proofs("n1")


def show(talk: Talk, reply: Reply) -> str:
    name, tag, values = reply
    line = text(name, tag, talk.session.codec.fields[name], values)
    for value in values:
        if isinstance(value, bytes):
            line += f" data {quote(repr(value)[2:-1])}"
    return line


def same(wanted: str, got: str) -> bool:
    """Whether a line is as wanted, in which `*` is any word."""
    pairs = list(zip(words(wanted), words(got), strict=False))
    return len(words(wanted)) == len(words(got)) and all(a in ("*", b) for a, b in pairs)


def frame(talk: Talk, line: str) -> bytes:
    """The frame of a T line.  Fields that its dialect has and the line has not are 0."""
    name, _, tag, *rest = words(line)
    codec = talk.session.codec
    if name not in codec.fields:  # a message of another dialect, to see it refused
        codec = talk.codec
    values: list[Any] = []
    for field in codec.fields[name]:
        if rest[:1] != [field]:
            values.append(0)
            continue
        value, rest = rest[1], rest[2:]
        if field == "wname":
            count = int(value)
            values.append(rest[:count])
            rest = rest[count:]
        elif field in ("data", "stat"):
            values.append(value.encode().decode("unicode_escape").encode("latin-1"))
        elif value == "nofid":
            values.append(NOFID)
        elif field in TEXTS:
            values.append(value)
        else:
            values.append(int(value, 0))
    assert not rest, f"{line}: {rest}"
    return codec.encode[name](int(tag), *values)


TEXTS = {
    "version",
    "uname",
    "aname",
    "name",
    "newname",
    "oldname",
    "symtgt",
    "extension",
    "client_id",
}
