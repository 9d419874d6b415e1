"""Who is at the other end of a conversation: what a node's server checks users by.

A token is checked once; after that what was found holds until it ends, its user begins a new epoch
or changes keys, or it is revoked.  Tokens are known again by their bytes, which have more than one
form, so it is by the ids of their blocks that they are revoked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519, delegation, p9any, tokens
from cloudfs.factotum.accounts import User
from cloudfs.factotum.lent import HERE, Lent
from cloudfs.factotum.nodeproof import NodeProof
from cloudfs.factotum.tokens import Powers
from cloudfs.who import Who

KEPT = 4096  # tokens that were checked


class People(Protocol):
    """The checked records of users and groups that this node knows."""

    def some(self) -> bool:
        """Whether there are any: a node that knows no users asks nobody for a proof."""

    def user(self, name: str) -> User | None: ...

    def groups_of(self, name: str) -> frozenset[str]: ...

    def epoch(self, name: str) -> int: ...

    def revoked(self, name: str, id: str) -> bool:
        """Whether that user took back the token with a block of that id."""


class Nobody:
    """The people of a node that is in no cloud with users."""

    def some(self) -> bool:
        return False

    def user(self, name: str) -> User | None:
        return None

    def groups_of(self, name: str) -> frozenset[str]:
        return frozenset()

    def epoch(self, name: str) -> int:
        return 0

    def revoked(self, name: str, id: str) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Proven:
    """Whom a conversation proved, and with which key of the user's record."""

    powers: Powers
    key: bytes


class Proofs:
    """people: the records.  proof(): what this node proves itself with, None while it has no
    keys.  now: seconds since 1970.  lent: what those who prove themselves lend this node, so that
    it acts for them."""

    def __init__(
        self,
        people: People,
        proof: Callable[[], NodeProof | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.people = people
        self._proof = proof
        self._now = now
        self.lent = Lent()
        self._kept: dict[bytes, Proven] = {}

    def wanted(self) -> bool:
        """Whether a caller can prove anything here: the node has keys and knows users."""
        return self.people.some() and self._proof() is not None

    def begin(self, binding: bytes) -> p9any.Server:
        """A conversation, bound to the connection it goes over (cap25519)."""
        proof = self._proof()
        if proof is None:
            raise CloudError("absent", "this node has no keys to prove itself with")
        certificates, sign = proof.load()

        def server(dom: str, before: bytes) -> p9any.Talk:
            return cap25519.Server(before, binding, certificates, sign, self.verify)

        return p9any.Server({(cap25519.NAME, proof.cloud): server})

    def slow(self, talk: p9any.Server, message: bytes) -> bool:
        """Whether taking this message means to check a token that was not checked before."""
        if talk.state != cap25519.LAST:
            return False
        return _digest(message[2 : 2 + int.from_bytes(message[:2], "big")]) not in self._kept

    def who(self, talk: p9any.Server, uid: int | None = None, lender: str = HERE) -> Who:
        """The caller that a conversation proved.

        CloudError("denied") where it is not over, or what it proved holds no more.  uid: the
        local number that the connection goes by.  lender: the node whose connection it is.
        """
        inner = talk.talk
        if not isinstance(inner, cap25519.Server) or inner.state != "done" or not inner.powers:
            raise CloudError("denied", f"nothing was proved: {talk.state}", "see: cloudfs keys")
        who = self.caller(inner.powers, uid)
        self._lend(inner, lender)
        return who

    def _lend(self, inner: cap25519.Server, lender: str) -> None:
        """Keep what was shown, if it was lent to this node."""
        powers, proof = inner.powers, self._proof()
        assert powers is not None
        if proof is not None and delegation.last(inner.credential) == proof.holder().public:
            self.lent.keep(powers.user, lender, inner.credential, powers.limits.until or 0.0)

    def caller(self, powers: Powers, uid: int | None = None) -> Who:
        """The caller with these powers, if they still hold."""
        self._check(powers)
        limits = powers if powers.limits.narrow else None
        # Not its groups: they change while a session lasts, so the tree asks each time.
        return Who(powers.user, uid, powers=limits)

    def good(self, talk: p9any.Server) -> bool:
        """Whether what a conversation proved holds still."""
        return self.holds(powers_of(talk))

    def holds(self, powers: Powers) -> bool:
        """Whether powers that were proved before are good now."""
        try:
            self._check(powers)
        except CloudError:
            return False
        return True

    def _check(self, powers: Powers) -> None:
        powers.in_time(self._now())
        if powers.epoch != self.people.epoch(powers.user):
            raise CloudError(
                "denied", f"{powers.user} has begun a new epoch", "log in again: cloudfs login"
            )
        if any(self.people.revoked(powers.user, id) for id in powers.ids):
            raise CloudError("denied", "the token was revoked", "log in again: cloudfs login")

    def verify(self, credential: bytes) -> Powers:
        """What a credential allows here, and whom: its last holder, or the one who lent it to
        this node.  May take a millisecond.  Raises CloudError."""
        name = _digest(credential)
        kept = self._kept.get(name)
        if kept is not None:
            record = self.people.user(kept.powers.user)
            if record is not None and record.key == kept.key:
                self._check(kept.powers)
                return kept.powers
            self._kept.pop(name, None)
        proof = self._proof()
        assert proof is not None  # it signed what came before
        users: list[User] = []

        def key_of(user: str) -> bytes:
            record = self.people.user(user)
            if record is None:
                raise CloudError(
                    "denied", f"there is no user {user} that this node knows", "see: cloudfs why"
                )
            users.append(record)
            return record.key

        def read(token: bytes) -> Powers:
            return tokens.verify(
                token,
                key_of,
                self._now(),
                cloud=proof.cloud,
                epoch_of=self.people.epoch,
                revoked=lambda id: self.people.revoked(users[-1].user, id),
            )

        found = delegation.verify(credential, self._now(), read)
        powers = found.used_at(proof.holder().name)
        powers.admit(node=proof.node, cluster=proof.cluster)
        while len(self._kept) >= KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[name] = Proven(powers, users[-1].key)
        return powers


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def powers_of(talk: p9any.Server) -> Powers:
    """What a finished conversation proved; `Proofs.who` says whether it is finished."""
    powers = cast(cap25519.Server, talk.talk).powers
    assert powers is not None
    return powers
