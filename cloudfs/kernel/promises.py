"""What is new: ids that `clone` gave and nobody walked to yet, and how much each user has.

A promised id becomes an object when its owner first walks to it, so that reading every file
of the tree makes none.
"""

from __future__ import annotations

from collections import Counter

from cloudfs.config import Bounds
from cloudfs.errors import CloudError
from cloudfs.kernel.object import new_id
from cloudfs.who import Who

Promise = tuple[Who, object, list[str], float]  # owner, session, name space, until when


class Promises:
    """The promised ids, and the count of those and of new objects by user.

    Times are on trio's clock, in seconds.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.fresh: Counter[str] = Counter()  # promised ids and new objects of each user
        self._bounds = bounds
        self._all: dict[str, Promise] = {}  # in the order they were made

    def __contains__(self, id: str) -> bool:
        return id in self._all

    def make(self, who: Who, session: object, binds: list[str], now: float) -> str:
        """A new id, which goes when it is not walked to in time."""
        id = new_id()
        self._all[id] = (who, session, binds, now + self._bounds.fresh_seconds)
        self.fresh[who.user] += 1
        return id

    def take(self, id: str, who: Who) -> Promise | None:
        """The promise of that id if who may have it; it is one no more."""
        promise = self._all.get(id)
        if promise is None or not (promise[0].user == who.user or who.boss):
            return None
        return self._drop(id)

    def session_closed(self, session: object) -> None:
        """Whoever was promised something in this session is gone."""
        for id, (_, owner, *_rest) in list(self._all.items()):
            if owner is session:
                self._drop(id)

    def expire(self, now: float) -> None:
        while self._all:
            id = next(iter(self._all))
            if self._all[id][3] > now:
                return
            self._drop(id)

    def need_room(self, user: str, held: int) -> None:
        """Raises CloudError("toomany") where a user who holds so many objects may have no
        more, or has too many without a program."""
        mine, bounds = self.fresh[user], self._bounds
        if mine >= bounds.fresh:
            raise CloudError(
                "toomany",
                f"{user} has {mine} new objects without a program",
                f"use them, or wait {bounds.fresh_seconds:g} s until they go",
            )
        if held >= bounds.objects:
            raise CloudError(
                "toomany",
                f"{user} has {bounds.objects} objects, the most one may have",
                "remove ended ones: echo wipe > /cloud/proc/ID/ctl",
            )

    def less(self, user: str) -> None:
        """A user has one new object less."""
        self.fresh[user] -= 1
        if not self.fresh[user]:
            del self.fresh[user]

    def _drop(self, id: str) -> Promise:
        promise = self._all.pop(id)
        self.less(promise[0].user)
        return promise
