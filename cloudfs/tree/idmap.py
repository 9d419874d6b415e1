"""Names of users and groups to this machine's numbers, and back.

The tree knows users by name, since numbers differ between machines; the kernel and
9P2000.L want numbers.  An unknown name becomes `UNKNOWN`, an unknown number n the name
"#n", which reads back as n.  Answers are kept for `KEEP` seconds, because the name
services behind them may ask a file or a server each time.
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable, Container
from typing import Generic, TypeVar

from cloudfs.errors import CloudError
from cloudfs.who import NOBODY, Who

UNKNOWN = 65534  # what Linux itself shows for an owner that it cannot map
MAX_NAME = 64  # characters of a user's name
KEEP = 5.0  # seconds an answer holds
ROOM = 1024  # answers kept of each kind
_HIGHEST = 0xFFFFFFFE  # 0xffffffff means "no id" in every protocol

A = TypeVar("A")
B = TypeVar("B")


class _Kept(Generic[A, B]):
    """A lookup with its last answers, the oldest of which makes room for a new one."""

    __slots__ = ("_answers", "_clock", "_lookup")

    def __init__(
        self, lookup: Callable[[A], B], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self._answers: dict[A, tuple[float, B]] = {}

    def __call__(self, asked: A) -> B:
        kept = self._answers.get(asked)
        now = self._clock()
        if kept is not None and now < kept[0]:
            return kept[1]
        self._answers.pop(asked, None)
        answer = self._lookup(asked)
        self._answers[asked] = now + KEEP, answer
        if len(self._answers) > ROOM:
            del self._answers[next(iter(self._answers))]
        return answer


def _number(name: str) -> int:
    """The number in "#n", else UNKNOWN."""
    digits = name[1:] if name.startswith("#") else ""
    if digits.isascii() and digits.isdigit() and len(digits) <= 10:
        return min(int(digits), _HIGHEST)
    return UNKNOWN


def _find_uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError, OSError):  # ValueError: a NUL or a lone surrogate
        return _number(name)


def _find_gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError, OSError):
        pass
    try:  # every user is a group of its own in the tree, if not in /etc/group
        return pwd.getpwnam(name).pw_gid
    except (KeyError, ValueError, OSError):
        return _number(name)


def _own_gid(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except (KeyError, OverflowError, OSError):
        return uid


def _find_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError, OSError):
        return f"#{uid}"


def _find_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError, OSError):
        return f"#{gid}"


def _find_groups(uid: int) -> frozenset[str]:
    try:
        entry = pwd.getpwuid(uid)
        gids = os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OverflowError, OSError):
        return frozenset()
    return frozenset(group_of(gid) for gid in gids)


# Users of the cloud who have logged in here, and the numbers by which they did, the last one
# last: the kernel, which checks the permissions of a mount by numbers, must know them by those.
_logged: dict[str, list[int]] = {}
_named: dict[int, list[str]] = {}


_changes = [0]


def changes() -> int:
    """Grows whenever somebody logs in or out: what was mapped before may be another now."""
    return _changes[0]


def log_in(name: str, uid: int) -> None:
    """From now on that user has this number here."""
    _changes[0] += 1
    _logged.setdefault(name, []).append(uid)
    _named.setdefault(uid, []).append(name)


def log_out(name: str, uid: int) -> None:
    """One login less."""
    _changes[0] += 1
    _one_less(_logged, name, uid)
    _one_less(_named, uid, name)


def _one_less(table: dict[A, list[B]], key: A, value: B) -> None:
    found = table.get(key, [])
    if value in found:
        found.remove(value)
    if not found:
        table.pop(key, None)


_uids = _Kept(_find_uid)
_gids = _Kept(_find_gid)
_users = _Kept(_find_user)
_groups = _Kept(_find_group)
_memberships = _Kept(_find_groups)


def uid_of(name: str) -> int:
    """The number of a user, UNKNOWN if there is none of that name here."""
    logged = _logged.get(name)
    return logged[-1] if logged else _uids(name)


def gid_of(name: str) -> int:
    """The number of a group, or of the own group of a user; UNKNOWN if there is none."""
    logged = _logged.get(name)
    return _own_gid(logged[-1]) if logged else _gids(name)


def is_user(name: str) -> bool:
    """Whether this machine has a user of that name."""
    return not name.startswith("#") and _uids(name) != UNKNOWN


def user_of(uid: int) -> str:
    """The name of a user, "#n" if the number n has none."""
    named = _named.get(uid)
    return named[-1] if named else _users(uid)


def group_of(gid: int) -> str:
    """The name of a group, "#n" if the number n has none."""
    return _groups(gid)


def far_user(name: str, owner: str) -> Who:
    """The caller that another node of the cloud names: boss if it has the name of this
    node's owner.  Numbers and groups are those of its machine and say nothing here."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or "/" in name:
        raise CloudError("denied", f"{name[:40]!r} is no user")
    return NOBODY if name == NOBODY.user else Who(name, None, boss=name == owner)


def who_of(uid: int, boss_uids: Container[int]) -> Who:
    """The caller with a number that the kernel vouches for, in all groups that this
    machine gives it; boss if it is one of `boss_uids`."""
    return Who(_users(uid), uid, _memberships(uid), uid in boss_uids)
