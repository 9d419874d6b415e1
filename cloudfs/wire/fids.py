"""What a session knows of its client's fids and of its requests that wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.tree.api import Entries, Handle, Ref
from cloudfs.tree.space import Attach, Space
from cloudfs.wait import Wait

CLOSED = -1  # the `mode` of a fid that is not open
OPENING = -2  # … that is about to be

MAX_FIDS = 4096  # of one connection
MAX_TAGS = 256  # requests of one connection that wait
MIN_MSIZE, MAX_MSIZE = 8 << 10, 1 << 20  # bytes of a frame that may be agreed on

Reply = bytes | tuple[bytes, bytes | memoryview]


class Tree:
    """One Tattach: its name space, the caller's sight of it, and how many fids use it."""

    __slots__ = ("at", "depth", "fids", "space")

    def __init__(self, space: Space, at: Attach) -> None:
        self.space = space
        self.at = at
        self.depth = 0  # elements of the path that the attach named; `..` stays below it
        self.fids = 0


class Fid:
    """A fid: the file it points to and, once it is open, the handle.

    mode: an open mode, CLOSED or OPENING.  busy: requests on it that wait.  gone: it
    was clunked while some did, so that its handle is closed with the last of them.
    """

    __slots__ = ("busy", "entries", "gone", "handle", "mode", "ref", "tree")

    def __init__(self, tree: Tree, ref: Ref) -> None:
        self.tree = tree
        self.ref = ref
        self.handle: Handle | None = None
        self.entries: Entries | None = None  # of an open directory
        self.mode = CLOSED
        self.busy = 0
        self.gone = False


class Job:
    """A request that waits.  Its state: waiting, stopped (its answer is not wanted any
    more), done.

    tag: None where nobody waits for an answer.  finish: makes the reply from the
    result.  after: called once when the job is over, however it ended.  drop: takes a
    result that came too late.
    """

    __slots__ = ("after", "drop", "fid", "finish", "state", "tag", "wait")

    def __init__(
        self,
        tag: int | None,
        fid: Fid | None,
        wait: Wait[Any],
        finish: Callable[[Any], Reply],
        after: Callable[[], None],
        drop: Callable[[Any], None] | None,
    ) -> None:
        self.tag = tag
        self.fid = fid
        self.wait = wait
        self.finish = finish
        self.after = after
        self.drop = drop
        self.state = "waiting"

    def run(self) -> Awaitable[Any]:
        """What the driver awaits, once."""
        return self.wait.run()


def unknown(number: int) -> CloudError:
    return CloudError("nofid", f"there is no fid {number}")
