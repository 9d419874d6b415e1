"""The codec's functions, made from the rows of messages.py.

For each row the source of one straight-line function is written and compiled.
Neighbouring numbers are read by one precompiled struct, which is what makes this fast:

    def Twalk(buffer, at, end):
        if at + 10 > end: raise BadMessage('Twalk is too short')
        fid, newfid, count = unpack1(buffer, at)
        …

The sources hold nothing but names and numbers of the table.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.wire.messages import MAX_WALK

Decoder = Callable[[bytes, int, int], tuple[Any, ...]]
Encoder = Callable[..., bytes]
Caller = Callable[[Any, int, bytes, int, int], Any]

BULK = 32 << 10  # bytes of data from which a view is cheaper than a copy
KNOWN, KNOWN_BYTES = 1024, 128  # lists of names kept, and the bytes of the longest

_FIELD = re.compile(r"(\w+)\[(\*?\w+)\](\??)")
_LETTERS = {"1": "B", "2": "H", "4": "I", "8": "Q"}


class BadMessage(CloudError):
    """Bytes that are no message of this dialect, or values that fit in none."""

    def __init__(self, why: str) -> None:
        super().__init__("proto", why)


def names(fields: str) -> tuple[str, ...]:
    """The names of the fields of a row."""
    return tuple(name for name, _, _ in _FIELD.findall(fields))


def decoder(name: str, fields: str) -> Decoder:
    """The decoder of a row: (buffer, start, end) → fields.  It raises BadMessage."""
    maker = _DecoderMaker(name)
    for field, kind, optional in _FIELD.findall(fields):
        maker.field(field, "?" if optional else kind, kind)
    return maker.done()


def caller(name: str, fields: str, handle: Callable[..., Any]) -> Caller:
    """A row's decoder that hands on what it decodes: (session, tag, buffer, start, end) →
    handle(session, tag, *fields).  To make a tuple of the fields and take it apart again
    would be a sixth of what a short message costs."""
    maker = _DecoderMaker(name)
    for field, kind, optional in _FIELD.findall(fields):
        if kind == "*s":
            maker.known(field)
        else:
            maker.field(field, "?" if optional else kind, kind)
    return maker.calls(handle)


def encoder(name: str, fields: str, number: int | None = None) -> Encoder:
    """The encoder of a row: (tag, *fields) → frame; without number no head and no tag.
    It raises BadMessage if a value does not fit."""
    maker = _EncoderMaker(name, number)
    for field, kind, _ in _FIELD.findall(fields):
        maker.field(field, kind)
    return maker.done(names(fields))


def _compile(name: str, lines: list[str], scope: dict[str, Any]) -> Any:
    exec(compile("\n".join(lines), f"<9P {name}>", "exec"), scope)  # noqa: S102  our own table
    return scope[name]


def _indent(lines: list[str]) -> list[str]:
    return [" " + line for line in lines]


class _DecoderMaker:
    """Collects the lines of one decoder.  `numbers` waits to be read by one struct."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.scope: dict[str, Any] = {"BadMessage": BadMessage, "view": memoryview, "BULK": BULK}
        self.lines: list[str] = []
        self.result: list[str] = []
        self.format = "<"
        self.numbers: list[str] = []
        self.text = False

    def field(self, field: str, kind: str, width: str) -> None:
        self.result.append(f"({field}0, {field}1, {field}2)" if kind == "13" else field)
        if kind in _LETTERS:
            self.number(_LETTERS[kind], field)
        elif kind == "13":
            self.number("BIQ", f"{field}0", f"{field}1", f"{field}2")
        elif kind == "?":
            self.read()
            self.lines += [f"{field} = 0", "if at != end:"]
            self.block(lambda: self.number(_LETTERS[width], field))
        elif kind[0] == "*":
            self.number("H", "count")
            self.read()
            self.lines += [
                f"if count > {MAX_WALK}: raise BadMessage('{self.name} has too many {field}')",
                f"{field} = []",
                "for _ in range(count):",
            ]
            self.block(lambda: self.item(field, kind[1:]))
        else:
            self.sized(field, kind)

    def number(self, letters: str, *fields: str) -> None:
        self.format += letters
        self.numbers += fields

    def read(self) -> None:
        """The lines that read the numbers collected."""
        if self.numbers:
            form = struct.Struct(self.format)
            unpack = f"unpack{len(self.scope)}"
            self.scope[unpack] = form.unpack_from
            self.lines += [
                f"if at + {form.size} > end: raise BadMessage('{self.name} is too short')",
                f"{', '.join(self.numbers)}, = {unpack}(buffer, at)",
                f"at += {form.size}",
            ]
            self.format, self.numbers = "<", []

    def block(self, inner: Callable[[], None]) -> None:
        outer, self.lines = self.lines, []
        inner()
        self.read()
        self.lines = outer + _indent(self.lines)

    def item(self, field: str, kind: str) -> None:
        if kind == "s":
            self.sized("item", kind)
            self.lines.append(f"{field}.append(item)")
        else:
            self.number("BIQ", "kind", "version", "path")
            self.read()
            self.lines.append(f"{field}.append((kind, version, path))")

    def sized(self, field: str, kind: str) -> None:
        self.number("I" if kind == "d" else "H", "size")
        self.read()
        value = {
            "s": "buffer[at:stop].decode()",
            "n": "buffer[at:stop]",
            "d": "buffer[at:stop] if size < BULK else view(buffer)[at:stop]",
        }[kind]
        self.text = self.text or kind == "s"
        self.lines += [
            "stop = at + size",
            f"if stop > end: raise BadMessage('{self.name} is too short')",
            f"{field} = {value}",
            "at = stop",
        ]

    def known(self, field: str) -> None:
        """A list of names at the end of a message, which is known by its bytes: what was
        walked to once is walked to again, and to decode three names takes 1 µs."""
        self.read()
        self.result.append(field)
        decode = decoder(self.name, f"{field}[*s]")

        def read(raw: bytes) -> tuple[str, ...]:
            return tuple(decode(raw, 0, len(raw))[0])

        self.scope |= {"read": read, "known": functools.lru_cache(KNOWN)(read)}
        self.lines += [
            "raw = buffer[at:end]",
            f"{field} = known(raw) if len(raw) <= {KNOWN_BYTES} else read(raw)",
            "at = end",
        ]

    def done(self) -> Decoder:
        if self.numbers == self.result and not self.lines:
            # Nothing but numbers: the struct's own tuple is the answer.
            form = struct.Struct(self.format)
            self.scope["unpack"] = form.unpack_from
            self.lines = [
                f"if end - at != {form.size}: raise BadMessage('{self.name} has a wrong length')",
                "return unpack(buffer, at)",
            ]
        else:
            self.all()
            self.lines.append(f"return ({''.join(f'{item}, ' for item in self.result)})")
        return self.function("buffer, at, end")  # type: ignore[no-any-return]

    def calls(self, handle: Callable[..., Any]) -> Caller:
        self.all()
        self.scope["handle"] = handle
        self.lines.append(f"return handle({', '.join(['session', 'tag', *self.result])})")
        return self.function("session, tag, buffer, at, end")  # type: ignore[no-any-return]

    def all(self) -> None:
        """The lines that read what is left and see that nothing is left over."""
        self.read()
        self.lines.append(f"if at != end: raise BadMessage('{self.name} is too long')")
        if self.text:
            self.lines = [
                "try:",
                *_indent(self.lines),
                "except UnicodeDecodeError:",
                f" raise BadMessage('{self.name} has a string that is not UTF-8') from None",
            ]

    def function(self, parameters: str) -> Any:
        lines = [f"def {self.name}({parameters}):", *_indent(self.lines)]
        return _compile(self.name, lines, self.scope)


class _EncoderMaker:
    """Collects the lines of one encoder and the pieces that its result is joined from."""

    def __init__(self, name: str, number: int | None) -> None:
        self.name = name
        self.number = number
        self.scope: dict[str, Any] = {"BadMessage": BadMessage, "error": struct.error}
        self.lines: list[str] = []
        self.pieces: list[str] = []
        self.sizes: list[str] = []
        self.format = "<"
        self.values: list[str] = []
        if number is not None:
            self.value("IBH", "total", str(number), "tag")

    def field(self, field: str, kind: str) -> None:
        if kind in _LETTERS:
            self.value(_LETTERS[kind], field)
        elif kind == "13":
            self.value("BIQ", f"*{field}")
        elif kind[0] == "*":
            self.many(field, kind[1:])
        else:
            if kind == "s":
                self.lines.append(f"{field} = {field}.encode()")
            self.value("I" if kind == "d" else "H", f"len({field})")
            self.piece(field)

    def value(self, letters: str, *values: str) -> None:
        self.format += letters
        self.values += values

    def many(self, field: str, kind: str) -> None:
        self.lines.append(
            f"if len({field}) > {MAX_WALK}: raise BadMessage('{self.name}: too many {field}')"
        )
        if kind == "s":
            self.scope["length"] = struct.Struct("<H").pack
            packed = f"length(len(item)) + item for item in [text.encode() for text in {field}]"
        else:
            self.scope["qid"] = struct.Struct("<BIQ").pack
            packed = f"qid(*item) for item in {field}"
        self.value("H", f"len({field})")
        self.lines.append(f"{field}_packed = b''.join([{packed}])")
        self.piece(f"{field}_packed")

    def piece(self, expression: str) -> None:
        """A piece of as many bytes as it has, after the values collected."""
        self.pack()
        self.pieces.append(expression)
        self.sizes.append(f"len({expression})")

    def pack(self) -> None:
        if self.values:
            form = struct.Struct(self.format)
            pack = f"pack{len(self.scope)}"
            self.scope[pack] = form.pack
            self.pieces.append(f"{pack}({', '.join(self.values)})")
            self.sizes.append(str(form.size))
            self.format, self.values = "<", []

    def done(self, fields: tuple[str, ...]) -> Encoder:
        self.pack()
        few = len(self.pieces) < 3
        joined = " + ".join(self.pieces) if few else f"b''.join(({', '.join(self.pieces)}))"
        parameters = fields if self.number is None else ("tag", *fields)
        if self.number is not None:
            self.lines.append(f"total = {' + '.join(self.sizes)}")
        lines = [
            f"def {self.name}({', '.join(parameters)}):",
            " try:",
            *_indent(_indent([*self.lines, f"return {joined}"])),
            " except (error, UnicodeEncodeError):",
            f"  raise BadMessage('a value does not fit in {self.name}') from None",
        ]
        return _compile(self.name, lines, self.scope)  # type: ignore[no-any-return]
