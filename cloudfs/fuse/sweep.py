"""Makes the kernel forget files that it no longer needs, so that the table stays small.

The kernel keeps what it has looked up until it is short of memory, which may be never.
When the table is large, the files told of longest ago are invalidated, which is
harmless: the next who comes looks them up again.  A directory is spared as long as it
is there, since a shell may stand in it and would not find its own path any more; not
if the table is very large, as somebody makes it who walks through endless cues.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pyfuse3
import trio

from cloudfs.errors import CloudError
from cloudfs.fuse.inodes import ROOT, Inode
from cloudfs.tree.api import DMDIR, Ref, Who

if TYPE_CHECKING:
    from cloudfs.fuse.operations import CloudOperations

HIGH = 50_000  # files in the table that start a sweep
FULL = 2 * HIGH  # files from which on directories are not spared
PART = 2_000  # files a sweep looks at
PAUSE = 5.0  # seconds between looks at the table
BREATH = 0.1  # seconds between sweeps while it is large
_BOSS = Who("root", 0, boss=True)


async def run(operations: CloudOperations) -> None:
    """Sweep for ever."""
    spared = 0
    while True:
        count = len(operations.inodes)
        await trio.sleep(BREATH if count > HIGH and spared < count else PAUSE)
        if len(operations.inodes) > HIGH:
            spared = await sweep(operations, spared if spared < count else 0)


async def sweep(operations: CloudOperations, start: int, part: int = PART) -> int:
    """Look at some files from number `start` on; returns where to go on."""
    files = list(islice(operations.inodes.files(), start, start + part))
    full = len(operations.inodes) > FULL
    spent = [(inode.parent, inode.name) for inode in files if full or _spent(operations, inode)]
    # From a thread: it may have to wait for an answer of ours.
    await trio.to_thread.run_sync(_invalidate, spent, abandon_on_cancel=True)
    return start + len(files) - len(spent)


def _spent(operations: CloudOperations, inode: Inode) -> bool:
    """Whether the kernel can do without a file."""
    if not inode.ref.node.mode & DMDIR:
        return True
    at = operations.space.attach(_BOSS)
    try:
        parent = at.root() if inode.parent == ROOT else operations.inodes[inode.parent].ref
        found = at.walk(parent, inode.name.decode("utf-8", "surrogateescape"))
    except CloudError as error:
        return error.kind in ("absent", "stale")
    return isinstance(found, Ref) and found.node.qid != inode.ref.node.qid


def _invalidate(names: list[tuple[int, bytes]]) -> None:
    for parent, name in names:
        try:
            pyfuse3.invalidate_entry(parent, name)
        except OSError:
            continue  # the kernel has forgotten it by itself
