"""What an engine stands on: how samples and questions get to the other members."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from cloudfs.fabric.api import Sample

if TYPE_CHECKING:
    from cloudfs.fabric.hub import Hub


class Carrier(Protocol):
    """How an engine reaches the others.  Nothing here waits; nothing raises CloudError."""

    def connected(self, hub: Hub) -> AbstractAsyncContextManager[None]:
        """Take part while in the context."""

    def put(self, sample: Sample, kept: bool) -> None:
        """To all others that listen.  kept: published, so the latest must arrive."""

    def listen(self, expr: str) -> None:
        """Bring what is put under the expression from now on."""

    def unlisten(self, expr: str) -> None: ...

    def question(self, number: int, node: str, data: bytes, timeout: float) -> None:
        """To that node, or to all others ("*"); `hub.answered` for each answer, and
        `hub.finished` once no more can come."""
