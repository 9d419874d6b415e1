"""What this node sent to others lately: the one thing about their load that nobody can lie about.

News of a node's load is seconds old, and may be untrue.  So what was placed there lately counts
against it, in cores, half as much after HALF seconds: many placed at once do not all go where it
was idle a moment ago, and a node that calls itself idle whatever it does gets little more than one
that is.  Of eight such among forty nodes, with claims without an end, a busy node sends half its
work to them, and without this all of it (tests/pure/test_sent.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

HALF = 60.0  # seconds
KEPT = 256  # nodes, the latest
LEAST = 0.05  # cores, below which it is forgotten


class Sent:
    """Times are seconds of one clock."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[float, float]] = {}  # cores, when that was

    def note(self, node: str, cores: float, now: float) -> None:
        """An object that wants so many cores went there; one that says nothing, one core."""
        self._of[node] = self.cores(node, now) + (cores or 1.0), now
        self._of[node] = self._of.pop(node)  # to the end
        if len(self._of) > KEPT:
            del self._of[next(iter(self._of))]

    def cores(self, node: str, now: float) -> float:
        """How many cores what went there counts for now."""
        found, when = self._of.get(node, (0.0, now))
        left: float = found * 0.5 ** (max(0.0, now - when) / HALF)
        if left < LEAST:
            self._of.pop(node, None)
            return 0.0
        return left

    def shares(self, cpus: Mapping[str, float], now: float) -> dict[str, float]:
        """The part of each machine that what went there counts for now.  cpus: what the nodes
        tell, of which no more is believed here than most nodes have: a claim has no end."""
        usual = median(cpus.values()) if cpus else 1.0
        return {
            node: left / max(1.0, min(cpus[node], usual))
            for node, left in self._all(now).items()
            if node in cpus
        }

    def _all(self, now: float) -> dict[str, float]:
        """Cores by node, of those that count."""
        return {node: left for node in list(self._of) if (left := self.cores(node, now))}
