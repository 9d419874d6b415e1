"""A private network on this machine: network namespaces joined by a switch, with links
that can be cut.

A port is a network namespace of its own with one interface, eth0; a bridge in one more
namespace joins them.  Nothing of it is seen from the machine, and nothing of the machine
from it.

No port ever asks who has an address: each knows the hardware address of every other by
heart (permanent neighbour entries), and the bridge floods nothing.  So one way of a link
is cut by one entry: the sender then holds its own hardware address for the receiver, and
a bridge never sends a frame back where it came from.  That is as silent as a cable cut
far away, is felt at once by connections that are open, leaves the other way alone and
needs no packet filter.

    python -m cloudfs.node.netns TAG NAME... / NAME...

partitions the network with that tag into groups; one group of all heals it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.claims import find

MOST = 4096  # ports of one switch; a bridge has 1,023 ports, the machine gives out before
HOME = Path("/run/netns")  # where ip(8) keeps names of namespaces
STEP = 20.0  # seconds for one call of ip(8)
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on every user's path
FIX = "apt install iproute2 util-linux"

Way = tuple[str, str]  # from, to


@dataclass(frozen=True, slots=True)
class Port:
    """The number-th place of a switch, from 1 on."""

    name: str
    number: int

    @property
    def address(self) -> str:
        return f"10.77.{self.number >> 8}.{self.number & 255}"

    @property
    def hardware(self) -> str:
        return f"02:00:0a:4d:{self.number >> 8:02x}:{self.number & 255:02x}"


def apart(names: Iterable[str], groups: Iterable[Iterable[str]]) -> set[Way]:
    """The ways that are lost when names fall into groups; a name in none is alone."""
    of = {name: number for number, group in enumerate(groups) for name in group}
    names = list(names)
    if unknown := of.keys() - set(names):
        raise CloudError("bad", f"{', '.join(sorted(unknown))}: no such port of this network")
    return {
        (a, b)
        for a in names
        for b in names
        if a != b and (a not in of or b not in of or of[a] != of[b])
    }


class Switch:
    """The ports `names` and the bridge between them; their namespaces are named
    cloudfs-TAG-NAME, the bridge's cloudfs-TAG."""

    def __init__(self, tag: str, names: Iterable[str]) -> None:
        self.tag = tag
        self.ports = {name: Port(name, number + 1) for number, name in enumerate(names)}
        self._lost: set[Way] | None = None  # unknown until we set it
        if len(self.ports) > MOST:
            raise CloudError("bad", f"more than {MOST} ports")

    def namespace(self, name: str = "") -> str:
        """The namespace of a port, or the bridge's."""
        return f"cloudfs-{self.tag}-{name}" if name else f"cloudfs-{self.tag}"

    def open(self) -> None:
        """Make all of it.  Raises CloudError, with what is there left to close()."""
        spaces = [self.namespace(), *map(self.namespace, self.ports)]
        batch({"": [f"netns add {space}" for space in spaces]})
        self._join()
        self._lost = set()
        batch(
            {
                self.namespace(name): [
                    "link set lo up",
                    f"addr add {port.address}/16 dev eth0",
                    "link set eth0 up",
                    *(self._entry(name, other) for other in self.ports if other != name),
                ]
                for name, port in self.ports.items()
            }
        )

    def _join(self) -> None:
        """Give every namespace its eth0, with the port's hardware address."""
        lines = ["link add hub type bridge", "link set hub up"]
        for port in self.ports.values():
            end = f"eth0 address {port.hardware} netns {self.namespace(port.name)}"
            lines.append(f"link add p{port.number} type veth peer name {end}")
            lines.append(f"link set p{port.number} master hub up")
        batch({self.namespace(): lines})
        deaf = "flood off bcast_flood off mcast_flood off"
        bridge = [f"link set dev p{port.number} {deaf}" for port in self.ports.values()]
        batch({self.namespace(): bridge}, "bridge")

    def _entry(self, at: str, other: str) -> str:
        """What `at` believes of `other`, as a line of ip(8)."""
        lost = (at, other) in (self._lost or ())
        hardware = self.ports[at if lost else other].hardware
        address = self.ports[other].address
        return f"neigh replace {address} lladdr {hardware} nud permanent dev eth0"

    def lose(self, ways: Iterable[Way]) -> None:
        """From now on exactly these ways lose all that is sent on them."""
        before, self._lost = self._lost, set(ways)
        if before is None:
            changed = {(a, b) for a in self.ports for b in self.ports if a != b}
        else:
            changed = before ^ self._lost
        jobs: dict[str, list[str]] = {}
        for at, other in sorted(changed):
            jobs.setdefault(self.namespace(at), []).append(self._entry(at, other))
        batch(jobs)

    def cut(self, a: str, b: str) -> None:
        """Cut the link between two ports, both ways."""
        self.lose((self._lost or set()) | {(a, b), (b, a)})

    def cut_one_way(self, a: str, b: str) -> None:
        """Lose what a sends to b."""
        self.lose((self._lost or set()) | {(a, b)})

    def heal(self, *names: str) -> None:
        """Make the links among these ports whole, or all links."""
        inside = set(names or self.ports)
        self.lose({w for w in self._lost or () if not (w[0] in inside and w[1] in inside)})

    def partition(self, *groups: Iterable[str]) -> None:
        """Split the network; a port in no group is alone."""
        self.lose(apart(self.ports, groups))

    def close(self) -> None:
        """Kill what still runs in the namespaces and take them away; never fails."""
        prefix = self.namespace()
        spaces = [p.name for p in HOME.glob(f"{prefix}*") if p.name.startswith((f"{prefix}-",))]
        spaces += [prefix] if (HOME / prefix).exists() else []
        for pid in inhabitants(HOME / space for space in spaces):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        for space in spaces:
            _ip("netns", "delete", space)


def inhabitants(spaces: Iterable[Path]) -> list[int]:
    """The processes whose network namespace is one of those at the paths."""
    wanted = set()
    for path in spaces:
        try:
            seen = path.stat()
        except OSError:
            continue
        wanted.add((seen.st_dev, seen.st_ino))
    found = []
    for name in os.listdir("/proc") if wanted else []:
        if not name.isdigit():
            continue
        try:
            seen = os.stat(f"/proc/{name}/ns/net")
        except OSError:
            continue
        if (seen.st_dev, seen.st_ino) in wanted:
            found.append(int(name))
    return found


def comes(fd: int, seconds: float | None = None) -> bool:
    """Whether there is something to read, or an end, within that time; of any descriptor, while
    select(2) takes only low ones."""
    waiter = select.poll()
    waiter.register(fd, select.POLLIN)
    return bool(waiter.poll(None if seconds is None else seconds * 1000))


def tool(name: str) -> str:
    """The path of a program; CloudError("unsupported") if there is none."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}")
    if path is None:
        raise CloudError("unsupported", f"the program {name} is not installed here", FIX)
    return path


def batch(jobs: Mapping[str, list[str]], program: str = "ip") -> None:
    """Run lines of ip(8) or bridge(8) in several namespaces ("" is this one) at once.

    Raises CloudError with the program's words.
    """
    at_once = []
    for space, lines in jobs.items():
        where = ["-n", space] if space else []
        running = subprocess.Popen(
            [tool(program), *where, "-batch", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        at_once.append((running, "".join(f"{line}\n" for line in lines)))
    failed = ""
    for running, text in at_once:
        try:
            said = running.communicate(text, timeout=STEP)[1]
        except subprocess.TimeoutExpired:
            running.kill()
            said = running.communicate()[1] or f"{program} did not end in {STEP:g} s"
        if running.returncode:
            failed = failed or said.strip()
    if failed:
        raise CloudError("io", f"the private network: {failed}", "root may make one")


def _ip(*words: str) -> None:
    subprocess.run([tool("ip"), *words], capture_output=True, timeout=STEP, check=False)


def main(argv: list[str]) -> None:
    """See the module's text.  The ports are numbered as the claim of the network says."""
    if len(argv) < 2:
        sys.exit("usage: python -m cloudfs.node.netns TAG NAME... / NAME...")
    groups = " ".join(argv[1:]).split("/")
    Switch(argv[0], find(argv[0])["nodes"].split()).partition(*(group.split() for group in groups))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CloudError as error:
        sys.exit(f"netns: {error}")
