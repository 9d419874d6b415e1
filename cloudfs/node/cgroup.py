"""Control groups, version 1, version 2 and both at once: what is to be done, without
doing it.  From what is mounted, which hierarchy does what; from limits, which files get
which text.  `groups.py` makes the directories and writes.

Only the groups that an object needs are made: `whole`, to freeze, kill and list it,
and one for each limit.  With version 2 alone they are all the same group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cloudfs.node.api import Limits

PERIOD = 100_000  # microseconds over which a cpu limit is counted, the kernel's default

# role: (controller of version 1, controller of version 2; "" is what every group can)
ROLES: dict[str, tuple[str, str]] = {
    "whole": ("freezer", ""),
    "time": ("cpuacct", ""),
    "cpu": ("cpu", "cpu"),
    "mem": ("memory", "memory"),
    "pids": ("pids", "pids"),
}
ALWAYS = ("whole", "time")  # roles of every object; the others only where there is a limit

FIX = (
    "run the daemon as root, or with a part of the control groups of its own: "
    "systemd-run --user --scope -p Delegate=yes cloudfs up"
)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy: version 1 or 2, where, this process's group in it, and
    the controllers it has."""

    version: int
    point: str
    own: str
    controllers: frozenset[str]


def hierarchies(
    mountinfo: str, membership: str, available: Callable[[str], str]
) -> list[Hierarchy]:
    """What /proc/self/mountinfo and /proc/self/cgroup say; `available` gives the text of
    cgroup.controllers for the mount point of version 2."""
    owns: dict[str, str] = {}
    for line in membership.splitlines():
        number, listed, path = line.split(":", 2)
        for name in listed.split(",") if number != "0" else [""]:
            owns[name] = path
    found: dict[frozenset[str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        root, point = fields.split()[3:5]
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            version, names = 2, frozenset(available(point).split())
            key, own = frozenset({""}), owns.get("")
        elif kind == "cgroup":
            version, names = 1, frozenset(set(options.split(",")) & owns.keys())
            key, own = names, owns.get(next(iter(names), "no such group"))
        else:
            continue
        if own is not None and key not in found:
            # Seen from within a container, the mount shows only a part of the whole.
            inside = own.removeprefix(root) if root != "/" else own
            found[key] = Hierarchy(version, point, inside.rstrip("/"), names)
    return list(found.values())


def choose(found: Iterable[Hierarchy]) -> dict[str, Hierarchy]:
    """role → the hierarchy that plays it; version 2 where it can."""
    chosen: dict[str, Hierarchy] = {}
    for hierarchy in sorted(found, key=lambda h: -h.version):
        for role, names in ROLES.items():
            name = names[hierarchy.version - 1]
            if role not in chosen and (not name or name in hierarchy.controllers):
                chosen[role] = hierarchy
    return chosen


def _cpu(cores: float | None) -> int:
    return -1 if cores is None else max(1000, round(cores * PERIOD))


def _or(word: str, value: int | None) -> str:
    return word if value is None else str(value)


# (role, version): the files that hold a limit, and their text
LIMIT_FILES: dict[tuple[str, int], Callable[[Limits], list[tuple[str, str]]]] = {
    ("cpu", 1): lambda want: [
        ("cpu.cfs_period_us", str(PERIOD)),
        ("cpu.cfs_quota_us", str(_cpu(want.cpu))),
    ],
    ("cpu", 2): lambda want: [
        ("cpu.max", f"{'max' if want.cpu is None else _cpu(want.cpu)} {PERIOD}")
    ],
    # Without its share of swap a limit of memory would only move pages there.
    ("mem", 1): lambda want: [
        ("memory.swappiness", "60" if want.mem is None else "0"),
        ("memory.limit_in_bytes", _or("-1", want.mem)),
    ],
    ("mem", 2): lambda want: [
        ("memory.swap.max", "max" if want.mem is None else "0"),
        ("memory.max", _or("max", want.mem)),
    ],
    ("pids", 1): lambda want: [("pids.max", _or("max", want.pids))],
    ("pids", 2): lambda want: [("pids.max", _or("max", want.pids))],
}
OPTIONAL = ("memory.swap.max", "memory.swappiness")  # absent where swap is not counted


def needed(places: Mapping[str, tuple[int, str]], limits: Limits) -> dict[str, tuple[int, str]]:
    """The roles, of `places` (role → version and directory), that these limits need."""
    asked = {role for role in ("cpu", "mem", "pids") if getattr(limits, role) is not None}
    return {role: place for role, place in places.items() if role in ALWAYS or role in asked}


def writes(places: Mapping[str, tuple[int, str]], limits: Limits) -> list[tuple[str, str]]:
    """(file, text) to write, in order, so that the groups of `places` hold `limits`."""
    return [
        (f"{place}/{name}", text)
        for role, (version, place) in places.items()
        if role not in ALWAYS
        for name, text in LIMIT_FILES[role, version](limits)
    ]
