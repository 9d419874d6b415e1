"""Round-trip times between many simulated nodes, in seconds: synthetic families, and matrices.

Nothing here holds a matrix of a large cloud: a `Topology` works out the time of a pair when asked,
always the same for the same pair.  Matrices that were measured come from a file: one row a line, in
milliseconds, gzipped or not.
"""

from __future__ import annotations

import gzip
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PLANETLAB = Path(os.environ.get("CLOUDFS_RTT", "../shared/data/planetlab/rtt_ms_490.txt.gz"))


@dataclass
class Topology:
    name: str
    size: int
    rtt: Callable[[int, int], float]


def _pair(seed: int, i: int, j: int) -> random.Random:
    return random.Random(hash((seed, min(i, j), max(i, j))))


def plane(size: int, seed: int, noise: float = 0.1) -> Topology:
    """Clusters in a plane of 160 ms, each node behind an access link of its own."""
    dice = random.Random(seed)
    count = max(8, size // 25)
    clusters = [(dice.uniform(-0.08, 0.08), dice.uniform(-0.08, 0.08)) for _ in range(count)]
    at = [dice.choice(clusters) for _ in range(size)]
    place = [(x + dice.gauss(0, 0.002), y + dice.gauss(0, 0.002)) for x, y in at]
    height = [0.0002 + dice.expovariate(250) for _ in range(size)]

    def rtt(i: int, j: int) -> float:
        way = math.dist(place[i], place[j]) + (height[i] + height[j])
        return way * math.exp(_pair(seed, i, j).gauss(0, noise))

    return Topology("plane", size, rtt)


def detours(size: int, seed: int) -> Topology:
    """The plane, with a sixth of all pairs going 1.2 to 3 times as far: triangles are broken."""
    base = plane(size, seed)

    def rtt(i: int, j: int) -> float:
        dice = _pair(~seed, i, j)
        return base.rtt(i, j) * (dice.uniform(1.2, 3) if dice.random() < 0.15 else 1.0)

    return Topology("detours", size, rtt)


def transit(size: int, seed: int) -> Topology:
    """Forty points of presence joined by few links, a fifth of the ways by policy 1.6 times the
    shortest; nodes hang off them by access links."""
    dice, core = random.Random(seed), 40
    place = [(dice.uniform(0, 0.15), dice.uniform(0, 0.15)) for _ in range(core)]
    way = [[0.0 if i == j else math.inf for j in range(core)] for i in range(core)]
    for i in range(core):
        for j in dice.sample([x for x in range(core) if x != i], 4):
            way[i][j] = way[j][i] = math.dist(place[i], place[j]) * dice.uniform(1, 2) + 0.0005
    for k in range(core):
        for row in way:
            via = row[k]
            for j in range(core):
                row[j] = min(row[j], via + way[k][j])
    policy = {
        (i, j): 1.6 if dice.random() < 0.2 else 1.0 for i in range(core) for j in range(i + 1)
    }
    at = [dice.randrange(core) for _ in range(size)]
    height = [0.0001 + dice.expovariate(333) for _ in range(size)]

    def rtt(i: int, j: int) -> float:
        a, b = max(at[i], at[j]), min(at[i], at[j])
        seconds = min(way[a][b], 0.3) * policy[a, b] + (height[i] + height[j])
        return seconds * math.exp(_pair(seed, i, j).gauss(0, 0.05))

    return Topology("transit", size, rtt)


def noise(size: int, seed: int) -> Topology:
    """No structure at all: what nothing can predict, and nothing may be poisoned by."""
    return Topology("noise", size, lambda i, j: 0.001 + 0.3 * _pair(seed, i, j).random())


def matrix(path: Path, part: slice = slice(None)) -> Topology:
    """A measured matrix; part: the nodes taken, so that halves can be held out."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [[float(x) / 1000 for x in line.split()] for line in text.decode().splitlines()]
    rows = [row[part] for row in rows[part]]
    step = f"[{part.start or 0}::{part.step}]" if part.step else ""
    return Topology(path.name.split(".")[0] + step, len(rows), lambda i, j: rows[i][j])


FAMILIES: dict[str, Callable[[int, int], Topology]] = {
    "plane": plane,
    "detours": detours,
    "transit": transit,
    "noise": noise,
}
