"""The machine, for real: starts objects under keepers and finds them again (`Host`)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import trio

from cloudfs.errors import CloudError, from_errno
from cloudfs.node import cgroup, criu, keeper, packing, procfs, vm
from cloudfs.node.api import Exit, Image, Launch, Limits, Running
from cloudfs.node.groups import Group, Groups
from cloudfs.node.program import check_process, looks_near
from cloudfs.node.running import Kept, conclude
from cloudfs.node.sandbox import OWN, Sandbox
from cloudfs.node.uids import USER, Ranges
from cloudfs.node.virtual import VmKept
from cloudfs.node.vms import Vms
from cloudfs.node.watch import Watch

logger = logging.getLogger(__name__)

SHOW_TIME = 10.0  # seconds for a sandbox's /cloud to change
ADOPT_PATIENCE = 2.0  # seconds for a keeper that was just launched to get its program going
START_PATIENCE = 60.0  # seconds for a program to start, a sandbox included
KEPT_FILES = ("keeper", "exit", "stdin", "stdout", "stderr")

# What a keeper could not do, as the first half of a reason.
STAGES = {
    "order": "the order to the keeper is not complete",
    "pipe": "no pipe can be made",
    "fork": "no process can be made",
    "keeper": "the object's directory cannot be written",
    "cgroup": "its control group cannot be joined",
    "nice": "the nice value cannot be set",
    "stdio": "its stdio cannot be set up",
    "cwd": "its directory {cwd} cannot be entered",
    "user": "it cannot be run as a user of its own",
    "mounts": "no name space for its mounts can be made",
    "exec": "{program} cannot be run",
}


class RealHost:
    """This machine as the node `node`, with the keeper's binary under `state`.

    Raises CloudError("unsupported") where no keeper can be built.
    """

    def __init__(self, state: Path, node: str) -> None:
        self.state = state
        self.node = node
        self.groups = Groups(node)
        self.sandbox = Sandbox(state / "sandbox")
        self.criu = criu.Criu(state)
        self.vms = Vms(state)
        self._ranges = Ranges(state / "sandbox" / "uids")
        self._one_at_a_time = threading.Lock()  # starts run in threads
        self._keeper = keeper.build(state)
        self._watch = Watch()

    def clock(self) -> float:
        """Seconds that go on while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    # --- before the start -------------------------------------------------------------

    def check(self, launch: Launch) -> None:
        """Raise CloudError if launch cannot work here."""
        self._program(launch)

    def _program(self, launch: Launch) -> str:
        """What the keeper is to execute, once all that can be known before is checked."""
        self._check_limits(launch.limits)
        match launch.runtime:
            case "sandbox":
                self.sandbox.check(launch)
                return self.sandbox.runc
            case "process":
                return check_process(launch)
            case "vm":
                self.vms.check(launch)
                return self.vms.qemu
            case other:
                raise CloudError("unsupported", f"there is no runtime {other} on this node")

    def _check_limits(self, limits: Limits) -> None:
        for name in ("cpu", "mem", "pids", "time"):
            value = getattr(limits, name)
            if value is not None and not 0 < value < float("inf"):
                raise CloudError("bad", f"limit {name}={value:g} is not above 0")
            if value is not None and name != "time" and name not in self.groups.bases:
                raise CloudError("unsupported", f"this node cannot limit {name}", cgroup.FIX)

    def default_runtime(self) -> str:
        """ "sandbox" where it can be used, else "process"."""
        return "process" if self.sandbox.word else "sandbox"

    def images_word(self, runtime: str = "") -> str:
        """ "" if objects of a runtime can be dumped and restored here, else why not."""
        try:
            if runtime == "vm":
                self.vms.need()
            else:
                self.criu.need()
        except CloudError as error:
            return f"{error.why} ({error.fix})" if error.fix else error.why
        return ""

    def dumping(self, images: Path) -> bool:
        """Whether a dump into a directory goes on, be it of an earlier daemon."""
        return criu.working(images)

    def limits_word(self) -> str:
        """ "" if limits can be set here, else why not and what to do."""
        return f"{self.groups.word}; {cgroup.FIX}" if self.groups.word else ""

    def sandbox_uid(self, id: str) -> int | None:
        """The uid on this machine that the program of a sandboxed object runs as."""
        first = self._ranges.first(id)
        return None if first is None else first + USER

    def sandbox_of(self, uid: int) -> str | None:
        """The id of the sandboxed object in whose range of uids this one is."""
        return self._ranges.holder(uid)

    # --- the start --------------------------------------------------------------------

    async def start(self, launch: Launch) -> Kept:
        """Start it; returns once the program runs.

        Raises CloudError if it does not, with nothing left behind.  If cancelled, it
        starts all the same and can be adopted.
        """
        return await self._start(launch, None)

    async def restore(self, launch: Launch, image: Image) -> Kept:
        """Let what an image holds go on as launch's program; as `start`."""
        return await self._start(launch, image)

    async def receive(self, launch: Launch, image: Image) -> Kept:
        """Let a virtual machine wait for its memory; see Host.receive."""
        ours, theirs = socket.socketpair()
        with ours:
            kept = await self._start(launch, image, theirs.detach())
            assert isinstance(kept, VmKept)
            kept.incoming = trio.SocketStream(trio.socket.from_stdlib_socket(ours.dup()))
        return kept

    async def go_on(self, running: Running, image: Image) -> None:
        """Let a virtual machine go on that was received; it is gone where it does not."""
        if not isinstance(running, VmKept) or not running.waiting_mark.exists():
            return
        try:
            await running.go_on_with(image.dir)
        except BaseException:
            with contextlib.suppress(CloudError):
                running.kill("it did not go on")
            raise

    async def _start(self, launch: Launch, image: Image | None, incoming: int = -1) -> Kept:
        new = not launch.dir.exists()
        group = self._group(launch.id, launch.runtime)
        try:
            if image is None and looks_near(launch):
                pid, pipe = self._launch(launch, group, None)
            else:
                pid, pipe = await trio.to_thread.run_sync(
                    self._launch, launch, group, image, incoming
                )
            record = await _reported(pid, pipe)
            if "failed" in record:
                raise self._not_started(launch, record, image)
            kept = self._kept(launch.id, launch.dir, record)
            if isinstance(kept, VmKept):
                await self._begun(kept, image, incoming >= 0)
        except CloudError as error:
            if error.kind != "busy":
                group.clear()
                self._forget(launch.id, launch.dir)
                if new:
                    shutil.rmtree(launch.dir, ignore_errors=True)
            raise
        return kept

    async def _begun(self, kept: VmKept, image: Image | None, waits: bool) -> None:
        """See that a virtual machine runs, or waits; it is gone where it does not."""
        try:
            if waits:
                kept.waiting_mark.touch()
                await kept.await_waiting()
            else:
                await kept.await_begun(None if image is None else image.dir)
        except CloudError as error:
            with contextlib.suppress(CloudError):
                kept.kill("it did not begin")
            await kept.ended()
            said = kept.complaint()
            why = f"QEMU: {said}" if said else error.why
            raise CloudError("notexec" if image is None else "io", why, error.fix) from None

    def _launch(
        self, launch: Launch, group: Group, image: Image | None, incoming: int = -1
    ) -> tuple[int, int]:
        """Check, prepare and start its keeper: the keeper's pid and its report's pipe."""
        program = "" if launch.runtime == "vm" else self._program(launch)
        if keeper.lives(launch.dir):
            raise CloudError("busy", f"{launch.id} still runs")
        launch.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("exit", "keeper"):  # of an earlier run
            with contextlib.suppress(FileNotFoundError):
                os.unlink(launch.dir / name)
        if launch.runtime == "vm":
            return self._launch_vm(launch, group, image, incoming)
        if image is None or image.anew:
            runs = [("program", program), *self._runs(launch, group, image)]
        else:
            runs = self._goes_on(launch, group, image)
        order = keeper.order([*runs, *_keeps(launch)])
        return keeper.launch(self._keeper, launch.id, launch.dir, order)

    def _launch_vm(
        self, launch: Launch, group: Group, image: Image | None, incoming: int
    ) -> tuple[int, int]:
        """Start the keeper of a virtual machine; incoming: as Vms.prepare."""
        self._check_limits(launch.limits)
        uid = None
        if os.geteuid() == 0:
            with self._one_at_a_time:
                uid = self._ranges.take(launch.id) + USER
        images = None if image is None else image.dir
        runs, passed = self.vms.prepare(launch, uid, images, incoming)
        try:
            if image is not None:
                runs.append(("ran", f"{image.ran:.6f}"))
            joins = group.make(vm.around(launch.limits))
            runs += [*(("join", path) for path in joins), *group.kill_files()]
            order = keeper.order([*runs, *_keeps(launch)])
            return keeper.launch(self._keeper, launch.id, launch.dir, order, passed)
        finally:
            for fd in passed:
                os.close(fd)

    def _runs(self, launch: Launch, group: Group, image: Image | None) -> list[tuple[str, object]]:
        """What the keeper is to run, and in which control groups.  image: what there is of
        it from elsewhere."""
        if launch.runtime == "sandbox":
            group.clear()
            cgroup_path = f"{self.groups.path}/{launch.id}"
            with self._one_at_a_time:
                if image is None:
                    first_uid = self._ranges.take(launch.id)
                else:
                    first_uid = self._ranges.claim(launch.id, criu.load(image.dir).uids)
                    packing.unpack(image.dir / packing.FILE, launch.dir, OWN, first_uid)
                order = self.sandbox.order(launch, first_uid, cgroup_path)
            return [*order, *group.kill_files(made=False)]
        joins = group.make(launch.limits)
        return [
            *(("arg", word) for word in launch.argv),
            *(("env", f"{name}={value}") for name, value in launch.env.items()),
            ("cwd", launch.cwd or "/"),
            *(("join", path) for path in joins),
            *group.kill_files(),
        ]

    def _goes_on(self, launch: Launch, group: Group, image: Image) -> list[tuple[str, object]]:
        """What the keeper is to run to restore an image."""
        images = image.dir
        stdio = criu.load(images)
        if stdio.runtime != launch.runtime:
            raise CloudError("bad", f"the image is of an object of runtime {stdio.runtime}")
        runs: list[tuple[str, object]] = [
            ("ran", f"{image.ran:.6f}"),
            ("closed", +(not stdio.stdin)),
        ]
        unread = images / "stdin"
        if unread.exists() and unread.stat().st_size:
            shutil.copyfile(unread, launch.dir / "stdin")
            runs.append(("input", "stdin"))
        if launch.runtime == "sandbox":
            group.clear()
            cgroup_path = f"{self.groups.path}/{launch.id}"
            environment = self.criu.environment()
            with self._one_at_a_time:
                first_uid = self._ranges.claim(launch.id, stdio.uids)
                packing.unpack(images / packing.FILE, launch.dir, OWN, first_uid)
                packing.give(images, first_uid)
                for folder in (launch.dir, images.parent):
                    if folder.is_relative_to(launch.dir):
                        packing.let_pass(folder, first_uid)
                order = self.sandbox.order(launch, first_uid, cgroup_path, images, environment)
            program = ("program", self.sandbox.runc)
            return [program, *runs, *order, *group.kill_files(made=False)]
        command = self.criu.restore_command(images, stdio)
        joins = group.make(launch.limits)
        return [
            ("program", command[0]),
            *runs,
            *(("arg", word) for word in command),
            ("box", criu.free_pid(stdio.pids)),
            *(("join", path) for path in joins),
            *group.kill_files(),
        ]

    def _dump(self, id: str, kept: Kept, images: Path, memory: bool) -> None:
        """Write an image of it, and leave it frozen; see Kept.dump.  Without its memory it is
        frozen already."""
        if memory:
            self._dump_memory(kept, images)
            kept.check_whole()
        elif kept.group.place("whole")[0]:
            criu.await_still(*kept.group.place("whole"))
        stdio = kept.stdio(self._ranges.first(id) or 0)
        stdio.save(images)
        if memory:
            (images / "stdin").write_bytes(kept.unread())
        if kept.runtime == "sandbox":
            packing.pack(images / packing.FILE, kept.dir, OWN)

    def _dump_memory(self, kept: Kept, images: Path) -> None:
        self.criu.need()
        criu.check_files([one for one, _, _ in kept.pids()])
        options: list[str] = []
        pid, within = kept.pid, 0
        if kept.runtime == "sandbox":
            config = json.loads((kept.dir / "config.json").read_text())
            options = ["--root", config["root"]["path"]]
            options += criu.externals(config, f"/proc/{pid}/root")
        elif os.stat(f"/proc/{pid}/ns/pid") != os.stat("/proc/self/ns/pid"):
            found = procfs.process(pid)
            if found is None:
                raise CloudError("absent", "its first process has ended")
            within, (pid,) = found.parent, criu.space_pids([pid])
        self.criu.dump(pid, images, kept.group.place("whole"), options, within)

    def _not_started(
        self, launch: Launch, record: dict[str, str], image: Image | None
    ) -> CloudError:
        if image is not None and not image.anew and record["failed"] in ("launch", "fork"):
            log = image.dir / "restore.log"
            text = log.read_text(errors="replace") if log.exists() else ""
            logger.warning("restoring %s failed:\n%s", launch.id, text[-2000:])
            error = criu.first_error(text)
            why = f"it cannot be restored: {criu.reason(error)}" if error else ""
            return CloudError("io", why or str(self.sandbox.complaint(launch)))
        if record["failed"] == "launch":
            return self.sandbox.complaint(launch)
        number = int(record["errno"])
        what = STAGES[record["failed"]].format(cwd=launch.cwd, program=launch.argv[0])
        return from_errno(number, f"{what}: {os.strerror(number).lower()}" if number else what)

    def _group(self, id: str, runtime: str) -> Group:
        return self.groups.of(id, everywhere=runtime == "sandbox")

    def _kept(self, id: str, dir: Path, record: dict[str, str]) -> Kept:
        runtime = record["runtime"]
        if runtime == "vm":
            return VmKept(dir, record, self._group(id, runtime))
        clear = partial(self.sandbox.clear, id, dir) if runtime == "sandbox" else _nothing
        return Kept(dir, record, self._group(id, runtime), clear, partial(self._dump, id))

    # --- after a restart of the daemon ------------------------------------------------

    def adopt(self, id: str, dir: Path) -> Kept | Exit | None:
        """What became of an object that an earlier daemon started."""
        end = time.monotonic() + ADOPT_PATIENCE
        while keeper.lives(dir):
            record = keeper.read_keeper(dir)
            if record and int(record["pid"]):
                return self._kept(id, dir, record)
            if time.monotonic() > end:
                raise CloudError("busy", f"the keeper of {id} does not say what it keeps")
            time.sleep(0.01)
        record = keeper.read_keeper(dir)
        if record is None:
            self._group(id, "sandbox").clear()
            self.sandbox.clear(id, dir)
            return None
        group = self._group(id, record["runtime"])
        found, _ = conclude(dir, group, int(record["pid"]), float(record["started"]))
        self.sandbox.clear(id, dir)
        return found

    def discard(self, id: str, dir: Path) -> None:
        """Remove what an ended object has left on the machine.  Raises CloudError("busy")
        while it runs."""
        if keeper.lives(dir):
            raise CloudError("busy", f"{id} still runs", f"echo kill > /cloud/proc/{id}/ctl")
        self._group(id, "sandbox" if self._ranges.first(id) is not None else "process").clear()
        self._forget(id, dir)
        for name in KEPT_FILES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(dir / name)

    def _forget(self, id: str, dir: Path) -> None:
        """Remove a sandbox with its files, and give its uids back."""
        if self._ranges.first(id) is not None:
            self.sandbox.clear(id, dir, OWN)
            self._ranges.free(id)

    # --- output -----------------------------------------------------------------------

    async def show(self, running: Running, directory: str) -> None:
        """Show a directory at /cloud of a running sandbox.  Raises CloudError."""
        command = [sys.executable, "-m", "cloudfs.node.rebind", f"{running.pid}", directory]
        with trio.move_on_after(SHOW_TIME):
            done = await trio.run_process(command, capture_stderr=True, check=False)
            if done.returncode == 0:
                return
            raise CloudError("io", done.stderr.decode(errors="replace").strip()[-200:])
        raise CloudError("timeout", f"{directory} did not answer in {SHOW_TIME:g} s")

    def dropped(self, dir: Path, stream: str) -> int:
        """Bytes at the beginning of "stdout" or "stderr" that are no longer kept."""
        try:
            fd = os.open(dir / stream, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            return os.lseek(fd, 0, os.SEEK_DATA)
        except OSError:  # empty, or all of it dropped
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    async def grown(self, path: Path, size: int) -> None:
        """Wait until the file may be longer than size."""
        await self._watch.grown(path, size)

    def close(self) -> None:
        """Let go of what this daemon holds; objects run on."""
        self._watch.close()
        self.groups.remove()


async def _read(pipe: int) -> bytes:
    while True:
        try:
            return os.read(pipe, 4096)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(pipe)


def _keeps(launch: Launch) -> list[tuple[str, object]]:
    """What the keeper is to see to, whatever runs."""
    return [
        ("nice", launch.nice),
        ("time", launch.limits.time or 0),
        ("stdio", launch.stdio_limit),
        ("lease", f"{launch.lease:.3f}"),
        ("note", f"runtime={launch.runtime} leases=yes"),
    ]


def _nothing() -> None:
    """A plain process leaves nothing but its control groups."""


async def _reported(pid: int, pipe: int) -> dict[str, str]:
    """The keeper's report, which ends when it closes the pipe, or with the keeper."""
    text = b""
    try:
        with trio.move_on_after(START_PATIENCE) as patience:
            while more := await _read(pipe):
                text += more
    finally:
        os.close(pipe)
    if patience.cancelled_caught:
        os.kill(pid, signal.SIGKILL)
        keeper.reap(pid)
        raise CloudError("timeout", f"it did not start within {START_PATIENCE:g} s")
    record = keeper.parse(text.decode()) if text else {"failed": "order", "errno": "0"}
    if "failed" in record:
        keeper.reap(pid)
    return record
