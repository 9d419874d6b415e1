"""What the kernel asks of the operating system: start a program as an object, watch,
signal, freeze and kill it, and find it again after the daemon was gone.

`node/host.py` does it for real; `node/twin.py` is the same in memory for fast tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cloudfs.wait import Wait

# Where a program is looked for that is given without a path.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DIED = "its keeper died"  # why one has ended of which nobody noted how: the machine failed


@dataclass(slots=True)
class Limits:
    """Limits of one object; None is no limit.  cpu in cores, mem in bytes, pids in
    processes and threads, time in seconds of real time since the start."""

    cpu: float | None = None
    mem: int | None = None
    pids: int | None = None
    time: float | None = None


@dataclass(slots=True)
class Launch:
    """All that is needed to start an object.  `dir` is its own state directory, which
    holds stdout, stderr, exit and what else the host keeps there."""

    id: str
    dir: Path
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    runtime: str  # "process", "sandbox" or "vm", whose argv says what machine (node/vm.py)
    limits: Limits = field(default_factory=Limits)
    nice: int = 0
    stdio_limit: int = 1 << 28  # bytes kept of each of stdout and stderr
    net: str = "host"  # sandbox: "host" or "none"
    cloud: str = ""  # sandbox, vm: a directory to show at /cloud, or ""
    lease: float = 0.0  # as of Running.lease, from its first moment; 0 is none
    user: str = ""  # vm: as whom its files are opened


@dataclass(slots=True)
class Image:
    """What `Running.dump` wrote, to be restored; or if anew what `pack` wrote.  ran: for how
    many seconds it had run."""

    dir: Path
    ran: float
    anew: bool = False


@dataclass(slots=True)
class Usage:
    """What an object has used so far: cpu in seconds, memory in bytes and byte-seconds,
    I/O in bytes.  None where this node cannot tell."""

    user: float = 0.0
    sys: float = 0.0
    mem: int = 0
    mem_peak: int = 0
    mem_seconds: float = 0.0
    read: int | None = None
    written: int | None = None
    pids: int = 0


@dataclass(slots=True)
class Exit:
    """How an object ended.  code or signal is None; real in seconds; why is a sentence
    where the end was not the program's own ("time limit", "killed", "out of memory")."""

    pid: int
    code: int | None
    signal: int | None
    user: float
    sys: float
    real: float
    ended: float  # seconds since 1970
    why: str = ""


class Running(Protocol):
    """One object's processes, whether this daemon or an earlier one started them."""

    @property
    def pid(self) -> int:
        """The first process of the program itself."""

    @property
    def started(self) -> float:
        """When, in seconds since 1970."""

    async def ended(self) -> Exit:
        """Wait for the end of the whole process tree.  Any number of callers."""

    def signal(self, number: int) -> Wait[None] | None:
        """Send a signal to the program (its first process)."""

    def kill(self, why: str) -> None:
        """Kill every process of the tree, double-forked ones too; `ended` then returns."""

    def freeze(self) -> Wait[None] | None:
        """Stop every process of the tree."""

    def thaw(self) -> Wait[None] | None:
        """Let them go on."""

    def lease(self, until: float) -> None:
        """Have it freeze at that time of `Host.clock`, unless this is called again, whether
        the daemon lives then or not; 0: never.  Where that has passed no `thaw` lasts.
        Raises CloudError."""

    def set_limits(self, limits: Limits) -> None:
        """Change limits while it runs.  Raises CloudError where that cannot be done."""

    def set_nice(self, nice: int) -> None: ...

    def write_stdin(self, data: bytes) -> int | Wait[int]:
        """Bytes taken; a Wait while the pipe is full; CloudError("pipe") when closed."""

    def close_stdin(self) -> None: ...

    @property
    def streams(self) -> bool:
        """Whether it can be sent while it runs: by `send`, then `dump`."""

    async def send(self, images: Path, out: int, ready: Callable[[], None]) -> None:
        """Write into an empty directory what a machine is to receive it, call ready, and then
        write its memory to a descriptor; done when all is written and it stands still.  `dump`
        then writes the rest.  Raises CloudError as `dump`."""

    async def feed(self, data: bytes) -> None:
        """Memory, for one that receives it; b"" is the end, and then it is done once it could
        go on.  Raises CloudError."""

    @property
    def still(self) -> dict[str, float]:
        """For how many seconds it has stood still since its last image, and what else is
        measured of that, as what runs it tells it; {} where it stands not still."""

    async def dump(self, images: Path) -> None:
        """Write an image of all its processes into an empty directory, and leave them
        frozen until `thaw` or `kill`.  Raises CloudError with why that cannot be, and it
        runs on.  All that it wrote before is in its files then."""

    async def pack(self, images: Path) -> None:
        """Write into an empty directory what it finds again when its program starts anew
        elsewhere: a sandbox's own files.  As `dump` leaves it, it stays frozen."""

    def usage(self) -> Usage: ...

    def pids(self) -> list[tuple[int, int, str]]:
        """(pid, parent pid, command line) of every process of the tree."""


class Host(Protocol):
    """The machine."""

    def clock(self) -> float:
        """Seconds, going on while the machine sleeps: what leases go by."""

    def check(self, launch: Launch) -> None:
        """Raise CloudError, with what to do, if launch cannot work here: unknown
        program, no such directory, a runtime or limit this node cannot give.  `start`
        does this first.  It may block, so it is not for the daemon's own thread."""

    async def start(self, launch: Launch) -> Running:
        """Start it; returns once the program runs.  Raises CloudError if it does not,
        with nothing left behind."""

    async def restore(self, launch: Launch, image: Image) -> Running:
        """As `start`, but what an image holds goes on.  launch: that of the object; its
        argv and env are not used.  Of an image that is `anew` its program starts."""

    async def receive(self, launch: Launch, image: Image) -> Running:
        """As `restore`, for one that is sent while it runs: it waits for its memory, by
        `feed`, and then for `go_on`."""

    async def go_on(self, running: Running, image: Image) -> None:
        """Let one that was received go on, with what `dump` wrote.  Does nothing for others."""

    def adopt(self, id: str, dir: Path) -> Running | Exit | None:
        """What became of an object that an earlier daemon started: still running, ended
        (its exit record), or None if it never ran."""

    def discard(self, id: str, dir: Path) -> None:
        """Remove what an ended object has left on the machine: cgroup, sandbox, files."""

    async def show(self, running: Running, directory: str) -> None:
        """Show a directory at /cloud of a running sandbox, in place of what was there."""

    def dropped(self, dir: Path, stream: str) -> int:
        """Bytes at the beginning of the file "stdout" or "stderr" that are not kept."""

    async def grown(self, path: Path, size: int) -> None:
        """Wait until the file may be longer than size.  Wakes too often rather than never."""

    def default_runtime(self) -> str:
        """ "sandbox" where it can be used, else "process"."""

    def sandbox_uid(self, id: str) -> int | None:
        """The uid on this machine that the program of a sandboxed object runs as."""

    def sandbox_of(self, uid: int) -> str | None:
        """The id of the sandboxed object in whose range of uids this one is."""

    def images_word(self, runtime: str = "") -> str:
        """ "" if objects of a runtime can be dumped and restored here, else why not."""

    def dumping(self, images: Path) -> bool:
        """Whether a dump into a directory goes on, be it of an earlier daemon."""

    def limits_word(self) -> str:
        """ "" if limits can be set here, else why not and what to do."""
