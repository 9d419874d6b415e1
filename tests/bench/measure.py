"""How everything here is measured: peers in one run, interleaved, medians, ratios.

A case is a row of the table that comes out: ours, the peer's, the ratio of the two
medians and the target.  Nothing is ever held against a time, since a figure of a shared
machine says little; the ratio of two that ran side by side says more.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.noise import Watch

ROUNDS = 7
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 20.0  # seconds a server has to begin to answer
NOISE = 0.2  # of a core: what others may take during a run before it is run again
TRIES = 3  # of one run
PATIENT = 40.0  # seconds after the start of a bench until which runs are repeated
LIMIT = 60.0  # seconds one run of a load may take before it counts as hung


class Skip(Exception):
    """A bench that this machine cannot run, and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the ratio should be: `least`, `most`, or neither where it is only shown."""

    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        return (self.least is None or ratio >= self.least) and (
            self.most is None or ratio <= self.most
        )

    def __str__(self) -> str:
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "" if self.most is None else f"≤ {self.most:g}"


SHOWN = Target()


@dataclass(slots=True)
class Row:
    """One line of the table.  ours and peer are medians in `unit`."""

    case: str
    ours: float
    unit: str
    peer: float | None = None
    against: str = ""
    target: Target = SHOWN
    others: float = 0.0  # cores that others took while it was measured, a median

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def word(self) -> str:
        """ok, short, or "" where there is nothing to meet."""
        if self.ratio is None or (self.target.least is None and self.target.most is None):
            return ""
        return "ok" if self.target.met(self.ratio) else "short"

    def record(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "unit": self.unit,
            "ours": self.ours,
            "peer": self.peer,
            "against": self.against,
            "ratio": self.ratio,
            "target": str(self.target),
            "word": self.word,
            "others": round(self.others, 3),
        }


@dataclass(slots=True)
class Sample:
    """What one run of a load said: rate in units a second, latencies of an operation in
    seconds, how many units one operation had, and the cores that others took meanwhile."""

    rate: float
    p50: float
    p99: float
    each: float
    unit: str
    others: float = 0.0


class Bench:
    """A folder for one run of the benches, the programs built in it, and a voice."""

    def __init__(self, folder: Path, say: Callable[[str], None], rounds: int = ROUNDS) -> None:
        self.folder = folder
        self.say = say
        self.rounds = rounds
        self._built: dict[str, Path] = {}
        self._patient_until = time.monotonic() + PATIENT

    def build(self, name: str, *flags: str) -> Path:
        """Compile NAME.c of this folder, once.  Raises Skip without a C compiler."""
        if name in self._built:
            return self._built[name]
        compiler = shutil.which("cc")
        if compiler is None:
            raise Skip("there is no C compiler; type: apt-get install gcc")
        binary = self.folder / name
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(binary), str(HERE / f"{name}.c")]
        subprocess.run([*command, *flags], check=True, timeout=LIMIT)
        self._built[name] = binary
        return binary

    def sample(
        self,
        command: Sequence[str | Path],
        cpus: set[int] | None = None,
        server: int | None = None,
    ) -> Sample:
        """Run a load, on these cores if given, and read its one line.

        server: the process it works on (0: the kernel).  If given, and others took more
        than `NOISE` of a core meanwhile, it is run again, and the quietest run counts.
        """
        best: Sample | None = None
        for _ in range(TRIES):
            watch = Watch(server or 0)
            found = self._once(command, cpus)
            if server is None:
                return found
            found.others = watch.others()
            if best is None or found.others < best.others:
                best = found
            if best.others <= NOISE or time.monotonic() > self._patient_until:
                break
        assert best is not None
        return best

    def _once(self, command: Sequence[str | Path], cpus: set[int] | None) -> Sample:
        done = subprocess.run(
            [*_on(cpus), *map(str, command)], capture_output=True, text=True, timeout=LIMIT
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
        found = json.loads(done.stdout)
        each = found["units"] / found["ops"]
        return Sample(found["rate"], found["p50"], found["p99"], each, found["unit"])

    def interleave(
        self, runs: Mapping[str, Callable[[], Sample]], rounds: int | None = None
    ) -> dict[str, Sample]:
        """Run each in turn, as often as asked, in an order that turns; the medians."""
        names = list(runs)
        heard: dict[str, list[Sample]] = {name: [] for name in names}
        for turn in range(rounds or self.rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                heard[name].append(runs[name]())
        return {name: _median(samples) for name, samples in heard.items()}


def _median(samples: list[Sample]) -> Sample:
    def middle(name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in samples))

    figures = (middle("rate"), middle("p50"), middle("p99"), middle("each"))
    return Sample(*figures, samples[0].unit, middle("others"))


def _on(cpus: set[int] | None) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, sorted(cpus)))] if cpus else []


def core() -> set[int]:
    """The one core that pinned cases share: the last, where interrupts are rarest."""
    return {max(os.sched_getaffinity(0))}


def pin(pid: int, cpus: set[int]) -> None:
    """Hold every thread of a process to these cores."""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), cpus)
        except ProcessLookupError:
            continue  # that thread has just ended


def _modules() -> str:
    """Where Python programs that a bench starts find this tree, and what we found."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def started(
    command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, first by SIGTERM and then by SIGKILL."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(env or {}), "PYTHONPATH": _modules()},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_mount(at: Path, log: Path, server: subprocess.Popen[bytes]) -> None:
    """Return once a file system is mounted there; raise RuntimeError with the log if not."""
    _await(partial(os.path.ismount, at), f"{at} is not mounted", log, server)


def await_socket(at: Path, log: Path, server: subprocess.Popen[bytes]) -> None:
    """Return once something listens there; raise RuntimeError with the log if not."""
    _await(partial(_listens, at), f"nothing listens at {at}", log, server)


def _listens(at: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(at)) == 0


def _await(
    ready: Callable[[], bool], complaint: str, log: Path, server: subprocess.Popen[bytes]
) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end or server.poll() is not None:
            raise RuntimeError(f"{complaint}: {log.read_text()[-2000:]}")
        time.sleep(0.02)


@contextmanager
def workshop(say: Callable[[str], None], rounds: int = ROUNDS) -> Iterator[Bench]:
    """A Bench in a folder of its own, in memory where that is possible, gone after it."""
    shm = "/dev/shm"
    usable = os.access(shm, os.W_OK) and not os.statvfs(shm).f_flag & os.ST_NOEXEC
    base = shm if usable else None
    with tempfile.TemporaryDirectory(prefix="cloudfs-bench-", dir=base) as folder:
        Path(folder).chmod(0o755)
        yield Bench(Path(folder), say, rounds)
