"""What a node holds for users: a share of each one's hardening key, and the sealed keys.

Asked by one line and more below it, answered by lines:

    key                             this holder's own public key
    harden user= point= …           the point times the share, the proof, and the dealing
    right user= point= sign=        that guess was the user's, who has signed the point
    keys user=                      the sealed keys, all versions that do not follow each other
    keep user=  + a sealed line     take a version, signed by the user's key
    give share= + user, dealing, sealed line     a user's first share, before the user is known

Nothing is believed for who asks; who may guess how often is factotum/guesses.py's.  A *device* is
one whose key the user's record names, or that has the user's own: it signs holder, point and time,
and each such proof is good once and for five minutes.  So no stranger, and no node on the way, uses
up the owner's attempts.

A share is kept while the dealing that it is of is the last one, and for a moment after; what was
given before its user was known goes after an hour.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings, oprf, ristretto, sealed, shares, versions
from cloudfs.factotum.accounts import User
from cloudfs.factotum.dealings import Dealing, notes
from cloudfs.factotum.guesses import Guesses
from cloudfs.factotum.register import Root
from cloudfs.factotum.sealed import Blob
from cloudfs.kernel.people import People
from cloudfs.kernel.records import Records
from cloudfs.wait import Wait

log = logging.getLogger(__name__)

REQUEST = 1 << 20  # bytes of a request
EARLY = 3600.0  # seconds for which what was given is kept until its user is known
LATE = 60.0  # seconds for which the share of a dealing is kept that is not the last any more
PENDING = 256  # users not known yet
HEADS = 4  # sealed versions of one user
DRIFT = 300.0  # seconds that a device's clock may differ
PROOFS = 8192  # of devices that are remembered, so that none counts twice
HERE = "."  # in place of the name of the node that asks, for one at this node itself

Answer = Callable[[dict[str, str], list[str], str], str]
Later = Callable[[dict[str, str], list[str], str], Awaitable[str]]


@dataclass(slots=True)
class Share:
    """at: when it came, over: since when its dealing is not the last; seconds since 1970."""

    dealing: Dealing
    number: int
    value: int
    at: float
    over: float = 0.0


class Holder:
    """Of one node.  now(): seconds since 1970."""

    def __init__(
        self,
        node: str,
        people: People,
        records: Records,
        root: Callable[[], Root | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self.people = people
        self.records = records
        self.now = now
        self.guesses = Guesses()
        self.shares: dict[str, dict[str, Share]] = {}
        self.verbs: dict[str, Answer] = {
            "key": self._key_told,
            "harden": self._harden,
            "right": self._right,
            "keys": self._keys,
            "keep": self._keep,
            "give": self._give,
        }
        self.later: dict[str, Later] = {}
        self._root = root
        self._proofs: OrderedDict[bytes, float] = OrderedDict()
        # Points that were asked with, and by whom: source and device.
        self._guessed: OrderedDict[tuple[str, bytes], tuple[str, str]] = OrderedDict()
        secret = records.get("holder.key", "") or Ed25519PrivateKey.generate().private_bytes_raw()
        if isinstance(secret, bytes):
            records.set("holder.key", secret.hex())
            secret = secret.hex()
        self.key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        for user, digest, told in records.all_shares():
            made = dealings.parse(told["dealing"])
            value = int(told["value"], 16)
            self.shares.setdefault(user, {})[digest] = Share(
                made, told["number"], value, told["at"], told["over"]
            )

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def ask(self, text: str, source: str = HERE) -> str | Wait[str]:
        """Answer.  source: the node that asks, as it has proved.  Raises CloudError."""
        first, *rest = text.splitlines() or [""]
        if len(text) > REQUEST:
            raise CloudError("toobig", f"a request has at most {REQUEST} bytes")
        verb, _, more = first.partition(" ")
        lines = [f"{line}\n" for line in rest]
        later = self.later.get(verb)
        if later is not None:
            return Wait(partial(self._do_later, later, verb, more, lines, source))
        found = self.verbs.get(verb)
        if found is None:
            raise CloudError("bad", f"no verb {verb[:20]!r}", f"verbs: {' '.join(self.verbs)}")
        with _understood(verb):
            return found(ndb.parse(more), lines, source)

    async def _do_later(
        self, later: Later, verb: str, more: str, lines: list[str], source: str
    ) -> str:
        with _understood(verb):
            return await later(ndb.parse(more), lines, source)

    # --- what it answers ----------------------------------------------------------------------

    def _key_told(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        return ndb.record({"holder": self.node, "key": self.public.hex()}) + "\n"

    def _harden(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        user, point = pairs["user"], bytes.fromhex(pairs["point"])
        record = self._need_user(user)
        share = self.share(user)
        ristretto.point(point)
        device = self._device(record, point, pairs)
        wait = self.guesses.wait(user, source, self.now(), device)
        if wait > 0:
            off = self.now() - float(pairs.get("time", "nan"))
            clock = f", and that device's clock is {off:+.0f} s off" if abs(off) > DRIFT else ""
            raise CloudError(
                "busy",
                f"too many passwords of {user} were tried{clock}",
                f"wait {wait:.0f} s, or use a device that has logged in before, or the"
                " recovery code",
            )
        self._guessed[user, point] = source, device
        if len(self._guessed) > PROOFS:
            self._guessed.popitem(last=False)
        answer, proof = oprf.evaluate(share.value, point)
        told = {
            "holder": self.node,
            "number": share.number,
            "dealing": share.dealing.digest,
            "answer": answer.hex(),
            "proof": proof.hex(),
        }
        return f"{ndb.record(told)}\n{share.dealing.text()}"

    def _right(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        record, point = self._need_user(pairs["user"]), bytes.fromhex(pairs["point"])
        try:
            Ed25519PublicKey.from_public_bytes(record.key).verify(
                bytes.fromhex(pairs["sign"]), to_confirm(record.user, point)
            )
        except InvalidSignature:
            raise CloudError("denied", f"{record.user} did not sign that") from None
        asked = self._guessed.pop((record.user, point), None)
        if asked is not None:
            self.guesses.right(record.user, *asked)
        return "right\n"

    def _keys(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        self._need_user(pairs["user"])
        return "".join(self.records.sealed_of(pairs["user"]))

    def _keep(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        record = self._need_user(pairs["user"])
        self.share(record.user)
        self.store(record, _one(lines))
        return "kept\n"

    def _give(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        if len(lines) != 3:
            raise CloudError("bad", "give: wants the records of user and dealing, and the keys")
        record, made = accounts.parse_user(lines[0]), dealings.parse(lines[1])
        root = self._root()
        if root is None:
            raise CloudError("unreachable", f"{self.node} is in no cloud")
        accounts.check_user(record, *root)
        here = self.people.user(record.user)
        if here is not None and here.made[1] != record.made[1]:
            raise CloudError("exists", f"there is a user {record.user} already", "take another")
        number = made.share_of(self.node)
        if (
            notes(record).anchor != made.digest
            or made.user != record.user
            or made.number != 1
            or not number
            or made.keys[number - 1] != self.public
        ):
            raise CloudError("denied", f"that share of {record.user} is not for {self.node}")
        value = int(pairs["share"], 16)
        shares.check_share(value, made.points, number)
        self.tidy()
        early = [user for user in self.shares if self.people.user(user) is None]
        if here is None and len(early) >= PENDING and record.user not in early:
            raise CloudError("busy", f"{self.node} holds shares of {PENDING} users not known yet")
        self.store(record, lines[2])
        self.take_share(made, number, value)
        return "given\n"

    # --- what it holds ------------------------------------------------------------------------

    def share(self, user: str) -> Share:
        """The share that counts now.  CloudError("absent") where this node holds none."""
        held = self.shares.get(user, {})
        last = self.people.dealing(user)
        if last is not None and last.digest in held:
            return held[last.digest]
        if not held:
            raise CloudError("absent", f"{self.node} holds no share of {user}")
        return max(held.values(), key=lambda share: share.dealing.number)

    def take_share(self, made: Dealing, number: int, value: int) -> None:
        """Keep a share that was checked."""
        share = Share(made, number, value, self.now())
        self.shares.setdefault(made.user, {})[made.digest] = share
        self._write(share)

    def store(self, record: User, line: str) -> None:
        """Keep a version of the sealed keys.  CloudError: `denied` for one that the user did
        not sign, `stale` for one that others follow."""
        blob = sealed.parse(line)
        if blob.user != record.user:
            raise CloudError("denied", f"those are not the keys of {record.user}")
        blob.check(Ed25519PublicKey.from_public_bytes(record.key))
        have = [sealed.parse(text) for text in self.records.sealed_of(record.user)]
        if any(one.digest == blob.digest for one in have):
            return
        if any(blob.digest in one.before for one in have):
            raise CloudError("stale", f"version {blob.version} of those keys is not the newest")
        kept: list[Blob] = versions.heads([*have, blob])
        if len(kept) > HEADS:
            raise CloudError("toomany", f"the keys of {record.user} have parted in {HEADS} already")
        for old in have:
            if old not in kept:
                self.records.drop_sealed(old.user, old.digest)
        self.records.put_sealed(blob.user, blob.digest, blob.text())

    def tidy(self) -> None:
        """Forget shares of dealings that are not the last one, and of users who are gone or
        never came."""
        now = self.now()
        for user, held in list(self.shares.items()):
            last = self.people.dealing(user)
            for digest, share in list(held.items()):
                if last is not None and digest == last.digest:
                    continue
                if last is not None and last.number >= share.dealing.number:
                    if not share.over:
                        share.over = now
                        self._write(share)
                    forget = now - share.over >= LATE
                else:
                    forget = now - share.at >= EARLY
                if forget:
                    del held[digest]
                    self.records.drop_share(user, digest)
            if not held:
                del self.shares[user]
        for user in self.records.sealed_users():
            if user not in self.shares:
                for line in self.records.sealed_of(user):
                    self.records.drop_sealed(user, sealed.parse(line).digest)

    def _write(self, share: Share) -> None:
        told = {
            "dealing": share.dealing.text(),
            "number": share.number,
            "value": f"{share.value:x}",
            "at": share.at,
            "over": share.over,
        }
        self.records.put_share(share.dealing.user, share.dealing.digest, told)

    # --- who asks -----------------------------------------------------------------------------

    def _need_user(self, name: str) -> User:
        found = self.people.user(name)
        if found is None:
            raise no_user(name)
        return found

    def _device(self, record: User, point: bytes, pairs: dict[str, str]) -> str:
        """The device that proved itself, "" for a stranger; a proof that is none is one."""
        if "device" not in pairs:
            return ""
        device, at = bytes.fromhex(pairs["device"]), float(pairs["time"])
        proof = bytes.fromhex(pairs["sign"])
        now = self.now()
        heads = self.people.register.versions("user", record.user)
        users = [one for one in heads if isinstance(one, User)]
        known = {key for one in users for key in notes(one).devices} | {record.key}
        if device not in known or not abs(now - at) <= DRIFT or proof in self._proofs:
            return ""
        try:
            Ed25519PublicKey.from_public_bytes(device).verify(
                proof, to_sign(record.user, self.node, point, pairs["time"])
            )
        except (InvalidSignature, ValueError):
            return ""
        while self._proofs and (
            len(self._proofs) >= PROOFS or next(iter(self._proofs.values())) < now - 2 * DRIFT
        ):
            self._proofs.popitem(last=False)
        self._proofs[proof] = now
        return device.hex()


@contextlib.contextmanager
def _understood(verb: str) -> Iterator[None]:
    """What is missing or no value comes out as CloudError("bad")."""
    try:
        yield
    except KeyError as missing:
        raise CloudError("bad", f"{verb}: wants {missing.args[0]}=") from None
    except ValueError:
        raise CloudError("bad", f"{verb}: a value of it is none") from None


def to_sign(user: str, holder: str, point: bytes, at: str) -> bytes:
    """What a device signs for one holder."""
    return f"cloudfs harden\0{user}\0{holder}\0{point.hex()}\0{at}".encode()


def to_confirm(user: str, point: bytes) -> bytes:
    """What a user signs who has opened the keys with an answer for this point."""
    return f"cloudfs right\0{user}\0{point.hex()}".encode()


def no_user(name: str) -> CloudError:
    return CloudError("absent", f"there is no user {name[:40]!r}", "see: cloudfs user list")


def _one(lines: list[str]) -> str:
    if len(lines) != 1:
        raise CloudError("bad", "wants one line of sealed keys below it")
    return lines[0]
