"""A small Linux for objects of runtime vm, made of Debian's own packages.

    python -m cloudfs.cli.vmimage DIR

writes DIR/vmlinuz and DIR/initrd.gz: Debian's or Ubuntu's kernel for this machine with the
drivers of virtio and 9P, and busybox; and DIR/vmlinux, the same kernel unpacked, which is up in
half the time where there is no KVM.  The packages come from the machine's own sources, by
`apt-get download`, whose signatures apt checks; nothing is installed.  It needs apt-get, dpkg
and a network, no rights.

What it boots reads the console as a script, line by line, without echo, and powers off at its
end; the power button does that too.  `share` mounts the object's name space at /cloud.
"""

from __future__ import annotations

import gzip
import lzma
import os
import platform
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zstandard

from cloudfs.errors import CloudError

# The kernel's package, which only depends on the one that has it.  Debian's kernel for
# clouds boots a little faster, and has no 9P.
KERNELS = ("linux-image-amd64", "linux-image-virtual")
MODULES = ("9p", "9pnet_virtio", "virtio_pci", "virtio_blk", "virtio-rng", "button", "evdev")
DOWNLOAD = 600.0  # seconds
RELEASE = re.compile(r"(?:linux-image|linux-modules)-(?:unsigned-)?[0-9]\S*")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp /cloud /etc/acpi/PWRF /var/run /var/log
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in $(cat /modules/order); do
	insmod /modules/$module 2>/dev/null
done
printf '#!/bin/sh\\npoweroff -f\\n' >/etc/acpi/PWRF/00000080
options=trans=virtio,version=9p2000.L,msize=131072
echo "exec mount -t 9p -o $options cloud /cloud" >/bin/share
chmod 755 /etc/acpi/PWRF/00000080 /bin/share
acpid
exec </dev/console >/dev/console 2>&1
stty -echo -onlcr
cd /tmp
echo ready
setsid sh /dev/console
sync
poweroff -f
"""


# --- the archive of the kernel's first file system -----------------------------------------


def entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """A file of a cpio archive in the form "newc" (the kernel's initramfs buffer format)."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + path
    return _whole(head) + _whole(data)


def _whole(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def archive(files: Sequence[tuple[str, int, bytes]]) -> bytes:
    """The whole archive of files (name, mode, data), with their directories and a console."""
    folders = dict.fromkeys(str(up) for name, _, _ in files for up in _above(name))
    parts = [entry(name, stat.S_IFDIR | 0o755) for name in (*folders, "dev")]
    parts.append(entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    parts += [entry(name, stat.S_IFREG | mode, data) for name, mode, data in files]
    return b"".join((*parts, entry("TRAILER!!!", 0)))


def _above(name: str) -> Iterator[Path]:
    yield from [up for up in reversed(Path(name).parents) if up != Path(".")]


# --- modules --------------------------------------------------------------------------------


def depends(module: bytes) -> list[str]:
    """The names of the modules that one needs, as its own .modinfo tells."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return found[1].decode().split(",") if found and found[1] else []


def in_order(wanted: Sequence[str], read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """Modules by name, each after those that it needs.  read: a module's bytes, None where
    the kernel has it built in."""
    found: dict[str, bytes] = {}

    def take(name: str, below: tuple[str, ...] = ()) -> None:
        data = None if name in found or name in below else read(name)
        if data is not None:
            for other in depends(data):
                take(other, (*below, name))
            found[name] = data

    for name in wanted:
        take(name)
    return found


def _reader(tree: Path) -> Callable[[str], bytes | None]:
    places = {}
    for path in tree.rglob("*.ko*"):
        places[path.name.split(".")[0].replace("-", "_")] = path

    def read(name: str) -> bytes | None:
        path = places.get(name.replace("-", "_"))
        if path is None:
            return None
        if path.suffix == ".ko":
            return path.read_bytes()
        tool = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}.get(path.suffix, "")
        if not shutil.which(tool):
            raise CloudError("unsupported", f"no {tool} for {path.name}", f"apt install {tool}")
        return subprocess.run([tool, "-dc", path], capture_output=True, check=True).stdout

    return read


def unpacked(bzimage: bytes) -> bytes | None:
    """The ELF file in a packed kernel, as its header tells where that is (Linux's
    Documentation/x86/boot.rst); None for a packing that Python cannot undo."""
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    payload = bzimage[(sectors + 1) * 512 + offset :][:length]
    try:
        if payload[:4] == b"\xfd7zX":
            found = lzma.LZMADecompressor().decompress(payload)
        elif payload[:4] == b"(\xb5/\xfd":
            found = zstandard.ZstdDecompressor().decompressobj().decompress(payload)
        else:
            return None
    except (lzma.LZMAError, zstandard.ZstdError):
        return None
    return found if found[:4] == b"\x7fELF" else None


# --- packages -------------------------------------------------------------------------------


def _run(words: Sequence[str | Path], folder: Path) -> str:
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=DOWNLOAD,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise CloudError("unsupported", f"no {words[0]} here", "make it on a Debian") from None
    except subprocess.TimeoutExpired:
        raise CloudError("timeout", f"{words[0]} took over {DOWNLOAD:g} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise CloudError(
            "absent",
            f"{words[0]} {words[1]}: {(said or done.stderr.splitlines() or ['failed'])[0]}",
            "as root: apt-get update",
        )
    return done.stdout


def _kernel_packages(folder: Path) -> list[str]:
    """The packages that have the newest kernel and its modules."""
    for name in KERNELS:
        text = _run(["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests",
                     "--no-conflicts", "--no-breaks", "--no-replaces", name], folder)  # fmt: skip
        found = dict.fromkeys(RELEASE.findall(text))
        if found:
            return list(found)
    raise CloudError("absent", f"none of {', '.join(KERNELS)} is known to apt", "apt-get update")


def build(target: Path, say: Callable[[str], None] = print) -> None:
    """Write target/vmlinuz and target/initrd.gz.  Raises CloudError."""
    if platform.machine() != "x86_64":
        raise CloudError("unsupported", f"there is no image for {platform.machine()} yet")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vmimage-") as name:
        work = Path(name)
        packages = [*_kernel_packages(work), "busybox-static"]
        say(f"downloading {' '.join(packages)}")
        _run(["apt-get", "download", *packages], work)
        for package in work.glob("*.deb"):
            _run(["dpkg", "-x", package, work / "tree"], work)
        kernels = sorted((work / "tree/boot").glob("vmlinuz-*"))
        busybox = next((one for one in (work / "tree").glob("**/bin/busybox")), None)
        if not kernels or busybox is None:
            raise CloudError("absent", "these packages have no kernel or no busybox in them")
        modules = in_order(MODULES, _reader(work / "tree"))
        order = "".join(f"{name}.ko\n" for name in modules).encode()
        packed = archive(
            [
                ("init", 0o755, INIT.encode()),
                ("bin/busybox", 0o755, busybox.read_bytes()),
                ("modules/order", 0o644, order),
                *((f"modules/{name}.ko", 0o644, data) for name, data in modules.items()),
            ]
        )
        (target / "initrd.gz").write_bytes(gzip.compress(packed, 6, mtime=0))
        shutil.copyfile(kernels[-1], target / "vmlinuz")
    made = ["vmlinuz", "initrd.gz"]
    plain = unpacked((target / "vmlinuz").read_bytes())
    if plain is not None:
        (target / "vmlinux").write_bytes(plain)
        made.append("vmlinux")
    say(f"made in {target}: {' '.join(made)}")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        build(Path(sys.argv[1]))
    except CloudError as error:
        print(f"vmimage: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
