"""Faults at a chosen step, and what is true meanwhile, whatever the trees of the nodes say.

held = Held(net)                       # before the daemons start
held.at(net["n1"], "dumped")           # its daemon stops there, once
with Sampler(mark) as seen: …          # who computes, at all times
power_off(net, "n2"); power_on(net, "n2")
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cloudfs.kernel.step import HELD
from cloudfs.node.enclosure import Enclosure
from cloudfs.node.groups import Groups
from cloudfs.node.netns import HOME, inhabitants
from tests.cloud.machine import Machine
from tests.cloud.net import Net, expect

EVERY = 0.02  # seconds between two samples
FREEZERS = (
    "/sys/fs/cgroup/freezer{}/freezer.state",
    "/sys/fs/cgroup/unified{}/cgroup.freeze",
    "/sys/fs/cgroup{}/cgroup.freeze",
)
STILL = ("FROZEN", "FREEZING", "1")
EXITING = 0x4  # of the flags in /proc/PID/stat: PF_EXITING
KILLED = 1 << (signal.SIGKILL - 1)


class Held:
    """The directory by which daemons are held; to be made before they are started."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        os.environ[HELD] = str(self.place)

    def close(self) -> None:
        del os.environ[HELD]

    def at(self, node: Machine, step: str) -> None:
        """Have a node's daemon stop when it next gets there."""
        (self.place / f"{node.name}.{step}").touch()

    def check(self, node: Machine, step: str) -> None:
        """It has stopped there."""
        waits = (self.place / f"{node.name}.{step}").exists()
        expect((node.local.word(), waits), ("T", False), f"{node.name} at {step}")

    def forget(self) -> None:
        for path in self.place.iterdir():
            path.unlink()


# --- machines -------------------------------------------------------------------------


def power_off(net: Net, name: str) -> None:
    """All that a machine runs is gone at once, and what it has on disk stays."""
    node = net[name]
    assert node.local.enclosure is not None
    inside = inhabitants([HOME / net.machines.switch.namespace(name)])
    # A daemon or keeper that outlived an object would note that it ended.
    first = sorted(inside, key=lambda pid: not _line(pid).startswith((b"cloudfs-keeper", b"/")))
    for pid in first:
        if pid != node.local.enclosure.pid and b"unshare" not in _line(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    # What a group of version 1 holds frozen dies only when it is let go.
    groups, objects = Groups(name), node.local.state / "objects"
    ids = os.listdir(objects) if objects.exists() else []
    for id in ids:
        groups.of(id, everywhere=True).freeze(False)
    node.local.enclosure.close()
    for id in ids:
        groups.of(id, everywhere=True).clear()
    node.local.pid = 0


def power_on(net: Net, name: str) -> None:
    """The machine begins anew, and its daemon with it."""
    node = net[name]
    space = net.machines.switch.namespace(name)
    fresh = Enclosure(name, space, net.machines.clocks.get(name, 0.0))
    net.machines.all[name] = node.local.enclosure = fresh
    fresh.ready()
    node.start()


# --- what is true ---------------------------------------------------------------------


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _group(pid: int) -> str:
    """The control group by which it is frozen, as /cloudfs/NODE/ID."""
    match = re.search(r"(?m)^\d+:(?:freezer)?:(/.*cloudfs/.*)$", _text(f"/proc/{pid}/cgroup"))
    return match[1] if match else ""


def _frozen(group: str) -> bool:
    """Whether a group of either version holds it; what runc made is in several."""
    return any(_text(file.format(group)).strip() in STILL for file in FREEZERS)


def _computes(pid: int) -> bool:
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX" or int(fields[6]) & EXITING:
        return False
    status = _text(f"/proc/{pid}/status")
    pending = [int(word, 16) for word in re.findall(r"(?m)^(?:SigPnd|ShdPnd):\s*(\w+)", status)]
    return not any(word & KILLED for word in pending)


def marked(mark: str) -> dict[int, str]:
    """The processes of this whole machine that have the mark in their command line and
    whose parents have it not, each with its control group."""
    word = mark.encode()
    found = {int(n) for n in os.listdir("/proc") if n.isdigit() and word in _line(int(n))}
    tops = {}
    for pid in found:
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields and int(fields[1]) not in found:
            tops[pid] = _group(pid)
    return tops


def computing(mark: str) -> list[str]:
    """The nodes on which one computes: it is there, not frozen, and not about to die."""
    for _ in range(3):
        found = {p: g for p, g in marked(mark).items() if g and not _frozen(g) and _computes(p)}
        if len(found) < 2:
            break  # else one may have been let go and the other stopped while we looked
    return [re.sub(r".*/cloudfs/([^/]*)/.*", r"\1", group) for group in found.values()]


class Sampler:
    """Looks at all times who computes.  worst: the most that did at once, and where."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.worst: list[str] = []
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *said: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            found = computing(self.mark)
            self.looks += 1
            if len(found) > len(self.worst):
                self.worst = found
            time.sleep(EVERY)


# --- what is left ---------------------------------------------------------------------


def traces(net: Net, id: str) -> Iterator[str]:
    """All that is left on the machine of an object that should be gone everywhere."""
    for node in net:
        state = node.local.state
        for place in ("objects", "sandbox/runc"):
            if (state / place / id).exists():
                yield f"{node.name}: {place}/{id}"
        uids = state / "sandbox" / "uids"
        for link in uids.iterdir() if uids.exists() else ():
            if os.readlink(link) == id:
                yield f"{node.name}: uids {link.name}"
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"{folder}/{name}" for name in names if id in name)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if id.encode() in _line(int(pid)):
            yield f"process {pid}: {_line(int(pid))[:80]!r}"
