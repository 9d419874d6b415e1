"""Who holds a name that two nodes claim.  Pure.

A name belongs to one node of a cloud, whatever its cluster.  Of two keys the earlier start
holds it; of one key the later start does, for that is the same node, started again or moved.
A newcomer does not get in while the name is held.  Two that met no such refusal, because
each joined while the cloud was cut in two, are judged by this alone, so that all come to the
same: the one that must give way is `refused` until the other is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloudfs import ndb
from cloudfs.errors import CloudError

DIGITS = 8  # of a key's fingerprint that tell two apart
LIVE = frozenset({"alive", "drained", "suspect"})


@dataclass(frozen=True, slots=True)
class Claim:
    """id: the first digits of the key's fingerprint.  boot: grows with each start.  cluster:
    where it lives, "" where that is not known."""

    id: str
    boot: int
    cluster: str = ""

    def over(self, other: Claim) -> bool:
        """Whether this one holds the name and not the other."""
        if self.id == other.id:
            return self.boot > other.boot
        return (self.boot, self.id) < (other.boot, other.id)

    def why(self, name: str, other: Claim) -> str:
        """Why the other one does not get the name."""
        where = f"in cluster {self.cluster}" if self.cluster else "in the cloud"
        if self.id == other.id:
            return f"node {name} was started again {where}, with the same key"
        return f"a node named {name} with another key lives {where}"


def of(record: Mapping[str, str]) -> Claim | None:
    """The claim in a node's record, or in a line that says who has a name; None if there
    is none."""
    try:
        return Claim(record["id"][:DIGITS], int(record["boot"]), record.get("cluster", ""))
    except (KeyError, ValueError):
        return None


def living(records: Iterable[str]) -> Iterable[tuple[str, Claim]]:
    """The names and claims of nodes that live, of records that other zones told."""
    for record in records:
        try:
            pairs = ndb.parse(record)
        except CloudError:
            continue
        claim = of(pairs)
        if claim is not None and pairs.get("state") in LIVE:
            yield pairs.get("name", ""), claim


def line(name: str, claim: Claim) -> str:
    """The line of an introduction that says who has a name."""
    return ndb.record({"taken": name, "id": claim.id, "boot": claim.boot, "cluster": claim.cluster})
