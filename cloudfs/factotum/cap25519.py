"""cap25519: a node proves that it is one, then its client proves whose token it holds.  Pure.

    C→S  nonce, 32 bytes
    S→C  nonce, 32 bytes; its certificate and a signature, each with its length (u16, big-endian)
    C→S  credential with its length; holder's key, 32 or 33 bytes; signature, 64 bytes
    S→C  ok USER\\0  or  no WHY\\0

What is signed is the end's name and the hash of everything said before, the p9any messages
included, and of the *binding*: the hash of the certificate that the TLS connection showed, or
nothing on a socket of the same machine.  So neither a replay, nor a relay to another node, nor a
conversation that was talked down to something weaker fits any signature.  The client shows its
token to nobody but a proven node.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudfs.errors import CloudError
from cloudfs.factotum import holders, tokens
from cloudfs.factotum.holders import LENGTHS, SIGNATURE, Holder
from cloudfs.factotum.p9any import check_turn
from cloudfs.factotum.tokens import Powers

NAME = "cap25519"
NONCE = 32
CERTIFICATE = 1500  # bytes, at most
WHY = 400
LAST = "wait for token"  # the state in which a server takes what is slow to check


def holder(key: Ed25519PublicKey) -> str:
    """How a token names a factotum that may use it (holders.py)."""
    return holders.name_of(key.public_bytes_raw())


@dataclass(slots=True)
class Said:
    """Everything that was said, as a hash."""

    hash: bytes

    def add(self, message: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + hashlib.sha256(message).digest()).digest()

    def to_sign(self, end: str) -> bytes:
        return f"cloudfs cap25519 {end}\0".encode() + self.hash


def begin_said(before: bytes, binding: bytes) -> Said:
    said = Said(bytes(32))
    said.add(before)
    said.add(binding)
    return said


@dataclass
class Server:
    """before: what p9any said.  sign: the node's key over bytes.  verify: a credential's powers
    for the holder that they name, or CloudError (proofs.py).  credential: what was shown, once
    it is accepted."""

    before: bytes
    binding: bytes
    certificate: bytes
    sign: Callable[[bytes], bytes]
    verify: Callable[[bytes], Powers]
    powers: Powers | None = None
    credential: bytes = field(default=b"", repr=False)
    state: str = "wait for nonce"
    _out: bytes = b""
    _said: Said = field(init=False)

    def __post_init__(self) -> None:
        self._said = begin_said(self.before, self.binding)

    @property
    def turn(self) -> bool:
        return not self._out

    def read(self) -> bytes:
        out, self._out = self._out, b""
        if out and self.state in ("accepted", "refused"):
            self.state = "done" if self.state == "accepted" else "failed"
        return out

    def write(self, message: bytes) -> None:
        check_turn(self, message)
        if self.state == "wait for nonce":
            if len(message) != NONCE:
                raise CloudError("proto", f"a nonce has {NONCE} bytes")
            self._said.add(message)
            open_part = secrets.token_bytes(NONCE) + _long(self.certificate)
            self._said.add(open_part)
            signed = self.sign(self._said.to_sign("server"))
            self._out = open_part + _long(signed)
            self._said.add(signed)
            self.state = LAST
        elif self.state == LAST:
            self._token(message)
        else:
            raise CloudError("proto", f"a message came out of turn, in the state: {self.state}")

    def _token(self, message: bytes) -> None:
        self.state = "refused"
        try:
            self.powers = self._proved(message)
        except CloudError as error:
            why = f"{error.why}\n{error.fix}".encode()[:WHY].replace(b"\0", b"")
            self._out = b"no " + why + b"\0"
            return
        self._out = f"ok {self.powers.user}\0".encode()
        self.state = "accepted"

    def _proved(self, message: bytes) -> Powers:
        credential, rest = _take(message)
        raw, signature = rest[:-SIGNATURE], rest[-SIGNATURE:]
        if len(raw) not in LENGTHS:
            raise CloudError("proto", "that is no message of cap25519")
        self._said.add(message[:-SIGNATURE])
        try:
            holders.check(raw, signature, self._said.to_sign("client"))
        except CloudError:
            raise CloudError("denied", "the holder's signature does not fit this conversation")
        powers = self.verify(credential)
        if powers.holder != holders.name_of(raw):
            raise CloudError("denied", "the token is for another holder's key")
        self.credential = credential
        return powers


@dataclass
class Client:
    """key: the holder's.  check: the node of a certificate, once its signature over bytes is
    verified; CloudError where it is none of the cloud.  token(node, certificate): the
    credential to show it."""

    before: bytes
    binding: bytes
    key: Holder | Ed25519PrivateKey
    check: Callable[[bytes, bytes, bytes], str]
    token: Callable[[str, bytes], bytes]
    node: str = ""
    user: str = ""
    state: str = "nonce"
    _out: bytes = b""
    _said: Said = field(init=False)

    def __post_init__(self) -> None:
        self._said = begin_said(self.before, self.binding)
        self._out = secrets.token_bytes(NONCE)
        self._said.add(self._out)

    @property
    def turn(self) -> bool:
        return not self._out

    def read(self) -> bytes:
        out, self._out = self._out, b""
        if out:
            self.state = "wait for node" if self.state == "nonce" else "wait for answer"
        return out

    def write(self, message: bytes) -> None:
        check_turn(self, message)
        if self.state == "wait for node":
            self._server(message)
        elif self.state == "wait for answer":
            self._answer(message)
        else:
            raise CloudError("proto", f"a message came out of turn, in the state: {self.state}")

    def _server(self, message: bytes) -> None:
        certificate, rest = _take(message[NONCE:])
        signature, rest = _take(rest)
        if rest or len(certificate) > CERTIFICATE:
            raise CloudError("proto", "that is no message of cap25519")
        self._said.add(message[: NONCE + 2 + len(certificate)])
        self.node = self.check(certificate, signature, self._said.to_sign("server"))
        self._said.add(signature)
        token = self.token(self.node, certificate)
        if len(token) > tokens.MOST:
            raise CloudError("toobig", f"a token has at most {tokens.MOST} bytes")
        key = self.key if isinstance(self.key, Holder) else Holder(self.key)
        shown = _long(token) + key.public
        self._said.add(shown)
        self._out = shown + key.sign(self._said.to_sign("client"))
        self.state = "token"

    def _answer(self, message: bytes) -> None:
        text = message[:-1].decode(errors="replace") if message.endswith(b"\0") else ""
        word, _, rest = text.partition(" ")
        if word == "ok" and rest:
            self.user, self.state = rest, "done"
            return
        self.state = "failed"
        if word == "no":
            why, _, fix = rest.partition("\n")
            raise CloudError("denied", why, fix)
        raise CloudError("proto", "that is no answer of cap25519")


def _long(part: bytes) -> bytes:
    return len(part).to_bytes(2, "big") + part


def _take(data: bytes) -> tuple[bytes, bytes]:
    """The part at the front, and what comes after."""
    length = int.from_bytes(data[:2], "big")
    if len(data) < 2 + length or len(data) < 2:
        raise CloudError("proto", "that is no message of cap25519")
    return data[2 : 2 + length], data[2 + length :]
