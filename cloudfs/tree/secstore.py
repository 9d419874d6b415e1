"""/cloud/secstore: users, groups, and their sealed keys.

Files that answer take a request by writes and give the answer to the reads after them, on one open
file.  Everybody may use them, logged in or not: what they take is signed or blinded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.accounts import Gone, Group, User
from cloudfs.factotum.dealings import notes
from cloudfs.factotum.register import Register
from cloudfs.kernel.holder import HERE, REQUEST, Holder, no_user
from cloudfs.kernel.people import describe
from cloudfs.kernel.secstore import Ask, Secstore
from cloudfs.tree import numbers
from cloudfs.tree.api import NOBODY, Cues, Handle, Node, Wait
from cloudfs.tree.files import Ctl, Row, Value
from cloudfs.tree.imports import Files, Imports
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File, LiveDir, TableDir
from cloudfs.wait import then

DOC = """\
Users and groups of the cloud, and the keys of users, sealed by their own clients.  Nodes hold
shares of what hardens a password: fewer than `need` of them cannot try a single one.

  cloudfs user add ana          make a user, where the cluster's authority is
  cat users/ana/status          version, epoch, who holds her shares
  cat groups/web                owner and members
"""

USER_DOC = "One user.\n"


class Answering(Row):
    """A file that takes a request and gives an answer: `answer(subject, request, at)`."""

    def __init__(
        self, name: str, mode: int, answer: Callable[[Any, str, Attach], str | Wait[str]]
    ) -> None:
        super().__init__(name, mode, answer.__doc__)
        self.answer = answer

    def open(self, subject: Any, mode: int, at: Attach, cues: Cues) -> Handle:
        return _Asked(lambda text: self.answer(subject, text, at))


class _Asked(Handle):
    """The request as far as it was written, then the answer."""

    __slots__ = ("_answer", "_request", "_said")

    def __init__(self, answer: Callable[[str], str | Wait[str]]) -> None:
        self._answer = answer
        self._request = b""
        self._said: bytes | None = b""  # until there is a request

    def write(self, offset: int, data: bytes | memoryview) -> int:
        if self._said is not None:
            self._request, self._said = b"", None
        if len(self._request) + len(data) > REQUEST:
            self._request, self._said = b"", b""
            raise CloudError("toobig", f"a request has at most {REQUEST} bytes")
        self._request += bytes(data)
        return len(data)

    def read(self, offset: int, count: int) -> bytes | Wait[bytes]:
        if self._said is not None:
            return self._said[offset : offset + count]
        try:
            request = self._request.decode()
        except UnicodeDecodeError as error:
            raise CloudError("bad", f"the request is not UTF-8 at byte {error.start}") from None
        return then(self._answer(request), partial(self._take, offset, count))

    def _take(self, offset: int, count: int, text: str) -> bytes:
        self._said = text.encode()
        return self._said[offset : offset + count]


def asking(imports: Imports) -> Ask:
    """Asks the holders at other nodes, as nobody."""

    async def ask(node: str, request: str, seconds: float) -> str:
        return await Files(imports.reach(node), NOBODY, seconds).ask("secstore/ask", request)

    return ask


# --- what other nodes ask --------------------------------------------------------------------


def _ask(holder: Holder, request: str, at: Attach) -> str | Wait[str]:
    """Write a holder's verb and its lines, read the answer: key, harden, right, keys, keep, give;
    between holders deal, part, join, sign."""
    return holder.ask(request, at.who.node or HERE)


def own(holder: Holder, owner: str) -> Node:
    """secstore in a node's own directory: what it holds itself."""
    rows = (Answering("ask", 0o666, _ask),)
    return TableDir(
        "secstore",
        rows,
        holder,
        numbers.HOLDER,
        owner,
        lambda: holder.people.since,
        doc="What this node holds of users' keys.\n",
    )


# --- one user --------------------------------------------------------------------------------


class _Of:
    """What a user's directory is about."""

    __slots__ = ("name", "store")

    def __init__(self, store: Secstore, name: str) -> None:
        self.store = store
        self.name = name


def _status(of: _Of, at: Attach) -> str:
    """One record: version, epoch, in how many versions the record has parted (heads, 1 is right),
    groups, how many devices have logged in, who holds shares of the key, and how many of those
    are needed."""
    register = of.store.people.register
    record = register.user(of.name)
    if record is None:
        raise no_user(of.name)
    made = register.dealing(of.name)
    pairs = {
        "user": of.name,
        "version": record.version,
        "epoch": register.epoch(of.name),
        "heads": len(register.versions("user", of.name)),
        "groups": ",".join(sorted(register.groups_of(of.name))),
        "devices": len(notes(record).devices),
        "dealing": made.number if made else 0,
        "need": made.need if made else 0,
        "holders": ",".join(made.holders) if made else "",
    }
    return ndb.record(pairs) + "\n"


def _record(of: _Of, at: Attach) -> str:
    """The user's signed record, a line for each version that no other follows."""
    lines = of.store.people.register.versions("user", of.name)
    return "".join(one.text() for one in lines if isinstance(one, User))


def _dealing(of: _Of, at: Attach) -> str:
    """The records of who held and holds the shares, the last one last."""
    return "".join(one.text() for one in of.store.people.register.dealings(of.name))


def _harden(of: _Of, request: str, at: Attach) -> Wait[str]:
    """Write a blinded password, point=HEX; read it times each holder's share, with proofs."""
    return Wait(partial(of.store.harden, of.name, request))


def _keys(of: _Of, request: str, at: Attach) -> Wait[str]:
    """Write keys, read the sealed keys as each holder has them; write a newer version of them,
    signed by the user, and read who keeps it."""
    if request.strip() == "keys":
        return Wait(partial(of.store.keys, of.name))
    return Wait(partial(of.store.keep, of.name, request))


USER = (
    Value("status", 0o444, _status),
    Value("record", 0o444, _record),
    Value("dealing", 0o444, _dealing),
    Answering("harden", 0o666, _harden),
    Answering("keys", 0o666, _keys),
)


# --- the directory ---------------------------------------------------------------------------


def _ctl(store: Secstore, at: Attach) -> str:
    """Write signed records, a line each: of users, groups, and users who are gone.  Each node is
    told of what is new."""
    return "user=…\ngroup=…\ngone=…\ndealing=…\n"


def _act(store: Secstore, line: str, at: Attach) -> None:
    if line.strip():
        store.people.take(f"{line.rstrip()}\n")


def _store_status(store: Secstore, at: Attach) -> str:
    """How many users and groups are known, for how many this node holds a share, and a line for
    each name of which two versions do not follow each other."""
    register = store.people.register
    pairs = {
        "users": len(register.users()),
        "groups": len(register.groups()),
        "holds": len(store.holder.shares),
        "forks": len(register.forks()),
    }
    lines = [ndb.record(pairs)]
    for kind, name in register.forks():
        for one in register.versions(kind, name):
            told = describe(one)
            lines.append(ndb.record({"fork": kind, **told, "digest": one.digest[:8]}))
    return "".join(f"{line}\n" for line in lines)


def _gone(store: Secstore, at: Attach) -> str:
    """Users who are no more, a record each."""
    every = (one for one in store.people.register.every() if isinstance(one, Gone))
    return "".join(f"{ndb.record(describe(one))}\n" for one in every)


def _signed(store: Secstore, at: Attach) -> str:
    """The signed records of groups, as they are spread."""
    every = (one for one in store.people.register.every() if isinstance(one, Group))
    return "".join(one.text() for one in every)


def _choose(store: Secstore, request: str, at: Attach) -> Wait[str]:
    """Write the name of a new user, read who would hold the shares."""
    return Wait(partial(store.choose, request.strip()))


def _give(store: Secstore, request: str, at: Attach) -> Wait[str]:
    """Write a new user's record, dealing, sealed keys and shares, a line each; read which
    holders have taken them."""
    return Wait(partial(store.give, request))


TABLE = (
    Ctl("ctl", 0o666, _ctl, _act),
    Value("status", 0o444, _store_status),
    Value("gone", 0o444, _gone),
    Value("signed", 0o444, _signed),
    Answering("choose", 0o666, _choose),
    Answering("give", 0o666, _give),
)


def _group(of: _Of, at: Attach) -> str:
    """One record: owner, members and version of the group."""
    found = of.store.people.register.group(of.name)
    if found is None:
        raise CloudError("absent", f"there is no group {of.name[:40]!r}")
    members = ",".join(sorted(of.store.people.register.members(of.name)))
    pairs = {**describe(found), "members": members}
    heads = len(of.store.people.register.versions("group", of.name))
    return ndb.record({**pairs, "heads": heads}) + "\n"


def secstore(store: Secstore, owner: str) -> Node:
    """The directory /cloud/secstore."""
    people = store.people

    def register() -> Register:  # another one in another cloud
        return people.register

    def changed() -> float:
        return people.since

    def version() -> object:
        return register(), register().version

    def user(name: str, at: Attach | None = None, cues: Cues | None = None) -> Node:
        if register().user(name) is None:
            raise no_user(name)
        number = numbers.named("secstore", "users", name)
        return TableDir(name, USER, _Of(store, name), number, owner, changed, doc=USER_DOC)

    def group(name: str, at: Attach | None = None, cues: Cues | None = None) -> Node:
        if not register().members(name):
            raise CloudError("absent", f"there is no group {name[:40]!r}", "see: ls groups")
        number = numbers.named("secstore", "groups", name)
        return File(Value(name, 0o444, _group), _Of(store, name), number, owner, changed)

    users = LiveDir(
        "users", (), store, numbers.USERS, owner, changed,
        find=user, every=lambda: {name: user(name) for name in register().users()},
        version=version, doc="Every user of the cloud.\n",
    )  # fmt: skip
    groups = LiveDir(
        "groups", (), store, numbers.GROUPS, owner, changed,
        find=group, every=lambda: {name: group(name) for name in register().groups()},
        version=version, doc="Every group of the cloud that has members.\n",
    )  # fmt: skip
    return TableDir(
        "secstore", TABLE, store, numbers.SECSTORE, owner, changed, [users, groups], DOC
    )
