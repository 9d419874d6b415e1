"""Messages as lines, for people: `7 <- Tread tag 3 fid 5 offset 0 count 8192`.

A line has the connection's name, the way it went (<- came in, -> went out), the
message, its tag and its fields.  Data is shown as a count, never as itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from cloudfs.ndb import quote
from cloudfs.wire.codec import BadMessage, Codec
from cloudfs.wire.messages import NOFID

KEEP = 4096  # lines kept for a listener that does not read
MAX_FEEDS = 64


def text(name: str, tag: int, fields: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """One message as a line without a newline."""
    words = [name, "tag", str(tag)]
    for field, value in zip(fields, values, strict=True):
        if isinstance(value, bytes | memoryview):
            words += ["count", str(len(value))]
        elif isinstance(value, list):
            words += [field, str(len(value)), *map(_value, value)]
        else:
            words += [field, "nofid" if "fid" in field and value == NOFID else _value(value)]
    return " ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        kind, version, path = value
        return f"({path:x} {version} {'d' if kind & 0x80 else '-'})"
    if isinstance(value, str):
        return quote(value if value.isprintable() else repr(value)[1:-1])
    return str(value)


class Feed:
    """The lines of a trace for one reader, the oldest of which are lost if it is slow."""

    def __init__(self, left: Callable[[Feed], None]) -> None:
        self._lines: deque[str] = deque(maxlen=KEEP)
        self._left = left
        self._event = trio.Event()
        self.lost = 0  # lines that were not read in time

    def add(self, line: str) -> None:
        if len(self._lines) == KEEP:
            self.lost += 1
        self._lines.append(line)
        self._event.set()

    def take(self) -> list[str]:
        """The lines since the last time."""
        lines = list(self._lines)
        self._lines.clear()
        self._event = trio.Event()
        return lines

    async def wait(self) -> None:
        """Until there is a line."""
        await self._event.wait()

    def close(self) -> None:
        self._left(self)


class Trace:
    """Where sessions show their frames; `on` while somebody listens."""

    def __init__(self) -> None:
        self.on = False
        self._feeds: list[Feed] = []

    def subscribe(self) -> Feed:
        """A feed of the lines from now on, to be closed.  Past 64 the oldest one ends."""
        feed = Feed(self._leave)
        self._feeds = [*self._feeds, feed][-MAX_FEEDS:]
        self.on = True
        return feed

    def _leave(self, feed: Feed) -> None:
        self._feeds = [other for other in self._feeds if other is not feed]
        self.on = bool(self._feeds)

    def frame(self, connection: str, way: str, codec: Codec, frame: bytes) -> None:
        """Tell of one whole frame."""
        try:
            name, tag, values = codec.parse(frame)
            shown = text(name, tag, codec.fields[name], values)
        except BadMessage as error:
            shown = f"{len(frame)} bytes that are no message: {error.why}"
        line = f"{connection} {way} {shown}"
        for feed in self._feeds:
            feed.add(line)
