"""Dumping an object's processes with criu, and what criu is told to make them again.

An image is a directory: criu's own files, and beside them

  stdio.json   how its stdio stood, and what criu has to be told at the restore
  stdin        what was written to its stdin and not yet read
  work.tar     the directories /work and /tmp of a sandbox
  again        if criu was called twice to make it, nothing

The dump leaves all processes frozen, by the object's control group, in the very state
that the image has: criu holds them while it dumps, and its last hook freezes the group
before it lets them go.  So whoever asked decides later whether they go on or end, and
if that one dies meanwhile they wait.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloudfs.errors import CloudError

MACHINE = "/var/lib/cloudfs"  # the state of the node that root runs for everybody
LONGEST = 120.0  # seconds for a dump or a restore
SEIZE = 5  # seconds for criu to get hold of every process
TRIES = 2  # a process may be in a state for a moment in which it cannot be held
STILL = 2.0  # seconds for a group to be frozen
GHOST = 1 << 30  # bytes of a deleted file that is still open
FIX = "as root: cloudfs doctor --get-criu"
HOOK = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ] || echo "$CLOUDFS_FREEZE" >"$CLOUDFS_GROUP"
"""
COMMON = (
    *("-v2", "--file-locks", "--tcp-close", "--skip-in-flight", "--network-lock", "skip"),
    *("--manage-cgroups=ignore", "--ghost-limit", str(GHOST)),
)
DEVICES = ("null", "random", "full", "tty", "zero", "urandom")  # that runc binds
STDIO = "stdio.json"
AGAIN = "again"  # a file of an image whose dump was begun anew: see kernel/pieces.py
FIRST_FD = 10  # where the keeper has the new pipes for criu (keeper_box.c)

# Of open files that have no name, those that criu knows not how to make again.
HOPELESS = ("io_uring", "userfaultfd", "perf_event", "bpf", "kvm", "fanotify", "landlock")

# What criu says of objects that it cannot dump, and what that means.
REASONS = (
    (r"Connected TCP socket|inet: Connected", "it has an established TCP connection"),
    (r"Can't lookup mount|doesn't have a proper root mount", "it mounted something"),
    (r"unix: .*external socket|External socket is used|unix: Dangling connection",
     "it talks over a unix socket to a process outside"),
    (r"tun: ", "it has a network tunnel of this node"),
    (r"in-flight|[Aa]ccept queue", "a TCP connection to it is not accepted yet"),
    (r"is in use by|tty: Found (?:dangling|slave)", "it uses a terminal of this node"),
    (r"Unsupported (?:socket|proto)|unsupported socket", "it has a socket of a kind that cannot"
     " be dumped"),
    (r"bpf|perf_event|userfaultfd|kvm", "it uses a device or kernel object that cannot be dumped"),
    (r"[Aa]non_?inode|unsupported file|Can't dump file", "it has a file open that cannot be"
     " dumped"),
    (r"A session leader", "a process of it is of a session outside"),
    (r"No space left", "there is no space for its image"),
    (r"Can't open file (\S+) on restore: No such", "its file /{} is not there"),
    (r"[Ff]ile (\S+) has bad", "its file /{} is another one there"),
    (r"Unable to open dev/ptmx", "its terminal is taken there"),
)  # fmt: skip


def program(state: Path) -> str | None:
    """The criu to use: $CLOUDFS_CRIU, else the fetched one, this node's or that of root's
    node on this machine, else the system's, else None."""
    fetched = [f"{one}/criu/criu" for one in (state, MACHINE)]
    for named in (os.environ.get("CLOUDFS_CRIU", ""), *fetched):
        if named and os.access(named, os.X_OK):
            return named
    return shutil.which("criu", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def first_error(text: str) -> str:
    """The error in a log of criu's that caused the others; "" if there is none."""
    # Of its errors the first is the cause, but for those that it goes on after.
    harmless = re.compile("rlimit|exited, status|tables|cgroupd")
    errors = re.findall(r"Error \(\S+\): (.*)", text)
    return next((error for error in errors if not harmless.search(error)), "")


def reason(error: str) -> str:
    """What criu's error means, for whoever asked for the dump."""
    for pattern, meaning in REASONS:
        if match := re.search(pattern, error):
            return f"{meaning.format(*match.groups())} (criu: {error.strip()[:160]})"
    return f"criu: {error.strip()[:200] or 'gave no reason'}"


@dataclass(slots=True)
class Stdio:
    """How an object stood when it was dumped.

    pipes: inodes of stdin, stdout and stderr; stdin: whether it was open; stdout, stderr:
    sizes in bytes; pids: as the object itself sees them; uids: the first of a sandbox's.
    """

    runtime: str
    pipes: list[int]
    stdin: bool
    stdout: int
    stderr: int
    pids: list[int]
    uids: int

    def save(self, images: Path) -> None:
        (images / STDIO).write_text(json.dumps(asdict(self)))
        # As runc wants it; its own view may be of what the program has put there since.
        pipes = [f"pipe:[{pipe}]" for pipe in self.pipes]
        (images / "descriptors.json").write_text(json.dumps(pipes))


def load(images: Path) -> Stdio:
    """Of an image that another node may have made; CloudError("bad") if it is none."""
    try:
        told: Any = json.loads((images / STDIO).read_text()[:65536])
        found = Stdio(**told)
        whole = [*found.pipes, found.stdout, found.stderr, *found.pids, found.uids]
        fits = len(found.pipes) == 3 and isinstance(found.stdin, bool)
        if not fits or not all(type(n) is int and 0 <= n < 1 << 62 for n in whole):
            raise ValueError("numbers")
        if found.runtime not in ("process", "sandbox"):
            raise ValueError("runtime")
    except (OSError, ValueError, TypeError) as error:
        raise CloudError("bad", f"the image is not whole: {error}") from None
    return found


class Criu:
    """criu as it is found under a state directory."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._hook = state / "bin" / "freeze"

    def need(self) -> str:
        """Its path.  Raises CloudError("unsupported") where there is none to use."""
        if os.geteuid() != 0:
            raise CloudError("unsupported", "checkpoints need the daemon to run as root")
        found = program(self._state)
        if found is None:
            raise CloudError("unsupported", "this node has no criu, so no checkpoints", FIX)
        return found

    def environment(self) -> dict[str, str]:
        """For runc, which finds criu by it, and the settings for criu, CRIU_CONFIG."""
        settings = self._state / "sandbox" / "criu.conf"
        # Groups are those of this node, in which runc has put criu; the image has others.
        options = ["network-lock skip", "tcp-close", "skip-in-flight", "file-locks"]
        options.append("manage-cgroups=ignore")
        options.append(f"ghost-limit {GHOST}")
        _have(settings, "".join(f"{line}\n" for line in options), 0o644)
        path = f"{os.path.dirname(self.need())}:{os.environ.get('PATH', '')}"
        return {
            "CRIU_CONFIG": str(settings),
            "PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def dump(
        self,
        pid: int,
        images: Path,
        group: tuple[int, str],
        options: Sequence[str] = (),
        within: int = 0,
    ) -> None:
        """Write an image of the tree below pid, and leave it frozen.  Blocks.

        group: version and directory of its freezer; within: a process in whose pid and
        mount name spaces to do that.  Raises CloudError, and the tree runs on.
        """
        criu = self.need()
        version, place = group
        if not version:
            raise CloudError("unsupported", "checkpoints need control groups on this node")
        _have(self._hook, HOOK, 0o755)
        file, word = (f"{place}/cgroup.freeze", "1") if version == 2 else (
            f"{place}/freezer.state", "FROZEN")  # fmt: skip
        command = [
            *(["nsenter", "--target", str(within), "--pid", "--mount"] if within else []),
            *(criu, "dump", "--tree", str(pid), "--images-dir", str(images)),
            *("--log-file", "dump.log", "--leave-running", "--timeout", str(SEIZE)),
            *("--action-script", str(self._hook), *COMMON, *options),
        ]
        env = {**os.environ, "CLOUDFS_GROUP": file, "CLOUDFS_FREEZE": word}
        for attempt in range(TRIES):
            if attempt:
                (images / AGAIN).touch()
            if _run(command, env, images / "dump.lock") == 0:
                await_still(version, place)
                return
            error = first_error(_text(images / "dump.log"))
            if attempt + 1 == TRIES or not re.search("state D|[Ss]eize", error):
                raise CloudError("unsupported", f"it cannot be dumped: {reason(error)}")

    def restore_command(self, images: Path, stdio: Stdio) -> list[str]:
        """What restores an image in a box of the keeper's."""
        inherits = [
            word
            for number, pipe in enumerate(stdio.pipes)
            for word in ("--inherit-fd", f"fd[{FIRST_FD + number}]:pipe:[{pipe}]")
        ]
        return [
            *(self.need(), "restore", "--images-dir", str(images), "--log-file", "restore.log"),
            *("--restore-detached", "--restore-sibling", *COMMON, *inherits),
        ]


def working(images: Path) -> bool:
    """Whether a criu still works on this image, be its daemon alive or not."""
    try:
        fd = os.open(images / "dump.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _run(command: list[str], env: Mapping[str, str], lock: Path) -> int:
    """Run criu with a lock held for as long as it lives; its exit code."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
            check=False,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return -1
    except OSError as error:
        raise CloudError("unsupported", f"criu cannot be run: {error.strerror}", FIX) from None
    finally:
        os.close(fd)
    return done.returncode


def await_still(version: int, place: str) -> None:
    """Wait until all processes of a freezer's directory are frozen.  Raises CloudError."""
    name, word = ("cgroup.events", "frozen 1") if version == 2 else ("freezer.state", "FROZEN")
    end = time.monotonic() + STILL
    while word not in _text(Path(place, name)):
        if time.monotonic() > end:
            raise CloudError("io", "its processes do not keep still")
        time.sleep(0.001)


def _have(path: Path, text: str, mode: int) -> None:
    """See that a file holds a text, whole at any time: others may be about to use it."""
    if _text(path) == text and path.stat().st_mode & 0o777 == mode:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, new = tempfile.mkstemp(dir=path.parent)
    try:
        with open(fd, "w") as file:
            os.fchmod(fd, mode)
            file.write(text)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def check_files(pids: Sequence[int]) -> None:
    """Raise CloudError for open files of which criu would not say what they are."""
    for pid in pids:
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                kinds = {os.readlink(entry.path) for entry in entries}
        except OSError:
            continue  # it has ended, or a file was closed meanwhile
        for kind in kinds:
            if kind.startswith("anon_inode:") and any(word in kind for word in HOPELESS):
                what = kind.removeprefix("anon_inode:").strip("[]")
                raise CloudError("unsupported", f"it cannot be dumped: process {pid} uses {what}")


def space_pids(pids: Sequence[int]) -> list[int]:
    """The pids of these processes as they see them themselves."""
    found = []
    for pid in pids:
        match = re.search(r"(?m)^NSpid:.*?(\d+)$", _text(Path(f"/proc/{pid}/status")))
        if match:
            found.append(int(match[1]))
    return found


def free_pid(pids: Sequence[int]) -> int:
    """After which pid criu may take its own, far from those that it is to give."""
    top = int(_text(Path("/proc/sys/kernel/pid_max")) or 32768)
    taken = sorted({300, top - 64, *pids})
    gaps = [(b - a, b) for a, b in itertools.pairwise(taken)]
    size, end = max(gaps)
    return end - size // 2


def externals(config: Mapping[str, Any], root: str) -> list[str]:
    """Options for the mounts of a bundle that are not its own.  root: a path to what its
    first process has at /."""
    pairs = [(m["destination"], m["destination"]) for m in config["mounts"] if m["type"] == "bind"]
    pairs += [(f"/dev/{name}", f"/dev/{name}") for name in DEVICES]
    masked = config["linux"]["maskedPaths"]
    pairs += [(at, "/dev/null") for at in masked if os.path.exists(root + at)
              and not os.path.isdir(root + at)]  # fmt: skip
    return [word for at, to in pairs for word in ("--external", f"mnt[{at}]:{to}")]


# --- stdin ------------------------------------------------------------------------------

_tee = ctypes.CDLL(None, use_errno=True).tee


def pipe_holds(fd: int) -> int:
    """How many bytes a pipe holds."""
    held: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    return held


def copy_pipe(fd: int) -> bytes:
    """What a pipe holds; it stays there.  fd: a read end."""
    size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    there = pipe_holds(fd)
    if not there:
        return b""
    mine, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, size)
        count = _tee(fd, theirs, there, 2)  # SPLICE_F_NONBLOCK
        if count != there:
            raise CloudError("io", "its stdin cannot be read")
        data = b""
        while len(data) < there:
            data += os.read(mine, there - len(data))
        return data
    finally:
        os.close(mine)
        os.close(theirs)
