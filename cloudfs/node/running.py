"""One object that a keeper keeps: what the kernel may ask of it (`Running`)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import trio

from cloudfs.errors import CloudError, from_errno
from cloudfs.node import keeper, procfs
from cloudfs.node.api import DIED, Exit, Limits, Usage
from cloudfs.node.criu import Stdio, copy_pipe, pipe_holds, space_pids
from cloudfs.node.groups import Group
from cloudfs.wait import Wait

SYNC = 5.0  # seconds for a keeper to carry what is written


class Kept:
    """An object's processes.  record: what its keeper wrote, or reported, at the start;
    clear: called once it has ended, to remove what its runtime has left; dump: writes an
    image of it, or only its own files, in a thread."""

    def __init__(
        self,
        dir: Path,
        record: dict[str, str],
        group: Group,
        clear: Callable[[], None],
        dump: Callable[[Kept, Path, bool], None],
    ) -> None:
        self.dir = dir
        self._clear = clear
        self._dump = dump
        self._syncs = int(record.get("sync", 0))
        self.group = group
        self.pid = int(record["pid"])
        self.started = float(record["started"])
        self._keeper = int(record["keeper"])
        self._control = int(record["control"])
        self._stdin = int(record["stdin"])
        # An object that an older version of the keeper started has none.
        self._pipes = [int(word) for word in record.get("pipes", "0,0,0").split(",")]
        self.runtime = record["runtime"]
        self._leases = record.get("leases") == "yes"
        self._turn = trio.Lock()
        self._exit: Exit | None = None
        self._final = Usage()  # once it has ended
        self._sampled = time.monotonic(), 0
        self._mem_seconds = 0.0
        self._mem_peak = 0
        try:
            self._pidfd = os.pidfd_open(self._keeper)
        except ProcessLookupError:
            self._pidfd = -1

    # --- the end ----------------------------------------------------------------------

    async def ended(self) -> Exit:
        """Wait for the end of the whole tree; any number of callers."""
        async with self._turn:
            if self._exit is None:
                if self._pidfd >= 0:
                    await trio.lowlevel.wait_readable(self._pidfd)
                self._exit = self._conclude()
        return self._exit

    def _conclude(self) -> Exit:
        keeper.reap(self._keeper)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        end, self._final = conclude(self.dir, self.group, self.pid, self.started)
        self._clear()
        self._sample(0)
        self._final.mem_seconds = self._mem_seconds
        self._final.mem_peak = max(self._final.mem_peak, self._mem_peak)
        return end

    def _lives(self) -> bool:
        """Whether the keeper lives; while it does its pid is nobody else's."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    # --- what the keeper does for us --------------------------------------------------

    def signal(self, number: int) -> Wait[None] | None:
        """Send a signal to the program.  Raises CloudError("absent") if it has ended."""
        signal.Signals(number)
        self._ask(f"signal {number}")
        return None

    def kill(self, why: str) -> None:
        """Kill the whole tree; `ended` then tells why."""
        self._ask(f"kill {keeper.quote(why)}")

    def close_stdin(self) -> None:
        """The program reads the end of its input after what was written."""
        self._ask("stdin")
        self._stdin = -1

    def _ask(self, line: str) -> None:
        fd = self._open(self._control, "absent", "the object has ended")
        try:
            os.write(fd, line.encode() + b"\n")
        except OSError as error:
            raise from_errno(error.errno or 0, "its keeper does not listen") from None
        finally:
            os.close(fd)

    def _open(self, number: int, kind: str, why: str, mode: int = os.O_WRONLY) -> int:
        """An end of a pipe that the keeper holds."""
        try:
            fd = os.open(f"/proc/{self._keeper}/fd/{number}", mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise CloudError(kind, why) from None
        if not self._lives():  # then the pid may have been another's
            os.close(fd)
            raise CloudError(kind, why)
        return fd

    # --- stdin ------------------------------------------------------------------------

    def write_stdin(self, data: bytes) -> int | Wait[int]:
        """Bytes taken now, or a Wait while the pipe is full.  Raises CloudError("pipe")
        when it is closed or nobody is left to read."""
        if self._stdin < 0:
            raise CloudError("pipe", "its stdin is closed")
        fd = self._open(self._stdin, "pipe", "nobody reads its stdin any more")
        try:
            return os.write(fd, data)
        except BlockingIOError:
            return Wait(lambda: self._write_later(data))
        except OSError:
            raise CloudError("pipe", "nobody reads its stdin any more") from None
        finally:
            os.close(fd)

    async def _write_later(self, data: bytes) -> int:
        while True:
            fd = self._open(self._stdin, "pipe", "nobody reads its stdin any more")
            try:
                await trio.lowlevel.wait_writable(fd)
                return os.write(fd, data)
            except BlockingIOError:
                continue  # another writer was faster
            except OSError:
                raise CloudError("pipe", "nobody reads its stdin any more") from None
            finally:
                os.close(fd)

    # --- images -----------------------------------------------------------------------

    @property
    def streams(self) -> bool:
        """Processes are dumped as a whole."""
        return False

    async def send(self, images: Path, out: int, ready: Callable[[], None]) -> None:
        raise CloudError("unsupported", "processes are not sent while they run")

    async def feed(self, data: bytes) -> None:
        raise CloudError("unsupported", "processes are not sent while they run")

    @property
    def still(self) -> dict[str, float]:
        """A plain process tells nothing of how long a dump takes."""
        return {}

    async def dump(self, images: Path) -> None:
        """Write an image into a directory made for it, and stay frozen until `thaw`.
        Raises CloudError, and it runs on."""
        try:
            await trio.to_thread.run_sync(self._dump, self, images, True)
        except BaseException:
            with contextlib.suppress(CloudError):
                self.thaw()
            raise

    async def pack(self, images: Path) -> None:
        """Write its own files into a directory made for it, and stay frozen until `thaw`.
        Raises CloudError, and it runs on."""
        try:
            self.freeze()
            await trio.to_thread.run_sync(self._dump, self, images, False)
        except BaseException:
            with contextlib.suppress(CloudError):
                self.thaw()
            raise

    def check_whole(self) -> None:
        """Raise CloudError if processes of it do not descend from its first one, as those
        of a daemon: they are in no image."""
        if not all(self._pipes):
            raise CloudError("unsupported", "it was started by an older version of cloudfs")
        astray = set(self._pids()) - {self.pid, *procfs.descendants(self.pid)}
        if astray:
            raise CloudError(
                "unsupported",
                f"it cannot be dumped: its process {min(astray)} has left its parent",
                "runtime sandbox can be dumped all the same",
            )

    def stdio(self, uids: int) -> Stdio:
        """How its stdio stands, once all that was written is in its files."""
        self._sync()
        return Stdio(
            self.runtime,
            self._pipes,
            self._stdin >= 0,
            _size(self.dir / "stdout"),
            _size(self.dir / "stderr"),
            space_pids(self._pids()),
            uids,
        )

    def unread(self) -> bytes:
        """What its stdin holds."""
        if self._stdin < 0:
            return b""
        fd = self._open(self._stdin, "absent", "the object has ended", os.O_RDONLY)
        try:
            return copy_pipe(fd)
        finally:
            os.close(fd)

    def waiting(self) -> int:
        """How many bytes its stdin holds."""
        if self._stdin < 0:
            return 0
        fd = self._open(self._stdin, "absent", "the object has ended", os.O_RDONLY)
        try:
            return pipe_holds(fd)
        finally:
            os.close(fd)

    def _sync(self) -> None:
        """Wait until the keeper has carried all output there is."""
        self._syncs += 1
        self._ask(f"sync {self._syncs}")
        end = time.monotonic() + SYNC
        while True:
            record = keeper.read_keeper(self.dir) or {}
            if record.get("sync") == str(self._syncs):
                return
            if time.monotonic() > end:
                full = record.get("disk") == "full"
                raise CloudError("full" if full else "timeout", "its output cannot be kept")
            time.sleep(0.001)

    # --- the whole tree ---------------------------------------------------------------

    def freeze(self) -> Wait[None] | None:
        """Stop every process."""
        self._freeze(True)
        return None

    def thaw(self) -> Wait[None] | None:
        """Let them go on."""
        self._freeze(False)
        return None

    def _freeze(self, frozen: bool) -> None:
        try:
            if self.group.freeze(frozen):
                return
        except OSError as error:
            raise from_errno(error.errno or 0, f"control group: {error.strerror}") from None
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def lease(self, until: float) -> None:
        """Have the keeper freeze it at that time of CLOCK_BOOTTIME; 0: never."""
        if not self._leases:
            raise CloudError("unsupported", "it was started by an older version of cloudfs")
        self._ask(f"lease {until:.3f}")

    def set_limits(self, limits: Limits) -> None:
        """Change limits; time counts from the start.  Raises CloudError where it cannot."""
        self.group.set(limits, self._pids())
        self._ask(f"time {limits.time or 0:.3f}")

    def set_nice(self, nice: int) -> None:
        """Change the niceness of every process.  Raises CloudError("denied")."""
        for pid in self._pids():
            try:
                os.setpriority(os.PRIO_PROCESS, pid, nice)
            except ProcessLookupError:
                continue
            except PermissionError:
                raise CloudError("denied", "only root may lower a nice value") from None

    def pids(self) -> list[tuple[int, int, str]]:
        """(pid, parent, command line) of every process."""
        found = (procfs.process(pid) for pid in self._pids())
        return [(one.pid, one.parent, procfs.command(one.pid)) for one in found if one]

    def _pids(self) -> list[int]:
        if not self._lives():
            return []
        found = self.group.pids()
        return procfs.descendants(self._keeper) if found is None else found

    def usage(self) -> Usage:
        """What it has used so far, and once it has ended, in all."""
        if not self._lives():
            return self._final
        pids = self._pids()
        user, sys = self.group.cpu() or self._cpu(pids)
        mem, peak = self.group.mem() or (procfs.memory(pids), 0)
        self._sample(mem)
        # The keeper's figures hold those of the processes that it has waited for.
        read, written = procfs.io([self._keeper, *pids]) or (None, None)
        return Usage(
            user=user,
            sys=sys,
            mem=mem,
            mem_peak=max(peak, self._mem_peak),
            mem_seconds=self._mem_seconds,
            read=read,
            written=written,
            pids=len(pids),
        )

    def _cpu(self, pids: list[int]) -> tuple[float, float]:
        own = procfs.process(self._keeper)
        user, sys = (own.reaped_user, own.reaped_sys) if own else (0.0, 0.0)
        for one in filter(None, map(procfs.process, pids)):
            user += one.user + one.reaped_user
            sys += one.sys + one.reaped_sys
        return user, sys

    def _sample(self, mem: int) -> None:
        """Memory between two samples is taken for that of the first."""
        now = time.monotonic()
        then, held = self._sampled
        self._mem_seconds += held * (now - then)
        self._mem_peak = max(self._mem_peak, mem)
        self._sampled = now, mem


def _kill_session(dir: Path, pid: int) -> None:
    """Kill the session of a first process, which its keeper noted."""
    with contextlib.suppress(OSError):
        noted = (dir / "keeper").stat().st_mtime
        for one in procfs.session(pid, noted):
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def conclude(dir: Path, group: Group, pid: int, started: float) -> tuple[Exit, Usage]:
    """How an object whose keeper is gone has ended, and all that it used.  Without an
    exit record the keeper was killed, and what it left running is killed here."""
    found = keeper.read_exit(dir)
    if found is None:
        if not group.kill() or group.pids() is None:
            _kill_session(dir, pid)  # the best that is left without a group
        user, sys = group.cpu() or (0.0, 0.0)
        now = time.time()
        end = Exit(pid, None, signal.SIGKILL, user, sys, max(0.0, now - started), now, DIED)
        record: dict[str, str] = {}
    else:
        end, record = found
        if end.signal == signal.SIGKILL and not end.why and group.ran_out():
            end.why = "out of memory"
    user, sys = group.cpu() or (0.0, 0.0)
    _, peak = group.mem() or (0, 0)
    used = Usage(
        user=max(user, end.user),
        sys=max(sys, end.sys),
        mem_peak=peak or int(record.get("maxrss", 0)),
        read=int(record["read"]) if record else None,
        written=int(record["written"]) if record else None,
    )
    group.remove()
    return end, used
