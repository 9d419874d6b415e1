"""How busy this machine is: plain values, read when they are asked for.

Only the fractions of processor time need two readings; `run` takes one each TICK.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil
import trio

TICK = 5.0  # seconds
STATES = ("user", "system", "idle", "iowait", "steal")
NO_DISK = ("squashfs", "iso9660", "fuse", "nsfs", "overlay")  # mounts that are no disk's own


class Metrics:
    """This machine.  state: a directory whose disk is always told of."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.arch = platform.machine()
        self.os = {"name": _pretty_name(), "kernel": platform.release()}
        self._before = self._now = _times()

    async def run(self) -> None:
        """Take a reading of processor time each TICK until cancelled."""
        while True:
            self.tick()
            await trio.sleep(TICK)

    def tick(self) -> None:
        """Take a reading; `cpu` tells of the time between the last two."""
        self._before, self._now = self._now, _times()

    @property
    def cpus(self) -> int:
        """Processors that this daemon may use."""
        return len(os.sched_getaffinity(0))

    def load(self) -> tuple[float, float, float]:
        """Processes that run or want to, on average over 1, 5 and 15 minutes."""
        return os.getloadavg()

    def cpu(self) -> dict[str, float]:
        """How all processors spent the last tick, in fractions of 1."""
        return fractions(self._before, self._now)

    def mem(self) -> dict[str, int]:
        """Memory and swap, in bytes."""
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return {
            "total": memory.total,
            "free": memory.free,
            "available": memory.available,
            "used": memory.used,
            "swap": swap.total,
            "swapfree": swap.free,
        }

    def disk(self) -> list[dict[str, Any]]:
        """Each disk that is mounted, and the one of the state directory: path, bytes."""
        points = [
            part.mountpoint
            for part in psutil.disk_partitions(all=False)
            if part.fstype.split(".")[0] not in NO_DISK
        ]
        found: dict[int, dict[str, Any]] = {}
        for path in [*points, str(self._state)]:
            try:
                device, space = os.stat(path).st_dev, os.statvfs(path)
            except OSError:
                continue  # not ours to look at
            found.setdefault(
                device,
                {
                    "path": path,
                    "total": space.f_blocks * space.f_frsize,
                    "free": space.f_bavail * space.f_frsize,
                    "used": (space.f_blocks - space.f_bfree) * space.f_frsize,
                },
            )
        return list(found.values())

    def net(self) -> list[dict[str, Any]]:
        """Each network interface: name, bytes, packets and errors, received and sent."""
        return [
            {
                "name": name,
                "rx": seen.bytes_recv,
                "tx": seen.bytes_sent,
                "rxpackets": seen.packets_recv,
                "txpackets": seen.packets_sent,
                "rxerrors": seen.errin + seen.dropin,
                "txerrors": seen.errout + seen.dropout,
            }
            for name, seen in psutil.net_io_counters(pernic=True).items()
        ]

    def uptime(self) -> float:
        """Seconds since the machine started, time asleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def attributes(self) -> dict[str, object]:
        """What a query may ask of a node: cpu.idle in cores, the others as named above."""
        space = os.statvfs(self._state)
        return {
            "arch": self.arch,
            "cpus": self.cpus,
            "load": self.load()[0],
            "cpu.idle": self.cpu()["idle"] * self.cpus,
            "mem.total": psutil.virtual_memory().total,
            "mem.free": psutil.virtual_memory().available,
            "disk.free": space.f_bavail * space.f_frsize,
        }


def fractions(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """The share of each state in the time between two readings; all idle if none passed."""
    spent = {name: max(0.0, now[name] - before[name]) for name in STATES}
    total = sum(spent.values())
    if total <= 0:
        return {name: float(name == "idle") for name in STATES}
    return {name: part / total for name, part in spent.items()}


def _times() -> dict[str, float]:
    """Seconds that all processors together spent in each state since the start."""
    seen = psutil.cpu_times()
    return {
        "user": seen.user + seen.nice,
        "system": seen.system + seen.irq + seen.softirq,
        "idle": seen.idle,
        "iowait": seen.iowait,
        "steal": seen.steal,
    }


def _pretty_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
