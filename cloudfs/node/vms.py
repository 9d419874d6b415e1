"""The runtime `vm`, the part that does: QEMU found, its files opened and put where it has
them, and whether KVM works (vm.py decides what a machine is, virtual.py talks to one that runs).

In the directory `vm` of an object are

  shape    the machine (vm.Shape)
  kernel, initrd   copies, so that a machine goes on though the originals change
  disk     what was written to its disk, as a qcow2 file above the one that was given
  qmp      the socket of QEMU's monitor
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node import qmp, vm
from cloudfs.node.api import Launch
from cloudfs.node.openas import open_as
from cloudfs.node.uids import BASE
from cloudfs.node.vm import FDS, MIB, Shape

log = logging.getLogger(__name__)

HOME, SHAPE, SOCKET = "vm", "shape", "qmp"
KEPT = ("kernel", "initrd", "disk")  # files of it that go into an image
RAM = "ram"  # what QEMU itself writes of an image
FIX = "as root: apt-get install qemu-system-x86"
PROBE = 5.0  # seconds for KVM to run a few instructions: on some machines it hangs
HEAD = 1024  # bytes that tell what a file is
# A boot sector: mov al, 16; out 0xf4, al; hlt.  By isa-debug-exit QEMU then ends with 33.
_SECTOR = b"\xb0\x10\xe6\xf4\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"
_DONE = 33


class Vms:
    """QEMU as it is found on this machine.  word: "" if it can be used, else why not.

    kvm: what may be said of KVM without trying, for tests.
    """

    def __init__(self, state: Path, kvm: bool | None = None) -> None:
        self._state = state
        self.qemu = shutil.which("qemu-system-x86_64", path=os.environ.get("PATH")) or ""
        self.word = ""
        if platform.machine() != "x86_64":
            self.word = f"runtime vm does not run on {platform.machine()} yet"
        elif not self.qemu:
            self.word = "runtime vm needs qemu-system-x86_64, which is not installed"
        self.fix = FIX if not self.qemu else ""
        self._kvm = kvm
        self._version = ""
        self._one_at_a_time = threading.Lock()  # checks run in threads

    def need(self) -> str:
        """QEMU's path.  Raises CloudError("unsupported") where it cannot be used."""
        if self.word:
            raise CloudError("unsupported", self.word, self.fix)
        return self.qemu

    def machine(self) -> str:
        """The machine that this QEMU makes, with the version that an image then needs."""
        if not self._version:
            said = _said([self.need(), "--version"])
            found = re.search(r"version ([0-9]{1,3}\.[0-9]{1,3})", said)
            if found is None:
                raise CloudError("unsupported", f"{self.qemu} tells no version: {said[:80]!r}", FIX)
            self._version = found[1]
        return f"pc-q35-{self._version}"

    def kvm(self) -> bool:
        """Whether KVM works, which is tried out once."""
        with self._one_at_a_time:
            if self._kvm is None:
                self._kvm = runs_by_kvm(self.need())
                log.info("virtual machines run by %s", "KVM" if self._kvm else "emulation")
            return self._kvm

    # --- before the start -------------------------------------------------------------

    def check(self, launch: Launch) -> None:
        """Raise CloudError if such a machine cannot be here.  Blocks."""
        self.need()
        vm.check_limits(launch.limits)
        _Files(launch).close()

    def prepare(
        self, launch: Launch, uid: int | None, image: Path | None, incoming: int = -1
    ) -> tuple[list[tuple[str, object]], list[int]]:
        """Put its files in place; what the keeper is to run, and descriptors to pass, which
        the caller closes.  uid: who QEMU is to be, None for who we are.  incoming: where its
        memory will come, which is not in the image then; this closes it.  Blocks."""
        self.need()
        vm.check_limits(launch.limits)
        home = launch.dir / HOME
        home.mkdir(mode=0o700, exist_ok=True)
        fds: dict[str, int] = {"incoming": incoming} if incoming >= 0 else {}
        try:
            if image is None:
                shape = self._fresh(launch, home, fds)
            else:
                shape = self._again(launch, home, image, fds)
            (home / SHAPE).write_text(shape.text())
            for name in ("kernel", "initrd"):
                if getattr(shape, name):
                    if uid is not None:
                        os.chown(home / name, uid, uid)
                    fds[name] = os.open(home / name, os.O_RDONLY | os.O_CLOEXEC)
            if shape.disk:
                fds["disk"] = os.open(home / "disk", os.O_RDWR | os.O_CLOEXEC)
            fds["qmp"] = qmp.listen(home, SOCKET).detach()
        except BaseException:
            _close(fds.values())
            raise
        names = [name for name in FDS if name in fds]
        words = vm.arguments(self.qemu, launch.id, shape, names, launch.cloud)
        if incoming >= 0:
            words.append("-S")
        order: list[tuple[str, object]] = [
            ("program", self.qemu),
            *(("arg", word) for word in words),
            ("env", f"PATH={os.defpath}"),
            ("cwd", "/"),
            ("passed", len(names)),
        ]
        if uid is not None:
            order.append(("user", uid))
            group = _kvm_group()
            if shape.accel == "kvm" and group is not None:
                order.append(("group", group))
        return order, [fds[name] for name in names]

    def _fresh(self, launch: Launch, home: Path, fds: dict[str, int]) -> Shape:
        """A machine that starts; the disk of an earlier run stays."""
        files = _Files(launch)
        try:
            for name in ("kernel", "initrd"):
                if name in files.fds:
                    copy(files.fds[name], home / name)
            disk = home / "disk"
            if files.disk and not (disk.exists() and _fits(disk, files.disk)):
                disk.write_bytes(vm.overlay(files.disk))
                disk.chmod(0o600)
            if files.disk:
                fds["base"] = files.fds.pop("base")
        finally:
            files.close()
        told = files.told
        return Shape(
            machine=self.machine(),
            accel="kvm" if self.kvm() else "tcg",
            mem=vm.memory(launch.limits),
            cpus=vm.processors(launch.limits, os.cpu_count() or 1),
            kernel=bool(told.kernel),
            initrd=bool(told.initrd),
            append=told.append,
            disk=files.disk,
            format=files.format,
            base=_whole(launch, told.disk) if told.disk else "",
            share=bool(launch.cloud),
        )

    def _again(self, launch: Launch, home: Path, image: Path, fds: dict[str, int]) -> Shape:
        """A machine that goes on."""
        shape = read(image / SHAPE)
        self.check_image(launch, shape)
        for name in KEPT:
            (home / name).unlink(missing_ok=True)
            if getattr(shape, name):
                fd = os.open(image / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    copy(fd, home / name)
                finally:
                    os.close(fd)
        if shape.disk:
            (home / "disk").chmod(0o600)
            with (home / "disk").open("rb") as file:
                vm.check_overlay(file.read(HEAD), shape.disk)
            (fds["base"],) = open_as(launch.user, [shape.base])
            found = vm.check_disk(shape.base, *_head(fds["base"]))
            if found != (shape.format, shape.disk):
                raise CloudError(
                    "bad",
                    f"{shape.base} is not the disk here that it is where the image was made",
                    "copy it to the same path on this node",
                )
        if "incoming" not in fds:
            fds["incoming"] = os.open(image / RAM, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return shape

    def check_image(self, launch: Launch, shape: Shape) -> None:
        """Raise CloudError where a machine of that shape cannot go on here."""
        if shape.machine != self.machine():
            raise CloudError(
                "unsupported",
                f"the image is of QEMU's {shape.machine}, and this node has {self.machine()}",
                "have the same version of QEMU on both nodes",
            )
        if shape.accel == "kvm" and not self.kvm():
            raise CloudError(
                "unsupported", "the image is of a machine on KVM, which works not here"
            )
        if shape.mem != vm.memory(launch.limits):
            raise CloudError(
                "bad",
                f"the image is of a machine with {shape.mem * MIB} bytes of memory",
                f"write: limit mem={shape.mem * MIB}",
            )
        if shape.share and not launch.cloud:
            raise CloudError(
                "unsupported", "the machine has a name space, and none is mounted here"
            )


def read(path: Path) -> Shape:
    """The shape that a file has.  Raises CloudError("bad")."""
    try:
        with path.open() as file:
            return vm.read_shape(file.read(65537))
    except (OSError, UnicodeDecodeError):
        raise CloudError("bad", "the image is of no virtual machine") from None


class _Files:
    """The files that `exec` names, opened as the object's user and looked at.

    fds: by "kernel", "initrd" and "base"; disk: its size in bytes, format: its.
    """

    def __init__(self, launch: Launch) -> None:
        told = self.told = vm.wanted(launch.argv)
        pairs = (("kernel", told.kernel), ("initrd", told.initrd), ("base", told.disk))
        paths = {name: _whole(launch, path) for name, path in pairs if path}
        self.fds = dict(zip(paths, open_as(launch.user, [*paths.values()]), strict=True))
        self.disk, self.format = 0, ""
        try:
            if told.kernel:
                vm.check_kernel(told.kernel, _head(self.fds["kernel"])[0])
            if told.initrd:
                vm.check_initrd(told.initrd, _head(self.fds["initrd"])[0])
            if told.disk:
                self.format, self.disk = vm.check_disk(told.disk, *_head(self.fds["base"]))
            sizes = [os.fstat(fd).st_size for name, fd in self.fds.items() if name != "base"]
            least = sum(sizes) + vm.SPARE
            if vm.memory(launch.limits) * MIB < least:
                raise CloudError(
                    "bad",
                    f"{vm.memory(launch.limits) * MIB} bytes of memory are too little for its"
                    " kernel and initrd",
                    f"write: limit mem={-(-least // MIB) * MIB} or more",
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        _close(self.fds.values())


def _whole(launch: Launch, path: str) -> str:
    return os.path.normpath(os.path.join(launch.cwd or "/", path))


def _head(fd: int) -> tuple[bytes, int]:
    """How a file begins, and its size."""
    return os.pread(fd, HEAD, 0), os.fstat(fd).st_size


def _fits(path: Path, size: int) -> bool:
    """Whether a disk that an earlier run has left is above one of that size."""
    with path.open("rb") as file:
        try:
            vm.check_overlay(file.read(HEAD), size)
        except CloudError:
            return False
    return True


def copy(source: int, to: Path) -> None:
    """Copy a file, holes left as such, to one that only its owner may read."""
    to.unlink(missing_ok=True)
    size = os.fstat(source).st_size
    fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        os.truncate(fd, size)
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(source, at, os.SEEK_HOLE)
            os.lseek(fd, at, os.SEEK_SET)
            while at < end:
                done = os.sendfile(fd, source, at, min(end - at, 1 << 30))
                if not done:
                    raise CloudError("io", f"{to.name} became shorter while it was read", "again")
                at += done
    finally:
        os.close(fd)


def _close(fds: object) -> None:
    for fd in list(fds):  # type: ignore[call-overload]
        os.close(fd)


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout + done.stderr).strip()


# --- KVM ------------------------------------------------------------------------------------


def _kvm_group() -> int | None:
    """The group that may use /dev/kvm, where that is what it takes."""
    try:
        found = os.stat("/dev/kvm")
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    return found.st_gid if mode & 0o060 == 0o060 and mode & 0o006 != 0o006 else None


def runs_by_kvm(qemu: str, device: str = "/dev/kvm", seconds: float = PROBE) -> bool:
    """Whether a machine of a few instructions ends by KVM as it should.  Run as QEMU is to
    be: as a user without rights.  Blocks."""
    if not os.path.exists(device):
        return False
    root = os.geteuid() == 0
    group = _kvm_group()
    with tempfile.TemporaryDirectory(prefix="kvm-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103
        sector = Path(folder) / "sector"
        sector.write_bytes(_SECTOR)
        command = [
            *(qemu, "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "32"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
            *("-drive", f"file={sector},format=raw,if=none,id=d,readonly=on"),
            *("-device", "virtio-blk-pci,drive=d"),
        ]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=BASE if root else None,
            group=BASE if root else None,
            extra_groups=([] if group is None else [group]) if root else None,
        )
        try:
            return child.wait(seconds) == _DONE
        except subprocess.TimeoutExpired:
            return False
        finally:
            child.kill()
            try:
                child.wait(PROBE)
            except subprocess.TimeoutExpired:
                log.warning("a QEMU that tried KVM out cannot be killed: pid %d", child.pid)
