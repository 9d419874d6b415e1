"""The other nodes as placing objects needs them: who may do, and their files to write."""

from __future__ import annotations

from collections.abc import Mapping

from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.placement import Attributes, Wish
from cloudfs.tree.api import OWRITE, PLAIN, Who
from cloudfs.tree.far import Reach
from cloudfs.tree.space import Space
from cloudfs.wait import settle

SECONDS = 2.0  # to reach a node; who asks for a write has a deadline of its own


class Others:
    """See kernel/handover.py."""

    def __init__(self, cloud: Cloud, reach: Reach) -> None:
        self._cloud = cloud
        self._reach = reach

    def knows(self, node: str) -> bool:
        cloud = self._cloud
        return node == cloud.machine.name or cloud.node(node) is not None or cloud.ask is not None

    async def candidates(self, wish: Wish) -> Mapping[str, Attributes]:
        question = f"node {wish.on}" if wish.on else "nodes"
        await self._cloud.refresh(question, SECONDS)
        return self._cloud.attributes()

    def reach(self, node: str, user: str) -> Files:
        return Files(node, Who(user, None), self._reach)


class Files:
    """The own tree of a node, for one user."""

    def __init__(self, node: str, who: Who, reach: Reach) -> None:
        self._node = node
        self._who = who
        self._reach = reach

    async def write(self, path: str, text: str) -> None:
        file = await self._reach(self._node, self._who, tuple(path.split("/")), SECONDS)
        at = Space(file).attach(self._who)
        handle = await settle(file.open(OWRITE, at, PLAIN))
        failed = True
        try:
            await settle(handle.write(0, text.encode()))
            failed = False
        finally:
            # What a close still has to say counts, but not above what the write said.
            left = handle.close()
            if left is not None and not failed:
                await left.run()
