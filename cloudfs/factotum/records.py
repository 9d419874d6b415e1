"""Records of users and groups as files of a folder: NAME.user and NAME.group, one signed line each.

Whoever may write the folder decides which versions are there, and nobody can make one: each is
checked against the cloud's root when it is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509

from cloudfs.errors import CloudError
from cloudfs.factotum import accounts
from cloudfs.factotum.accounts import User

LOOK = 1.0  # seconds between looks at the folder
_USERS, _GROUPS = "*.user", "*.group"

log = logging.getLogger(__name__)


class Folder:
    """The people in a folder (factotum/proofs.py's People).  root(): the cloud's root and name,
    None while it is not known; then there is nobody."""

    def __init__(self, path: Path, root: Callable[[], tuple[x509.Certificate, str] | None]) -> None:
        self._path = path
        self._root = root
        self._users: dict[str, User] = {}
        self._groups: dict[str, frozenset[str]] = {}  # of each user
        self._state: tuple[object, ...] = ()
        self._next = 0.0

    def some(self) -> bool:
        self._look()
        return bool(self._users)

    def user(self, name: str) -> User | None:
        self._look()
        return self._users.get(name)

    def groups_of(self, name: str) -> frozenset[str]:
        self._look()
        return self._groups.get(name, frozenset())

    def epoch(self, name: str) -> int:
        found = self.user(name)
        return found.epoch if found is not None else 0

    def _look(self) -> None:
        """Read what changed, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK
        files = sorted((*self._path.glob(_USERS), *self._path.glob(_GROUPS)))
        state = tuple((str(file), *_times(file)) for file in files)
        if state == self._state:
            return
        root = self._root()
        if root is None:
            return
        self._state = state
        users, memberships = self._read(*root)
        self._users, self._groups = users, memberships

    def _read(
        self, root: x509.Certificate, cloud: str
    ) -> tuple[dict[str, User], dict[str, frozenset[str]]]:
        users: dict[str, User] = {}
        for text in _lines(self._path, _USERS):
            with _logged():
                user = accounts.parse_user(text)
                accounts.check_user(user, root, cloud)
                users[user.user] = user

        def known(name: str) -> User:
            if name not in users:
                raise CloudError("denied", f"a group is owned by {name}, whom nobody knows")
            return users[name]

        groups: dict[str, set[str]] = {}
        for text in _lines(self._path, _GROUPS):
            with _logged():
                group = accounts.parse_group(text)
                accounts.check_group(group, known)
                for member in group.members:
                    groups.setdefault(member, set()).add(group.group)
        return users, {name: frozenset(found) for name, found in groups.items()}


def _times(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _lines(path: Path, pattern: str) -> Iterator[str]:
    """The contents of the folder's files of that kind, bounded."""
    for file in sorted(path.glob(pattern)):
        with suppress(OSError), file.open() as opened:
            yield opened.read(accounts.MOST + 1)


@contextmanager
def _logged() -> Iterator[None]:
    """What is no good record is left out, and the log says so."""
    try:
        yield
    except CloudError as error:
        log.warning("a record is left out: %s", error)
