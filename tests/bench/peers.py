"""The servers of one run: ours, and those it is measured against.

Each context manager starts one, waits until it answers and ends it with the block.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import PATIENCE, Bench, Skip, await_mount, await_socket, started
from tests.bench.nine import Nine

STATUS_PATH = "proc/abcdefghijklmnop/status"
BIG = 64 << 20  # bytes of the large file that is read in sequence
STATUS = (
    b"id=abcdefghijklmnop state=running node=here user=root app= runtime=process pid=1234"
    b" started=1700000000.0 cpu=0.00 mem=1048576 exit= why=\n"
)
MANY = 10_000  # entries of the directory that is listed


@dataclass(slots=True)
class Peer:
    """A running server.  The rest are paths in the tree it serves: plain and small are
    short files, in its root and two directories down; big is long; many is a directory."""

    name: str
    address: str
    pid: int
    plain: str
    small: str
    big: str = ""
    many: str = ""
    options: Sequence[str] = ()


def export(folder: Path, many: int = MANY, big: int = BIG) -> Path:
    """A directory with the same names and sizes as what ours serves."""
    status = folder / STATUS_PATH
    status.parent.mkdir(parents=True)
    status.write_bytes(STATUS)
    (folder / "version").write_text("cloudfs 0.1.0\n")
    for number in range(many - 1):
        (folder / "proc" / f"object{number:010}").mkdir()
    with (folder / "stdout").open("wb") as file:
        for _ in range(big >> 20):
            file.write(bytes(1 << 20))
    return folder


@contextmanager
def diod(bench: Bench, folder: Path) -> Iterator[Peer]:
    program = shutil.which("diod") or shutil.which("diod", path="/usr/sbin:/sbin")
    if program is None:
        raise Skip("diod is not installed; type: apt-get install diod")
    sock, log = bench.folder / "diod.sock", bench.folder / "diod.log"
    command = [program, "-f", "-n", "-N", "-L", "stderr", "-e", str(folder), "-l", str(sock)]
    with started(command, log) as process:
        await_socket(sock, log, process)
        yield Peer(
            "diod",
            str(sock),
            process.pid,
            "version",
            STATUS_PATH,
            "stdout",
            "proc",
            ("-a", str(folder)),
        )


@contextmanager
def py9p(bench: Bench, folder: Path) -> Iterator[Peer]:
    sock, log = bench.folder / "py9p.sock", bench.folder / "py9p.log"
    command = [sys.executable, "-m", "tests.bench.py9pserver", str(sock), str(folder)]
    with started(command, log) as process:
        await_socket(sock, log, process)
        yield Peer("py9p", str(sock), process.pid, "version", STATUS_PATH, "", "proc")


@contextmanager
def cserver(bench: Bench, folder: Path) -> Iterator[Peer]:
    sock, log = bench.folder / "c.sock", bench.folder / "c.log"
    program = bench.build("cserver")
    with started([program, sock, folder / "stdout"], log) as process:
        await_socket(sock, log, process)
        yield Peer("C server", str(sock), process.pid, "version", STATUS_PATH, "stdout")


@dataclass(slots=True)
class Cloud:
    """A daemon of ours and where it is mounted, if it is."""

    address: str
    pid: int
    mount: Path | None = None

    def run(self, *words: str) -> str:
        """Start an object of the runtime `process`; its id."""
        with Nine(self.address) as client:
            made = client.read_once("proc/clone").decode().strip()
            lines = ["runtime process", "exec " + " ".join(map(_quoted, words))]
            client.write(f"proc/{made}/ctl", "\n".join(lines).encode() + b"\n")
            return made

    def state(self, made: str) -> str:
        with Nine(self.address) as client:
            status = client.read(f"proc/{made}/status").decode()
        return next(pair[6:] for pair in status.split() if pair.startswith("state="))

    def await_state(self, made: str, state: str) -> None:
        end = time.monotonic() + PATIENCE
        while self.state(made) != state:
            if time.monotonic() > end:
                raise RuntimeError(f"object {made} is {self.state(made)}, not {state}")
            time.sleep(0.05)

    def wipe(self, *ids: str) -> None:
        """End objects and forget them."""
        with Nine(self.address) as client:
            for made in ids:
                for verb in (b"kill\n", b"wipe\n"):
                    try:
                        client.write(f"proc/{made}/ctl", verb)
                    except OSError:
                        client.clunk()


def _quoted(word: str) -> str:
    plain = word and not set(word) & set(" \t\n'")
    return word if plain else "'" + word.replace("'", "''") + "'"


@contextmanager
def cloud(bench: Bench, mounted: bool = False) -> Iterator[Cloud]:
    """Our daemon with a state directory of its own, mounted in the bench's folder or not."""
    state, log = bench.folder / "state", bench.folder / "cloud.log"
    mount = bench.folder / "cloud"
    mount.mkdir(exist_ok=True)
    env = {
        "CLOUDFS_STATE": str(state),
        "CLOUDFS_MOUNT": str(mount),
        "CLOUDFS_MAX_OBJECTS": str(20 * MANY),
    }
    command = [sys.executable, "-m", "cloudfs.daemon"]
    with started(command if mounted else [*command, "--no-mount"], log, env) as process:
        await_socket(state / "sock", log, process)
        if mounted:
            await_mount(mount, log, process)
        yield Cloud(str(state / "sock"), process.pid, mount if mounted else None)
