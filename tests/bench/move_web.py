"""What the clients of a web server see of its move.

    python -m tests.bench.move_web [ROUNDS [CLIENTS]]

Python's own http.server, on n2, is moved to n3 while so many clients on n1 ask it, each
again 10 ms after an answer (examples/clients.py).  They look its address up in its
object's status after each request that failed.  Prints for each round requests answered
and failed, and the longest time without an answer beside the downtime: the server's own
threads cannot tell it, so that is the time for which the move took, as its caller saw it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cloud.net import Net
from tests.cloud.views import settle

CLIENTS = Path(__file__).parents[2] / "examples" / "clients.py"
SECONDS = 2  # for which clients ask before the move, and after the new node has answered
PORT = 8080


def round_of(net: Net, folder: str, clients: int) -> dict[str, str]:
    """What the clients told, and the milliseconds of the move."""
    node = net["n2"]
    server = f"exec /usr/bin/python3 -m http.server {PORT} 2>/dev/null"
    id = node.begin(server, f"dir {folder}", seconds=30)
    status = net["n1"].path("proc", id, "status")
    words = (sys.executable, str(CLIENTS), status, str(PORT))
    while " answered=0" in f" {net['n1'].run(*words, '0.1', '1', '1').stdout}":
        time.sleep(0.1)
    asking = net["n1"].start_command(
        *words, f"{SECONDS}", f"{clients}", "2", stdout=subprocess.PIPE
    )
    time.sleep(SECONDS)
    began = time.perf_counter()
    node.write("move n3", ".MaxTime=60", "proc", id, "ctl", seconds=60)
    took = time.perf_counter() - began
    out, _ = asking.communicate(timeout=90)
    net["n3"].write("kill", "proc", id, "ctl", seconds=30)
    return {**dict(word.split("=") for word in out.split()), "move": f"{took * 1000:.0f}"}


def main(rounds: int = 5, clients: int = 8) -> None:
    if os.geteuid() != 0:
        raise SystemExit("this needs root and a criu: CLOUDFS_CRIU=...")
    told = []
    with Net({"east": "n1 n2 n3"}) as net, tempfile.TemporaryDirectory() as folder:
        settle(net)
        for _ in range(rounds):
            told.append(round_of(net, folder, clients))
            print(" ".join(f"{name}={text}" for name, text in told[-1].items()), flush=True)
    for name in ("answered", "failed", "outside", "gap", "move"):
        print(f"{name}: median {statistics.median(int(one[name]) for one in told):g}")
    print(f"load {os.getloadavg()[0]:.1f}, {clients} clients")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
