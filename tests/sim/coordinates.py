"""Network coordinates in virtual time: error, convergence, searches, liars and cost.

    python -m tests.sim.coordinates                     # all parts
    python -m tests.sim.coordinates error near          # some of: error near liars cost
    python -m tests.sim.coordinates large 100000 20     # so many nodes, so many rounds
    python -m tests.sim.coordinates --draw              # and docs/coordinates-*.svg
    python -m tests.sim.coordinates --rounds 60 liars   # quicker
    python -m tests.sim.coordinates --rtt FILE …        # matrices to judge by, ms, gzip or not
    python -m tests.sim.coordinates --only plane …      # of the matrices and families these

Without --rtt the matrix is that in CLOUDFS_RTT, or the PlanetLab one in ../shared/data; without
any, the synthetic families are all there is.  Figures are medians over SEEDS.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from cloudfs.kernel.coordinate import PACKED
from cloudfs.kernel.probing import NEW, PERIOD
from tests.sim import curves, topologies
from tests.sim.measuring import LIES, Cloud, Lie, quantile
from tests.sim.topologies import Topology

SEEDS = range(1, 6)
ROUNDS = 150
EXPLORED = (30, 40, 50, 60, 70, 80, 90)
MARKS = (10, 20, 30, 60, 100, 150)
SIZE = 300  # nodes of a synthetic cloud
LIARS = 0.2
DOCS = Path(__file__).parents[2] / "docs"
# A probe on the wire: a tag and name, and what TCP over IPv4 with timestamps and a TLS record add.
TAG, FRAME = 20, 74
MESSAGES = (TAG + PACKED.size, TAG + PACKED.size, TAG)  # ping, pong, the pong's answer

Made = Callable[[int], Topology]


ONLY: set[str] = set()  # names of what is judged; empty: all


def subjects(files: list[Path]) -> Iterator[tuple[str, Made]]:
    """Those of all that were asked for."""
    return ((name, made) for name, made in every(files) if not ONLY or name in ONLY)


def every(files: list[Path]) -> Iterator[tuple[str, Made]]:
    """What is judged: each matrix, its disjoint halves, and the families."""
    for path in files:
        for part in (slice(None), slice(0, None, 2), slice(1, None, 2)):
            net = topologies.matrix(path, part)
            yield net.name, lambda seed, net=net: net
    for name, make in topologies.FAMILIES.items():
        yield name, lambda seed, make=make: make(SIZE, seed)


def curve(cloud: Cloud, marks: tuple[int, ...]) -> list[tuple[float, float]]:
    """(median, 90th percentile) after each of these rounds."""
    out = []
    for mark in marks:
        while cloud.rounds < mark:
            cloud.round()
        out.append(cloud.errors())
    return out


def middle(runs: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Medians over the runs."""
    return [(median(m for m, _ in at), median(t for _, t in at)) for at in zip(*runs, strict=True)]


def line(name: str, *words: str) -> None:
    print(f"{name:34}", *words, flush=True)


def error(files: list[Path], draw: bool) -> None:
    print("relative error, median/90th percentile, after rounds", *MARKS)
    drawn = {}
    for name, make in subjects(files):
        for both in (True, False):
            runs = [curve(Cloud(make(seed), seed, both=both), MARKS) for seed in SEEDS]
            found = middle(runs)
            label = f"{name}, {'both ends time' if both else 'prober times'}"
            line(label, *(f"{m:.3f}/{t:.3f}" for m, t in found))
            line("", f"after 30 rounds {found[2][0] / found[-1][0]:.2f} times the final median")
            if both:
                drawn[name] = [(mark, m) for mark, (m, _) in zip(MARKS, found, strict=True)]
            if "[" in name:
                break  # halves: one way is enough
    if draw:
        picture = curves.draw(
            "Median relative error", "rounds of one probe a node", "", drawn, {"0.09": 0.09}
        )
        (DOCS / "coordinates-error.svg").write_text(picture)


def near(files: list[Path], draw: bool) -> None:
    print("latency of the node found over that of the nearest, median/90th percentile")
    print("explored: after rounds", *EXPLORED)
    for name, make in subjects(files):
        rows: dict[str, list[list[float]]] = {}
        for seed in SEEDS:
            cloud = Cloud(make(seed), seed)
            curve(cloud, (ROUNDS,))
            rows.setdefault("coordinates alone", []).append(cloud.searches(300, False, 0))
            rows.setdefault("10 probes, cold", []).append(cloud.searches(300, False))
            rows.setdefault("10 probes, references known", []).append(cloud.searches(300, True))
            cloud = Cloud(make(seed), seed, explore=NEW[0])
            for mark in EXPLORED:
                curve(cloud, (mark,))
                label = f"10 probes, explored, {mark} rounds"
                rows.setdefault(label, []).append(cloud.searches(300, True))
        for label, runs in rows.items():
            middle_, tail = (median(quantile(run, q) for run in runs) for q in (0.5, 0.9))
            line(f"{name}, {label}", f"{middle_:.2f}/{tail:.2f}")


def liars(files: list[Path], draw: bool) -> None:
    marks = (*(mark for mark in MARKS if mark < ROUNDS), ROUNDS)
    print(f"{LIARS:.0%} liars: honest nodes' error after {ROUNDS} rounds, median/90th percentile,")
    print("then both over those without liars, after rounds", *marks[2:])
    drawn = {}
    for name, make in subjects(files) if ONLY else list(subjects(files))[:1]:
        kinds: dict[str, Lie | None] = {"none": None, **LIES}
        base = None
        for kind, lie in kinds.items():
            part = LIARS if lie else 0.0
            runs = [curve(Cloud(make(s), s, liars=part, lie=lie), marks) for s in SEEDS]
            found = middle(runs)
            base = base or found
            words = [f"{m:.3f}/{t:.3f}" for m, t in found[-1:]]
            for (m, t), (bm, bt) in zip(found[2:], base[2:], strict=True):
                words.append(f"{m / bm:.2f}/{t / bt:.2f}")
            line(f"{name}, {kind}", *words)
            label = kind if not drawn or kind not in drawn else f"{kind}, {name}"
            drawn[label] = [(mark, m) for mark, (m, _) in zip(marks, found, strict=True)]
    if draw:
        picture = curves.draw(
            f"Honest nodes' median error, {LIARS:.0%} liars", "rounds", "", drawn, {"0.09": 0.09}
        )
        (DOCS / "coordinates-liars.svg").write_text(picture)


def large(size: int, rounds: int) -> None:
    """Error, CPU, bytes and memory of a node in a large cloud, the plane with detours."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cloud = Cloud(topologies.detours(size, 1), 1)
    spent = time.process_time()
    for _ in range(rounds):
        cloud.round()
    spent = time.process_time() - spent
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    m, t = cloud.errors()
    cpu = spent / size / rounds / PERIOD
    sent = sum(size + FRAME for size in MESSAGES) / PERIOD
    line(f"{size} nodes, {rounds} rounds", f"error {m:.3f}/{t:.3f}", f"CPU {cpu:.3%} of a core")
    line("", f"{sent:.0f} B/s of a node sent, as many received", f"{memory / size:.1f} kB a node")


def cost(files: list[Path], draw: bool) -> None:
    for size in (1000, 10_000):
        large(size, 30)


PARTS = {"error": error, "near": near, "liars": liars, "cost": cost}


def main() -> None:
    global ROUNDS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("parts", nargs="*", help="error near liars cost, or large NODES ROUNDS")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of near and liars")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--rtt", nargs="*", type=Path, default=None)
    asked = parser.parse_args()
    ONLY.update(asked.only)
    ROUNDS = asked.rounds
    files = asked.rtt if asked.rtt is not None else [topologies.PLANETLAB]
    files = [path for path in files if path.exists()]
    if asked.parts[:1] == ["large"]:
        large(int(asked.parts[1]), int(asked.parts[2]))
        return
    for name in asked.parts or PARTS:
        if name not in PARTS:
            sys.exit(f"no part {name!r}; there are {' '.join(PARTS)}")
        PARTS[name](files, asked.draw)


if __name__ == "__main__":
    main()
