"""Hostile clients, all kinds at once, against a real node: a good client beside them is
served rightly all the while, and waits for no answer much longer than alone.

The bound on its p99 is the issue's own, the one time that a test asserts; since a busy
machine may spoil one window of some seconds, the best of three counts.
"""

from __future__ import annotations

import os
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

from cloudfs import ndb
from tests.bench.hostile import BOUND, KINDS
from tests.bench.nine import Nine
from tests.cloud.test_outlive import file, pid_of, start
from tests.persons import Session

SECONDS = 4.0
TGETATTR = 24


def window(address: str, id: str) -> float:
    """The p99, in seconds, of a good client's requests for some seconds."""
    took = []
    end = time.monotonic() + SECONDS
    with Nine(address) as good:
        while time.monotonic() < end:
            status = ndb.parse(good.read(f"proc/{id}/status").decode())
            assert (status["id"], status["state"]) == (id, "running")
            good.walk(f"proc/{id}/status", 1)
            for _ in range(10):
                began = time.monotonic()
                good.call(TGETATTR, struct.pack("<IQ", 1, 0x7FF))
                took.append(time.monotonic() - began)
            good.clunk()
    return statistics.quantiles(took, n=100)[98]


def test_a_good_client_beside_hostile_ones(cloud: Session) -> None:
    if cloud.person.name == "nobody":
        return  # the same server, and the same clients: once is enough
    id = start(cloud, "sleep 1000")
    address = str(cloud.state / "sock")
    hostile = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.hostile", kind, address],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )
        for kind in KINDS
    ]
    worst = []
    try:
        time.sleep(0.7)  # until they have begun
        assert all(one.poll() is None for one in hostile)
        while len(worst) < 3 and min(worst, default=BOUND) >= BOUND:
            worst.append(window(address, id))
    finally:
        for one in hostile:
            one.kill()
            one.wait()
    assert min(worst) < BOUND, worst
    # What they held is given back, and the node goes on.
    with Nine(address) as good:
        good.open("version", os.O_RDONLY)
        deadline = time.monotonic() + 20
        while not good.lock():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert ndb.parse(file(cloud, "proc", id, "status"))["state"] == "running"
    deadline = time.monotonic() + 20
    while (count := len(list(Path(f"/proc/{pid_of(cloud)}/fd").iterdir()))) > 60:
        assert time.monotonic() < deadline, count
        time.sleep(0.2)
