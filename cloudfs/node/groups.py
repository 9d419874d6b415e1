"""The control groups of this node and of its objects: directories made, limits written,
all of an object listed, frozen, killed and measured (cgroup.py decides, this does).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from cloudfs.errors import CloudError, from_errno
from cloudfs.node.api import Limits
from cloudfs.node.cgroup import (
    ALWAYS,
    FIX,
    OPTIONAL,
    ROLES,
    Hierarchy,
    choose,
    hierarchies,
    needed,
    writes,
)
from cloudfs.node.procfs import read


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class Groups:
    """The control groups of this node, under cloudfs/NODE in each hierarchy it may use."""

    def __init__(self, node: str) -> None:
        mountinfo = Path("/proc/self/mountinfo").read_text()
        membership = Path("/proc/self/cgroup").read_text()
        found = hierarchies(
            mountinfo, membership, lambda point: read(f"{point}/cgroup.controllers")
        )
        self.bases: dict[str, tuple[int, str]] = {}  # role → version and directory
        # Where runc, which joins every hierarchy, makes groups of the same name.
        self.all = [f"{hierarchy.point}/cloudfs/{node}" for hierarchy in found]
        self.path = f"/cloudfs/{node}"
        homes: dict[Hierarchy, str | None] = {}
        for role, hierarchy in choose(found).items():
            if hierarchy not in homes:
                homes[hierarchy] = _home(hierarchy, node)
            home = homes[hierarchy]
            if home is not None and _has(home, hierarchy, role):
                self.bases[role] = (hierarchy.version, home)
        missing = [role for role in ROLES if role not in self.bases]
        self.word = ""
        if missing:
            self.word = f"this node cannot limit {', '.join(m for m in missing if m not in ALWAYS)}"
            if not found:
                self.word = "no control groups are mounted here"

    def of(self, id: str, everywhere: bool = False) -> Group:
        """The groups of one object; everywhere: those that runc made in all hierarchies."""
        more = [f"{home}/{id}" for home in self.all] if everywhere else []
        return Group({role: (v, f"{base}/{id}") for role, (v, base) in self.bases.items()}, more)

    def remove(self) -> None:
        """Remove the node's own directories, where no object is left in them."""
        for home in {home for _, home in self.bases.values()} | set(self.all):
            for path in (home, os.path.dirname(home)):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


def _home(hierarchy: Hierarchy, node: str) -> str | None:
    """Make cloudfs/NODE at the top if we may, else below our own group."""
    for above in dict.fromkeys((hierarchy.point, hierarchy.point + hierarchy.own)):
        home = f"{above}/cloudfs/{node}"
        try:
            os.makedirs(home, exist_ok=True)
        except OSError:
            continue
        if hierarchy.version == 2:
            _share(above, home, hierarchy)
        if os.access(f"{home}/cgroup.procs", os.W_OK):
            return home
    return None


def _share(above: str, home: str, hierarchy: Hierarchy) -> None:
    """Let groups below use the controllers (version 2 only)."""
    for path in (above, os.path.dirname(home), home):
        for name in {names[1] for names in ROLES.values()} & hierarchy.controllers:
            try:
                write(f"{path}/cgroup.subtree_control", f"+{name}")
            except OSError:
                if not _step_aside(above, path):
                    continue
                with contextlib.suppress(OSError):
                    write(f"{path}/cgroup.subtree_control", f"+{name}")


def _step_aside(above: str, path: str) -> bool:
    """A group with processes of its own cannot share controllers: leave it for a leaf."""
    if path != above:
        return False
    leaf = f"{above}/cloudfsd"
    try:
        os.makedirs(leaf, exist_ok=True)
        write(f"{leaf}/cgroup.procs", "0")
    except OSError:
        return False
    return True


def _has(home: str, hierarchy: Hierarchy, role: str) -> bool:
    name = ROLES[role][1]
    return hierarchy.version == 1 or not name or name in read(f"{home}/cgroup.controllers").split()


class Group:
    """The control groups of one object.  Which exist is seen on disk, so that another
    daemon finds them again.  places: role → version and directory; more: directories that
    have no role."""

    __slots__ = ("more", "places")

    def __init__(self, places: Mapping[str, tuple[int, str]], more: Iterable[str] = ()) -> None:
        self.places = dict(places)
        self.more = list(more)

    def make(self, limits: Limits) -> list[str]:
        """Make fresh groups; the cgroup.procs files that the program joins.

        Raises CloudError, with nothing left, where a limit cannot be had.
        """
        wanted = needed(self.places, limits)
        self._check(wanted, limits)
        dirs = list(dict.fromkeys(place for _, place in wanted.values()))
        try:
            for place in dirs:
                self._fresh(place)
            _apply(writes(wanted, limits))
        except OSError as error:
            self.remove()
            raise from_errno(error.errno or 0, f"control group: {error.strerror}") from None
        return [f"{place}/cgroup.procs" for place in dirs]

    def _fresh(self, place: str) -> None:
        """A group without history: an earlier run's would be counted again."""
        try:
            os.mkdir(place)
        except FileNotFoundError:
            os.makedirs(place)  # another daemon of this name has cleared up
        except FileExistsError:
            self.kill()  # what a dead keeper has left
            _remove(place)
            os.mkdir(place)

    def set(self, limits: Limits, pids: Iterable[int]) -> None:
        """Change limits of what runs; groups not needed before are made and joined."""
        wanted = needed(self.places, limits)
        self._check(wanted, limits)
        held = {role: at for role, at in self.places.items() if os.path.isdir(at[1])}
        try:
            for _, place in wanted.values():
                if not os.path.isdir(place):
                    os.mkdir(place)
                    _move(place, pids)
            _apply(writes(held | wanted, limits))
        except OSError as error:
            raise from_errno(
                error.errno or 0, f"the limit cannot be set: {error.strerror}"
            ) from None

    def _check(self, wanted: Mapping[str, object], limits: Limits) -> None:
        for role in ("cpu", "mem", "pids"):
            if getattr(limits, role) is not None and role not in wanted:
                raise CloudError("unsupported", f"this node cannot limit {role}", FIX)

    def place(self, role: str) -> tuple[int, str]:
        """Version and directory of the group for a role; version 0 if it does not exist."""
        version, path = self.places.get(role, (0, ""))
        return (version, path) if version and os.path.isdir(path) else (0, "")

    def kill_files(self, made: bool = True) -> list[tuple[str, str]]:
        """What the keeper needs to kill the whole: the lines of its order.  made: whether
        the groups are already there."""
        version, path = self.place("whole") if made else self.places.get("whole", (0, ""))
        if version == 2:
            return [("kill", f"{path}/cgroup.kill")]
        return [("freezer", f"{path}/freezer.state")] if version == 1 else []

    def pids(self) -> list[int] | None:
        """Every process, None where no group tells."""
        version, path = self.place("whole")
        return [int(pid) for pid in read(f"{path}/cgroup.procs").split()] if version else None

    def freeze(self, frozen: bool) -> bool:
        """Stop all of it, or let it go on; False where no group can."""
        version, path = self.place("whole")
        if version == 2:
            write(f"{path}/cgroup.freeze", "1" if frozen else "0")
        elif version == 1:
            write(f"{path}/freezer.state", "FROZEN" if frozen else "THAWED")
        return version != 0

    def kill(self, patience: float = 2.0) -> bool:
        """Kill all of it without a keeper; False if some is left after `patience` seconds."""
        end = time.monotonic() + patience
        version, path = self.place("whole")
        while version and (pids := self.pids()):
            if version == 2:
                with contextlib.suppress(OSError):
                    write(f"{path}/cgroup.kill", "1")
            else:
                self.freeze(True)
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.freeze(False)
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def cpu(self) -> tuple[float, float] | None:
        """Seconds used in user and system mode by all that ever ran in it."""
        version, path = self.place("time")
        if version == 2:
            table = _table(f"{path}/cpu.stat")
            return table.get("user_usec", 0) / 1e6, table.get("system_usec", 0) / 1e6
        if version == 1:
            total = int(read(f"{path}/cpuacct.usage") or 0) / 1e9
            table = _table(f"{path}/cpuacct.stat")
            ticks = (table.get("user", 0) + table.get("system", 0)) or 1
            system = total * table.get("system", 0) / ticks
            return total - system, system
        return None

    def mem(self) -> tuple[int, int] | None:
        """Bytes now and at most; None where memory is not counted by a group."""
        version, path = self.place("mem")
        now, peak = {
            2: ("memory.current", "memory.peak"),
            1: ("memory.usage_in_bytes", "memory.max_usage_in_bytes"),
        }.get(version, ("", ""))
        if not version or not (text := read(f"{path}/{now}")):
            return None
        return int(text), int(read(f"{path}/{peak}") or text)

    def ran_out(self) -> bool:
        """Whether the kernel killed one of its processes for want of memory."""
        version, path = self.place("mem")
        name = "memory.events" if version == 2 else "memory.oom_control"
        return bool(version) and _table(f"{path}/{name}").get("oom_kill", 0) > 0

    def remove(self) -> None:
        """Remove the groups, those that the object made inside them too; not those
        that still hold a process.  `whole` goes last: where it is not, none is."""
        if self.place("whole")[0] or "whole" not in self.places or self.more:
            dirs = dict.fromkeys([*(place for _, place in self.places.values()), *self.more])
            for place in reversed(dirs):
                _remove(place)

    def clear(self) -> None:
        """Kill what a dead keeper has left in the groups, then remove them."""
        self.kill()
        self.remove()


def _remove(place: str) -> None:
    try:
        os.rmdir(place)
    except FileNotFoundError:
        return
    except OSError:
        for path, _, _ in os.walk(place, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _move(place: str, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            write(f"{place}/cgroup.procs", str(pid))


def _apply(files: Iterable[tuple[str, str]]) -> None:
    for path, text in files:
        if os.path.basename(path) in OPTIONAL and not os.path.exists(path):
            continue
        write(path, text)


def _table(path: str) -> dict[str, int]:
    pairs = (line.split() for line in read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
