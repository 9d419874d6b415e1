"""Callers, as proof established them."""

from __future__ import annotations

from typing import Protocol


class Powers(Protocol):
    """What a caller's token leaves of what the caller may do.  budget: the most that an object
    may cost an hour which the caller begins, None for any."""

    @property
    def budget(self) -> float | None: ...

    def admit(self, **what: str) -> None:
        """CloudError("denied") where one of these is not allowed: op="kill", app="web", …"""


class Who:
    """A caller: by SO_PEERCRED, a FUSE request or an afid, never by a claimed name.

    user: the name, "none" where nothing is proved.  uid: the local number, or None.
    groups: names; a user is always in the group of its own name.  boss: the node's
    owner, to whom no permission bit applies (the host owner of Plan 9; root here).
    node: the other node by whose connection the caller comes, "" for this one's.
    powers: what the caller's token restricts it to, or None.
    """

    __slots__ = ("boss", "groups", "node", "powers", "uid", "user")

    def __init__(
        self,
        user: str,
        uid: int | None,
        groups: frozenset[str] = frozenset(),
        boss: bool = False,
        node: str = "",
        powers: Powers | None = None,
    ) -> None:
        self.user = user
        self.uid = uid
        self.groups = groups | {user}
        self.boss = boss
        self.node = node
        self.powers = powers

    def admit(self, **what: str) -> None:
        """CloudError("denied") where the caller's token leaves out one of these."""
        if self.powers is not None and not self.boss:
            self.powers.admit(**what)

    @property
    def budget(self) -> float | None:
        """The most that an object may cost an hour which the caller begins; None: whatever."""
        return None if self.powers is None or self.boss else self.powers.budget

    def by(self, node: str) -> Who:
        """The same caller, who comes by another node."""
        return Who(self.user, self.uid, self.groups, self.boss, node, self.powers)

    def __repr__(self) -> str:
        return f"Who({self.user!r}{', boss' if self.boss else ''})"


NOBODY = Who("none", None)
