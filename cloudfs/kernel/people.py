"""Users and groups as this node knows them: kept on disk, checked, told to all nodes.

    people.user("ana").key      by which what ana signs is checked
    people.groups_of("ana")     the groups that she is in now
    people.epoch("ana")         tokens of an older epoch are void
    await people.changed.wait() until anything of it is another

What a record must be is factotum/register.py's; how it comes to every node, spread.py's.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding

from cloudfs.errors import CloudError
from cloudfs.factotum.accounts import Gone, Group, User
from cloudfs.factotum.dealings import Dealing, notes, short
from cloudfs.factotum.register import Record, Register, Root
from cloudfs.kernel.bell import Bell
from cloudfs.kernel.records import Records

log = logging.getLogger(__name__)

Told = Callable[[Record, str], None]  # (record, the zone it came from or "-")
HERE = "-"  # in place of a zone: made or repaired here, so every zone is told


class People:
    """Everybody in the cloud.

    root(): its root certificate and name, None while this node is in no cloud.  tell: called
    with each record that is new here.  event(event, pairs): what a person may want to know.
    """

    def __init__(
        self,
        root: Callable[[], Root | None],
        records: Records,
        event: Callable[..., None] = lambda event, **pairs: None,
    ) -> None:
        self.changed = Bell()
        self.since = time.time()  # of the last change
        self.tell: Told = lambda record, zone: None
        self._root = root
        self._records = records
        self._event = event
        self._touched: set[tuple[str, str]] = set()
        self._mark = ""
        self._seen: Root | None = None
        self._begin()
        for lines in records.all_people():
            for line in lines.splitlines(keepends=True):
                try:
                    self.register.put(line, checked=True)
                except CloudError as error:
                    log.error("a record of users on disk is damaged: %s", error)
        self._touched.clear()
        self._look_at_root()

    def _begin(self) -> None:
        self.register = Register(self._root)
        self.register.added = self.register.dropped = self._note

    # --- what others ask --------------------------------------------------------------------

    def some(self) -> bool:
        """Whether this node knows any user."""
        self._look_at_root()
        return self.register.some()

    def user(self, name: str) -> User | None:
        """The checked record of a user, None where there is none of that name."""
        self._look_at_root()
        return self.register.user(name)

    def revoked(self, name: str, id: str) -> bool:
        """Whether a user took back the token with a block of that id."""
        every = self.register.versions("user", name)
        return any(short(id) in notes(one).revoked for one in every if isinstance(one, User))

    def groups_of(self, name: str) -> frozenset[str]:
        """The groups that have this user as a member now."""
        return self.register.groups_of(name)

    def epoch(self, name: str) -> int:
        """Tokens of a lower epoch are void; 0 where there is no such user."""
        return self.register.epoch(name)

    def dealing(self, user: str) -> Dealing | None:
        """Who holds the shares of a user's key."""
        return self.register.dealing(user)

    # --- taking -----------------------------------------------------------------------------

    def take(self, line: str, zone: str = HERE) -> bool:
        """A record as its line, from whom it may be; whether it was new.  It is kept, and told
        on.  Raises CloudError as `Register.put` does."""
        self._look_at_root()
        forks = set(self.register.forks())
        if not self.register.put(line):
            return False
        new = [record for record in self._save() if record.text() == line]
        for kind, name in set(self.register.forks()) - forks:
            self._event("fork", kind=kind, name=name, why="two versions do not follow each other")
        self.since = time.time()
        self.changed.ring()
        for record in new:
            self.tell(record, zone)
        return True

    def _note(self, record: Record) -> None:
        self._touched.add(self.register.where(record))

    def _save(self) -> list[Record]:
        """Write what was touched; all records under the touched names."""
        found = []
        for kind, name in self._touched:
            there = self.register.versions(kind, name)
            self._records.put_people(kind, name, "".join(one.text() for one in there))
            found += there
        self._touched.clear()
        return found

    def _look_at_root(self) -> None:
        """In another cloud nobody of the last one is anybody."""
        root = self._root()
        if root is None or root is self._seen:
            return
        self._seen = root
        mark = hashlib.sha256(root[0].public_bytes(Encoding.DER)).hexdigest()
        if mark == self._mark:
            return
        if self._records.get("people.root", mark) != mark:
            log.warning("this node is in another cloud: the users of the last one are forgotten")
            self._records.drop_people()
            self._begin()
            self.changed.ring()
        self._mark = mark
        self._records.set("people.root", mark)


def describe(record: Record) -> dict[str, object]:
    """A record in short, for people: no keys and no signatures."""
    if isinstance(record, User):
        return {"user": record.user, "version": record.version, "epoch": record.epoch}
    if isinstance(record, Group):
        return {
            "group": record.group,
            "owner": record.owner,
            "members": ",".join(record.members),
            "version": record.version,
        }
    if isinstance(record, Gone):
        return {"gone": record.user, "cluster": record.cluster}
    return {"dealing": record.user, "number": record.number, "need": record.need}
