"""How well forecasts come true, on recorded and on made load: against simpler guesses.

    python -m tests.sim.forecasts            # tests/sim/load.txt and the made traces
    python -m tests.sim.forecasts FILE …     # other traces: one value a line, or columns, 1 s apart

load.txt is what /proc/loadavg said each second, for nine minutes, of the load of the last minute on
a machine of two processors that was busy with tests.  For each distance ahead: the root mean square of what the forecast was
off, in standard deviations of the trace; the same for the last value and for the mean of the
last WINDOW; and which part of the truths lay within one and two of the errors told (68 and 95 %
of a normal one's).
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudfs.kernel.forecast import ENOUGH, WINDOW, Series

RECORDED = Path(__file__).with_name("load.txt")
AHEAD = (1, 5, 30)  # seconds
SEEDS = range(1, 6)
LENGTH = 1000


@dataclass(frozen=True)
class Score:
    """Root mean squares in deviations of the trace; parts of the truths within the error."""

    forecast: float
    last: float
    mean: float
    within: float
    within_two: float


def score(values: Sequence[float], ahead: int) -> Score:
    """Forecasts at each value of a trace, once there are ENOUGH."""
    series = Series()
    off: list[float] = []
    last: list[float] = []
    mean: list[float] = []
    told: list[float] = []
    for at, value in enumerate(values[: len(values) - ahead]):
        series.add(value, at)
        if at < ENOUGH:
            continue
        forecast = series.ahead(ahead)
        assert forecast is not None
        truth = values[at + ahead]
        off.append(truth - forecast.value)
        told.append(forecast.error)
        last.append(truth - value)
        mean.append(truth - statistics.fmean(values[max(0, at + 1 - WINDOW) : at + 1]))
    scale = statistics.pstdev(values) or 1.0
    return Score(
        *(math.sqrt(statistics.fmean(x * x for x in part)) / scale for part in (off, last, mean)),
        *(
            statistics.fmean(abs(x) <= many * error for x, error in zip(off, told, strict=True))
            for many in (1, 2)
        ),
    )


def hosts(seed: int) -> list[float]:
    """A load with the memory of a second-order autoregression, never below 0."""
    dice, past = random.Random(seed), [0.0, 0.0]
    for _ in range(LENGTH):
        past.append(1.3 * past[-1] - 0.4 * past[-2] + dice.gauss(0, 0.1))
    return [max(0.0, 1 + x) for x in past]


def jobs(seed: int) -> list[float]:
    """Jobs that come at random and last by a Pareto law: levels with jumps between."""
    dice, ends, load = random.Random(seed), list[float](), list[float]()
    for now in range(LENGTH):
        ends = [end for end in ends if end > now]
        if dice.random() < 0.05:
            ends.append(now + 5 * dice.paretovariate(1.5))
        load.append(len(ends) + abs(dice.gauss(0, 0.05)))
    return load


def walk(seed: int) -> list[float]:
    """Steps that nothing foretells: the last value is the best guess there is."""
    dice, value = random.Random(seed), 10.0
    return [value := value + dice.gauss(0, 0.1) for _ in range(LENGTH)]


MADE = {"hosts": hosts, "jobs": jobs, "walk": walk}


def recorded(path: Path) -> list[list[float]]:
    """The columns of a trace."""
    rows = [[float(x) for x in line.split()] for line in path.read_text().splitlines()]
    return [list(column) for column in zip(*rows, strict=True)]


def traces(files: Sequence[Path]) -> Iterator[tuple[str, list[list[float]]]]:
    """Each kind with its traces: one of a recorded column, one a seed of a made kind."""
    for path in files:
        for index, column in enumerate(recorded(path)):
            yield f"{path.name}, column {index + 1}", [column]
    for name, make in MADE.items():
        yield name, [make(seed) for seed in SEEDS]


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]] or [RECORDED]
    print(f"{'trace, seconds ahead':32} forecast  last  mean  within 1 error, 2")
    for name, runs in traces(files):
        for ahead in AHEAD:
            scores = [score(run, ahead) for run in runs]
            words = [
                statistics.median(getattr(found, field) for found in scores)
                for field in ("forecast", "last", "mean", "within", "within_two")
            ]
            text = "  ".join(f"{x:.2f}" for x in words[:3])
            print(f"{name + f', {ahead} s':32} {text}  {words[3]:.0%} {words[4]:.0%}", flush=True)


if __name__ == "__main__":
    main()
