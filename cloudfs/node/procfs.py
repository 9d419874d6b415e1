"""What /proc says about processes: descendants, memory, time, I/O, command lines."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PAGE = os.sysconf("SC_PAGE_SIZE")
SLACK = 0.1  # seconds by which two notes of the same moment may differ
TICK = 1 / os.sysconf("SC_CLK_TCK")


def read(path: str) -> str:
    """The text of a small file that the kernel makes; "" if it is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    parts = []
    try:
        while part := os.read(fd, 1 << 16):  # the kernel may give a page at a time
            parts.append(part)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="surrogateescape")


@dataclass(slots=True)
class Process:
    """One line of /proc/PID/stat.  Times in seconds; reaped: of children waited for."""

    pid: int
    parent: int
    state: str
    user: float
    sys: float
    reaped_user: float
    reaped_sys: float


def process(pid: int) -> Process | None:
    """What it is doing; None if it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 22:
        return None
    user, sys, reaped_user, reaped_sys = (int(field) * TICK for field in fields[11:15])
    return Process(pid, int(fields[1]), fields[0], user, sys, reaped_user, reaped_sys)


def children(pid: int) -> list[int]:
    """The children of all its threads."""
    with contextlib.suppress(OSError):
        lists = [
            read(f"/proc/{pid}/task/{tid}/children") for tid in os.listdir(f"/proc/{pid}/task")
        ]
        return [int(child) for text in lists for child in text.split()]
    return []


def descendants(pid: int) -> list[int]:
    """Every process below pid, parents first."""
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return _descendants_by_parent(pid)
    found = children(pid)
    seen = set(found)
    for one in found:  # grows while it is walked
        new = [child for child in children(one) if child not in seen]
        seen.update(new)
        found.extend(new)
    return found


def _descendants_by_parent(pid: int) -> list[int]:
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (one := process(int(name))):
            below.setdefault(one.parent, []).append(one.pid)
    found = list(below.get(pid, []))
    for one_pid in found:
        found.extend(below.get(one_pid, []))
    return found


def began(pid: int) -> float:
    """When a process began, in seconds since 1970; infinity if it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return math.inf
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) * TICK


def session(sid: int, noted: float) -> Iterator[int]:
    """The processes of a session that was there at a moment (seconds since 1970); none of
    one that has its number since then, as after a restart of the machine."""
    leader = began(sid)
    if began(1) > noted + SLACK or (leader != math.inf and leader > noted + SLACK):
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = read(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 3 and int(fields[3]) == sid:
                yield int(name)


def memory(pids: Iterable[int]) -> int:
    """Bytes that the processes hold alone, as statm tells it: cheap, and no page that
    they share with others is counted; what they share among themselves is not either."""
    total = 0
    for pid in pids:
        fields = read(f"/proc/{pid}/statm").split()
        if len(fields) > 2:
            total += (int(fields[1]) - int(fields[2])) * PAGE
    return total


def io(pids: Iterable[int]) -> tuple[int, int] | None:
    """Bytes read from and written to disks by the processes and the children they
    waited for; None where that is not to be seen."""
    texts = [read(f"/proc/{pid}/io") for pid in pids]
    tables = [dict(line.split(": ") for line in text.splitlines()) for text in texts if text]
    if not tables:
        return None
    return (
        sum(int(table["read_bytes"]) for table in tables),
        sum(int(table["write_bytes"]) for table in tables),
    )


def command(pid: int) -> str:
    """The command line, words joined by blanks, or the name in brackets; one line whatever
    the program put in it."""
    line = read(f"/proc/{pid}/cmdline").rstrip("\0").replace("\0", " ")
    line = line or f"[{read(f'/proc/{pid}/comm').strip()}]"
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)
