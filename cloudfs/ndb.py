"""Records as text: `attr=value` pairs, one record a line, quoted as in Plan 9.

A word that holds blanks, a quote or nothing at all stands in single quotes, in which
a quote is doubled: `why='it''s late'` (rc(1), ndb(6)).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from cloudfs.errors import CloudError

MAX_LINE = 64 << 10  # bytes of one line written to a ctl file
_PLAIN = frozenset(
    'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:,@%^<>!?*()[]{}|&;~$=\\#"'
)

_WORD = re.compile(r"(?:[^' \t\r\n]+|'[^']*')+")


def quote(word: str) -> str:
    """The word as it stands in a line; the inverse of `words`."""
    if word and _PLAIN.issuperset(word):
        return word
    if word and word.isprintable() and not set(word) & {" ", "'"}:
        return word
    return "'" + word.replace("'", "''") + "'"


def words(line: str) -> list[str]:
    """The words of one line; raises CloudError("bad") where a quote is not closed."""
    if "'" not in line:
        return _WORD.findall(line)
    if line.count("'") % 2:
        raise CloudError("bad", f"no closing quote in: {line.strip()[:80]}", "add a '")
    return [_unquote(word) if "'" in word else word for word in _WORD.findall(line)]


def _unquote(word: str) -> str:
    # Every other piece stood in quotes; between two such, nothing is a doubled quote.
    pieces = word.split("'")
    for index in range(2, len(pieces) - 1, 2):
        pieces[index] = pieces[index] or "'"
    return "".join(pieces)


def text_line(data: bytes) -> str:
    """One line as written by a caller, decoded; refuses NUL, other encodings, over-long."""
    if len(data) > MAX_LINE:
        raise CloudError("toobig", f"a line has at most {MAX_LINE} bytes, this one {len(data)}")
    if b"\0" in data:
        raise CloudError("bad", "the line holds a NUL byte")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CloudError("bad", f"the line is not UTF-8 at byte {error.start}") from None


def show(value: object) -> str:
    """A value as text: None is empty, floats without exponent and useless zeros."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".") or "0"
    return str(value)


def record(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> str:
    """One record without its newline.  An empty value is written as `attr=`."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    out = []
    for name, value in items:
        text = " ".join(show(value).split("\n"))
        out.append(f"{name}={quote(text) if text else ''}")
    return " ".join(out)


def parse(line: str) -> dict[str, str]:
    """The pairs of one record; a word without "=" is an attribute with no value.
    Names of attributes are few and kept in thousands of records: each is stored once."""
    pairs = {}
    for word in words(line):
        name, _, value = word.partition("=")
        pairs[sys.intern(name)] = value
    return pairs


def pair(word: str, what: str) -> tuple[str, str]:
    """Split a word of the form K=V; raises CloudError("bad") naming what was wanted."""
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise CloudError("bad", f"{word!r} is no {what}", f"write it as {what}")
    return name, value
