"""How soon an object goes on elsewhere whose node died, and what its images cost it.

    python -m tests.bench.failover [ROUNDS [MB…]]

Three nodes of two clusters, in network name spaces of this machine.  First a counter on one
that is cut off and killed with all its processes, as a machine that dies: seconds until
another node's list of nodes says that it is gone (the failure detection that all else goes
by), until the object runs again, and of that for the restore; then their ratio, and how many
seconds of its work were lost.

Then what images cost: a program that holds so many MB of random bytes and prints the time
every 2 ms, with an image every 5 s (every 20 s of 1000 MB) that two nodes fetch.  Its longest
gap for each image, beside plain `criu dump --leave-running` of the same program by hand in the
same run, and the share of its time that it stood still.  Medians.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cloudfs import ndb
from cloudfs.node import criu
from tests.bench.move import PROGRAM
from tests.cloud.machine import Machine
from tests.cloud.net import Net
from tests.cloud.test_survive import COUNT, EVERYBODY, counted
from tests.cloud.views import settle

SIZES = (1, 10, 100)  # MB
PATIENCE = 180.0  # seconds for anything
IMAGES = 4  # that are looked at, of each size
STEP = 0.1  # seconds between two numbers of the counter


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    path.chmod(0o777)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def wait(check: object, every: float = 0.05) -> float:
    """When it was true first, by time.time()."""
    end = time.monotonic() + PATIENCE
    while not check():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit("nothing happens")
        time.sleep(every)
    return time.time()


def rows(node: Machine, id: str) -> list[dict[str, str]]:
    lines = node.read("proc", id, "availability").splitlines()[1:]
    return [ndb.parse(line) for line in lines]


def kept(node: Machine, id: str) -> bool:
    return "2 of 2" in node.status("proc", id, "status").get("availability", "")


def failover(net: Net) -> tuple[float, float, float, float]:
    """Seconds until its node is gone, until it runs again, of that to restore, and of its
    work that were lost."""
    node = net["n1"]
    with folder() as place:
        log = place / "log"
        terms = "availability checkpoint=5 replicas=2"
        id = node.begin(COUNT.format(log=log), terms, seconds=60)
        wait(lambda: kept(node, id))
        time.sleep(12)
        net.isolate("n1")  # a dead machine answers nothing, not even that nobody listens
        began = time.time()
        node.run("sh", "-c", EVERYBODY.replace("SIGNAL", "KILL"), status=None)
        gone: list[float] = []

        def again() -> bool:
            if not gone and net["n2"].status("nodes/n1/status")["state"] == "gone":
                gone.append(time.time())
            return any(at != "n1" for _, at in counted(log))

        runs = wait(again)
        wait(lambda: again() and gone)
        found = counted(log)
        there = next(at for _, at in found if at != "n1")
        place_of = [at for _, at in found].index(there)
        lost = (found[place_of - 1][0] + 1 - found[place_of][0]) * STEP
        events = [ndb.parse(line) for line in net[there].read("proc", id, "events").splitlines()]
        took = next(float(one["took"]) for one in events if one["event"] == "restarted")
        net[there].write("kill", "proc", id, "ctl", seconds=60)
        net.heal()
        node.start()
        settle(net)
    return gone[0] - began, runs - began, took, lost


def gaps(times: list[float], least: float = 0.02) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times) if b - a > least]


def by_hand(program: str, mb: int) -> float:
    """Seconds of a dump after which it runs on."""
    with folder() as place:
        with (place / "out").open("ab") as file:
            child = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(mb=mb)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            wait(lambda: (place / "out").stat().st_size > 200 * 18)
            image = place / "image"
            image.mkdir()
            words = ["dump", "--leave-running", "-v0", "--manage-cgroups=ignore"]
            subprocess.run([program, *words, "--tree", str(child.pid), "-D", image], check=True)
            time.sleep(0.2)
            times = [float(line) for line in (place / "out").read_text().split()]
        finally:
            child.kill()
            child.wait()
        return max(gaps(times, 0.0))


def images(net: Net, mb: int) -> tuple[float, float]:
    """The median gap of an image, and the share of time in gaps."""
    node = net["n1"]
    every = 20 if mb >= 1000 else 5
    with folder() as place:
        script = place / "hold.py"
        script.write_text(PROGRAM.format(mb=mb))
        id = node.read("proc/clone").strip()
        for line in ("runtime process", "on n1", f"availability checkpoint={every} replicas=2"):
            node.write(line, "proc", id, "ctl")
        node.write(f"exec {sys.executable} {script}", "proc", id, "ctl", seconds=60)
        wait(lambda: kept(node, id))
        first = int(rows(node, id)[0]["newest"])
        wait(lambda: int(rows(node, id)[0]["newest"]) >= first + IMAGES, 0.5)
        text = node.read("proc", id, "stdout", seconds=60)
        node.write("kill", "proc", id, "ctl", seconds=60)
    times = [float(line) for line in text.split("\n")[:-1]]
    longest = sorted(gaps(times))[-IMAGES - 1 :]
    span = times[-1] - times[0]
    return statistics.median(longest), sum(longest) / span


def main(rounds: int = 3, sizes: tuple[int, ...] = SIZES) -> None:
    program = criu.program(Path("/nonexistent"))
    if program is None or os.geteuid() != 0:
        raise SystemExit("this needs root and a criu: CLOUDFS_CRIU=…")
    with Net({"east": "n1 n2", "west": "n3"}) as net:
        settle(net)
        print("node gone  runs again  restore  (again - restore) / gone  work lost")
        found = [failover(net) for _ in range(rounds)]
        if found:
            found.append(tuple(map(statistics.median, zip(*found, strict=True))))  # type: ignore[arg-type]
        for gone, again, took, lost in found:
            ratio = (again - took) / gone
            print(f"{gone:8.2f}s {again:10.2f}s {took:7.2f}s {ratio:25.2f} {lost:9.1f}s")
        print("(the last line: medians)")
        print("    MB   by hand      gap  gap/by hand  share of time", flush=True)
        for mb in sizes:
            hand = [by_hand(program, mb)]
            gap, share = images(net, mb)
            hand.append(by_hand(program, mb))
            plain = statistics.median(hand)
            print(f"{mb:6} {plain:8.3f}s {gap:7.3f}s {gap / plain:12.2f} {share:14.4f}", flush=True)


if __name__ == "__main__":
    words = list(map(int, sys.argv[1:]))
    main(*words[:1], *([tuple(words[1:])] if words[1:] else []))
