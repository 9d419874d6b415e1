"""The other nodes as placing objects needs them: who may do, and their files to write."""

from __future__ import annotations

from collections.abc import Mapping

from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.placement import Attributes, Wish
from cloudfs.tree.api import Who
from cloudfs.tree.imports import Files, Imports

SECONDS = 2.0  # for other zones to tell of their nodes


class Others:
    """See kernel/handover.py."""

    def __init__(self, cloud: Cloud, imports: Imports) -> None:
        self._cloud = cloud
        self._imports = imports

    def knows(self, node: str) -> bool:
        cloud = self._cloud
        return node == cloud.machine.name or cloud.node(node) is not None or cloud.ask is not None

    async def candidates(self, wish: Wish) -> Mapping[str, Attributes]:
        question = f"node {wish.on}" if wish.on else "nodes"
        await self._cloud.refresh(question, SECONDS)
        return self._cloud.attributes()

    def reach(self, node: str, user: str, seconds: float) -> Files:
        return Files(self._imports.reach(node), Who(user, None), seconds)
