"""N honest nodes on one machine: each with its own network, processes, mounts, host name,
state and daemon, joined by links that a test can cut.

    with Net(6) as net:
        net.partition("n1 n2 n3", "n4 n5 n6")
        net["n1"].kill()
        eventually(lambda: expect(net["n2"].status("nodes/n1/status")["state"], "gone"), 10)

Every step has a bound, every failure says what was asked, what came and what the daemons
wrote to their logs, and all of it goes when the context ends or this process dies.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

from cloudfs.cli import local
from cloudfs.errors import CloudError
from cloudfs.factotum import nodekeys
from cloudfs.node.machines import Machines
from tests.cloud.machine import Machine

T = TypeVar("T")


class Net:
    """Nodes n1, n2, … of one cloud.

    nodes: how many, or the names of each cluster's, blank-separated: {"east": "a b"}.
    clocks: seconds by which a node's monotonic clock is ahead.  start: whether the daemons
    are started at once.  wan: whether links can be long and slow, by `link`.
    """

    open: ClassVar[list[Net]] = []  # those that are up now, for reports of failures

    def __init__(
        self,
        nodes: int | Mapping[str, str],
        *,
        clocks: Mapping[str, float] | None = None,
        start: bool = True,
        wan: bool = False,
    ) -> None:
        if isinstance(nodes, int):
            self.cluster_of = dict(local.clusters(nodes))
        else:
            self.cluster_of = {n: cluster for cluster, text in nodes.items() for n in text.split()}
        self.machines = Machines(self.cluster_of, clocks, wan=wan)
        self.all: dict[str, Machine] = {}
        self._start = start

    def __enter__(self) -> Net:
        self.machines.__enter__()
        Net.open.append(self)
        try:
            for node in local.enclosed(self.machines, self.cluster_of):
                self.all[node.name] = Machine(node, self._seeds)
            if self._start:
                self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *said: object) -> None:
        Net.open.remove(self)
        self.machines.__exit__(*said)

    def __getitem__(self, name: str) -> Machine:
        return self.all[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.all.values())

    def __len__(self) -> int:
        return len(self.all)

    def _seeds(self) -> list[str]:
        """Where a node that starts looks for the others: at some that run."""
        return [node.local.address for node in self if node.runs][:3]

    def start(self) -> None:
        """Start the daemons that do not run, all at once.  If none does, the first begins
        the cloud."""
        try:
            local.start([node.local for node in self if not node.runs], self._seeds() or None)
        except CloudError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def rename(self, node: Machine, name: str, made: float | None = None) -> None:
        """Have a node's daemon, which does not run, be called so from now on, as if its
        cluster's authority had been asked for a certificate of that name, at that time (now
        unless told, seconds since 1970)."""
        states = [other.local.state for other in self if other.cluster == node.cluster]
        keys = [state / "cluster.key" for state in states]
        by = next(filter(None, map(nodekeys.authority_in, keys)))
        root = nodekeys.certificate(nodekeys.files_in(node.local.state).ca)
        nodekeys.give(node.local.state, root, by, name, time.time() if made is None else made)
        node.local.name = name

    # --- links ------------------------------------------------------------------------

    def link(self, a: str, b: str, **settings: Any) -> None:
        """Make the link between two nodes of a wan so; see Wan.link()."""
        self.machines.wan.link(a, b, **settings)

    def cut(self, a: str, b: str) -> None:
        """Cut the link between two nodes, both ways; what is sent is silently lost."""
        self.machines.switch.cut(a, b)

    def cut_one_way(self, a: str, b: str) -> None:
        """Lose what a sends to b."""
        self.machines.switch.cut_one_way(a, b)

    def heal(self, *names: str) -> None:
        """Make the links among these nodes whole, or all links."""
        self.machines.switch.heal(*names)

    def partition(self, *groups: str) -> None:
        """Split the nodes into groups of blank-separated names; one in no group is alone."""
        self.machines.switch.partition(*(group.split() for group in groups))

    def isolate(self, name: str) -> None:
        """Cut a node off from all others."""
        self.partition(" ".join(other for other in self.all if other != name))

    # --- all at once ------------------------------------------------------------------

    def each(
        self, work: Callable[[Machine], T], nodes: Iterable[Machine] | None = None
    ) -> dict[str, T]:
        """What work gives for each node (all unless given), done in parallel."""
        chosen = list(self if nodes is None else nodes)
        with ThreadPoolExecutor(8) as threads:
            return dict(zip((n.name for n in chosen), threads.map(work, chosen), strict=True))

    def where(self, mark: str) -> list[str]:
        """The nodes on which a process with this word in its command line runs, each as
        often as it runs there: what is true, whatever the tree says."""
        counts = self.each(lambda node: node.count(mark))
        return [name for name, count in counts.items() for _ in range(count)]

    def logs(self) -> str:
        """The end of every daemon's log."""
        parts = [f"{n.name} [{n.local.word() or 'down'}]\n{n.local.tail(30)}" for n in self]
        return "\n".join(parts)


def eventually(check: Callable[[], T], seconds: float, every: float = 0.1) -> T:
    """What check gives once it fails no more.  After so many seconds its last failure is
    raised, with the time that was given."""
    end = time.monotonic() + seconds
    while True:
        late = time.monotonic() > end
        try:
            return check()
        except AssertionError as error:
            if late:
                raise AssertionError(f"not within {seconds:g} s: {error}") from None
        time.sleep(every)


def always(check: Callable[[], object], seconds: float, every: float = 0.5) -> None:
    """check holds now and goes on holding for so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
        time.sleep(every)


def expect(found: object, wanted: object, what: str = "") -> None:
    assert found == wanted, f"{what or 'found'}: {found!r}, wanted {wanted!r}"


def can() -> bool:
    """Whether this process may make nets: root only."""
    return os.geteuid() == 0
