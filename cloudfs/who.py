"""Callers, as proof established them."""

from __future__ import annotations


class Who:
    """A caller: by SO_PEERCRED, a FUSE request or an afid, never by a claimed name.

    user: the name, "none" where nothing is proved.  uid: the local number, or None.
    groups: names; a user is always in the group of its own name.  boss: the node's
    owner, to whom no permission bit applies (the host owner of Plan 9; root here).
    node: the other node by whose connection the caller comes, "" for this one's.
    """

    __slots__ = ("boss", "groups", "node", "uid", "user")

    def __init__(
        self,
        user: str,
        uid: int | None,
        groups: frozenset[str] = frozenset(),
        boss: bool = False,
        node: str = "",
    ) -> None:
        self.user = user
        self.uid = uid
        self.groups = groups | {user}
        self.boss = boss
        self.node = node

    def by(self, node: str) -> Who:
        """The same caller, who comes by another node."""
        return Who(self.user, self.uid, self.groups, self.boss, node)

    def __repr__(self) -> str:
        return f"Who({self.user!r}{', boss' if self.boss else ''})"


NOBODY = Who("none", None)
