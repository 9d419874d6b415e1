"""A cloud of 10,000 known nodes: listing /cloud/nodes, and walking to one of them.

    python -m tests.bench.names

The tree is the real one, in this process; what other nodes told is given to it.  Printed
are seconds: for the first listing, one after a change, and a walk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from cloudfs.kernel.bell import Log
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin
from cloudfs.tree.api import OREAD, DirHandle, Node, Ref, Who
from cloudfs.tree.build import build
from cloudfs.tree.space import ErrLog, Space
from cloudfs.wire.trace import Trace

COUNT = 10_000


class Nobody:
    """Imports of which nothing is asked here."""

    def reach(self, node: str, path: tuple[str, ...] = ()) -> Node:
        raise AssertionError(node)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        records, log = Records(":memory:"), Log(100)
        machine = Machine("n0", "paris", "root", Metrics(Path(name)), records, log)
        objects = Objects(Twin(), records, Path(name), "n0", "root", events=log)
        cloud = Cloud(machine, objects)
        errors = ErrLog()
        trees = build(cloud, log, errors, Trace(), Nobody(), lambda made: {})
        at = Space(trees.root, errors).attach(Who("root", 0, boss=True))
        for number in range(1, COUNT):
            told = {"cpus": "4", "load": "0.5", "mem.free": "1000000000"}
            info = NodeInfo(f"n{number}", f"c{number % 40}", "alive", "h:1", 0.0, False, told)
            cloud.hear(info)
        print(f"nodes known               {len(cloud.nodes) + 1}")
        print(f"first listing             {_listing(at):.4f} s")
        cloud.forget("n17")
        print(f"listing after a change    {_listing(at):.4f} s")
        print(f"listing again             {_listing(at):.4f} s")
        began = time.perf_counter()
        for number in range(100, 1100):
            ref = at.find(["nodes", f"n{number}"])
            assert isinstance(ref, Ref)
        print(f"walk to one               {(time.perf_counter() - began) / 1000:.7f} s")


def _listing(at: object) -> float:
    began = time.perf_counter()
    ref = at.find(["nodes"])  # type: ignore[attr-defined]
    handle = at.open(ref, OREAD)  # type: ignore[attr-defined]
    assert isinstance(handle, DirHandle)
    assert len(handle.entries.nodes) >= COUNT - 1
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
