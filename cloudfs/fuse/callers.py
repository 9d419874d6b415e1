"""Who asks: the callers of a mount, each with one sight of its tree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pyfuse3 import RequestContext

from cloudfs.errors import CloudError
from cloudfs.tree.api import Who
from cloudfs.tree.idmap import changes
from cloudfs.tree.space import Attach, Space

WhoOf = Callable[[int, int, int], Who]  # of (uid, gid, pid), as the kernel vouches for them

KEEP = 2.0  # seconds a uid's groups are believed
ROOM = 1024  # uids remembered


class Callers:
    """The Attach of each uid, always the same one; who it is, is asked again in time, and at
    once after somebody has logged in or out.

    now: the time of the last request, in seconds.
    """

    __slots__ = ("_changes", "_clock", "_kept", "_space", "_who_of", "now")

    def __init__(
        self, space: Space, who_of: WhoOf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._space = space
        self._who_of = who_of
        self._clock = clock
        self.now = clock()
        self._kept: dict[int, tuple[float, Attach]] = {}
        self._changes = changes()

    def attach(self, ctx: RequestContext) -> Attach:
        """The sight of a request's caller."""
        kept = self._kept.get(ctx.uid)
        self.now = now = self._clock()
        if self._changes != changes():
            self._changes = changes()
            self._kept = {uid: (0.0, at) for uid, (_, at) in self._kept.items()}
        elif kept is not None and now < kept[0]:
            return kept[1]
        who = self._who_of(ctx.uid, ctx.gid, ctx.pid)
        if kept is None:
            at = self._space.attach(who)
            if len(self._kept) >= ROOM:
                del self._kept[next(iter(self._kept))]
        else:
            at = kept[1]
            at.who = who
        self._kept[ctx.uid] = now + KEEP, at
        return at

    def note(self, uid: int, path: Sequence[str], error: CloudError) -> None:
        """Keep the reason of a refusal for the caller's err."""
        kept = self._kept.get(uid)
        if kept is not None:
            kept[1].note(error, path)
