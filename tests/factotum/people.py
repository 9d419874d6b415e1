"""Users with their keys and dealings, made as the tools make them."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudfs.factotum import accounts, ristretto, shares
from cloudfs.factotum.accounts import User
from cloudfs.factotum.dealings import Dealing, Notes
from tests.factotum.test_authority import PARIS, ROOT

TRUST = (ROOT.cert, "local")


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def public(secret: Ed25519PrivateKey) -> bytes:
    return secret.public_key().public_bytes_raw()


def dealt(
    user: str, holders: tuple[str, ...], need: int, secret: int = 0
) -> tuple[Dealing, dict[int, int]]:
    """A first dealing, whose holder n has the key `key(100 + n)`, and the shares."""
    secret = secret or ristretto.scalar()
    made = shares.deal(secret, need, range(1, len(holders) + 1))
    keys = tuple(public(key(100 + n)) for n in range(1, len(holders) + 1))
    return Dealing(user, 1, need, holders, keys, made.commitments), dict(made.shares)


def user(
    name: str, secret: Ed25519PrivateKey, dealing: Dealing | None = None, by: object = PARIS
) -> User:
    notes = Notes(dealing.digest, dealing.public) if dealing else Notes()
    return accounts.make_user(by, name, secret, notes.text())  # type: ignore[arg-type]
