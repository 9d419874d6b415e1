"""trio for commands: what goes wrong comes out as itself, not in groups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from cloudfs.errors import CloudError


def run(work: Callable[[], Awaitable[None]]) -> None:
    """trio.run(work); a CloudError, ^C, or that nobody reads our output any more is raised
    without the groups that nurseries wrap it in, the first if there are several."""
    failed: BaseException | None = None
    try:
        trio.run(work)
    except* (CloudError, KeyboardInterrupt, BrokenPipeError) as group:
        failed = group
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    if failed is not None:
        raise failed
