"""Build the keeper (keeper.c), launch it for an object, and read what it wrote.

One keeper stays with each object; in C, because a Python interpreter for each of a
thousand objects would take 8 GB.  A keeper holds a flock on its object's directory
for as long as it lives, so "is there a keeper" never depends on a pid.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.api import Exit
from cloudfs.node.compiled import compiled

SOURCES = [
    Path(__file__).with_name(f"{name}.c")
    for name in ("keeper", "keeper_out", "keeper_proc", "keeper_box")
]
HIGH = 64  # above the descriptors that any program is passed
ORDER_MAX = 4 << 20  # bytes of arguments and environment


def build(state: Path) -> str:
    """The path of the keeper's binary in state/bin, compiled there at first use.

    Raises CloudError("unsupported") where there is no C compiler.
    """
    return compiled(state, "keeper", SOURCES)


def order(pairs: Iterable[tuple[str, object]]) -> bytes:
    """What to do, as the keeper reads it.  Raises CloudError for what no program can
    be given: a NUL, or more than ORDER_MAX bytes."""
    strings = [f"{key}={value}" for key, value in pairs]
    if any("\0" in string for string in strings):
        raise CloudError("bad", "an argument holds a NUL")
    text = "\0".join([*strings, ""]).encode("utf-8", "surrogateescape")
    if len(text) > ORDER_MAX:
        raise CloudError("toobig", f"arguments and environment exceed {ORDER_MAX} bytes")
    return text


def launch(
    binary: str, id: str, dir: Path, text: bytes, passed: Sequence[int] = ()
) -> tuple[int, int]:
    """Start a keeper; its pid, and the pipe on which it reports, nonblocking.

    passed: descriptors that the program finds from 3 on.  Raises CloudError("busy") while
    an earlier keeper lives there.
    """
    with _opened(dir) as directory, _memory(text) as orders:
        if not _lock(directory):
            raise CloudError("busy", "an earlier program of this object still runs")
        report, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        high: list[int] = []  # above all numbers that they get
        try:
            high += [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in passed]
            # Onto 0, 1 and 2, where no source can be: every fd of ours is above them.
            actions = [
                (os.POSIX_SPAWN_DUP2, fd, at)
                for at, fd in enumerate((directory, orders, theirs, *high))
            ]
            # Its name shows in ps, and the program's arguments do not: pkill -f finds one.
            pid = os.posix_spawn(binary, ["cloudfs-keeper", id], {}, file_actions=actions)
        except OSError as error:
            os.close(report)
            raise CloudError("again", f"no keeper can be started: {error.strerror}") from None
        finally:
            for fd in (theirs, *high):
                os.close(fd)
        return pid, report


def reap(pid: int) -> None:
    """Take the status of a keeper that ends, if it is a child of this daemon."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def lives(dir: Path) -> bool:
    """Whether a keeper lives for the object in dir."""
    try:
        with _opened(dir) as directory:
            return not _lock(directory)
    except FileNotFoundError:
        return False


def parse(text: str) -> dict[str, str]:
    """The attributes of a record that a keeper wrote; `why` is the last one."""
    fields, _, why = text.rstrip("\n").partition(" why=")
    record = dict(field.split("=", 1) for field in fields.split() if "=" in field)
    record["why"] = why[1:-1].replace("''", "'")
    return record


def quote(text: str) -> str:
    """A reason as a keeper takes it: one line of bounded length, quoted."""
    return "'" + " ".join(text.split())[:160].replace("'", "''") + "'"


def read_keeper(dir: Path) -> dict[str, str] | None:
    """The record of how to reach the keeper, None while there is none or half of one."""
    for name in ("keeper", "exit"):
        with suppress(FileNotFoundError):
            first, end, _ = (dir / name).read_text().partition("\n")
            return parse(first) if end else None
    return None


def read_exit(dir: Path) -> tuple[Exit, dict[str, str]] | None:
    """The exit record, and its attributes as written; None if there is none."""
    try:
        record = parse((dir / "exit").read_text().splitlines()[1])
    except FileNotFoundError:
        return None
    return (
        Exit(
            pid=int(record["pid"]),
            code=int(record["code"]) if record["code"] else None,
            signal=int(record["signal"]) if record["signal"] else None,
            user=float(record["user"]),
            sys=float(record["sys"]),
            real=float(record["real"]),
            ended=float(record["ended"]),
            why=record["why"],
        ),
        record,
    )


@contextmanager
def _opened(dir: Path) -> Iterator[int]:
    fd = os.open(dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _memory(text: bytes) -> Iterator[int]:
    fd = os.memfd_create("order", os.MFD_CLOEXEC)
    try:
        os.write(fd, text)
        yield fd
    finally:
        os.close(fd)


def _lock(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
