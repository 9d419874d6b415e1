"""All users, groups and dealings that a node knows, each record checked by itself.  Pure.

    put(text)  →  taken, known already, or CloudError: `bad`, `denied`, `stale`, `toomany`

What is put in any order, any number of times, comes to the same for honest users: a newer version
takes the place of those that it follows, and two that do not follow each other are both kept (a
*fork*) until their owner makes one that follows both.  While they are, the one that came first
holds where it matters whose key it is, so that nobody takes a name by making it again; of epochs
the highest holds, and of members those that all versions name.

A version follows another only if it is of the same first key and its keys go on from those of the
other; one by a key that was replaced is stale, whatever its number.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings
from cloudfs.factotum.accounts import Gone, Group, User
from cloudfs.factotum.dealings import Dealing

Root = tuple[x509.Certificate, str]  # the cloud's root and name
Record = User | Group | Gone | Dealing

LINE = 8192  # bytes of a record
USERS = 1 << 16
GROUPS = 1 << 16
OWN = 64  # groups of one owner
HEADS = 8  # versions of one thing that are kept beside each other
GONE = 64  # users of one name that are gone
FOLLOWED = 64  # hashes of older versions that are remembered of each
PARTS = 64  # of the digest
ORDER = ("gone", "user", "group", "dealing")  # in which they can be checked


@dataclass(slots=True)
class _Kept:
    """The versions of one name, the one that holds first; whose, and the hashes of, those
    that they follow: nobody else's record may say that of them."""

    heads: list[Record] = field(default_factory=list)
    followed: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)

    def follow(self, whose: str, names: Sequence[str]) -> None:
        for name in names:
            self.followed[whose, name] = None
        while len(self.followed) > FOLLOWED:
            self.followed.popitem(last=False)


class Register:
    """Everything that is known.  root(): the cloud's root and name, None where this node is in
    no cloud, and then nothing can be checked.  `added` and `dropped` are told of changes."""

    def __init__(self, root: Callable[[], Root | None]) -> None:
        self.version = 0  # grows with each change
        self.added: Callable[[Record], None] = lambda record: None
        self.dropped: Callable[[Record], None] = lambda record: None
        self._root = root
        self._kept: dict[str, dict[str, _Kept]] = {kind: {} for kind in ORDER}
        self._parts: list[dict[str, Record]] = [{} for _ in range(PARTS)]
        self._hashes: list[bytes | None] = [None] * PARTS
        self._owned: dict[str, int] = {}  # groups of an owner
        self._groups: dict[str, frozenset[str]] | None = None  # by member

    # --- what is known ----------------------------------------------------------------------

    def some(self) -> bool:
        """Whether there is any user."""
        return bool(self._kept["user"])

    def users(self) -> list[str]:
        return sorted(self._kept["user"])

    def groups(self) -> list[str]:
        """Those that have members: a group without any is gone."""
        return sorted(name for name in self._kept["group"] if self.members(name))

    def versions(self, kind: str, name: str) -> list[Record]:
        """All that is kept of a name, the one that holds first.  kind: user, group or gone."""
        kept = self._kept[kind].get(name)
        return list(kept.heads) if kept else []

    def user(self, name: str) -> User | None:
        """The record that holds."""
        kept = self._kept["user"].get(name)
        found = kept.heads[0] if kept else None
        return found if isinstance(found, User) else None

    def epoch(self, name: str) -> int:
        """The highest epoch of any version of who holds the name; 0 for nobody."""
        first = self.user(name)
        every = [one for one in self.versions("user", name) if isinstance(one, User)]
        return max((one.epoch for one in every if first and _same(one, first)), default=0)

    def group(self, name: str) -> Group | None:
        kept = self._kept["group"].get(name)
        found = kept.heads[0] if kept else None
        return found if isinstance(found, Group) else None

    def members(self, group: str) -> frozenset[str]:
        """Those whom all versions of the group's owner name."""
        first = self.group(group)
        if first is None or group in self._kept["user"]:
            return frozenset()
        every = [one for one in self.versions("group", group) if isinstance(one, Group)]
        sets = [frozenset(one.members) for one in every if one.owner == first.owner]
        return frozenset.intersection(*sets)

    def groups_of(self, name: str) -> frozenset[str]:
        if self._groups is None:
            found: dict[str, set[str]] = {}
            for group in self._kept["group"]:
                for member in self.members(group):
                    found.setdefault(member, set()).add(group)
            self._groups = {member: frozenset(groups) for member, groups in found.items()}
        return self._groups.get(name, frozenset())

    def forks(self) -> list[tuple[str, str]]:
        """(kind, name) of what has parted."""
        return sorted(
            (kind, name)
            for kind in ("user", "group")
            for name, kept in self._kept[kind].items()
            if len(kept.heads) > 1
        )

    def where(self, record: Record) -> tuple[str, str]:
        """Kind and name under which a record is kept."""
        if isinstance(record, Group):
            return "group", record.group
        kind = {User: "user", Gone: "gone", Dealing: "dealing"}[type(record)]
        return kind, record.user

    def dealings(self, user: str) -> list[Dealing]:
        """From the one that the user's record names to the last one."""
        return [one for one in self.versions("dealing", user) if isinstance(one, Dealing)]

    def dealing(self, user: str) -> Dealing | None:
        """Who holds the shares of a user's key now."""
        kept = self._kept["dealing"].get(user)
        found = kept.heads[-1] if kept and kept.heads else None
        return found if isinstance(found, Dealing) else None

    # --- taking -----------------------------------------------------------------------------

    def put(self, text: str, checked: bool = False) -> bool:
        """Take a record; whether it was new.  checked: it was checked when it first came.

        CloudError: `bad` for what is none, `denied` for one that nobody who may has signed,
        `stale` for one that newer ones have followed, `absent` where what it is checked by
        has not come yet, `toomany`.
        """
        if len(text.encode(errors="replace")) > LINE:
            raise CloudError("toobig", f"a record has at most {LINE} bytes")
        kind = text.partition("=")[0]
        root = None if checked else self._root()
        if root is None and not checked:
            raise CloudError("absent", "this node knows no root of a cloud", "join one first")
        if kind == "user":
            return self._put_user(accounts.parse_user(text), root)
        if kind == "group":
            return self._put_group(accounts.parse_group(text), checked)
        if kind == "gone":
            return self._put_gone(accounts.parse_gone(text), root)
        if kind == "dealing":
            return self._put_dealing(dealings.parse(text), checked)
        raise CloudError("bad", f"no record begins with {kind[:20]!r}")

    def _put_user(self, user: User, root: Root | None) -> bool:
        kept = self._kept["user"].get(user.user, _Kept())
        if self._known(kept, user, user.user):
            return False
        gone = (one for one in self.versions("gone", user.user) if isinstance(one, Gone))
        if any(one.ends(user) for one in gone):
            raise CloudError("stale", f"the user {user.user} is gone")
        if root is not None:
            accounts.check_user(user, *root)
        heads = [one for one in kept.heads if isinstance(one, User)]
        same = [one for one in heads if _same(one, user)]
        if any(_before(user, one) for one in same):
            raise CloudError("stale", f"{user.user} has another key since that record")
        ended = [
            one
            for one in same
            if _before(one, user) or (one.digest in user.before and one.keys == user.keys)
        ]
        if any(one.digest in user.before and one.epoch > user.epoch for one in ended):
            raise CloudError("denied", f"the record of {user.user} goes back an epoch")
        self._merge("user", user.user, user, ended, USERS)
        self._shorten(user.user)
        return True

    def _shorten(self, user: str) -> None:
        """Forget dealings before the first that a version of the user's record names."""
        chain, anchors = self.dealings(user), self._anchors(user)
        if any(one.digest in anchors for one in chain):
            while chain[0].digest not in anchors:
                self._drop("dealing", user, chain.pop(0))

    def _put_group(self, group: Group, checked: bool) -> bool:
        name, owner = group.group, group.owner
        kept = self._kept["group"].get(name, _Kept())
        if self._known(kept, group, name):
            return False
        if not checked:
            if name in self._kept["user"]:
                raise CloudError("denied", f"{name} is a user's name, and no group's")
            accounts.check_group(group, self._need_user)
        heads = [one for one in kept.heads if isinstance(one, Group)]
        own = [one for one in heads if one.owner == owner]
        if not own and self._owned.get(owner, 0) >= OWN:
            raise CloudError("toomany", f"{owner} owns {OWN} groups, and nobody may have more")
        self._merge("group", name, group, [one for one in own if one.digest in group.before],
                    GROUPS)  # fmt: skip
        if not own:
            self._owned[owner] = self._owned.get(owner, 0) + 1
        return True

    def _put_gone(self, gone: Gone, root: Root | None) -> bool:
        kept = self._kept["gone"].get(gone.user, _Kept())
        if any(isinstance(one, Gone) and _says_same(one, gone) for one in kept.heads):
            return False  # of one thing ECDSA makes many signatures
        if root is not None:
            accounts.check_gone(gone, *root)
        if len(kept.heads) >= GONE:
            raise CloudError("toomany", f"{GONE} users of the name {gone.user} are gone")
        self._merge("gone", gone.user, gone, [], USERS)
        users = [one for one in self.versions("user", gone.user) if isinstance(one, User)]
        for user in users:
            if gone.ends(user):
                self._drop("user", gone.user, user)
        if gone.user not in self._kept["user"]:
            for one in self.dealings(gone.user):
                self._drop("dealing", gone.user, one)
            for name in list(self._kept["group"]):
                for group in self.versions("group", name):
                    if isinstance(group, Group) and group.owner == gone.user:
                        self._drop("group", name, group)
        return True

    def _put_dealing(self, made: Dealing, checked: bool) -> bool:
        kept = self._kept["dealing"].get(made.user, _Kept())
        chain = [one for one in kept.heads if isinstance(one, Dealing)]
        if any(one.digest == made.digest for one in chain):
            return False
        if checked:
            self._merge("dealing", made.user, made, [], USERS, last=True)
            return True
        anchors = self._anchors(made.user)
        if made.digest in anchors:
            stays = False
        elif chain and made.before == chain[-1].digest:
            dealings.check_next(made, chain[-1])
            stays = True
        elif len(chain) > 1 and made.before == chain[-2].digest and made.digest < chain[-1].digest:
            dealings.check_next(made, chain[-2])  # two at once: all keep the same one
            self._drop("dealing", made.user, chain[-1])
            stays = True
        elif ("", made.digest) in kept.followed or any(made.number <= one.number for one in chain):
            raise CloudError("stale", f"{made.user} has newer holders than those")
        else:
            raise CloudError("absent", f"what that dealing of {made.user} follows is not known yet")
        if stays and len(chain) > dealings.CHAIN:
            raise CloudError(
                "toomany",
                f"the shares of {made.user} were dealt {len(chain)} times since the last login",
            )
        self._merge("dealing", made.user, made, [] if stays else chain, USERS, last=stays)
        return True

    def _anchors(self, user: str) -> set[str]:
        """The dealings that the user's record names."""
        found = self.user(user)
        if found is None:
            raise CloudError("absent", f"no user {user} is known here yet")
        every = [one for one in self.versions("user", user) if isinstance(one, User)]
        return {dealings.notes(one).anchor for one in every if _same(one, found)}

    def _need_user(self, name: str) -> User:
        found = self.user(name)
        if found is None:
            raise CloudError("absent", f"no user {name} is known here yet")
        return found

    # --- keeping ----------------------------------------------------------------------------

    def _known(self, kept: _Kept, record: User | Group, name: str) -> bool:
        """Whether it is there already; CloudError("stale") for one that others follow."""
        if any(one.digest == record.digest for one in kept.heads):
            return True
        whose = _whose(record)
        if (whose, record.digest) in kept.followed:
            raise CloudError("stale", f"version {record.version} of {name} is not the newest")
        return False

    def _merge(
        self,
        kind: str,
        name: str,
        record: Record,
        ended: Sequence[Record],
        most: int,
        last: bool = False,
    ) -> None:
        """Put a record in the place of the first of those that it ends, or behind all."""
        table = self._kept[kind]
        if name not in table and len(table) >= most:
            raise CloudError("toomany", f"{most} names of this kind are known, and no more are")
        kept = table.setdefault(name, _Kept())
        if not ended and kind in ("user", "group") and len(kept.heads) >= HEADS:
            worst = max(kept.heads[1:], key=_place)
            if _place(record) > _place(worst):
                raise CloudError("toomany", f"{name} has parted in {HEADS} versions")
            self._drop(kind, name, worst)
            kept = table.setdefault(name, kept)
        at = len(kept.heads)
        if ended and not last:
            at = min(kept.heads.index(one) for one in ended)
        for one in ended:
            kept.heads.remove(one)
            self._changed(one, False)
        kept.heads.insert(at, record)
        before = record.before if isinstance(record, User | Group) else ()
        kept.follow(_whose(record), [*before, *(one.digest for one in ended)])
        self._changed(record, True)

    def _drop(self, kind: str, name: str, record: Record) -> None:
        kept = self._kept[kind][name]
        kept.heads.remove(record)
        if not kept.heads:
            del self._kept[kind][name]
        if isinstance(record, Group) and all(
            not isinstance(one, Group) or one.owner != record.owner for one in kept.heads
        ):
            self._owned[record.owner] -= 1
        self._changed(record, False)

    def _changed(self, record: Record, there: bool) -> None:
        part = int(record.digest[:8], 16) % PARTS
        if there:
            self._parts[part][record.digest] = record
        else:
            self._parts[part].pop(record.digest, None)
        self._hashes[part] = None
        if isinstance(record, Group) or (
            isinstance(record, User) and record.user in self._kept["group"]
        ):
            self._groups = None
        self.version += 1
        (self.added if there else self.dropped)(record)

    # --- comparing two registers ------------------------------------------------------------

    def hashes(self) -> list[bytes]:
        """A digest of each part: equal where the same records are in it."""
        for part, told in enumerate(self._hashes):
            if told is None:
                names = "".join(sorted(self._parts[part]))
                self._hashes[part] = hashlib.blake2b(names.encode(), digest_size=16).digest()
        return [one or b"" for one in self._hashes]

    def names(self, part: int) -> list[str]:
        """The digests of a part's records."""
        return sorted(self._parts[part]) if 0 <= part < PARTS else []

    def find(self, digest: str) -> Record | None:
        try:
            return self._parts[int(digest[:8], 16) % PARTS].get(digest)
        except ValueError:
            return None

    def every(self) -> Iterator[Record]:
        """All records, each kind after what it is checked by."""
        for kind in ORDER:
            for kept in self._kept[kind].values():
                yield from kept.heads


def order(text: str) -> tuple[int, int]:
    """Where a record's line stands so that those before it are what it is checked by."""
    kind, _, rest = text.partition("=")
    _, _, number = rest.partition(" number=")
    digits = number.partition(" ")[0]
    return ORDER.index(kind) if kind in ORDER else 9, int(digits) if digits.isdecimal() else 0


def _whose(record: Record) -> str:
    """What a record must have in common with those that it follows."""
    if isinstance(record, User):
        return record.made[1].hex()
    return record.owner if isinstance(record, Group) else ""


def _same(one: User, other: User) -> bool:
    """Whether the name was given once for both."""
    return one.made[1] == other.made[1]


def _before(old: User, new: User) -> bool:
    """Whether the new one's keys go on from the old one's, by at least one."""
    count = len(old.keys)
    return len(new.keys) > count and new.keys[:count] == old.keys


def _says_same(one: Gone, other: Gone) -> bool:
    return (one.first, one.cluster) == (other.first, other.cluster)


def _place(record: Record) -> tuple[int, str]:
    """The better first."""
    version = record.version if isinstance(record, User | Group) else 0
    return -version, record.digest
