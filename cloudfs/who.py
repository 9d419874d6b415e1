"""Callers, as proof established them."""

from __future__ import annotations


class Who:
    """A caller: by SO_PEERCRED, a FUSE request or an afid, never by a claimed name.

    user: the name, "none" where nothing is proved.  uid: the local number, or None.
    groups: names; a user is always in the group of its own name.  boss: the node's
    owner, to whom no permission bit applies (the host owner of Plan 9; root here).
    """

    __slots__ = ("boss", "groups", "uid", "user")

    def __init__(
        self, user: str, uid: int | None, groups: frozenset[str] = frozenset(), boss: bool = False
    ) -> None:
        self.user = user
        self.uid = uid
        self.groups = groups | {user}
        self.boss = boss

    def __repr__(self) -> str:
        return f"Who({self.user!r}{', boss' if self.boss else ''})"


NOBODY = Who("none", None)
