"""How long a move takes, and for how long the object stands still, beside plain `criu dump`,
copy and `criu restore` by hand of the same program in the same run, interleaved.

    python -m tests.bench.move [--rounds N] [--sandbox] [MB...]

Two nodes in network name spaces of this machine.  The program holds so many MB of random
bytes and prints the time every 2 ms: the longest gap in its output is the downtime.

By hand its memory is dumped, carried from the one node's network to the other's by what
somebody would type there, `tar -c . >/dev/tcp/HOST/PORT` and `tar -x` behind a listener
that is already up, and restored; no node has to do with it.  A plain `cp` would not be
what a move between two machines can be held against, for nothing of it is between two.
The copy by hand is neither sealed nor checked; that of the nodes is both.

Prints medians: the parts and the sum by hand; total and downtime of the move; `own`, the
downtime less what dump and restore took by hand, that is all that nodes add to criu,
the carrying included; and total / by hand.  The load is that of the machine at the end.
"""

from __future__ import annotations

import argparse
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

from cloudfs import ndb
from cloudfs.node import criu
from tests.cloud.machine import Machine
from tests.cloud.net import Net
from tests.cloud.views import settle

SIZES = (1, 10, 100, 1000)  # MB
PROGRAM = (  # in a line, as ctl has it
    "import os, time; held = os.urandom({mb} << 20); any(time.sleep(0.002) or "
    "os.write(1, b'%.6f\\n' % time.time()) < 0 for _ in iter(int, 1))"
)
LISTEN = """
import os, socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
found, _ = listener.accept()
os.dup2(found.fileno(), 0)
os.execvp('tar', ['tar', '-xf', '-', '-C', sys.argv[2]])
"""
PATIENCE = 300.0  # seconds
READY = 200  # lines that it has printed before it is moved


def move(net: Net, mb: int, runtime: str) -> tuple[float, float]:
    """Seconds of a move from n1 to n2, and of its downtime."""
    node, there = net["n1"], net["n2"]
    id = node.read("proc/clone").strip()
    for line in (f"runtime {runtime}", "on n1"):
        node.write(line, "proc", id, "ctl")
    command = " ".join(map(ndb.quote, ("/usr/bin/python3", "-c", PROGRAM.format(mb=mb))))
    try:
        node.write(f"exec {command}", "proc", id, "ctl", seconds=30)
        while node.read("proc", id, "stdout").count("\n") < READY:
            time.sleep(0.1)
        path = (f".MaxTime={PATIENCE:g}", "proc", id, "ctl")
        began = time.perf_counter()
        node.write("move n2", *path, seconds=PATIENCE)
        total = time.perf_counter() - began
        time.sleep(0.5)
        times = [float(line) for line in there.read("proc", id, "stdout").split()]
        there.write("kill", "proc", id, "ctl", seconds=30)
        there.write("wipe", "proc", id, "ctl", seconds=30)
    except BaseException:
        node.run("sh", "-c", f"echo kill >{node.path('proc', id, 'ctl')}", status=None)
        raise
    return total, max(b - a for a, b in itertools.pairwise(times))


def by_hand(net: Net, program: str, mb: int) -> tuple[float, float, float]:
    """Seconds of dump, copy and restore."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        one, two, out = folder / "one", folder / "two", folder / "out"
        one.mkdir()
        two.mkdir()
        with out.open("ab") as file:
            child = subprocess.Popen(
                ["/usr/bin/python3", "-c", PROGRAM.format(mb=mb)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        while out.read_text().count("\n") < READY:
            time.sleep(0.1)
        tool = [program, "-v0", "--manage-cgroups=ignore"]
        with _listener(net["n2"], two) as listener:
            assert listener.stdout is not None
            port = listener.stdout.readline().strip()
            host = net["n2"].local.address.rpartition(":")[0]
            line = f"exec tar -cf - -C {one} . >/dev/tcp/{host}/{port}"
            times = [time.perf_counter()]
            subprocess.run(
                [tool[0], "dump", *tool[1:], "-t", str(child.pid), "-D", one], check=True
            )
            child.wait()
            times.append(time.perf_counter())
            subprocess.run([*_within(net["n1"]), "bash", "-c", line], check=True)
            assert listener.wait(PATIENCE) == 0
        times.append(time.perf_counter())
        subprocess.run([tool[0], "restore", *tool[1:], "-D", two, "-d"], check=True)
        times.append(time.perf_counter())
        os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.1)
        dump, copy, restore = (b - a for a, b in itertools.pairwise(times))
        return dump, copy, restore


def _listener(machine: Machine, folder: Path) -> subprocess.Popen[str]:
    host = machine.local.address.rpartition(":")[0]
    command = [*_within(machine), sys.executable, "-c", LISTEN, host, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _within(machine: Machine) -> list[str]:
    """What runs a command in that node's network."""
    assert machine.local.enclosure is not None
    return ["nsenter", "--target", str(machine.local.enclosure.pid), "--net", "--"]


def main(rounds: int, sizes: tuple[int, ...], runtime: str) -> None:
    program = criu.program(Path("/nonexistent"))
    if program is None or os.geteuid() != 0 or shutil.which("bash") is None:
        raise SystemExit("this needs root, bash and a criu: CLOUDFS_CRIU=...")
    print("   MB |   dump    copy restore  by hand |   total downtime     own | total/by hand")
    with Net({"east": "n1 n2"}) as net:
        settle(net)
        for mb in sizes:
            hands, moves = [], []
            for _ in range(rounds):
                hands.append(by_hand(net, program, mb))
                moves.append(move(net, mb, runtime))
            dump, copy, restore = map(statistics.median, zip(*hands, strict=True))
            hand = statistics.median(map(sum, hands))
            total, down = map(statistics.median, zip(*moves, strict=True))
            own = down - dump - restore
            print(
                f"{mb:5} | {dump:6.3f}  {copy:6.3f}  {restore:6.3f}  {hand:6.3f}s "
                f"| {total:6.3f}s {down:6.3f}s {own:6.3f}s | {total / hand:6.2f}",
                flush=True,
            )
    print(f"load {os.getloadavg()[0]:.1f}, {rounds} rounds, runtime {runtime}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sandbox", action="store_true")
    parser.add_argument("mb", type=int, nargs="*", default=SIZES)
    found = parser.parse_args()
    main(found.rounds, tuple(found.mb), "sandbox" if found.sandbox else "process")
