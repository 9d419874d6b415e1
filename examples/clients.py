"""Clients of a web server that may move: they ask its object's status where it is.

    python3 clients.py STATUS PORT SECONDS CLIENTS PLACES

Each asks again and again, and looks into the file STATUS after each request that failed.
They end SECONDS after so many addresses as PLACES have answered, or after a minute.
Prints one record: how many requests were answered and how many failed, the addresses that
answered in the order in which they did first, the milliseconds of the longest time in
which none was answered, and how many that failed were not under way in that time.
"""

from __future__ import annotations

import http.client
import itertools
import re
import sys
import threading
import time
from pathlib import Path

PATIENCE = 5.0  # seconds for an answer
PAUSE = 0.01  # seconds between two requests of a client
MOST = 60.0  # seconds for which they ask


def address(status: Path) -> str:
    """The host where it is; "" if nobody can tell now."""
    try:
        found = re.search(r" state=running .* addr=(\S+)", status.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


class Answers:
    """What clients were told.  all: of each request when it began and ended, and who answered,
    "" for nobody; until: when they end."""

    def __init__(self, seconds: float, places: int) -> None:
        self.all: list[tuple[float, float, str]] = []
        self.until = time.monotonic() + MOST
        self._seconds, self._places = seconds, places
        self._hosts: set[str] = set()
        self._lock = threading.Lock()

    def add(self, began: float, host: str) -> None:
        ended = time.monotonic()
        with self._lock:
            self.all.append((began, ended, host))
            if host and host not in self._hosts:
                self._hosts.add(host)
                if len(self._hosts) == self._places:
                    self.until = min(self.until, ended + self._seconds)


def ask(status: Path, port: int, told: Answers) -> None:
    """One client."""
    host = address(status)
    while (began := time.monotonic()) < told.until:
        try:
            server = http.client.HTTPConnection(host, port, timeout=PATIENCE)
            try:
                server.request("GET", "/")
                server.getresponse().read()
            finally:
                server.close()
            told.add(began, host)
        except (OSError, ValueError, http.client.HTTPException):  # or there is no address
            told.add(began, "")
            host = address(status)
        time.sleep(PAUSE)


def main(status: Path, port: int, seconds: float, clients: int, places: int) -> None:
    answers = Answers(seconds, places)
    threads = [threading.Thread(target=ask, args=(status, port, answers)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = sorted(answers.all, key=lambda one: one[1])
    good = [when for _, when, host in told if host]
    gaps = ((b - a, a, b) for a, b in itertools.pairwise(good))
    gap, begin, end = max(gaps, default=(0.0, 0.0, 0.0))
    failed = [(since, when) for since, when, host in told if not host]
    outside = [one for one in failed if one[0] > end or one[1] < begin]
    hosts = ",".join(dict.fromkeys(host for _, _, host in told if host))
    print(
        f"answered={len(good)} failed={len(failed)} outside={len(outside)} "
        f"places={hosts} gap={gap * 1000:.0f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:6]))
