"""The runtime `vm`, the part that decides: what `exec` may say of a machine, and the words
with which QEMU runs it.

    exec kernel=FILE [initrd=FILE] [append=TEXT] [disk=FILE]
    exec disk=FILE

QEMU opens no path of this node: its files come as open descriptors (FDS), and it runs as a
user of the object's own, who owns nothing else.  It has no network, no display and no device
but a serial console, a clock, a source of random numbers, its disk, and by virtio-9p the
object's name space.  Its seccomp filter denies it to start programs and to change its user.

Not held off are faults of the kernel that lie within reach of such a process, and what a guest
learns from how long things take.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.node.api import Limits

MIB = 1 << 20
MEMORY = 256 * MIB  # bytes of a machine that has no limit
SPARE = 16 * MIB  # beside its kernel and initrd, at least
OVERHEAD = 256 * MIB  # bytes that QEMU itself may need, beyond the guest's
CONSOLE = "console=ttyS0"
MOST_CPUS = 64
MOST_APPEND = 2047  # bytes of a kernel's command line on x86
CODE = 32  # MiB in which software emulation keeps translated code
WORDS = ("kernel", "initrd", "append", "disk")
TAG = "cloud"  # mount -t 9p -o trans=virtio cloud DIR
FIRST_FD = 3
FDS = ("qmp", "kernel", "initrd", "disk", "base", "incoming")  # in the order of their numbers
_MACHINE = re.compile(r"pc-q35-[0-9]{1,3}\.[0-9]{1,3}")
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(slots=True)
class Wanted:
    """What `exec` says: paths, "" where there is none, and the kernel's command line."""

    kernel: str = ""
    initrd: str = ""
    append: str = ""
    disk: str = ""


def wanted(argv: Sequence[str]) -> Wanted:
    """The machine that the words of `exec` describe.  Raises CloudError("bad")."""
    found: dict[str, str] = {}
    for word in argv:
        name, equals, text = word.partition("=")
        if not equals or name not in WORDS:
            known = " ".join(f"{one}=" for one in WORDS)
            raise CloudError(
                "bad",
                f"exec: {word[:60]!r} says nothing of a virtual machine",
                f"write some of: {known}; or leave out runtime vm",
            )
        if name in found:
            raise CloudError("bad", f"exec: {name}= is there twice")
        if not text:
            raise CloudError("bad", f"exec: {name}= is empty", f"write {name}=… or leave it out")
        found[name] = text
    made = Wanted(**found)
    if not made.kernel and not made.disk:
        raise CloudError(
            "bad", "exec: a virtual machine needs a kernel or a disk", "write: exec kernel=FILE"
        )
    if made.append.startswith('"'):
        raise CloudError(
            "bad", "exec: append= begins with a double quote", "quote it as append='a b'"
        )
    if (made.initrd or made.append) and not made.kernel:
        raise CloudError("bad", "exec: initrd= and append= go with kernel=", "write: kernel=FILE")
    if len(made.append.encode()) > MOST_APPEND or not made.append.isprintable():
        raise CloudError("bad", f"exec: append= takes one line of at most {MOST_APPEND} bytes")
    if made.kernel and not made.append:
        made.append = CONSOLE
    return made


@dataclass(slots=True)
class Shape:
    """A machine as QEMU has it, all of which must be the same where an image of it goes on.

    machine: QEMU's name of it; accel: kvm or tcg; mem in MiB; append, disk (its size in
    bytes, 0 is none), format (of the file at `base`), share: whether it has a name space.
    """

    machine: str
    accel: str
    mem: int
    cpus: int
    kernel: bool
    initrd: bool
    append: str
    disk: int
    format: str
    base: str
    share: bool
    closed: bool = False  # whether its stdin is

    def text(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read_shape(text: str) -> Shape:
    """The shape that an image has, which may be another node's.  CloudError("bad")."""
    try:
        told: dict[str, Any] = json.loads(text[:65536])
        found = Shape(**told)
        kinds = all(
            type(value) is type(getattr(_PLAIN, name)) for name, value in asdict(found).items()
        )
        fine = (
            kinds
            and _MACHINE.fullmatch(found.machine)
            and found.accel in ("kvm", "tcg")
            and 1 <= found.mem <= 1 << 30
            and 1 <= found.cpus <= MOST_CPUS
            and (found.kernel or (found.disk and not found.initrd and not found.append))
            and found.append.isprintable()
            and len(found.append.encode()) <= MOST_APPEND
            and 0 <= found.disk < 1 << 50
            and found.disk % 512 == 0
            and found.format in (("raw", "qcow2") if found.disk else ("",))
            and (found.base.startswith("/") if found.disk else not found.base)
            and "\0" not in found.base
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CloudError("bad", f"the image is of no virtual machine: {error}") from None
    if not fine:
        raise CloudError("bad", "the image is of no virtual machine")
    return found


_PLAIN = Shape("", "", 0, 0, False, False, "", 0, "", "", False)


def memory(limits: Limits) -> int:
    """MiB that the guest gets."""
    return max(1, (limits.mem or MEMORY) // MIB)


def processors(limits: Limits, there: int) -> int:
    """How many it gets, on a machine with so many.  A limit on their time is kept by the
    control group, so that cpu=0.5 is one at half speed."""
    return max(1, min(math.ceil(limits.cpu or 1), there, MOST_CPUS))


def around(limits: Limits) -> Limits:
    """The limits of QEMU's control group."""
    held = None if limits.mem is None else memory(limits) * MIB + OVERHEAD
    return Limits(cpu=limits.cpu, mem=held, time=limits.time)


def check_limits(limits: Limits, mem: int | None = None) -> None:
    """Raise CloudError for limits that a machine cannot have; mem: the MiB that it has if it
    runs."""
    if limits.pids is not None:
        raise CloudError(
            "unsupported",
            "limit pids: what runs in a virtual machine is not counted here",
            "write: limit pids=none",
        )
    if mem is not None and memory(limits) != mem:
        raise CloudError(
            "unsupported",
            "limit mem: a virtual machine gets its memory when it starts",
            "set the limit of one that has ended, then start it again",
        )


def arguments(program: str, id: str, shape: Shape, names: Sequence[str], share: str) -> list[str]:
    """QEMU's command line.  names: the descriptors that it has, of FDS, from FIRST_FD on;
    share: the directory to show, where the shape says that there is one."""
    at = {name: FIRST_FD + number for number, name in enumerate(names)}
    cpu = "host" if shape.accel == "kvm" else "max"
    accel = shape.accel if shape.accel == "kvm" else f"tcg,tb-size={CODE}"
    words = [
        *(program, "-name", id, "-machine", f"{shape.machine},vmport=off", "-accel", accel),
        *("-cpu", cpu, "-smp", str(shape.cpus), "-m", str(shape.mem)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"),
        *("-sandbox", _SANDBOX),
        *("-chardev", "stdio,id=console,mux=off,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={at['qmp']},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-rng-pci"),
    ]
    if shape.kernel:
        words += ["-kernel", f"/proc/self/fd/{at['kernel']}"]
    if shape.initrd:
        words += ["-initrd", f"/proc/self/fd/{at['initrd']}"]
    if shape.append:
        words += ["-append", shape.append]
    if shape.disk:
        words += _disk(at, shape.format)
    if shape.share:
        words += [
            *("-fsdev", f"local,id=share,path={_escaped(share)},security_model=none"),
            *("-device", f"virtio-9p-pci,fsdev=share,mount_tag={TAG}"),
        ]
    if "incoming" in at:
        words += ["-incoming", f"fd:{at['incoming']}"]
    return words


def _disk(at: Mapping[str, int], form: str) -> list[str]:
    """A disk: what is written goes to a file of the object's own, above the one given."""
    opened = {"driver": "file", "locking": "off"}
    below: dict[str, object] = {
        "driver": form,
        "read-only": True,
        "file": {**opened, "filename": "/dev/fdset/1", "read-only": True},
    }
    if form == "qcow2":
        below["backing"] = None
    tree = {
        "driver": "qcow2",
        "node-name": "disk",
        "file": {**opened, "filename": "/dev/fdset/2"},
        "backing": below,
    }
    return [
        *("-add-fd", f"fd={at['base']},set=1", "-add-fd", f"fd={at['disk']},set=2"),
        *("-blockdev", json.dumps(tree), "-device", "virtio-blk-pci,drive=disk"),
    ]


def _escaped(path: str) -> str:
    """A path as the value of one of QEMU's options, in which a comma is doubled."""
    return path.replace(",", ",,")


# --- what files are -------------------------------------------------------------------------

_INITRD = (
    b"070701",
    b"070702",
    b"\x1f\x8b",
    b"\xfd7zXZ",
    b"(\xb5/\xfd",
    b"\x02!L\x18",
    b"BZh",
    b"]\0\0",
)
_QCOW2 = b"QFI\xfb"
_CLUSTER = 16  # bits; QEMU's own choice


def check_kernel(path: str, head: bytes) -> None:
    """Raise CloudError("notexec") where a file that begins so is no kernel."""
    if head[:4] != b"\x7fELF" and head[0x202:0x206] != b"HdrS":
        raise CloudError(
            "notexec", f"{path} is no Linux kernel", "name a vmlinuz or vmlinux of this machine"
        )


def check_initrd(path: str, head: bytes) -> None:
    """The same for its first file system: a cpio archive, packed in any usual way."""
    if not head.startswith(_INITRD):
        raise CloudError("notexec", f"{path} is no initrd", "name a cpio archive, as initrd.gz")


def check_disk(path: str, head: bytes, size: int) -> tuple[str, int]:
    """Format and size in bytes of a disk.  Raises CloudError("bad") for one that is none,
    and for one that names further files, which nobody has checked."""
    if head[:4] == _QCOW2 and len(head) >= 104:
        version, backing = struct.unpack_from(">IQ", head, 4)
        inside, features = *struct.unpack_from(">Q", head, 24), *struct.unpack_from(">Q", head, 72)
        if version not in (2, 3) or backing or (version == 3 and features & 4):
            raise CloudError(
                "bad",
                f"{path} names another file that it stands on",
                f"make it one: qemu-img convert -O qcow2 {path} NEW",
            )
        size, form = inside, "qcow2"
    else:
        form = "raw"
    if not 0 < size < 1 << 50 or size % 512:
        raise CloudError("bad", f"{path} is no image of a disk: it has {size} bytes")
    return form, size


def overlay(size: int) -> bytes:
    """An empty qcow2 file above a disk of so many bytes (QEMU's docs/interop/qcow2.txt): its
    header, then a cluster each for the table of reference counts and its one block, then the
    table of tables."""
    cluster = 1 << _CLUSTER
    entries = math.ceil(size / (cluster * cluster // 8))
    tables = math.ceil(entries * 8 / cluster)
    used = 3 + tables
    if used > cluster // 2:
        raise CloudError("toobig", f"a disk of {size} bytes is too big")
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(_QCOW2, 3, 0, 0, _CLUSTER, size, 0, entries, 3 * cluster, cluster, 1, 0, 0),
        *(0, 0, 0, 4, 104),
    )
    counts = struct.pack(f">{used}H", *[1] * used)
    parts = (header, struct.pack(">Q", 2 * cluster), counts)
    return b"".join(part.ljust(cluster, b"\0") for part in parts) + bytes(tables * cluster)


def check_overlay(head: bytes, size: int) -> None:
    """Raise CloudError("bad") where a file that another node sent is no such overlay."""
    form, found = check_disk("its disk", head, 0) if head[:4] == _QCOW2 else ("", 0)
    if form != "qcow2" or found != size:
        raise CloudError("bad", "the image has no such disk as it says")
