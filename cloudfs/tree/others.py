"""The other nodes as placing objects needs them: who may do, and their files to write."""

from __future__ import annotations

from collections.abc import Mapping

from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.finder import Finder
from cloudfs.kernel.placement import Attributes, Wish
from cloudfs.tree.api import Who
from cloudfs.tree.imports import Files, Imports

SECONDS = 2.0  # for other zones to tell of their nodes
NEARER = 1.0  # for probes, where a node near another is wished for; placing waits for 2


class Others:
    """See kernel/handover.py."""

    def __init__(self, cloud: Cloud, imports: Imports, finder: Finder | None = None) -> None:
        self._cloud = cloud
        self._imports = imports
        self._finder = finder

    def knows(self, node: str) -> bool:
        cloud = self._cloud
        return node == cloud.machine.name or cloud.node(node) is not None or cloud.ask is not None

    def heard_of(self, node: str) -> bool:
        return self._cloud.node(node) is not None

    async def candidates(self, wish: Wish) -> Mapping[str, Attributes]:
        question = f"node {wish.on}" if wish.on else "nodes"
        exprs = (*wish.require, *wish.prefer)
        near = self._finder is not None and any(expr.op == "near" for expr in exprs)
        await self._cloud.refresh(question, SECONDS - NEARER if near else SECONDS)
        nodes = self._cloud.attributes()
        if self._finder is not None:
            await self._finder.measure(exprs, nodes, NEARER * 0.9)
        return nodes

    def reach(self, node: str, user: str, seconds: float) -> Files:
        return Files(self._imports.reach(node), Who(user, None), seconds, self._imports)
