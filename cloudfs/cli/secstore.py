"""A user's client of secstore: what hardens a password, seals keys and opens them.

    get_keys(files, "ana", password)      the keys, as lines for factotum's ctl

The password never leaves this process: holders see a random point.  What nodes answer is checked
here: the user's record by the cloud's root where this machine has it, holders' answers by the
point that the record names, sealed keys by the user's signature.  A version of the keys is refused
that is older than the one that the record names, or that this client has seen before.

A client that opened the keys makes this device known in the user's record, so that strangers who
try passwords do not keep it waiting.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudfs import config, ndb
from cloudfs.cli.device import Memory
from cloudfs.cli.files import SYSTEM, Files
from cloudfs.errors import KINDS, CloudError
from cloudfs.factotum import accounts, dealings, oprf, ristretto, sealed, shares, trust, versions
from cloudfs.factotum.accounts import User
from cloudfs.factotum.authority import Authority
from cloudfs.factotum.dealings import DEVICES, Dealing, Notes, notes
from cloudfs.factotum.sealed import Blob
from cloudfs.kernel.holder import to_confirm, to_sign

Say = Callable[[str], None]  # told what a person should know and nothing is refused for
LEAST = 8  # characters of a new password
DEALT = 4  # dealings after which a login has the user's record name the last one

_SEED = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Opened:
    """A user's keys, open.  heads: all versions of the record.  blobs: of the sealed keys, the
    one that was opened first.  content: lines, the recovery code among them."""

    heads: list[User]
    blobs: list[Blob]
    content: str

    @property
    def keys(self) -> list[str]:
        return [line for line in self.content.splitlines() if line.startswith("key ")]

    @property
    def code(self) -> str:
        found = re.search(r"(?m)^code (\S+)$", self.content)
        return found[1] if found else ""

    @property
    def secret(self) -> Ed25519PrivateKey:
        """The user's own key.  CloudError("denied") where none of the keys is that."""
        for line in self.keys:
            seed = ndb.parse(line).get("!seed", "")
            if _SEED.fullmatch(seed):
                secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
                if _public(secret) == self.heads[0].key:
                    return secret
        raise CloudError("denied", f"the key of {self.heads[0].user} is not among the sealed ones")


def _public(secret: Ed25519PrivateKey) -> bytes:
    return secret.public_key().public_bytes_raw()


def get_keys(
    files: Files,
    user: str,
    password: str,
    *,
    say: Say = lambda text: None,
    remember: bool = True,
    version: str = "",
) -> list[str]:
    """The user's keys, each a line `key proto=… !…` for factotum's ctl.

    files: the tree (cli/files.py).  remember: make this device known.  version: the first digits
    of the one that holds where the sealed keys have parted in several.  CloudError: `absent` for
    no such user, `denied` for a wrong password, `busy` after too many or where the keys have
    parted, `unreachable` where too few holders answered, `stale` where they have old keys.
    """
    opened = unlock(files, user, password=password, version=version, say=say)
    if remember:
        memory = Memory(opened.heads[0])
        memory.note(opened.blobs[0])
        try:
            _bring_up(files, opened, memory)
        except CloudError as error:
            say(f"the record of {user} is as it was: {error}")
    return opened.keys


def unlock(
    files: Files,
    user: str,
    *,
    password: str = "",
    code: str = "",
    version: str = "",
    say: Say = lambda text: None,
) -> Opened:
    """Open the user's keys by password or by recovery code; see get_keys."""
    heads = records(files, user)
    others = [one for one in heads if one.made[1] != heads[0].made[1]]
    heads = [one for one in heads if one not in others]
    for one in others:
        say(
            f"another user {user} was made in the cluster {accounts.made_in(one)}; one of the two"
            " has to go: cloudfs user del --version"
        )
    if len(heads) > 1:
        say(
            f"the record of {user} has parted in {len(heads)} versions, of which the first one"
            " seen holds; `cloudfs passwd` makes one that follows all"
        )
    memory = Memory(heads[0])
    if not password:
        blobs = sealed_keys(files, heads, memory.keys, version, say)
        content = sealed.open_by_code(blobs[0], code)
        return Opened(heads, blobs, content.decode(errors="replace"))
    device = memory.device
    if device is not None and _public(device) not in notes(heads[0]).devices:
        device = None
    hardened, point = harden(files, heads, password, device, say)
    blobs = sealed_keys(files, heads, memory.keys, version, say)
    content = sealed.open_by_password(blobs[0], hardened)
    opened = Opened(heads, blobs, content.decode(errors="replace"))
    _was_right(files, opened, point)
    return opened


def _was_right(files: Files, opened: Opened, point: bytes) -> None:
    """Tell holders that who asked with this point was the user: it counts as no guess."""
    user = opened.heads[0].user
    with contextlib.suppress(CloudError):
        sign = opened.secret.sign(to_confirm(user, point))
        pairs = {"right": point.hex(), "sign": sign.hex()}
        files.ask(f"secstore/users/{user}/harden", ndb.record(pairs))


# --- what nodes tell ---------------------------------------------------------------------------


def records(files: Files, user: str) -> list[User]:
    """The versions of the user's record, the one that holds first.  CloudError("absent")."""
    accounts.check_name(user)
    try:
        text = files.read(f"secstore/users/{user}/record")
    except CloudError as error:
        if error.kind == "absent":
            raise CloudError(
                "absent", f"there is no user {user}", "see: cloudfs user list"
            ) from None
        raise
    heads = [accounts.parse_user(line) for line in text.splitlines(keepends=True)]
    root = _root()
    for one in heads if root else ():
        assert root is not None
        accounts.check_user(one, *root)
    if not heads:
        raise CloudError("absent", f"there is no user {user}", "see: cloudfs user list")
    return heads


def _root() -> trust.Rooted | None:
    """The cloud's root, as this machine has it; without one its own node is believed."""
    for state in (config.state_dir(), SYSTEM):
        found = trust.root(state)
        if found is not None:
            return found
    return None


def told(text: str) -> tuple[dict[str, list[str]], dict[str, CloudError]]:
    """What `gather` of kernel/secstore.py wrote: each holder's lines, or its error."""
    lines = text.splitlines(keepends=True)
    good: dict[str, list[str]] = {}
    bad: dict[str, CloudError] = {}
    at = 0
    while at < len(lines):
        pairs = ndb.parse(lines[at])
        at += 1
        name = pairs.get("holder", "?")
        if "lines" in pairs:
            count = int(pairs["lines"]) if pairs["lines"].isdecimal() else 0
            good[name] = lines[at : at + count]
            at += count
        elif "kind" in pairs:
            kind = pairs["kind"] if pairs["kind"] in KINDS else "io"
            bad[name] = CloudError(kind, pairs.get("why", ""), pairs.get("fix", ""))
    return good, bad


def enough(need: int, of: int, good: int, bad: dict[str, CloudError]) -> None:
    """CloudError where too few holders answered, with what the others said."""
    if good >= need:
        return
    for error in bad.values():
        if error.kind == "busy":
            raise CloudError("busy", error.why, error.fix)
    said = "; ".join(f"{node}: {error.why or error.text}" for node, error in bad.items())
    raise CloudError(
        "unreachable",
        f"{need} of {of} holders needed, {good} answered{': ' if said else ''}{said}",
        "try again when more of them are up: cloudfs nodes",
    )


def _last_dealing(files: Files, user: str) -> Dealing:
    lines = files.read(f"secstore/users/{user}/dealing").splitlines(keepends=True)
    if not lines:
        raise CloudError(
            "absent", f"who holds the keys of {user} is not known here yet", "try again soon"
        )
    return dealings.parse(lines[-1])


def harden(
    files: Files,
    heads: Sequence[User],
    password: str,
    device: Ed25519PrivateKey | None,
    say: Say,
) -> tuple[bytes, bytes]:
    """The password, hardened by the holders of the user's key: 64 bytes; and the point that they
    were asked with.

    device: a key that the record names, or the user's own; None: ask as a stranger.
    """
    user, about = heads[0].user, notes(heads[0])
    asked = oprf.blind(password.encode())
    request = [ndb.record({"point": asked.point.hex()})]
    if device is not None:
        at = f"{time.time():.3f}"
        told_of = {"device": _public(device).hex(), "time": at}
        request = [ndb.record({"point": asked.point.hex(), **told_of})]
        for node in _last_dealing(files, user).holders:
            sign = device.sign(to_sign(user, node, asked.point, at))
            request.append(ndb.record({"holder": node, "sign": sign.hex()}))
    good, bad = told(files.ask(f"secstore/users/{user}/harden", "\n".join(request)))
    answers: dict[str, dict[int, bytes]] = {}
    made: dict[str, Dealing] = {}
    for node, text in good.items():
        try:
            dealing, number, answer = _answer(node, text, user, about.public, asked.point)
        except CloudError as error:
            bad[node] = error
            say(f"the holder {node} answers wrongly: {error}")
            continue
        made[dealing.digest] = dealing
        answers.setdefault(dealing.digest, {})[number] = answer
    for digest, found in answers.items():
        need = made[digest].need
        if len(found) >= need:
            some = dict(sorted(found.items())[:need])
            return oprf.finish(asked, oprf.combine(some)), asked.point
    best = max(answers, key=lambda digest: len(answers[digest]), default="")
    if not best:
        known = _last_dealing(files, user)
        enough(known.need, len(known.holders), 0, bad)
    enough(made[best].need, len(made[best].holders), len(answers[best]), bad)
    raise CloudError("unreachable", "no holder answered")


def _answer(
    node: str, lines: Sequence[str], user: str, public: bytes, point: bytes
) -> tuple[Dealing, int, bytes]:
    """A holder's answer, checked.  CloudError where it is not what its share gives."""
    try:
        pairs, made = ndb.parse(lines[0]), dealings.parse(lines[1])
        number = int(pairs["number"])
        answer, proof = bytes.fromhex(pairs["answer"]), bytes.fromhex(pairs["proof"])
    except (IndexError, KeyError, ValueError):
        raise CloudError("bad", f"what {node} answers is no answer") from None
    if made.user != user or made.public != public or made.share_of(node) != number:
        raise CloudError("denied", f"{node} answers for another key")
    oprf.check(made.point_of(number), point, answer, proof)
    return made, number, answer


def sealed_keys(
    files: Files, heads: Sequence[User], seen: str, version: str, say: Say
) -> list[Blob]:
    """All versions of the sealed keys that do not follow each other, the one that holds first.

    seen: the hash of the last that was opened here.  CloudError: `absent`, `stale`, `busy`.
    """
    user, named = heads[0].user, notes(heads[0]).blob
    good, bad = told(files.ask(f"secstore/users/{user}/keys", "keys"))
    at: dict[str, list[str]] = {}
    found: dict[str, Blob] = {}
    for node, lines in good.items():
        for line in lines:
            try:
                blob = sealed.parse(line)
                if blob.user != user:
                    raise CloudError("denied", f"they are not those of {user}")
                blob.check(Ed25519PublicKey.from_public_bytes(heads[0].key))
            except CloudError as error:
                say(f"the sealed keys at {node} were changed: {error}")
                continue
            found[blob.digest] = blob
            at.setdefault(blob.digest, []).append(node)
    if not found:
        enough(1, max(1, len(good) + len(bad)), 0, bad)
        raise CloudError("absent", f"no holder has sealed keys of {user}")
    judged = judge(list(found.values()), {named, seen} - {""}, version)
    for old in found.values():
        if old not in judged:
            nodes = ", ".join(at[old.digest])
            say(f"{nodes}: version {old.version} of the keys, which is older than"
                f" {judged[0].version}")  # fmt: skip
    return judged


def judge(blobs: Sequence[Blob], known: Iterable[str], version: str = "") -> list[Blob]:
    """Of what holders have the versions that count, the one that holds first.  Pure.

    known: hashes of versions that there certainly were.  CloudError: `stale` where none is one
    of those or follows them, `busy` where two do that do not follow each other.
    """
    heads = versions.heads(blobs)
    for digest in known:
        after = [one for one in heads if digest == one.digest or digest in one.before]
        if not after:
            raise CloudError(
                "stale",
                f"holders have version {heads[0].version} of the keys, and there was another"
                f" one after it ({digest[:8]})",
                "those that answered are behind or lie: try again when others are up",
            )
        heads = after
    if version:
        chosen = [one for one in heads if one.digest.startswith(version)]
        if len(chosen) != 1:
            raise CloudError("absent", f"no one version of the keys begins with {version[:64]}")
        return chosen + [one for one in heads if one is not chosen[0]]
    if len(heads) > 1:
        names = " and ".join(f"{one.version} ({one.digest[:8]})" for one in heads)
        raise CloudError(
            "busy",
            f"the keys have parted in versions {names}",
            "say which one holds: cloudfs passwd --version DIGITS",
        )
    return heads


# --- making and changing -------------------------------------------------------------------------


def make_user(files: Files, by: Authority, user: str, password: str, say: Say) -> str:
    """Make a user whom all nodes will know; the recovery code.  CloudError: `exists` for a name
    that is taken, `unreachable` where not all holders answer, `bad`, `denied`."""
    accounts.check_name(user)
    check_password(password)
    _not_there(files, user)
    first, _, rest = files.ask("secstore/choose", user).partition("\n")
    need = int(ndb.parse(first)["need"])
    good, bad = told(rest)
    enough(len(good) + len(bad), len(good) + len(bad), len(good), bad)
    holders = tuple(good)
    keys = tuple(bytes.fromhex(ndb.parse(good[node][0])["key"]) for node in holders)
    number = ristretto.scalar()
    dealt = shares.deal(number, need, range(1, len(holders) + 1))
    dealing = Dealing(user, 1, need, holders, keys, dealt.commitments)
    asked = oprf.blind(password.encode())
    hardened = oprf.finish(asked, ristretto.times(number, asked.point))
    secret = Ed25519PrivateKey.generate()
    code = sealed.new_code()
    pairs = {"proto": "cap25519", "dom": by.cloud, "user": user}
    content = f"key {ndb.record(pairs)} !seed={secret.private_bytes_raw().hex()}\ncode {code}\n"
    blob = sealed.seal(content.encode(), user, hardened, code, secret)
    more = Notes(dealing.digest, dealing.public, blob.digest).text()
    record = accounts.make_user(by, user, secret, more)
    given = [record.text(), dealing.text(), blob.text()]
    for index, node in enumerate(holders, 1):
        pairs = {"holder": node, "share": f"{dealt.shares[index]:x}"}
        given.append(ndb.record(pairs) + "\n")
    good, bad = told(files.ask("secstore/give", "".join(given)))
    enough(len(holders), len(holders), len(good), bad)
    files.write("secstore/ctl", record.text().rstrip("\n"))
    files.write("secstore/ctl", dealing.text().rstrip("\n"))
    return code


def _not_there(files: Files, user: str) -> None:
    for kind in ("user", "group"):
        if user in files.list(f"secstore/{kind}s"):
            raise CloudError("exists", f"there is a {kind} {user} already", "take another name")


def change_password(
    files: Files, opened: Opened, password: str, say: Say, epoch: bool = False
) -> None:
    """Seal the keys under another password, and end a fork if there is one.

    epoch: void all tokens that the user has given.  CloudError as get_keys; `unreachable` where
    fewer holders took it than are needed to read it.
    """
    check_password(password)
    heads, secret = opened.heads, opened.secret
    user = heads[0].user
    memory = Memory(heads[0])
    hardened, _ = harden(files, heads, password, secret, say)
    content = opened.content.encode()
    blob = sealed.seal(content, user, hardened, opened.code, secret, opened.blobs)
    good, bad = told(files.ask(f"secstore/users/{user}/keys", blob.text()))
    made = _last_dealing(files, user)
    enough(max(made.need, len(made.holders) // 2 + 1), len(made.holders), len(good), bad)
    for node, error in bad.items():
        say(f"{node} still has the old password: {error}")
    _change_record(files, heads, secret, replace(_all_notes(heads), blob=blob.digest), epoch)
    memory.note(blob)


def take_back(files: Files, opened: Opened, ids: Sequence[str]) -> None:
    """Have the user's record say that tokens with blocks of these ids are void."""
    said = _all_notes(opened.heads).with_revoked(ids)
    _change_record(files, opened.heads, opened.secret, said)


def _all_notes(heads: Sequence[User]) -> Notes:
    """What the first says, with the devices of all."""
    devices = [key for one in heads for key in notes(one).devices]
    return replace(notes(heads[0]), devices=tuple(dict.fromkeys(devices))[-DEVICES:])


def _change_record(
    files: Files,
    heads: Sequence[User],
    secret: Ed25519PrivateKey,
    said: Notes,
    epoch: bool = False,
) -> None:
    record = accounts.change_user(heads, secret, more=said.text(), epoch=epoch)
    files.write("secstore/ctl", record.text().rstrip("\n"))


def check_password(password: str) -> None:
    if len(password) < LEAST:
        raise CloudError("bad", f"a password has at least {LEAST} characters")
    if len(password.encode()) > oprf.MOST:
        raise CloudError("bad", f"a password has at most {oprf.MOST} bytes")


# --- what the record should say -------------------------------------------------------------------


def _bring_up(files: Files, opened: Opened, memory: Memory) -> None:
    """Have the user's record name this device, and the last dealing where there were several since
    the one that it names; not while it has parted."""
    said = notes(opened.heads[0])
    if len(opened.heads) > 1:
        return
    if memory.device is None:
        memory.device = Ed25519PrivateKey.generate()
        memory.save()
    known = dict.fromkeys([*said.devices, _public(memory.device)])
    new = replace(said, devices=tuple(known)[-DEVICES:], anchor=_anchor(files, opened.heads[0]))
    if new != said:
        _change_record(files, opened.heads, opened.secret, new)


def _anchor(files: Files, record: User) -> str:
    """The hash of the dealing that the record should name: the last of many, each of which
    follows the one before."""
    anchor = notes(record).anchor
    text = files.read(f"secstore/users/{record.user}/dealing")
    chain = [dealings.parse(line) for line in text.splitlines(keepends=True)]
    if len(chain) <= DEALT or chain[0].digest != anchor:
        return anchor
    for last, made in itertools.pairwise(chain):
        dealings.check_next(made, last)
    return chain[-1].digest
