"""A zone of engines, each a process, alone in a network namespace; for fabric.py.

    unshare --user --map-root-user --net python -m tests.bench.zone COUNT SECONDS

Each publishes one record and subscribes to all, then does nothing.  Prints one line of
JSON: what a member costs, and how long questions take.
"""

from __future__ import annotations

import fcntl
import json
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.bench.idle import memory
from tests.bench.noise import of_process

PATIENCE = 90.0  # seconds until all members see each other
ROUNDS = 200  # questions
RECORD = b"name=n1 cluster=c1 state=alive " + b"x" * 400
_SIOCSIFFLAGS, _UP_RUNNING = 0x8914, 0x41


def lo_up() -> None:
    """Bring the namespace's loopback up, without which nobody hears anybody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_RUNNING))


def lo_bytes() -> int:
    """Bytes that went over the loopback so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.strip().startswith("lo:"))


async def member(number: int, count: int, folder: Path) -> None:
    """Take part, say when all are there, and then measure for each line on stdin."""
    from cloudfs.fabric.zenoh import ZenohEngine
    from cloudfs.factotum.nodekeys import files_in

    node = f"n{number}"
    files = files_in(folder)
    listen = f"127.0.0.1:{6000 + number}"
    engine = ZenohEngine(node, "c1", listen, ["127.0.0.1:6000"], files)

    async def name(key: str, payload: bytes) -> list[tuple[str, bytes]]:
        return [("name", node.encode())]

    async def timed(want: frozenset[str] | None) -> float:
        took = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = await engine.ask("name", timeout=10, want=want)
            assert answer.whole
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    engine.serve("name", name)
    engine.publish(f"nodes/{node}", RECORD)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        with engine.subscribe("nodes/*") as heard:
            found = set()
            async for sample in heard:
                found.add(sample.key)
                if len(found) == count:
                    break
            print("whole", flush=True)
            while await trio.to_thread.run_sync(sys.stdin.readline):
                one, everybody = await timed(frozenset(["n1"])), await timed(None)
                print(json.dumps({"one": one, "all": everybody}), flush=True)
        nursery.cancel_scope.cancel()


def zone(count: int, seconds: float, folder: Path) -> dict[str, float]:
    """The figures of a zone of that many."""
    from tests.clouds import TestCloud

    cloud = TestCloud(folder)
    members = []
    try:
        began = time.monotonic()
        for number in range(count):
            own = cloud.files(f"n{number}", "c1").cert.parent
            command = [sys.executable, "-m", "tests.bench.zone", "member", str(number), str(count)]
            pipe = subprocess.PIPE
            members.append(
                subprocess.Popen([*command, str(own)], stdin=pipe, stdout=pipe, text=True)
            )
        for each in members:
            assert each.stdout is not None
            assert each.stdout.readline() == "whole\n"
        whole = time.monotonic() - began
        time.sleep(5.0)
        cpu = sum(of_process(each.pid) for each in members)
        sent, began = lo_bytes(), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        figures = {
            "whole": whole,
            "bytes": (lo_bytes() - sent) / took / count,
            "cpu": (sum(of_process(each.pid) for each in members) - cpu) / took / count,
            "pss": statistics.median(memory(each.pid, "Pss") for each in members),
            "rss": statistics.median(memory(each.pid, "Rss") for each in members),
        }
        if count == 1:
            return figures
        asker = members[0]
        assert asker.stdin is not None
        assert asker.stdout is not None
        asker.stdin.write("ask\n")
        asker.stdin.flush()
        return {**figures, **json.loads(asker.stdout.readline())}
    finally:
        for each in members:
            each.kill()
            each.wait()


if __name__ == "__main__":
    if sys.argv[1] == "member":
        trio.run(member, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        lo_up()
        with tempfile.TemporaryDirectory() as made:
            print(json.dumps(zone(int(sys.argv[1]), float(sys.argv[2]), Path(made))))
