"""A private network on this machine whose links are as long, lossy and slow as they are told.

It is netns.py's network with another thing in its middle: a program of ours (wan.c) that
carries every frame, where there the kernel's bridge does.  So links are cut in the same
way; and each way of a link has a delay, a jitter, a loss and a rate, that may be changed
at any time.

    python -m cloudfs.node.wan TAG A B delay=0.2 rate=1e7

changes the link between A and B of the network with that tag, both ways; delay and jitter
are in seconds, loss is a part of 1, rate in bit/s (0 is without bound), queue in bytes.
What is not named stays as it is.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.claims import find
from cloudfs.node.compiled import compiled
from cloudfs.node.netns import FIX, HOME, Switch, Way, batch, comes

SOURCES = [Path(__file__).with_name("wan.c")]
MOST = 256  # ports
START = 10.0  # seconds for the program to begin
STOP = 5.0  # seconds for it to end
ANSWER = 5.0  # seconds for it to confirm a change
LINES = 500  # changes in a datagram
READ_AHEAD = 4096  # frames a node may have sent that the program has not read yet
QUEUE = 0.1, 64 << 10  # where a rate comes without a queue: seconds of it, bytes at least
SETTINGS = ("delay", "jitter", "loss", "rate", "queue")

# Round trips in milliseconds, about as between Paris, Frankfurt, New York, São Paulo,
# Tokyo and Sydney.
EXAMPLE = """
  0   10   75  200  225  280
 10    0   85  205  230  285
 75   85    0  115  165  205
200  205  115    0  260  310
225  230  165  260    0  105
280  285  205  310  105    0
"""
SAME_PLACE = 0.5  # milliseconds, where several nodes share a place of the example

Matrix = Sequence[Sequence[float]]  # seconds from the one to the other and back


class Wan(Switch):
    """The ports `names`, joined by links without delay, loss or bound until told otherwise.

    folder: for the program and the socket that takes changes.
    """

    def __init__(self, tag: str, names: Iterable[str], folder: Path) -> None:
        super().__init__(tag, names)
        self.folder = folder
        self._program: subprocess.Popen[bytes] | None = None
        if len(self.ports) > MOST:
            raise CloudError("bad", f"more than {MOST} ports of a network with long links")

    def _join(self) -> None:
        binary = compiled(self.folder, "wan", SOURCES)
        spaces = [str(HOME / self.namespace(name)) for name in self.ports]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as changes:
            changes.bind(str(self.folder / "wan"))
            changes.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._program = subprocess.Popen(
                [binary, *spaces],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=changes.fileno(),
                cwd="/",
                start_new_session=True,  # ^C at a terminal is not for it
            )
        assert self._program.stdout is not None
        came = comes(self._program.stdout.fileno(), START)
        said = os.read(self._program.stdout.fileno(), 200).decode() if came else "no word"
        if said != "ready\n":
            why = f"the private network's links did not begin: {said.strip()}"
            raise CloudError("unsupported", why, f"root may make one, with /dev/net/tun; {FIX}")
        batch(
            {
                self.namespace(port.name): [
                    f"link set eth0 address {port.hardware} txqueuelen {READ_AHEAD}"
                ]
                for port in self.ports.values()
            }
        )

    def link(
        self,
        a: str,
        b: str,
        *,
        delay: float | None = None,
        jitter: float | None = None,
        loss: float | None = None,
        rate: float | None = None,
        queue: int | None = None,
        both: bool = True,
    ) -> None:
        """Change the link from a to b, and as it is both ways; None leaves what was.

        delay: seconds from the one to the other.  jitter: seconds that this grows by at
        most, anew for each packet, in no way that one overtakes another.  loss: part of
        the packets.  rate: bit/s of IP packets, 0 for no bound.  queue: bytes that wait
        for the rate at most, 0.1 s of them unless told.  Raises CloudError.
        """
        settings = {"delay": delay, "jitter": jitter, "loss": loss, "rate": rate, "queue": queue}
        known = {name: value for name, value in settings.items() if value is not None}
        self.links(dict.fromkeys([(a, b), (b, a)] if both else [(a, b)], known))

    def shape(self, matrix: Matrix, rate: float = 0.0) -> None:
        """Make the round trips between the ports, in their order, those of the matrix.
        rate: of all links, as in link()."""
        ways = {}
        for a, b in itertools.permutations(self.ports.values(), 2):
            there, back = matrix[a.number - 1][b.number - 1], matrix[b.number - 1][a.number - 1]
            ways[a.name, b.name] = {"delay": (there + back) / 4, "rate": rate}
        self.links(ways)

    def links(self, ways: Mapping[Way, Mapping[str, float]]) -> None:
        """Change these ways, with the settings of link()."""
        change(self.folder, [self._line(a, b, settings) for (a, b), settings in ways.items()])

    def _line(self, a: str, b: str, settings: Mapping[str, float]) -> str:
        """A change as the program reads it."""
        for name in (a, b):
            if name not in self.ports:
                raise CloudError("bad", f"{name}: no such port of this network")
        if a == b:
            raise CloudError("bad", f"{a}: a link has two ends")
        for name, value in settings.items():
            if name not in SETTINGS or not 0 <= value < math.inf:
                why = f"{name}={value}: no such setting of a link"
                raise CloudError("bad", why, f"known are {' '.join(SETTINGS)}, from 0 on")
        all = dict.fromkeys(SETTINGS, -1.0) | dict(settings)
        if "rate" in settings and "queue" not in settings:
            seconds, least = QUEUE
            all["queue"] = min(max(settings["rate"] / 8 * seconds, least), 64 << 20)
        ends = f"{self.ports[a].number} {self.ports[b].number}"
        return " ".join([ends, *(f"{all[name]:.9g}" for name in SETTINGS)])

    def close(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.close()
            try:
                program.wait(STOP)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
            program.stdout.close()
        super().close()


def change(folder: Path, lines: Sequence[str]) -> None:
    """Have the program of that folder do so.  Raises CloudError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        asking.settimeout(ANSWER)
        asking.bind("")  # any name, for the answer
        for at in range(0, len(lines), LINES):
            try:
                asking.sendto("\n".join(lines[at : at + LINES]).encode(), str(folder / "wan"))
                said = asking.recv(200).decode(errors="replace")
            except OSError as error:
                why = f"the links cannot be changed: {error.strerror or 'no answer'}"
                raise CloudError("io", why) from None
            if said != "ok":
                raise CloudError("bad", f"no link can be like that: {said}")


def example(count: int) -> Matrix:
    """The built-in matrix, for so many nodes; from the seventh on they share places."""
    rows = matrix(EXAMPLE)
    places = len(rows)

    def trip(a: int, b: int) -> float:
        return rows[a % places][b % places] or (SAME_PLACE / 1e3 if a != b else 0.0)

    return [[trip(a, b) for b in range(count)] for a in range(count)]


def load(path: Path, count: int) -> Matrix:
    """The first rows and columns of a file; see matrix().  It may be compressed by gzip."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CloudError("bad", f"{path}: {getattr(error, 'strerror', None) or error}") from None
    rows = matrix(text)
    if len(rows) < count:
        raise CloudError("bad", f"{path} has {len(rows)} rows, for {count} nodes")
    return [row[:count] for row in rows[:count]]


def matrix(text: str) -> Matrix:
    """A square of round trips in milliseconds, one row a line, blank-separated."""
    try:
        rows = [
            [float(word) / 1e3 for word in line.split()]
            for line in text.splitlines()
            if line.strip()
        ]
    except ValueError as error:
        raise CloudError("bad", f"no matrix of milliseconds: {error}") from None
    if any(len(row) != len(rows) for row in rows):
        raise CloudError("bad", f"no square matrix: {len(rows)} rows, and not as many in each")
    if not all(0 <= value <= 60 for row in rows for value in row):
        raise CloudError("bad", "a round trip is 0 to 60000 ms")
    return rows


def main(argv: list[str]) -> None:
    """See the module's text.  The ports are numbered as the claim of the network says."""
    if len(argv) < 4 or not all("=" in word for word in argv[3:]):
        sys.exit("usage: python -m cloudfs.node.wan TAG A B SETTING=VALUE...")
    tag, a, b, *words = argv
    claim = find(tag)
    settings = {}
    for word in words:
        name, _, text = word.partition("=")
        with contextlib.suppress(ValueError):
            settings[name] = float(text)
        if name not in settings:
            raise CloudError("bad", f"{word}: {text!r} is no number")
    network = Wan(tag, claim["nodes"].split(), Path(claim["base"]))
    network.links({(a, b): settings, (b, a): settings})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CloudError as error:
        sys.exit(f"wan: {error}")
