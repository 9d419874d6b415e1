"""From a password to usable keys, with five holders on this machine, against Argon2id alone.

    python -m tests.bench.login [ROUNDS]

Begins a cloud of five nodes on loopback ports, makes a user there, and has a client that the user's
record names (a device) open the keys through one node's socket: with all holders, then with two of
the five killed.  What nobody can go below is Argon2id of the same cost, done in the same rounds.
Medians, in milliseconds, and their ratio; what of it is hardening and what fetching; and the CPU
that a client takes for a login, which other people's load does not change.
"""

from __future__ import annotations

import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding

from cloudfs.cli import local, secstore
from cloudfs.cli.local import LocalNode
from cloudfs.cli.up import until
from cloudfs.cli.wired import Wired
from cloudfs.factotum import authority, sealed, trust

NODES, ROUNDS = 5, 15
PASSWORD = "sesame-sesame"
HARDEN = 4  # evaluations alone, of the ten that a device has at once
MEET = 60.0  # seconds for the nodes to know each other


def trusted(nodes: list[LocalNode]) -> authority.Authority:
    """The authority that makes users, and a root that all nodes trust, unless they came with
    the nodes' own."""
    if (nodes[0].state / "cluster.key").exists():
        return trust.authority(nodes[0].state)
    root = authority.make_root("local", time.time())
    for node in nodes:
        (node.state / "root.crt").write_bytes(root.cert.public_bytes(Encoding.PEM))
    return authority.make_cluster(root, "east", time.time())


def took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def plain() -> None:
    """What opens a slot, alone."""
    Argon2id(
        salt=secrets.token_bytes(32),
        length=32,
        iterations=sealed.PASSES,
        lanes=sealed.LANES,
        memory_cost=sealed.MEMORY,
    ).derive(secrets.token_bytes(64))


def measure(files: Wired, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {
        "Argon2id": [],
        "login": [],
        "cpu": [],
        "harden": [],
        "fetch": [],
    }
    heads = secstore.records(files, "ana")
    memory = secstore.Memory(heads[0])

    def quiet(text: str) -> None:
        pass

    for turn in range(rounds):
        steps = [
            ("Argon2id", plain),
            ("login", lambda: secstore.get_keys(files, "ana", PASSWORD)),
            ("fetch", lambda: secstore.sealed_keys(files, heads, "", "", quiet)),
        ]
        for name, work in steps[turn % 3 :] + steps[: turn % 3]:
            cpu = time.process_time()
            found[name].append(took(work))
            if name == "login":
                found["cpu"].append((time.process_time() - cpu) * 1e3)
        if turn < HARDEN:  # nobody tells the holders that it was no guess
            found["harden"].append(
                took(lambda: secstore.harden(files, heads, PASSWORD, memory.device, quiet))
            )
    return found


def show(what: str, found: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(times) for name, times in found.items()}
    ratio = medians["login"] / medians["Argon2id"]
    worst = max(found["login"])
    text = "  ".join(f"{name} {took:.1f}" for name, took in medians.items())
    print(f"{what:28} {text}  ms; login {ratio:.2f} of Argon2id, slowest {worst:.0f} ms")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="cloudfs-") as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "client")
        ports = local.free_ports(NODES)
        nodes = [
            LocalNode(f"n{n}", "east", f"127.0.0.1:{port}", folder / f"n{n}" / "state")
            for n, port in enumerate(ports, 1)
        ]
        local.prepare(folder, nodes)
        by = trusted(nodes)
        try:
            local.start(nodes)
            files = Wired(f"unix:{nodes[3].socket}")
            if not until(lambda: len(files.list("nodes")) >= NODES, MEET):
                raise SystemExit("the nodes do not know each other")
            secstore.make_user(files, by, "ana", PASSWORD, print)
            secstore.get_keys(files, "ana", PASSWORD)  # the device is known from now on
            print(
                f"argon2id: {sealed.MEMORY >> 10} MiB, {sealed.PASSES} passes, {sealed.LANES} lanes"
            )
            show("3 of 5, all answer", measure(files, rounds))
            for node in nodes[:2]:
                node.end(signal.SIGKILL)
            time.sleep(10)
            show("3 of 5, two were killed", measure(files, rounds))
            files.close()
        finally:
            local.close(nodes)


if __name__ == "__main__":
    main()
