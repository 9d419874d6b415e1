"""The machine in memory: objects are trio tasks that play a few programs (`Host`).

For tests of what stands above: time is trio's, so an autojump clock works; output
goes to the same files as with the real one.  Objects outlive whoever started them,
and the same `Twin` adopts them, as a daemon that comes back would.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import trio

from cloudfs.errors import CloudError
from cloudfs.node.api import Exit, Image, Launch, Limits, Running, Usage
from cloudfs.node.watch import longer
from cloudfs.wait import Wait

PIPE = 65536  # bytes that a program's stdin holds
SIGKILL, SIGCONT, SIGSTOP = 9, 18, 19

Program = Callable[["Played"], Awaitable[int]]


async def _sleep(it: Played) -> int:
    until = it.memory.setdefault("until", trio.current_time() + sum(map(float, it.argv[1:])))
    await it.sleep(until - trio.current_time())
    return 0


async def _echo(it: Played) -> int:
    it.write("stdout", " ".join(it.argv[1:]).encode() + b"\n")
    return 0


async def _error(it: Played) -> int:
    it.write("stderr", " ".join(it.argv[1:]).encode() + b"\n")
    return 1


async def _cat(it: Played) -> int:
    while data := await it.read():
        it.write("stdout", data)
    return 0


async def _tick(it: Played) -> int:
    """`tick SECONDS COUNT`: a numbered line each SECONDS."""
    for number in range(int(it.memory.get("next", 0)), int(it.argv[2])):
        it.write("stdout", b"%d\n" % number)
        it.memory["next"] = number + 1
        await it.sleep(float(it.argv[1]))
    return 0


async def _zero(it: Played) -> int:
    """`zero COUNT`: that many bytes."""
    it.write("stdout", bytes(int(it.argv[1])))
    return 0


async def _code(code: int) -> int:
    return code


async def _nothing(id: str) -> None:
    """Nothing happens in the middle of a dump."""


PROGRAMS: dict[str, Program] = {
    "true": lambda it: _code(0),
    "false": lambda it: _code(1),
    "exit": lambda it: _code(int(it.argv[1])),
    "sleep": _sleep,
    "echo": _echo,
    "error": _error,
    "cat": _cat,
    "tick": _tick,
    "zero": _zero,
}


class Played:
    """One object, as a program sees it (argv, memory, read, write, sleep) and as
    `Running`.  memory: what a program keeps there it finds again after a restore."""

    def __init__(
        self, twin: Twin, launch: Launch, pid: int, program: Program, ran: float = 0.0
    ) -> None:
        self.twin = twin
        self.launch = launch
        self.argv: list[str] = list(launch.argv)
        self.pid = pid
        self.memory: dict[str, float] = {}
        self.started = time.time() - ran
        self.nice = launch.nice
        self.limits = replace(launch.limits)
        self.exit: Exit | None = None
        self._began = trio.current_time() - ran
        self._program = program
        self._signal: int | None = None
        self._why = ""
        self._input = bytearray()
        self._closed = False
        self._thawed = trio.Event()
        self._thawed.set()
        self._changed = trio.Event()
        self._done = trio.Event()
        self._scope = trio.CancelScope()
        self._lease = 0.0
        if launch.lease:
            self.lease(launch.lease)
        trio.lowlevel.spawn_system_task(self._run, name=f"twin {launch.id}")

    async def _run(self) -> None:
        code: int | None = None
        with self._scope:
            self._set_deadline()
            code = await self._program(self)
        if self._scope.cancelled_caught and self._signal is None:
            self._signal, self._why = SIGKILL, "time limit"
        number = self._signal if code is None else None
        real = trio.current_time() - self._began
        self.exit = Exit(self.pid, code, number, 0.0, 0.0, real, time.time(), self._why)
        self._done.set()
        self.twin.ring()

    def _set_deadline(self) -> None:
        limit = self.limits.time
        self._scope.deadline = float("inf") if limit is None else self._began + limit

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- for programs -------------------------------------------------------------------

    def write(self, stream: str, data: bytes) -> None:
        """Append to "stdout" or "stderr"."""
        self.twin.append(self.launch, stream, data)

    async def read(self) -> bytes:
        """What stdin holds, b"" at its end."""
        await self._thawed.wait()
        while not self._input and not self._closed:
            await self._changed.wait()
        data = bytes(self._input)
        self._input.clear()
        self._change()
        return data

    async def sleep(self, seconds: float) -> None:
        """Sleep; time while frozen does not count."""
        left = seconds
        while left > 1e-6:  # a clock does not go on by less, and this would not end
            await self._thawed.wait()
            since, change = trio.current_time(), self._changed
            with trio.move_on_after(left):
                await change.wait()
            left -= trio.current_time() - since
        await self._thawed.wait()

    # --- Running ------------------------------------------------------------------------

    async def ended(self) -> Exit:
        await self._done.wait()
        assert self.exit is not None
        return self.exit

    def signal(self, number: int) -> None:
        self._need_alive()
        if number == SIGSTOP:
            self.freeze()
        elif number == SIGCONT:
            self.thaw()
        elif number:
            self._signal = number
            self._scope.cancel()

    def kill(self, why: str) -> None:
        self._need_alive()
        self._signal, self._why = SIGKILL, why
        self._scope.cancel()

    def _need_alive(self) -> None:
        if self.exit is not None:
            raise CloudError("absent", "the object has ended")

    def freeze(self) -> None:
        if self._thawed.is_set():
            self._thawed = trio.Event()
            self._change()

    def thaw(self) -> None:
        if not self._lapsed():
            self._thawed.set()
            self._change()

    def _lapsed(self) -> bool:
        return bool(self._lease) and trio.current_time() >= self._lease

    def lease(self, until: float) -> None:
        self._need_alive()
        self._lease = until
        trio.lowlevel.spawn_system_task(self._hold, until, name=f"lease of {self.launch.id}")

    async def _hold(self, until: float) -> None:
        if until:
            await trio.sleep_until(until)
        if self._lapsed():
            self.freeze()

    @property
    def streams(self) -> bool:
        return False

    async def send(self, images: Path, out: int, ready: Callable[[], None]) -> None:
        raise CloudError("unsupported", "processes are not sent while they run")

    async def feed(self, data: bytes) -> None:
        raise CloudError("unsupported", "processes are not sent while they run")

    @property
    def still(self) -> dict[str, float]:
        return {}

    async def dump(self, images: Path) -> None:
        self._need_alive()
        self.freeze()
        try:
            await self.twin.at_dump(self.launch.id)
        except CloudError:
            self.thaw()
            raise
        told = {"argv": self.argv, "memory": self.memory, "closed": self._closed}
        (images / "twin.json").write_text(json.dumps(told))
        (images / "stdin").write_bytes(self._input)

    async def pack(self, images: Path) -> None:
        self._need_alive()
        await trio.lowlevel.checkpoint()
        self.freeze()

    def load(self, images: Path) -> None:
        """Be as an image says, before the first turn."""
        told = json.loads((images / "twin.json").read_text())
        self.argv, self.memory, self._closed = told["argv"], told["memory"], told["closed"]
        self._input += (images / "stdin").read_bytes()

    def set_limits(self, limits: Limits) -> None:
        self.limits = replace(limits)
        self._set_deadline()

    def set_nice(self, nice: int) -> None:
        self.nice = nice

    def write_stdin(self, data: bytes) -> int | Wait[int]:
        if self._closed or self.exit is not None:
            raise CloudError("pipe", "its stdin is closed")
        room = PIPE - len(self._input)
        if room == 0:
            return Wait(lambda: self._write_later(data))
        self._input += data[:room]
        self._change()
        return min(room, len(data))

    async def _write_later(self, data: bytes) -> int:
        while True:
            if isinstance(taken := self.write_stdin(data), int):
                return taken
            await self._changed.wait()

    def close_stdin(self) -> None:
        self._closed = True
        self._change()

    def usage(self) -> Usage:
        if self.exit is not None:
            return Usage(mem_seconds=self.exit.real * PIPE, mem_peak=PIPE)
        real = trio.current_time() - self._began
        return Usage(mem=PIPE, mem_peak=PIPE, mem_seconds=real * PIPE, pids=1)

    def pids(self) -> list[tuple[int, int, str]]:
        return [] if self.exit is not None else [(self.pid, 1, " ".join(self.argv))]


class Twin:
    """A machine that runs only `programs`, by the first word of their argv."""

    def __init__(self, programs: Mapping[str, Program] = PROGRAMS) -> None:
        self.programs = dict(programs)
        self.played: dict[str, Played] = {}
        self.shown: dict[int, str] = {}  # pid → what it has at /cloud
        self.word = ""  # what limits_word says
        self.no_images = ""  # what images_word says
        # For tests: called in the middle of each dump and restore; may wait or raise.
        self.at_dump: Callable[[str], Awaitable[None]] = _nothing
        self.at_restore: Callable[[str], Awaitable[None]] = _nothing
        self._pid = 1000
        self._dropped: dict[tuple[Path, str], int] = {}
        self._bell = trio.Event()

    def ring(self) -> None:
        """Wake who waits for a file to grow."""
        self._bell.set()
        self._bell = trio.Event()

    def append(self, launch: Launch, stream: str, data: bytes) -> None:
        """Add to an object's file, and forget the oldest bytes beyond its limit."""
        path = launch.dir / stream
        with path.open("ab") as file:
            file.write(data)
        beyond = path.stat().st_size - launch.stdio_limit
        if beyond > 0:
            self._dropped[launch.dir, stream] = beyond
        self.ring()

    # --- Host ---------------------------------------------------------------------------

    def clock(self) -> float:
        return trio.current_time()

    def check(self, launch: Launch) -> None:
        if not launch.argv:
            raise CloudError("bad", "there is no program to run", "echo exec CMD ARG… > ctl")
        if os.path.basename(launch.argv[0]) not in self.programs:
            raise CloudError(
                "absent", f"there is no program {launch.argv[0]} in the PATH of this node"
            )
        if launch.cwd and not os.path.isdir(launch.cwd):
            raise CloudError("absent", f"there is no directory {launch.cwd} on this node")
        if launch.runtime not in ("process", "sandbox"):
            raise CloudError("unsupported", f"there is no runtime {launch.runtime} on this node")
        if self.word and launch.limits != Limits(time=launch.limits.time):
            raise CloudError("unsupported", self.word)

    async def start(self, launch: Launch, ran: float = 0.0) -> Played:
        await trio.lowlevel.checkpoint()
        self.check(launch)
        earlier = self.played.get(launch.id)
        if earlier is not None and earlier.exit is None:
            raise CloudError("busy", f"{launch.id} still runs")
        launch.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stream in ("stdout", "stderr"):
            (launch.dir / stream).touch()
        self._pid += 1
        program = self.programs[os.path.basename(launch.argv[0])]
        played = self.played[launch.id] = Played(self, launch, self._pid, program, ran)
        return played

    async def restore(self, launch: Launch, image: Image) -> Played:
        if image.anew:
            return await self.start(launch)
        await self.at_restore(launch.id)
        try:
            argv = json.loads((image.dir / "twin.json").read_text())["argv"]
        except (OSError, ValueError):
            raise CloudError("io", "it cannot be restored: the image is not whole") from None
        played = await self.start(replace(launch, argv=argv), image.ran)
        played.load(image.dir)
        return played

    async def receive(self, launch: Launch, image: Image) -> Played:
        raise CloudError("unsupported", "processes are not sent while they run")

    async def go_on(self, running: Running, image: Image) -> None:
        """None waits for that."""

    def adopt(self, id: str, dir: Path) -> Played | Exit | None:
        played = self.played.get(id)
        return played and (played.exit or played)

    def discard(self, id: str, dir: Path) -> None:
        played = self.played.get(id)
        if played is not None and played.exit is None:
            raise CloudError("busy", f"{id} still runs")
        self.played.pop(id, None)
        for stream in ("stdout", "stderr"):
            self._dropped.pop((dir, stream), None)
            (dir / stream).unlink(missing_ok=True)

    async def show(self, running: Running, directory: str) -> None:
        self.shown[running.pid] = directory

    def dropped(self, dir: Path, stream: str) -> int:
        return self._dropped.get((dir, stream), 0)

    async def grown(self, path: Path, size: int) -> None:
        while not longer(path, size):
            await self._bell.wait()

    def default_runtime(self) -> str:
        return "process"

    def images_word(self, runtime: str = "") -> str:
        return self.no_images

    def dumping(self, images: Path) -> bool:
        return False

    def limits_word(self) -> str:
        return self.word

    def sandbox_uid(self, id: str) -> int | None:
        return None

    def sandbox_of(self, uid: int) -> str | None:
        return None
