"""Users and groups: signed records that any node checks by itself.  Pure.

    user=ana cloud=local key=HEX epoch=2 version=3 before=HASH,… more='…' made=BASE64 keys=HEX,…
        sign=HEX
    group=web owner=ana members=ana,bob version=1 before= sign=HEX
    gone=ana cloud=local first=HEX made=BASE64 sign=HEX

`made` is the cluster's authority's word that the name went with a first key: its certificate, the
first key, and its signature, so that no node can make users, and none can take a name that is
another's.  `keys` are later keys, each signed by the one before it.  The last one signs the record
and everything that the user does.  A new epoch voids all tokens of the one before.  A record `gone`
takes the name away from who had that first key: the same cluster's authority signs it.

Records are versions (factotum/versions.py): newer ones of the same user win, and two that do not
follow each other are a fork, both kept.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.authority import Authority
from cloudfs.factotum.nodeproof import UNREADABLE
from cloudfs.factotum.versions import BEFORE, Signed, after

MOST = 8192  # bytes of a record
KEYS = 16  # changes of a user's key
MEMBERS = 256
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_USER = ("user", "cloud", "key", "epoch", "version", "before", "more", "made", "keys", "sign")
_GROUP = ("group", "owner", "members", "version", "before", "sign")
_GONE = ("gone", "cloud", "first", "made", "sign")
# No proof gives these names; help is a file beside them.
RESERVED = frozenset({"none", "root", "group", "user", "help"})


@dataclass(frozen=True, slots=True)
class User(Signed):
    """key: public, 32 bytes.  more: attr=value pairs that only the user's own tools read.
    made: certificate, first key, signature.  keys: (key, the signature of the one before)."""

    user: str
    cloud: str
    key: bytes
    epoch: int
    version: int
    before: tuple[str, ...]
    more: str
    made: tuple[bytes, bytes, bytes]
    keys: tuple[tuple[bytes, bytes], ...]
    sign: bytes = b""

    def signed(self) -> str:
        made = b"".join(len(part).to_bytes(2, "big") + part for part in self.made)
        return ndb.record(
            {
                "user": self.user,
                "cloud": self.cloud,
                "key": self.key.hex(),
                "epoch": self.epoch,
                "version": self.version,
                "before": ",".join(self.before),
                "more": self.more,
                "made": base64.b64encode(made).decode(),
                "keys": ",".join((key + sign).hex() for key, sign in self.keys),
            }
        )


@dataclass(frozen=True, slots=True)
class Group(Signed):
    """members: names of users, in order."""

    group: str
    owner: str
    members: tuple[str, ...]
    version: int
    before: tuple[str, ...]
    sign: bytes = b""

    def signed(self) -> str:
        return ndb.record(
            {
                "group": self.group,
                "owner": self.owner,
                "members": ",".join(self.members),
                "version": self.version,
                "before": ",".join(self.before),
            }
        )


@dataclass(frozen=True, slots=True)
class Gone(Signed):
    """A user who is no more.  first: the first key.  made: the certificate of who says so."""

    user: str
    cloud: str
    first: bytes
    made: bytes
    sign: bytes = b""

    def signed(self) -> str:
        made = base64.b64encode(self.made).decode()
        pairs = {"gone": self.user, "cloud": self.cloud, "first": self.first.hex(), "made": made}
        return ndb.record(pairs)

    def ends(self, user: User) -> bool:
        """Whether it is this user who is gone."""
        return (self.user, self.first) == (user.user, user.made[1]) and self.cluster == made_in(
            user
        )

    @property
    def cluster(self) -> str:
        return _cluster(self.made)


# --- making ---------------------------------------------------------------------------------


def make_user(by: Authority, user: str, key: Ed25519PrivateKey, more: str = "") -> User:
    """A new user's first record.  CloudError("bad") for a name that is none."""
    check_name(user)
    public = key.public_key().public_bytes_raw()
    cert = by.cert.public_bytes(Encoding.DER)
    word = by.key.sign(_first(user, by.cloud, public), ec.ECDSA(hashes.SHA256()))
    made = User(user, by.cloud, public, 1, 1, (), more, (cert, public, word), ())
    return _sign_user(made, key)


def make_gone(by: Authority, user: User) -> Gone:
    """That a user is no more.  CloudError("denied") for an authority of another cluster."""
    if by.cluster != made_in(user):
        raise CloudError(
            "denied",
            f"{user.user} was made in the cluster {made_in(user)}, and this is {by.cluster}",
            f"type it on a node of {made_in(user)} that has the cluster's key",
        )
    cert = by.cert.public_bytes(Encoding.DER)
    made = Gone(user.user, user.cloud, user.made[1], cert)
    return replace(made, sign=by.key.sign(made.signed().encode(), ec.ECDSA(hashes.SHA256())))


def change_user(
    last: Sequence[User],
    key: Ed25519PrivateKey,
    *,
    epoch: bool = False,
    more: str | None = None,
    new_key: Ed25519PrivateKey | None = None,
) -> User:
    """The next version.  last: the one that holds, or all heads of a fork that this one ends,
    the one whose content stays first.  epoch: void all tokens there are."""
    base = last[0]
    version, before = after(*last)
    made = replace(
        base,
        version=version,
        before=before,
        epoch=max(one.epoch for one in last) + epoch,
        more=base.more if more is None else more,
    )
    if new_key is not None:
        public = new_key.public_key().public_bytes_raw()
        if len(base.keys) >= KEYS:
            raise CloudError("toomany", f"{base.user} has changed keys {KEYS} times")
        keys = (*base.keys, (public, key.sign(_next(base.user, base.key, public))))
        made = replace(made, key=public, keys=keys)
    return _sign_user(made, new_key or key)


def make_group(
    group: str,
    owner: str,
    members: Sequence[str],
    key: Ed25519PrivateKey,
    last: Sequence[Group] = (),
) -> Group:
    """A group's first or next version.  key: the owner's."""
    for name in (group, owner, *members):
        check_name(name)
    if len(members) > MEMBERS:
        raise CloudError("toomany", f"a group has at most {MEMBERS} members")
    version, before = after(*last)
    made = Group(group, owner, tuple(sorted(set(members))), version, before)
    return replace(made, sign=key.sign(made.signed().encode()))


def _sign_user(made: User, key: Ed25519PrivateKey) -> User:
    made = replace(made, sign=key.sign(made.signed().encode()))
    if len(made.text()) > MOST:
        raise CloudError("toobig", f"a record has at most {MOST} bytes")
    return made


# --- reading --------------------------------------------------------------------------------


def parse_user(text: str) -> User:
    """A record from its line, not checked yet; CloudError("bad")."""
    try:
        pairs = _pairs(text, _USER)
        made = base64.b64decode(pairs["made"], validate=True)
        parts = []
        while made:
            end = 2 + int.from_bytes(made[:2], "big")
            parts.append(made[2:end])
            made = made[end:]
        cert, first, word = parts
        keys = [bytes.fromhex(one) for one in pairs["keys"].split(",") if one]
        user = User(
            pairs["user"],
            pairs["cloud"],
            bytes.fromhex(pairs["key"]),
            int(pairs["epoch"]),
            int(pairs["version"]),
            tuple(filter(None, pairs["before"].split(","))),
            pairs["more"],
            (cert, first, word),
            tuple((one[:32], one[32:]) for one in keys),
            bytes.fromhex(pairs["sign"]),
        )
    except (CloudError, KeyError, ValueError, binascii.Error):
        raise CloudError("bad", "that is no record of a user") from None
    if user.text() != text or len(user.keys) > KEYS or not _sound(user):
        raise CloudError("bad", "that is no record of a user")
    check_name(user.user)
    return user


def parse_group(text: str) -> Group:
    """A record from its line, not checked yet; CloudError("bad")."""
    try:
        pairs = _pairs(text, _GROUP)
        group = Group(
            pairs["group"],
            pairs["owner"],
            tuple(filter(None, pairs["members"].split(","))),
            int(pairs["version"]),
            tuple(filter(None, pairs["before"].split(","))),
            bytes.fromhex(pairs["sign"]),
        )
    except (CloudError, KeyError, ValueError):
        raise CloudError("bad", "that is no record of a group") from None
    if group.text() != text or len(group.members) > MEMBERS or not _sound(group):
        raise CloudError("bad", "that is no record of a group")
    for name in (group.group, group.owner, *group.members):
        check_name(name)
    return group


def parse_gone(text: str) -> Gone:
    """A record from its line, not checked yet; CloudError("bad")."""
    try:
        pairs = _pairs(text, _GONE)
        first, sign = bytes.fromhex(pairs["first"]), bytes.fromhex(pairs["sign"])
        cert = base64.b64decode(pairs["made"], validate=True)
        gone = Gone(pairs["gone"], pairs["cloud"], first, cert, sign)
        whole = gone.text() == text
    except (CloudError, KeyError, ValueError, binascii.Error):
        whole = False
    if not whole:
        raise CloudError("bad", "that is no record of a user who is gone")
    check_name(gone.user)
    return gone


def check_user(user: User, root: x509.Certificate, cloud: str) -> None:
    """CloudError("denied") unless an authority of this cloud gave the name to the first key,
    each key was signed by the one before, and the last one signed the record."""
    cert, key, word = user.made
    try:
        public = _authority(cert, root)
        if user.cloud != cloud:
            raise ValueError
        public.verify(word, _first(user.user, cloud, key), ec.ECDSA(hashes.SHA256()))
        for following, signature in user.keys:
            _verify(key, signature, _next(user.user, key, following))
            key = following
        if key != user.key:
            raise ValueError
        _verify(key, user.sign, user.signed().encode())
    except UNREADABLE:
        raise CloudError(
            "denied", f"the record of {user.user} was not made by who may make it"
        ) from None


def check_gone(gone: Gone, root: x509.Certificate, cloud: str) -> None:
    """CloudError("denied") unless an authority of this cloud signed it."""
    try:
        if gone.cloud != cloud:
            raise ValueError
        public = _authority(gone.made, root)
        public.verify(gone.sign, gone.signed().encode(), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        raise CloudError("denied", f"that {gone.user} is gone was not said by who may") from None


def check_group(group: Group, user_of: Callable[[str], User]) -> None:
    """CloudError("denied") unless its owner signed it.  user_of: a checked record; raises."""
    try:
        _verify(user_of(group.owner).key, group.sign, group.signed().encode())
    except (InvalidSignature, ValueError):
        raise CloudError(
            "denied", f"the group {group.group} was not signed by {group.owner}"
        ) from None


def made_in(user: User) -> str:
    """The cluster whose authority made the user."""
    return _cluster(user.made[0])


# --- small things ---------------------------------------------------------------------------


@lru_cache(64)
def _authority(cert: bytes, root: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The key of an authority under the root; raises what its caller knows."""
    authority = x509.load_der_x509_certificate(cert)
    authority.verify_directly_issued_by(root)
    public = authority.public_key()
    can = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    if not can or not isinstance(public, ec.EllipticCurvePublicKey):
        raise ValueError
    return public


@lru_cache(64)
def _cluster(cert: bytes) -> str:
    subject = x509.load_der_x509_certificate(cert).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _pairs(text: str, fields: tuple[str, ...]) -> dict[str, str]:
    pairs = ndb.parse(text) if len(text) <= MOST else {}
    if tuple(pairs) != fields:
        raise ValueError
    return pairs


def _sound(record: User | Group) -> bool:
    return record.version >= 1 and len(record.before) <= BEFORE


def _verify(key: bytes, signature: bytes, data: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(key).verify(signature, data)


def check_name(name: str) -> None:
    """CloudError("bad") for what cannot be a name of a user or group."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise CloudError("bad", f"{name[:40]!r} is no name of a user or group", "use a-z, 0-9, ._-")


def _first(user: str, cloud: str, key: bytes) -> bytes:
    return f"cloudfs user\0{user}@{cloud}\0".encode() + key


def _next(user: str, key: bytes, following: bytes) -> bytes:
    return f"cloudfs user key\0{user}\0".encode() + key + following
