"""Room that users share, of which none can take all."""

from __future__ import annotations

from collections import Counter


class Share:
    """`room` places.  A user may have another as long as at least as many are free as
    the user has: one alone gets half of them, a second half of the rest, and so on."""

    __slots__ = ("_taken", "_users", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self._taken = 0
        self._users: Counter[int] = Counter()

    def take(self, uid: int) -> bool:
        """Take a place; False if the user has its share."""
        mine = self._users[uid]
        if mine >= self.room - self._taken:
            return False
        self._users[uid] = mine + 1
        self._taken += 1
        return True

    def give(self, uid: int) -> None:
        """Give a place back."""
        self._taken -= 1
        if self._users[uid] > 1:
            self._users[uid] -= 1
        else:
            del self._users[uid]
