"""Nodes of one cloud on this machine, for a demonstration or a test: each a daemon with a
state directory and a port of its own, in an enclosure (root) or simply beside each other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cloudfs import config
from cloudfs.cli.up import STOP, answers, until
from cloudfs.errors import CloudError
from cloudfs.factotum import authority, nodekeys
from cloudfs.kernel.zones import PORTS
from cloudfs.node import keeper
from cloudfs.node.enclosure import Enclosure
from cloudfs.node.machines import Machines

PORT = 5640
LEVELS = PORTS + 2  # ports from a node's own on that its zones and its probes may use
APART = 40  # ports between two nodes at one address
START = 60.0  # seconds for all to answer
STEP = 10.0  # seconds for a signal to be sent

# A daemon that stands in no enclosure goes, with its objects, when the pipe at its guard's
# standard input is closed.  $1: its state directory; the rest: the command.  Prints the
# daemon's pid.
GUARD = """
state=$1; shift
"$@" </dev/null >>"$state/log" 2>&1 &
echo $!; exec >/dev/null
cat >/dev/null
CLOUDFS_STATE=$state CLOUDFS_MOUNT=/nonexistent "$1" -m cloudfs down --objects >>"$state/log" 2>&1
"""
# The same in an enclosure, which needs no guard.
INSIDE = """
state=$1; shift
setsid "$@" </dev/null >>"$state/log" 2>&1 &
echo $!
"""


@dataclass(slots=True)
class LocalNode:
    """One node.  address: HOST:PORT where other nodes reach it.  mount: as the daemon sees
    it, None for no mount."""

    name: str
    cluster: str
    address: str
    state: Path
    mount: Path | None = None
    enclosure: Enclosure | None = None
    pid: int = field(default=0, init=False)  # as its enclosure counts, 0 if it does not run
    _guard: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)

    @property
    def socket(self) -> Path:
        return config.socket_path(self.state)

    @property
    def log(self) -> Path:
        return self.state / "log"

    def seen(self, path: Path) -> Path:
        """A path of this node's file tree, with its mounts, as this machine reaches it."""
        return path if self.enclosure is None else self.enclosure.root / path.relative_to("/")

    def command(self, seeds: Iterable[str]) -> list[str]:
        """The daemon's command line."""
        words = [sys.executable, "-m", "cloudfs.daemon", "--state", str(self.state)]
        words += ["--no-mount"] if self.mount is None else ["--mount", str(self.mount)]
        words += ["--node", self.name, "--cluster", self.cluster]
        words += ["--listen", self.address]
        words += [w for seed in seeds if seed != self.address for w in ("--seed", seed)]
        return words

    def launch(self, seeds: Iterable[str] = ()) -> None:
        """Start the daemon; `wait` waits until it serves.  It must not run."""
        self.state.mkdir(mode=0o711, parents=True, exist_ok=True)
        if self.mount is not None:
            with contextlib.suppress(FileExistsError):
                self.mount.mkdir(parents=True)
        self.log.touch()
        self._log_start = self.log.stat().st_size
        words = [str(self.state), *self.command(seeds)]
        if self.enclosure is not None:
            inside = self.enclosure.command("/bin/sh", "-c", INSIDE, "sh", *words)
            self.pid = int(subprocess.check_output(inside, text=True, timeout=STEP, cwd="/"))
            return
        self._let_go()
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # ^C at a terminal is not for it
        )
        assert self._guard.stdout is not None
        with self._guard.stdout as said:
            self.pid = int(said.readline())

    def wait(self, end: float) -> None:
        """Until it serves and has its mount.  end: when to give up (time.monotonic()).
        Raises CloudError with the end of its log."""
        if not until(lambda: self._ended() or self._serves(), max(0.0, end - time.monotonic())):
            raise CloudError("timeout", f"{self.name} did not answer in time:\n{self.tail()}")
        if self._ended():
            raise CloudError("io", f"{self.name} ended at once:\n{self.tail()}")

    def _serves(self) -> bool:
        """Whether it says so, which it does once its tree is mounted.  The table of mounts
        does not tell: a dead daemon's mount is in it until the new one has cleared it."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            said = f"node {self.name} serves ".encode() in file.read()
        return said and answers(self.socket)

    def _ended(self) -> bool:
        return self.word() in ("", "Z")

    def word(self) -> str:
        """The daemon's state in one letter, as ps prints it; "" if there is none."""
        try:
            stat = self.seen(Path(f"/proc/{self.pid}/stat")).read_text() if self.pid else ""
        except OSError:
            return ""
        return stat.rpartition(")")[2].split()[0] if stat else ""

    def send(self, number: int) -> None:
        """Send the daemon a signal.  Raises CloudError("absent") if it does not run."""
        if self.word() in ("", "Z"):
            raise CloudError("absent", f"the daemon of {self.name} does not run")
        if self.enclosure is None:
            os.kill(self.pid, number)
        else:
            words = self.enclosure.command("/bin/sh", "-c", f"kill -{number} {self.pid}")
            subprocess.run(words, check=True, timeout=STEP, cwd="/")

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send the daemon that signal and wait until it is gone.  Raises CloudError."""
        self.send(number)
        if not until(lambda: self.word() in ("", "Z"), STOP):
            why = f"{self.name} did not end in {STOP:g} s:\n{self.tail()}"
            raise CloudError("timeout", why)
        self.pid = 0

    def close(self) -> None:
        """End a daemon that stands in no enclosure, with its objects; never fails."""
        self._let_go()

    def _let_go(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        guard.stdin.close()
        try:
            guard.wait(2 * STOP)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log since it was last started, indented."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(self._log_start)
            text = file.read().decode(errors="replace").splitlines()
            return "\n".join(f"  {line}" for line in text[-lines:])
        return "  (no log)"


def clusters(count: int) -> list[tuple[str, str]]:
    """Names and clusters for so many nodes: n1, n2, … in two clusters, from six on in three."""
    names = ("east", "west", "north")[: min(count, 3 if count >= 6 else 2)]
    return [(f"n{n + 1}", names[n * len(names) // count]) for n in range(count)]


def prepare(base: Path, nodes: Sequence[LocalNode]) -> None:
    """Give the nodes what they need: their certificates, made at once with the cloud's keys,
    and a keeper, compiled once.  The first node of each cluster is its issuer."""
    built = Path(keeper.build(base))
    now = time.time()
    root = authority.make_root("local", now)
    nodekeys.write(base / "root.key", root.pem(), 0o600)
    issuers: dict[str, authority.Authority] = {}
    for node in nodes:
        (node.state / "bin").mkdir(mode=0o711, parents=True, exist_ok=True)
        shutil.copy2(built, node.state / "bin" / built.name)
        if node.cluster not in issuers:
            made = issuers[node.cluster] = authority.make_cluster(root, node.cluster, now)
            nodekeys.write(node.state / "cluster.key", made.pem(), 0o600)
        nodekeys.give(node.state, root.cert, issuers[node.cluster], node.name, now)


def start(nodes: Sequence[LocalNode], seeds: Iterable[str] | None = None) -> None:
    """Start all at once and wait until each serves.  seeds: where they look for the others;
    unless given, the first begins a cloud, which the others join.  Raises CloudError."""
    end = time.monotonic() + START
    at = list(seeds) if seeds is not None else [node.address for node in nodes[:1]]
    for node in nodes:
        node.launch(at)
    for node in nodes:
        node.wait(end)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many ports of an address, APART from each other, where nothing listens now."""
    found: list[int] = []
    for port in range(PORT, 32768, APART):  # below those that the kernel gives out
        if _is_free(host, port):
            found.append(port)
        if len(found) == count:
            return found
    raise CloudError("full", f"there are no {count} free ports on {host}")


def _is_free(host: str, port: int) -> bool:
    """Whether TCP there, and UDP there and at the levels above, can be bound."""
    with contextlib.ExitStack() as stack:
        kinds = [
            (socket.SOCK_STREAM, port),
            *((socket.SOCK_DGRAM, port + n) for n in range(LEVELS)),
        ]
        for kind, number in kinds:
            try:
                stack.enter_context(socket.socket(socket.AF_INET, kind)).bind((host, number))
            except OSError:
                return False
    return True


def enclosed(machines: Machines, cluster_of: Mapping[str, str]) -> list[LocalNode]:
    """A node for each machine, with what it needs there; each mounts its own tree."""
    nodes = []
    for name, enclosure in machines.all.items():
        home = machines.base / name
        address = f"{machines.switch.ports[name].address}:{PORT}"
        mount = home / "cloud"
        nodes.append(LocalNode(name, cluster_of[name], address, home / "state", mount, enclosure))
    prepare(machines.base, nodes)
    return nodes


def close(nodes: Iterable[LocalNode]) -> None:
    """End all that stand in no enclosure, at once; never fails."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(LocalNode.close, nodes))
