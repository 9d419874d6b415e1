"""QMP, by which a running QEMU is told what to do: JSON objects, one a line, on a unix socket.

    QEMU   {"QMP": {"version": …, "capabilities": […]}}
    we     {"execute": "qmp_capabilities"}
    QEMU   {"return": {}}
    we     {"execute": "stop"}
    QEMU   {"event": "STOP", …}               events may come at any time
    QEMU   {"return": {}}                     or {"error": {"class": …, "desc": …}}

A monitor talks to one client at a time, so a session is opened for each piece of work, and
another daemon finds the socket again.  The guest, and QEMU itself if the guest got hold of it,
is taken for hostile: lines, events and times have bounds.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from cloudfs.errors import CloudError

LINE = 1 << 20  # bytes of one message, at most
EVENTS = 4096  # between a command and its answer, at most
CONNECT = 10.0  # seconds for a QEMU that starts to answer
ANSWER = 10.0  # seconds for a command


class Lines:
    """The messages in what a socket brings.  Pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are whole now.  Raises CloudError("proto")."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE:
            raise CloudError("proto", f"QEMU sent a line of over {LINE} bytes")
        return [message(line) for line in lines if line.strip()]


def message(line: bytes) -> dict[str, Any]:
    """One message.  Raises CloudError("proto") for what is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CloudError("proto", f"QEMU sent no message: {line[:80]!r}")
    return found


def command(name: str, arguments: Mapping[str, object] | None = None) -> bytes:
    """A command as it is sent."""
    told: dict[str, object] = {"execute": name}
    if arguments:
        told["arguments"] = dict(arguments)
    return json.dumps(told).encode() + b"\n"


def answer(found: dict[str, Any]) -> tuple[bool, Any]:
    """Whether a message answers a command, and with what.  Raises CloudError("io") with
    QEMU's reason where the command failed."""
    if "error" in found:
        said = found["error"]
        why = said.get("desc") if isinstance(said, dict) else None
        raise CloudError("io", f"QEMU: {' '.join(str(why or 'gave no reason').split())[:300]}")
    return "return" in found, found.get("return")


class Session:
    """A conversation with one QEMU."""

    def __init__(self, connected: trio.socket.SocketType) -> None:
        self._socket = connected
        self._lines = Lines()
        self._waiting: list[dict[str, Any]] = []

    async def greet(self) -> None:
        """Take its greeting, and ask for nothing special."""
        with _within(CONNECT, "QEMU does not answer"):
            if "QMP" not in await self._next():
                raise CloudError("proto", "QEMU did not greet")
        await self.command("qmp_capabilities")

    async def command(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        fds: Sequence[int] = (),
        seconds: float = ANSWER,
    ) -> Any:
        """What it answers.  fds go along with the command.  Raises CloudError: "io" where
        it refuses, "pipe" where it is gone, "timeout", "proto"."""
        with _within(seconds, f"QEMU did not do {name}"):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
            data = command(name, arguments)
            try:
                if fds:
                    data = data[await self._socket.sendmsg([data], rights) :]
                while data:
                    data = data[await self._socket.send(data) :]
            except OSError:
                raise CloudError("pipe", "QEMU has ended") from None
            for _ in range(EVENTS):
                done, result = answer(await self._next())
                if done:
                    return result
        raise CloudError("proto", f"QEMU sent {EVENTS} events in answer to {name}")

    async def _next(self) -> dict[str, Any]:
        while not self._waiting:
            try:
                data = await self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise CloudError("pipe", "QEMU has ended")
            self._waiting = self._lines.feed(data)
        return self._waiting.pop(0)


@contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    """Time for a step; CloudError("timeout") after it."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise CloudError("timeout", f"{what} within {seconds:g} s")


# --- the socket -----------------------------------------------------------------------------


def listen(folder: Path, name: str) -> socket.socket:
    """The socket on which a QEMU is to listen, made before it starts.  By way of the open
    directory, since a path of over 107 bytes cannot be bound."""
    (folder / name).unlink(missing_ok=True)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(f"/proc/self/fd/{fd}/{name}")
        os.chmod(folder / name, 0o600)
        made.listen(4)
    except BaseException:
        made.close()
        raise
    finally:
        os.close(fd)
    return made


@asynccontextmanager
async def session(folder: Path, name: str) -> AsyncIterator[Session]:
    """A session with the QEMU that listens there.  Raises CloudError as `Session.command`."""
    with trio.socket.socket(socket.AF_UNIX) as ours:
        try:
            fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise CloudError("pipe", "QEMU has ended") from None
        try:
            with _within(CONNECT, "QEMU does not listen"):
                await ours.connect(f"/proc/self/fd/{fd}/{name}")
        except OSError:
            raise CloudError("pipe", "QEMU has ended") from None
        finally:
            os.close(fd)
        found = Session(ours)
        await found.greet()
        yield found
