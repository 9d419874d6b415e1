"""Open files of tables: content made at open, lines that are acted on, and what goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.tree.api import Handle, Wait
from cloudfs.wait import settle, then

LONG_WRITE = 4096  # bytes from which a write may be a piece of a longer one


class Text(Handle):
    """Content made at open."""

    __slots__ = ("data",)

    def __init__(self, text: str) -> None:
        self.data = text.encode(errors="replace")

    def read(self, offset: int, count: int) -> bytes:
        return self.data[offset : offset + count]


class Lines(Text):
    """A file that takes lines: each is acted on by itself, all or nothing.

    A write shorter than 4096 bytes is whole lines.  In a longer one an unfinished last
    line waits for the next write or for close, since a client may have cut it.
    """

    __slots__ = ("act", "numbered", "rest")

    def __init__(self, text: str, act: Callable[[str], Any], numbered: bool = True) -> None:
        super().__init__(text)
        self.act = act
        self.numbered = numbered  # whether an error tells its line, where there are several
        self.rest = b""

    def write(self, offset: int, data: bytes | memoryview) -> int | Wait[int]:
        raw = self.rest + bytes(data)
        self.rest = b""
        if len(data) >= LONG_WRITE and not raw.endswith(b"\n"):
            raw, newline, self.rest = raw.rpartition(b"\n")
            raw += newline
            if len(self.rest) > ndb.MAX_LINE:
                self.rest = b""
                raise CloudError("toobig", f"a line has at most {ndb.MAX_LINE} bytes")
        return then(self._lines(raw.split(b"\n"), 0), lambda _: len(data))

    def close(self) -> Wait[None] | None:
        rest, self.rest = self.rest, b""
        return self._lines([rest], 0) if rest else None

    def _lines(self, lines: list[bytes], done: int) -> Wait[None] | None:
        many = self.numbered and (len(lines) > 2 or (len(lines) == 2 and lines[1] != b""))
        for index in range(done, len(lines)):
            try:
                result = self.act(ndb.text_line(lines[index]))
            except CloudError as error:
                raise _at_line(error, index, many) from None
            if isinstance(result, Wait):
                return Wait(partial(self._go_on, result, lines, index, many))
        return None

    async def _go_on(self, result: Wait[Any], lines: list[bytes], index: int, many: bool) -> None:
        try:
            await result.run()
        except CloudError as error:
            raise _at_line(error, index, many) from None
        await settle(self._lines(lines, index + 1))


def _at_line(error: CloudError, index: int, many: bool) -> CloudError:
    if many:
        error.why = f"line {index + 1} (those after it were not done): {error.why}"
    return error


class Following(Handle):
    """A file that goes on: `more(state)` waits for text; None is the end.

    The text read so far is not kept: reads go on where the last one ended, whatever
    their offset, as those of a pipe.
    """

    __slots__ = ("done", "more", "rest")

    def __init__(
        self,
        more: Callable[[], Awaitable[bytes | None]],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.more = more
        self.done = done  # called at close
        self.rest = b""

    def read(self, offset: int, count: int) -> bytes | Wait[bytes]:
        return self._take(count) if self.rest else Wait(partial(self._wait, count))

    def _take(self, count: int) -> bytes:
        data, self.rest = self.rest[:count], self.rest[count:]
        return data

    async def _wait(self, count: int) -> bytes:
        if not self.rest:
            self.rest = await self.more() or b""
        return self._take(count)

    def close(self) -> None:
        self.done()


class Cloned(Handle):
    """What the first read makes."""

    __slots__ = ("data", "make")

    def __init__(self, make: Callable[[], str]) -> None:
        self.make = make
        self.data = b""

    def read(self, offset: int, count: int) -> bytes:
        if not self.data and count:
            self.data = self.make().encode() + b"\n"
        return self.data[offset : offset + count]


class Taken(Handle):
    """Bytes that go to `take`."""

    __slots__ = ("take",)

    def __init__(self, take: Callable[[bytes], int | Wait[int]]) -> None:
        self.take = take

    def read(self, offset: int, count: int) -> bytes:
        return b""  # so that the node's owner can copy or search a whole tree

    def write(self, offset: int, data: bytes | memoryview) -> int | Wait[int]:
        return self.take(bytes(data))
