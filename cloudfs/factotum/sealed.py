"""A user's keys, sealed by the user's own client: what secstores keep and cannot read.  Pure.

    user=ana version=7 before=HASH,HASH,… salt=HEX password=HEX recovery=HEX box=BASE64 sign=HEX

A fresh key locks the box (ChaCha20-Poly1305), and each *slot* locks that key once more: `password`
under what the hardened password gives (factotum/oprf.py, then Argon2id), `recovery` under a code
of 128 random bits that the user keeps on paper.  A slot begins with a commitment to its key: the
cipher alone would open to several, which lets one test many passwords at once (Len, Grubbs and
Ristenpart, *Partitioning Oracle Attacks*, USENIX Security 2021).

A blob names those it follows by their hashes, and the user's key signs all of it.  So nobody
changes one unseen, an older one is known for what it is, and two that follow the same one are a
*fork*, of which both are kept until the user says which holds.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.versions import BEFORE, Signed, after

# RFC 9106, 4: the second recommended choice, for where 2 GiB are too much.
MEMORY, PASSES, LANES = 64 << 10, 3, 4  # KiB
MOST = 256 << 10  # bytes of what is sealed
_KEY, _NONCE, _SLOT = 32, bytes(12), 32 + 32 + 16  # commitment, key, tag
_FIELDS = ("user", "version", "before", "salt", "password", "recovery", "box", "sign")
_CODE = re.compile(r"[a-z2-7]{26}")


@dataclass(frozen=True, slots=True)
class Blob(Signed):
    """One version of a user's sealed keys; see the module for what each part is."""

    user: str
    version: int
    before: tuple[str, ...]  # hashes of those it follows, hexadecimal, the last one first
    salt: bytes
    password: bytes
    recovery: bytes
    box: bytes
    sign: bytes = b""

    def signed(self) -> str:
        return ndb.record(
            {
                "user": self.user,
                "version": self.version,
                "before": ",".join(self.before),
                "salt": self.salt.hex(),
                "password": self.password.hex(),
                "recovery": self.recovery.hex(),
                "box": base64.b64encode(self.box).decode(),
            }
        )

    def check(self, key: Ed25519PublicKey) -> None:
        """CloudError("denied") unless the user with this key signed it."""
        try:
            key.verify(self.sign, self.signed().encode())
        except InvalidSignature:
            raise CloudError(
                "denied", f"version {self.version} of the keys of {self.user} was changed"
            ) from None


def parse(text: str) -> Blob:
    """A blob from its line; CloudError("bad") for what is not exactly one."""
    try:
        if len(text) > 2 * MOST:
            raise ValueError
        pairs = ndb.parse(text)
        salt, password, recovery, sign = (
            bytes.fromhex(pairs[name]) for name in ("salt", "password", "recovery", "sign")
        )
        before = tuple(filter(None, pairs["before"].split(",")))
        box = base64.b64decode(pairs["box"], validate=True)
        version = int(pairs["version"])
        blob = Blob(pairs["user"], version, before, salt, password, recovery, box, sign)
        whole = tuple(pairs) == _FIELDS and blob.text() == text
    except (CloudError, KeyError, ValueError, binascii.Error):
        whole = False
    if not whole or blob.version < 1 or len(blob.before) > BEFORE:
        raise CloudError("bad", "that is no sealed key file")
    return blob


# --- sealing and opening --------------------------------------------------------------------


def new_code() -> str:
    """A recovery code: 128 random bits in groups for paper."""
    letters = base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
    return "-".join(letters[i : i + 5] for i in range(0, len(letters), 5))


def seal(
    content: bytes,
    user: str,
    hardened: bytes,
    code: str,
    key: Ed25519PrivateKey,
    last: Sequence[Blob] = (),
) -> Blob:
    """Seal a user's keys.  Takes a tenth of a second and 64 MiB: not on an event loop.

    hardened: what oprf.finish gave.  key: the user's.  last: the version that this one
    follows, or all heads of a fork that it ends.  CloudError: "toobig", or "bad" for a code
    that is none.
    """
    if len(content) > MOST:
        raise CloudError("toobig", f"keys of {len(content)} bytes; at most {MOST} are kept")
    salt, lock = secrets.token_bytes(32), secrets.token_bytes(_KEY)
    version, before = after(*last)
    about = _about(user, version, salt)
    blob = Blob(
        user,
        version,
        before,
        salt,
        _lock(lock, _from_password(hardened, salt), about),
        _lock(lock, _from_code(code, salt), about),
        ChaCha20Poly1305(lock).encrypt(_NONCE, content, about),
    )
    return replace(blob, sign=key.sign(blob.signed().encode()))


def open_by_password(blob: Blob, hardened: bytes) -> bytes:
    """The keys, as the user's client has them; slow as `seal`.  CloudError("denied")."""
    return _open(blob, blob.password, _from_password(hardened, blob.salt), "the password is wrong")


def open_by_code(blob: Blob, code: str) -> bytes:
    """The keys, for one who has lost the password.  CloudError("denied")."""
    return _open(blob, blob.recovery, _from_code(code, blob.salt), "the recovery code is wrong")


def _open(blob: Blob, slot: bytes, keys: bytes, why: str) -> bytes:
    about = _about(blob.user, blob.version, blob.salt)
    try:
        if len(slot) != _SLOT or not secrets.compare_digest(slot[:32], keys[32:]):
            raise InvalidTag
        lock = ChaCha20Poly1305(keys[:32]).decrypt(_NONCE, slot[32:], about)
        return ChaCha20Poly1305(lock).decrypt(_NONCE, blob.box, about)
    except InvalidTag:
        raise CloudError("denied", why) from None


def _lock(lock: bytes, keys: bytes, about: bytes) -> bytes:
    # Keys are made of a salt that is used once, so the nonce may always be the same.
    return keys[32:] + ChaCha20Poly1305(keys[:32]).encrypt(_NONCE, lock, about)


def _from_password(hardened: bytes, salt: bytes) -> bytes:
    slow = Argon2id(salt=salt, length=32, iterations=PASSES, lanes=LANES, memory_cost=MEMORY)
    return _spread(slow.derive(hardened), salt, b"password")


def _from_code(code: str, salt: bytes) -> bytes:
    plain = code.strip().lower().replace("-", "").replace(" ", "")
    if not _CODE.fullmatch(plain):
        raise CloudError(
            "bad", "that is no recovery code", "it has 26 letters a-z and digits 2-7, in groups"
        )
    return _spread(plain.encode(), salt, b"recovery")


def _spread(secret: bytes, salt: bytes, use: bytes) -> bytes:
    """A key of 32 bytes, and 32 that commit to it."""
    info = b"cloudfs secstore " + use
    return HKDF(hashes.SHA512(), 64, salt, info).derive(secret)


def _about(user: str, version: int, salt: bytes) -> bytes:
    return f"{user} {version} {salt.hex()}".encode()
