"""One virtual machine that a keeper keeps: `Running`, by way of QEMU's monitor.

An image of it is QEMU's own migration stream, in a file: while it is written the machine runs
on, until what it still changes is little; then it stands still until `thaw` or `kill`.  A new
QEMU reads the stream from a descriptor that it was started with, and lets the machine go on by
itself, so a daemon that dies meanwhile leaves none half restored.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from cloudfs.errors import CloudError
from cloudfs.node import qmp, vm, vms
from cloudfs.node.api import Limits
from cloudfs.node.groups import Group
from cloudfs.node.qmp import Session
from cloudfs.node.running import Kept
from cloudfs.wait import Wait, settle

POLL = 0.01  # seconds between two looks at what QEMU does
UNDO = 20.0  # seconds to let it go on after a fault
STOP = 60.0  # seconds for its disk to be written out
BANDWIDTH = 1 << 36  # bytes/s: as fast as the disk takes it
EAGER = 15.0  # seconds after which it stands still however much is left
_QUICK = {"downtime-limit": 100}  # ms, for the rest of an image to be written
_EAGER = {"downtime-limit": 2_000_000}  # the most that QEMU takes
_CAPABILITIES = [{"capability": "pause-before-switchover", "state": True}]
ROUNDS = 1000
LONGEST = 600.0  # seconds for an image
_OVER = ("cancelled", "failed", "completed", "none")  # of a migration
FEED = 60.0  # seconds for a piece of memory to be taken
LOAD = 300.0  # seconds for an image to be read


class VmKept(Kept):
    """A virtual machine."""

    def __init__(self, dir: Path, record: dict[str, str], group: Group) -> None:
        super().__init__(dir, record, group, _nothing, _not_so)
        self.incoming: trio.SocketStream | None = None  # where its memory comes
        self._sent = False  # its memory is elsewhere
        self._since: float | None = None  # when it began to stand still, on trio's clock
        self._qemu = 0.0  # seconds that QEMU counts for the end of the last image
        self._talk = trio.Lock()  # a monitor has one client at a time

    @asynccontextmanager
    async def _monitor(self) -> AsyncIterator[Session]:
        async with self._talk, qmp.session(self.dir / vms.HOME, vms.SOCKET) as found:
            yield found

    # --- verbs ------------------------------------------------------------------------

    def freeze(self) -> Wait[None]:
        """Pause it: its processors and its clock stand still."""
        return Wait(self._pause)

    def thaw(self) -> Wait[None]:
        """Let it go on, also after an image of it was made or given up."""
        return Wait(self._go_on)

    def signal(self, number: int) -> Wait[None] | None:
        """TERM and PWR press its power button, KILL takes its power away."""
        if number == signal.SIGKILL:
            self.kill("signal KILL")
            return None
        if number not in (signal.SIGTERM, signal.SIGPWR):
            raise CloudError(
                "unsupported",
                f"a virtual machine takes no signal {signal.Signals(number).name[3:]}",
                "TERM presses its power button, KILL takes its power away",
            )
        return Wait(self._press)

    async def _pause(self) -> None:
        async with self._monitor() as monitor:
            await monitor.command("stop", seconds=STOP)

    async def _press(self) -> None:
        async with self._monitor() as monitor:
            await monitor.command("system_powerdown")

    @property
    def still(self) -> dict[str, float]:
        """`down`: since it was made to stand still; `qemu`: what QEMU counts of that."""
        if self._since is None:
            return {}
        return {"down": trio.current_time() - self._since, "qemu": self._qemu}

    async def _go_on(self) -> None:
        self._since, self._sent = None, False
        async with self._monitor() as monitor:
            if await _migration(monitor) in ("setup", "active", "device", "cancelling"):
                with contextlib.suppress(CloudError):
                    await monitor.command("migrate_cancel")
                with trio.move_on_after(UNDO):
                    while await _migration(monitor) not in _OVER:  # noqa: ASYNC110
                        await trio.sleep(POLL)
            await monitor.command("cont", seconds=STOP)

    def set_limits(self, limits: Limits) -> None:
        """Change the limits of time and processors.  Raises CloudError for others."""
        vm.check_limits(limits, vms.read(self.dir / vms.HOME / vms.SHAPE).mem)
        super().set_limits(vm.around(limits))

    async def pack(self, images: Path) -> None:
        """Its disk alone goes nowhere."""
        raise CloudError("unsupported", "a virtual machine is not started anew elsewhere")

    # --- the beginning ----------------------------------------------------------------

    async def await_begun(self, images: Path | None) -> None:
        """Wait until its processors run; images: what it was restored from.  Raises CloudError
        where they never will."""
        await self._until("running")
        if images is not None:
            await self.type_again(images)

    async def _until(self, wanted: str) -> None:
        async with self._monitor() as monitor:
            end = trio.current_time() + LOAD
            while (status := (await monitor.command("query-status"))["status"]) != wanted:
                if status not in ("inmigrate", "prelaunch"):
                    raise CloudError("io", f"QEMU is {status}")
                if trio.current_time() > end:
                    raise CloudError("timeout", f"its image was not read in {LOAD:g} s")
                await trio.sleep(POLL)

    async def await_waiting(self) -> None:
        """Wait until it waits for its memory."""
        await self._until("inmigrate")

    async def type_again(self, images: Path) -> None:
        """Write to its stdin what an image says that it had not read.  Not sooner: a QEMU that
        still waits for an image reads a byte of its stdin, and forgets it."""
        rest = memoryview((images / "stdin").read_bytes())
        while rest:
            rest = rest[await settle(self.write_stdin(bytes(rest))) :]
        if vms.read(images / vms.SHAPE).closed:
            self.close_stdin()

    def complaint(self) -> str:
        """The last that QEMU itself said, which came on its standard error."""
        try:
            with (self.dir / "stderr").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        last = next((line for line in reversed(lines) if line.strip()), "")
        return last.partition(": ")[2][:200] or last[:200]

    # --- images -----------------------------------------------------------------------

    async def dump(self, images: Path) -> None:
        """Write an image, and stand still until `thaw`.  Raises CloudError, and it runs on."""
        async with self._or_go_on():
            if not self._sent:
                async with self._monitor() as monitor:
                    await self._save(monitor, images)
            await trio.to_thread.run_sync(self._describe, images)

    @asynccontextmanager
    async def _or_go_on(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO):
                with contextlib.suppress(CloudError):
                    await self._go_on()
            raise

    @property
    def streams(self) -> bool:
        """One with a disk goes as an image: a disk cannot be written and sent at once."""
        return not vms.read(self.dir / vms.HOME / vms.SHAPE).disk

    async def send(self, images: Path, out: int, ready: Callable[[], None]) -> None:
        """Send its memory while it runs; see Running.send."""
        async with self._or_go_on():
            await trio.to_thread.run_sync(self._put, images)
            ready()
            async with self._monitor() as monitor:
                await monitor.command("getfd", {"fdname": "stream"}, [out])
                os.close(out)  # else its end is not seen
                await self._send(monitor, "fd:stream")
            self._sent = True

    async def feed(self, data: bytes) -> None:
        """Memory that comes; see Running.feed."""
        assert self.incoming is not None
        try:
            if data:
                with trio.fail_after(FEED):
                    await self.incoming.send_all(data)
                return
            await self.incoming.send_eof()
        except trio.TooSlowError:
            raise CloudError("timeout", "QEMU takes no more of its memory") from None
        except trio.BrokenResourceError:
            raise CloudError("bad", f"QEMU: {self.complaint() or 'it has ended'}") from None
        await self._until("paused")

    async def go_on_with(self, images: Path) -> None:
        """It was received: let it go on, its output at the end of the files that are there."""
        self._ask("reopen")
        async with self._monitor() as monitor:
            await monitor.command("cont", seconds=STOP)
        self.waiting_mark.unlink(missing_ok=True)
        await self.type_again(images)

    @property
    def waiting_mark(self) -> Path:
        """A file that is there while it waits to go on."""
        return self.dir / vms.HOME / "waits"

    async def _save(self, monitor: Session, images: Path) -> None:
        fd = os.open(images / vms.RAM, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await monitor.command("getfd", {"fdname": "image"}, [fd])
        finally:
            os.close(fd)
        await self._send(monitor, "fd:image")

    async def _send(self, monitor: Session, uri: str) -> None:
        """Have QEMU send the machine, which stands still at the end.  Raises CloudError."""
        await monitor.command("migrate-set-parameters", {"max-bandwidth": BANDWIDTH, **_QUICK})
        await monitor.command("migrate-set-capabilities", {"capabilities": _CAPABILITIES})
        try:
            await monitor.command("migrate", {"uri": uri})
        except CloudError as error:
            raise _refused(error.why) from None
        began = trio.current_time()
        eager = told_on = False
        while True:
            told: dict[str, Any] = await monitor.command("query-migrate")
            status, spent = told.get("status", "none"), trio.current_time() - began
            if status == "completed":
                self._since = self._since or trio.current_time()
                self._qemu = told.get("downtime", 0) / 1000
                return
            if status in ("failed", "cancelled"):
                raise _refused(str(told.get("error-desc", "")))
            if status == "pre-switchover" and not told_on:
                told_on = True
                self._since = trio.current_time()
                await self._settle_input(monitor)
                await monitor.command("migrate-continue", {"state": status})
            if spent > LONGEST:
                raise CloudError("timeout", f"its image was not written in {LONGEST:g} s")
            if spent > EAGER and not eager:
                eager = True
                await monitor.command("migrate-set-parameters", _EAGER)
            await trio.sleep(POLL)

    async def _settle_input(self, monitor: Session) -> None:
        """It stands still: wait until QEMU reads no more of its stdin.  What QEMU has read is in
        the image of the serial port, and what it would read later is in neither."""
        for _ in range(ROUNDS):
            before = self.waiting()
            for _ in range(2):  # turns of its main loop
                await monitor.command("query-status")
            if before == self.waiting():
                return
        raise CloudError("busy", "its stdin is written to without a pause")

    def _describe(self, images: Path) -> None:
        """All but its memory.  It stands still."""
        home = self.dir / vms.HOME
        shape = vms.read(home / vms.SHAPE)
        self._sync()
        if self._sent:
            shape.closed = self._stdin < 0
            (images / vms.SHAPE).write_text(shape.text())
        else:
            self._put(images)
        if shape.disk:
            self._copy(home / "disk", images / "disk")
        (images / "stdin").write_bytes(self.unread())

    def _put(self, images: Path) -> None:
        """What an image has of it that does not change."""
        home = self.dir / vms.HOME
        shape = replace(vms.read(home / vms.SHAPE), closed=self._stdin < 0)
        (images / vms.SHAPE).write_text(shape.text())
        for name in ("kernel", "initrd"):
            if getattr(shape, name):
                os.link(home / name, images / name)

    @staticmethod
    def _copy(source: Path, to: Path) -> None:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            vms.copy(fd, to)
        except OSError as error:
            raise CloudError("full", f"its disk cannot be copied: {error.strerror}") from None
        finally:
            os.close(fd)


def _nothing() -> None:
    """Its control groups are all that it leaves."""


def _not_so(kept: Kept, images: Path, memory: bool) -> None:
    raise AssertionError("a virtual machine is dumped by QEMU")


async def _migration(monitor: Session) -> str:
    told: dict[str, Any] = await monitor.command("query-migrate")
    return str(told.get("status", "none"))


def _refused(said: str) -> CloudError:
    if "VirtFS" in said:
        return CloudError(
            "unsupported",
            "it cannot be dumped while its guest has the name space mounted",
            "unmount it in the guest",
        )
    if "No space" in said or "error -28" in said:
        return CloudError("full", "there is no space for its image")
    return CloudError(
        "io", f"it cannot be dumped: {said.removeprefix('QEMU: ')[:200] or 'QEMU failed'}"
    )
