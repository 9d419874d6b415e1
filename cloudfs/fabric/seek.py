"""Addresses of members: how they are written, and finding again those that were lost.

A member to whom no seed leads back, as after a cut that outlived the seeds, would be lost
for good: an open session cannot be told to dial.  A bridge (fabric.session) can.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import trio

from cloudfs.errors import CloudError
from cloudfs.fabric.session import bridge

if TYPE_CHECKING:
    from cloudfs.factotum.nodekeys import KeyFiles

# Seconds until the first attempt, between the last ones, and until one is given up.
SEEK = (5.0, 60.0, 900.0)
MOST = 64  # addresses sought
MEET = 2.0  # seconds a bridge is open
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


def check_address(address: str) -> None:
    """Raises CloudError("bad") for what is not HOST:PORT."""
    host, colon, port = address.rpartition(":")
    good = bool(host and colon) and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not good or not _HOST.fullmatch(host):
        raise CloudError("bad", f"{address[:80]!r} is no address", "write it as HOST:PORT")


class _Lost:
    """When an address is tried next, how long after that again, and until when."""

    __slots__ = ("due", "pause", "until")

    def __init__(self, now: float) -> None:
        self.pause, _, most = SEEK
        self.due = now + self.pause * random.uniform(0.5, 1.5)  # noqa: S311
        self.until = now + most

    def again(self) -> None:
        self.pause = min(2 * self.pause, SEEK[1])
        self.due += self.pause * random.uniform(0.75, 1.25)  # noqa: S311


class Seek:
    """The addresses at which members were that are gone."""

    def __init__(self) -> None:
        self._lost: dict[str, _Lost] = {}

    def lost(self, address: str, soon: bool = False) -> None:
        """Seek a member there; soon: at once, as somebody says that one is there."""
        made = self._lost[address] = _Lost(trio.current_time())
        if soon:
            made.due = trio.current_time()
        if len(self._lost) > MOST:
            del self._lost[next(iter(self._lost))]

    def found(self, address: str) -> None:
        self._lost.pop(address, None)

    async def run(self, files: KeyFiles, listen: str) -> None:
        """Bridge between the one that listens there and those that are due."""
        while True:
            await trio.sleep(1.0)
            now = trio.current_time()
            for address, lost in list(self._lost.items()):
                if now > lost.until:
                    del self._lost[address]
            due = [address for address, lost in self._lost.items() if lost.due <= now]
            for address in due:
                self._lost[address].again()
            if due:
                await trio.to_thread.run_sync(
                    bridge, files, [listen, *due], MEET, abandon_on_cancel=True
                )
