"""A figure of the network with all that its reader needs to trust it."""

from __future__ import annotations

from dataclasses import dataclass

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel.coordinate import LONGEST
from cloudfs.kernel.query import number


@dataclass(frozen=True, slots=True)
class Known:
    """A figure with all that its reader needs to trust it."""

    value: float  # seconds, bytes a second or a fraction
    age: float  # seconds since what it rests on was measured
    how: str  # measured or predicted
    error: float  # one standard error, in the value's unit


SELF = Known(0.0, 0.0, "measured", 0.0)  # from a node to itself


def read_known(text: str, node: str) -> Known:
    """A figure as another node's file tells it; CloudError("proto") where it is none."""
    try:
        pairs = ndb.parse(text[:1024])
        value, age, error = (number(pairs[name]) for name in ("value", "age", "error"))
    except (CloudError, KeyError):
        value = age = error = None
    if value is None or age is None or error is None or not 0 < value <= LONGEST:
        raise CloudError("proto", f"node {node} tells no latency: {text[:80]!r}")
    how = "measured" if pairs.get("how") == "measured" else "predicted"
    return Known(value, max(0.0, age), how, max(0.0, error))
