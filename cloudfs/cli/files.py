"""The tree's files, as commands read and write them: through the mount where there is
one, else over the node's socket, or as printed shell lines (-x).

Paths are those under the root: "proc/ID/ctl", ".follow/proc/ID/stdout".
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from cloudfs import config, ndb
from cloudfs.cli import Options
from cloudfs.errors import CloudError, from_errno
from cloudfs.fuse import stale

CHUNK = 1 << 16  # bytes asked for in one read
SYSTEM = Path("/var/lib/cloudfs")  # the state of the node that root runs for everybody
_ID = re.compile(r"[a-z2-7]{16}")
_SAFE = re.compile(r"[\w./,:=+@%$*-]+", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z][\w./,:=+@%-]*( [\w./,:=+@%-]+)*", re.ASCII)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) (.*)")


class Files:
    """What commands call.  root is how a shell line names the root of the tree."""

    root = "/cloud"

    def stream(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The content from offset on, as it comes."""
        raise CloudError("nosys")

    def write(self, path: str, line: str) -> None:
        """Write one line."""
        if "\n" in line:
            raise CloudError("bad", "a line cannot hold a newline", "put the script into a file")
        self.put(path, line.encode(errors="surrogateescape") + b"\n")

    def put(self, path: str, data: bytes) -> None:
        """Write bytes, all of them."""
        raise CloudError("nosys")

    def ask(self, path: str, request: str) -> str:
        """Write a request to a file that answers, and read the answer."""
        raise CloudError("nosys")

    def list(self, path: str) -> list[str]:
        """The names in a directory."""
        raise CloudError("nosys")

    def read(self, path: str) -> str:
        """The content as text."""
        return b"".join(self.stream(path)).decode(errors="replace")

    def clone(self) -> str:
        """A new object's id."""
        return self.read("proc/clone").strip()

    def explain(self, error: CloudError, path: str, since: float) -> CloudError:
        """The error with the reason that the tree keeps in `err`, if there is one."""
        want = _seen(path)
        try:
            reason = last_reason("".join(self.plain("err")), since, want)
        except (CloudError, OSError):
            reason = ""
        if reason:
            return CloudError(error.kind, reason, "", want)
        gone = re.match(r"proc/([a-z2-7]{16})/", path.removeprefix(".follow/"))
        if error.kind == "absent" and gone:
            return CloudError("absent", f"there is no object {gone[1]}", "see: cloudfs ps --all")
        node = re.match(r"nodes/(.+)/ctl$", path, re.DOTALL)
        if error.kind == "absent" and node:
            return CloudError("absent", f"there is no node {node[1][:64]!r}", "see: cloudfs nodes")
        return error

    def plain(self, path: str) -> Iterator[str]:
        """The content as it is, with no reason looked for when that fails."""
        return (chunk.decode(errors="replace") for chunk in self.stream(path))

    def close(self) -> None:
        """End the session."""


def last_reason(text: str, since: float, path: str) -> str:
    """The last sentence of an `err` file, without its path, if it is of that path, or of a
    directory on the way, and not older than since (seconds since 1970)."""
    lines = text.splitlines()
    found = _STAMP.fullmatch(lines[-1]) if lines else None
    if found is None:
        return ""
    when = time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
    about, colon, sentence = found[2].partition(": ")
    of_it = f"{path}/".startswith(f"{_seen(about)}/")
    return sentence if colon and of_it and when >= int(since) else ""


def _seen(path: str) -> str:
    """A path without what no directory lists."""
    return "/" + "/".join(part for part in path.split("/") if part and part[0] != ".")


class Mounted(Files):
    """Plain files under a mount point."""

    def __init__(self, point: str) -> None:
        self.root = point

    def stream(self, path: str, offset: int = 0) -> Iterator[bytes]:
        since = time.time()
        try:
            yield from self._chunks(path, offset)
        except OSError as error:
            raise self.explain(self._error(error, path), path, since) from None

    def plain(self, path: str) -> Iterator[str]:
        return (chunk.decode(errors="replace") for chunk in self._chunks(path, 0))

    def _chunks(self, path: str, offset: int) -> Iterator[bytes]:
        fd = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while data := os.pread(fd, CHUNK, offset):
                yield data
                offset += len(data)
        finally:
            os.close(fd)

    def put(self, path: str, data: bytes) -> None:
        since = time.time()
        try:
            fd = os.open(f"{self.root}/{path}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
        except OSError as error:
            raise self.explain(self._error(error, path), path, since) from None

    def ask(self, path: str, request: str) -> str:
        since = time.time()
        data, said = request.encode(), b""
        try:
            fd = os.open(f"{self.root}/{path}", os.O_RDWR | os.O_CLOEXEC)
            try:
                while data:
                    data = data[os.write(fd, data) :]
                while more := os.pread(fd, CHUNK, len(said)):
                    said += more
            finally:
                os.close(fd)
        except OSError as error:
            raise self.explain(self._error(error, path), path, since) from None
        return said.decode(errors="replace")

    def list(self, path: str) -> list[str]:
        try:
            return os.listdir(f"{self.root}/{path}")
        except OSError as error:
            raise self._error(error, path) from None

    def _error(self, error: OSError, path: str) -> CloudError:
        made = from_errno(error.errno or errno.EIO, path=f"{self.root}/{path}")
        if error.errno == errno.ENOTCONN:
            made.why, made.fix = "the mount's server is gone", "type: cloudfs up"
        return made


class Shell(Files):
    """Prints the shell lines that do the same.  What only looks things up, as finding
    an id from its beginning, is still done by `files`."""

    def __init__(self, files: Files | None, root: str) -> None:
        self.files = files
        self.root = root

    def say(self, line: str) -> None:
        """Print one shell line."""
        click.echo(line)

    def name(self, path: str) -> str:
        """A path as a word of a shell line, in which $id stays what it is."""
        full = f"{self.root}/{path}"
        if _SAFE.fullmatch(full):
            return full
        return '"' + re.sub(r'(["`\\])', r"\\\1", full) + '"'

    def stream(self, path: str, offset: int = 0) -> Iterator[bytes]:
        self.say(f"cat {self.name(path)}")
        return iter(())

    def write(self, path: str, line: str) -> None:
        self.say(f"{echo(line)} > {self.name(path)}")

    def put(self, path: str, data: bytes) -> None:
        self.say(f"cat > {self.name(path)}")

    def ask(self, path: str, request: str) -> str:
        self.say(f"{{ {echo(request.rstrip(chr(10)))} >&3; cat <&3; }} 3<>{self.name(path)}")
        return ""

    def list(self, path: str) -> list[str]:
        return self.files.list(path) if self.files else []

    def clone(self) -> str:
        self.say(f"id=$(cat {self.name('proc/clone')})")
        return "$id"

    def close(self) -> None:
        if self.files:
            self.files.close()


def echo(line: str) -> str:
    """The shell command that prints a line, whatever is in it."""
    if _PLAIN.fullmatch(line):
        return f"echo {line}"
    if not set(line) & set('"$`\\!\n'):
        return f'echo "{line}"'
    return "printf '%s\\n' '" + line.replace("'", "'\\''") + "'"


def mount_point() -> str | None:
    """Where this user's node, or else the machine's, is mounted and answers."""
    given = os.environ.get("CLOUDFS_MOUNT")
    here = {m.directory for m in stale.mounts() if m.ours}
    state = config.state_dir()
    for point in [given] if given else [_told(state), str(config.mount_dir()), _told(SYSTEM)]:
        if point and point in here and stale.state(point) == "live":
            return point
    return None


def _told(state: Path) -> str | None:
    """The mount point that the daemon of a state directory was told on its command line."""
    words = _daemon(state)[1]
    return words[words.index("--mount") + 1] if "--mount" in words[:-1] else None


def daemon_pid(state: Path) -> int | None:
    """The pid of the daemon of that state directory, or None if it does not run."""
    return _daemon(state)[0]


def _daemon(state: Path) -> tuple[int | None, list[str]]:
    try:
        pid = int((state / "pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        dead = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, ValueError):
        return None, []
    # The number may since be another program's.
    return (None, []) if dead or not any("cloudfs" in w for w in words) else (pid, words)


def socket_path() -> Path:
    """The socket of this user's node, else of the machine's."""
    mine = config.socket_path()
    system = config.socket_path(SYSTEM)
    return mine if mine.exists() or "CLOUDFS_STATE" in os.environ or not system.exists() else system


def open_files(options: Options) -> Files:
    """The tree that commands of this user work on."""
    point = mount_point()
    files: Files | None = Mounted(point) if point else None
    if files is None and socket_path().exists():
        from cloudfs.cli.wired import Wired  # imports trio

        try:
            files = Wired(f"unix:{socket_path()}")
        except CloudError:
            if not options.explain:
                raise
    if options.explain:
        return Shell(files, point or str(config.mount_dir()))
    if files is None:
        raise CloudError("unreachable", f"no node answers at {socket_path()}", "type: cloudfs up")
    return files


def find_id(files: Files, given: str) -> str:
    """The id that begins with what is given; raises if none or several do."""
    if _ID.fullmatch(given):
        return given
    if not re.fullmatch(r"[a-z2-7]{1,16}", given):
        raise CloudError("bad", f"{given!r} is no object's id", "see: cloudfs ps --all")
    found = [name for name in ids(files) if name.startswith(given)]
    if not found:
        raise CloudError("absent", f"no object's id begins with {given}", "see: cloudfs ps --all")
    if len(found) > 1:
        raise CloudError(
            "bad", f"{len(found)} objects begin with {given}: {' '.join(found[:4])}", "give more"
        )
    return found[0]


def write_each(files: Files, names: Iterable[str], path: Callable[[str], str], line: str) -> None:
    """Write a line to path(name) for each name; go on after a failure, and fail then."""
    failed = False
    for name in names:
        try:
            files.write(path(name), line)
        except CloudError as error:
            click.echo(f"cloudfs: {error}", err=True)
            failed = True
    if failed:
        raise SystemExit(1)


def ids(files: Files) -> list[str]:
    """The ids of all objects, in the tree's order."""
    return [name for name in files.list("proc") if _ID.fullmatch(name)]


def status(files: Files, id: str) -> dict[str, str]:
    """An object's status record."""
    return ndb.parse(files.read(f"proc/{id}/status"))
