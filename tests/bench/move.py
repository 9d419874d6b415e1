"""How long a move takes, and for how long the object stands still, beside plain `criu dump`,
copy and `criu restore` by hand of the same program in the same run, interleaved.

    python -m tests.bench.move [ROUNDS [MB…]]

Two nodes in network name spaces of this machine.  The program holds so many MB of random
bytes and prints the time every 2 ms: the longest gap in its output is the downtime.  By
hand its memory is dumped, copied with cp -r and restored, without any node: all of that
time is downtime.  Prints medians and the ratio of the totals.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cloudfs.node import criu
from tests.cloud.net import Net
from tests.cloud.views import settle

SIZES = (1, 10, 100, 1000)  # MB
PROGRAM = """
import os, sys, time
held = os.urandom({mb} << 20)
while True:
    os.write(1, b'%.6f\\n' % time.time())
    time.sleep(0.002)
"""
PATIENCE = 300.0  # seconds


def move(net: Net, mb: int) -> tuple[float, float]:
    """Seconds of a move from n1 to n2, and of its downtime."""
    node, there = net["n1"], net["n2"]
    id = node.read("proc/clone").strip()
    for line in ("runtime process", "on n1"):
        node.write(line, "proc", id, "ctl")
    script = Path(tempfile.mkdtemp(prefix="bench-")) / "hold.py"
    script.write_text(PROGRAM.format(mb=mb))
    try:
        node.write(f"exec {sys.executable} {script}", "proc", id, "ctl", seconds=30)
        while node.read("proc", id, "stdout").count("\n") < 200:
            time.sleep(0.1)
        began = time.perf_counter()
        path = (f".MaxTime={PATIENCE:g}", "proc", id, "ctl")
        node.write("move n2", *path, seconds=PATIENCE)
        total = time.perf_counter() - began
        time.sleep(0.5)
        times = [float(line) for line in there.read("proc", id, "stdout").split()]
        there.write("kill", "proc", id, "ctl", seconds=30)
    finally:
        shutil.rmtree(script.parent)
    return total, max(b - a for a, b in itertools.pairwise(times))


def by_hand(program: str, mb: int) -> float:
    """Seconds of dump, copy and restore."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        one, two, out = folder / "one", folder / "two", folder / "out"
        one.mkdir()
        with out.open("ab") as file:
            child = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(mb=mb)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        while out.stat().st_size < 200 * 18:
            time.sleep(0.1)
        began = time.perf_counter()
        tool = [program, "-v0", "--manage-cgroups=ignore"]
        pid = ["--tree", str(child.pid)]
        subprocess.run([tool[0], "dump", *tool[1:], *pid, "-D", one], check=True)
        child.wait()
        subprocess.run(["cp", "-r", one, two], check=True)
        subprocess.run([tool[0], "restore", *tool[1:], "-D", two, "-d"], check=True)
        took = time.perf_counter() - began
        os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.1)
        return took


def main(rounds: int = 5, sizes: tuple[int, ...] = SIZES) -> None:
    program = criu.program(Path("/nonexistent"))
    if program is None or os.geteuid() != 0:
        raise SystemExit("this needs root and a criu: CLOUDFS_CRIU=…")
    print("    MB   by hand     total  downtime  total/by hand")
    with Net({"east": "n1 n2"}) as net:
        settle(net)
        for mb in sizes:
            hand, total, down = [], [], []
            for _ in range(rounds):
                hand.append(by_hand(program, mb))
                took, gap = move(net, mb)
                total.append(took)
                down.append(gap)
            a, b, c = map(statistics.median, (hand, total, down))
            print(f"{mb:6} {a:8.3f}s {b:8.3f}s {c:8.3f}s {b / a:8.2f}", flush=True)


if __name__ == "__main__":
    words = list(map(int, sys.argv[1:]))
    main(*words[:1], *([tuple(words[1:])] if words[1:] else []))
