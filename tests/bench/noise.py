"""How much of the machine others took while something was measured."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def all_cores() -> float:
    """Seconds that the machine's cores were busy since it started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / TICKS


def of_process(pid: int) -> float:
    """Seconds of CPU that a process has used, its threads that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def of_children() -> float:
    """Seconds of CPU used by us and by children that were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Watch:
    """The cores that others took since it was made.  server: a process of the bench, or 0."""

    def __init__(self, server: int) -> None:
        self.server = server
        self._began = time.monotonic()
        self._before = self._others()

    def _others(self) -> float:
        server = of_process(self.server) if self.server else 0.0
        return all_cores() - of_children() - server

    def others(self) -> float:
        """In cores: 1.0 is one core, all the time."""
        took = max(time.monotonic() - self._began, 1e-3)
        return max((self._others() - self._before) / took, 0.0)
