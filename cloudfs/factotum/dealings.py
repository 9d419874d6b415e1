"""Who holds the shares of a user's hardening key: a record for each dealing.  Pure.

    dealing=ana number=1 need=2 holders=n1,n4,n7 keys=HEX,HEX,HEX points=HEX,HEX before= signs=

`points` commit to the shares (factotum/shares.py); the holder named first has share 1, and so on.
`keys` are the holders' own.  The user's record names the first dealing by its hash (`anchor`), and
each one after it is signed by as many holders of the one before as it takes to answer.  So fewer
than those can neither give the key to others nor send a client to liars, and the user need not be
there when holders are lost.

Holders are chosen by rendezvous hashing (Thaler and Ravishankar 1998) of user and node, spread over
the clusters: everybody who sees the same nodes chooses the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import ristretto
from cloudfs.factotum.accounts import User, check_name
from cloudfs.factotum.shares import MOST, public_share

SIZES = ((5, 3, 5), (3, 2, 3), (1, 1, 1))  # nodes of the cloud from which on; needed; holders
LINE = 8192  # bytes of a record
CHAIN = 16  # dealings after the one that the user's record names
_FIELDS = ("dealing", "number", "need", "holders", "keys", "points", "before", "signs")


@dataclass(frozen=True, slots=True)
class Dealing:
    """signs: (share's number in the dealing before, signature)."""

    user: str
    number: int
    need: int
    holders: tuple[str, ...]
    keys: tuple[bytes, ...]
    points: tuple[bytes, ...]
    before: str = ""
    signs: tuple[tuple[int, bytes], ...] = ()

    def signed(self) -> str:
        return ndb.record(
            {
                "dealing": self.user,
                "number": self.number,
                "need": self.need,
                "holders": ",".join(self.holders),
                "keys": ",".join(key.hex() for key in self.keys),
                "points": ",".join(point.hex() for point in self.points),
                "before": self.before,
            }
        )

    def text(self) -> str:
        signs = ",".join(f"{number}:{sign.hex()}" for number, sign in self.signs)
        return f"{self.signed()} signs={signs}\n"

    @property
    def digest(self) -> str:
        """What it is known by, whoever has signed it."""
        return hashlib.sha256(self.signed().encode()).hexdigest()

    @property
    def public(self) -> bytes:
        """The point of the key that is shared; the same in all dealings of a user."""
        return self.points[0]

    def share_of(self, node: str) -> int:
        """The number of a node's share, 0 if it has none."""
        return self.holders.index(node) + 1 if node in self.holders else 0

    def point_of(self, number: int) -> bytes:
        """The point of a share, by which its holder's answers are proved."""
        return public_share(self.points, number)

    def sign(self, number: int, key: Ed25519PrivateKey) -> bytes:
        """The word of a holder of the dealing before."""
        return key.sign(_to_sign(self, number))


def parse(text: str) -> Dealing:
    """A dealing from its line, not checked yet; CloudError("bad")."""
    try:
        pairs = ndb.parse(text) if len(text) <= LINE else {}
        signs = [one.split(":") for one in pairs["signs"].split(",") if one]
        made = Dealing(
            pairs["dealing"],
            int(pairs["number"]),
            int(pairs["need"]),
            tuple(pairs["holders"].split(",")),
            tuple(bytes.fromhex(one) for one in pairs["keys"].split(",")),
            tuple(ristretto.point(bytes.fromhex(one)) for one in pairs["points"].split(",")),
            pairs["before"],
            tuple((int(number), bytes.fromhex(sign)) for number, sign in signs),
        )
        whole = tuple(pairs) == _FIELDS and made.text() == text
    except (CloudError, KeyError, ValueError):
        whole = False
    if not whole or not _sound(made):
        raise CloudError("bad", "that is no record of a dealing")
    check_name(made.user)
    return made


def _sound(made: Dealing) -> bool:
    count = len(made.holders)
    return (
        made.number >= 1
        and 1 <= made.need <= count <= MOST
        and len(set(made.holders)) == len(made.keys) == count
        and len(made.points) == made.need
        and all(len(key) == 32 for key in made.keys)
        and all(0 < len(name) <= 63 and "/" not in name for name in made.holders)
        and len(made.signs) <= MOST
    )


def check_next(made: Dealing, last: Dealing) -> None:
    """CloudError("denied") unless enough holders of the last dealing signed this one."""
    right = (
        made.user == last.user
        and made.number == last.number + 1
        and made.before == last.digest
        and made.public == last.public
    )
    if not right:
        raise CloudError("denied", f"dealing {made.number} of {made.user} does not follow the last")
    good = set()
    for number, sign in made.signs:
        if 1 <= number <= len(last.keys):
            try:
                Ed25519PublicKey.from_public_bytes(last.keys[number - 1]).verify(
                    sign, _to_sign(made, number)
                )
            except (InvalidSignature, ValueError):
                continue
            good.add(number)
    if len(good) < last.need:
        raise CloudError(
            "denied",
            f"dealing {made.number} of {made.user} is signed by {len(good)} holders,"
            f" {last.need} are needed",
        )


def with_signs(made: Dealing, signs: Mapping[int, bytes]) -> Dealing:
    return replace(made, signs=tuple(sorted(signs.items())))


def _to_sign(made: Dealing, number: int) -> bytes:
    return f"cloudfs dealing\0{number}\0{made.signed()}".encode()


# --- what a user's record says of it -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notes:
    """What the tools keep in the `more` of a user's record.

    anchor: the hash of a dealing.  public: the point of its key.  blob: the hash of the last
    sealed keys.  devices: public keys of those that have logged in.  revoked: tokens that the
    user took back, by `short` of their first blocks' ids.
    """

    anchor: str = ""
    public: bytes = b""
    blob: str = ""
    devices: tuple[bytes, ...] = ()
    revoked: tuple[str, ...] = ()

    def text(self) -> str:
        return ndb.record(
            {
                "dealing": self.anchor,
                "public": self.public.hex(),
                "keys": self.blob,
                "devices": ",".join(key.hex() for key in self.devices),
                "revoked": ",".join(self.revoked),
            }
        )

    def with_revoked(self, ids: Iterable[str]) -> Notes:
        """More tokens that do nothing any more.  CloudError("toomany")."""
        every = tuple(dict.fromkeys([*self.revoked, *map(short, ids)]))
        if len(every) > REVOKED:
            raise CloudError(
                "toomany",
                f"a record names {REVOKED} tokens that were taken back, at most",
                "void all there are: cloudfs passwd --logout",
            )
        return replace(self, revoked=every)


def short(id: str) -> str:
    """By what a record names a block of a token: 16 hexadecimal digits of its id's hash."""
    return hashlib.sha256(id.encode()).hexdigest()[:16]


DEVICES = 16
REVOKED = 64


def notes(user: User) -> Notes:
    """Of a record; what cannot be read counts as not said."""
    try:
        pairs = ndb.parse(user.more)
        devices = [bytes.fromhex(one) for one in pairs.get("devices", "").split(",") if one]
        public = bytes.fromhex(pairs.get("public", ""))
    except (CloudError, ValueError):
        return Notes()
    revoked = tuple(filter(None, pairs.get("revoked", "").split(",")))[:REVOKED]
    known = tuple(devices[-DEVICES:])
    return Notes(pairs.get("dealing", ""), public, pairs.get("keys", ""), known, revoked)


# --- choosing ----------------------------------------------------------------------------------


def size(nodes: int) -> tuple[int, int]:
    """How many holders are needed, and how many there are, in a cloud of so many nodes."""
    return next((need, count) for least, need, count in SIZES if nodes >= least or least == 1)


def rank(user: str, nodes: Sequence[str]) -> list[str]:
    """Nodes in the order in which they are chosen for a user."""

    def place(node: str) -> bytes:
        return hashlib.blake2b(f"{user}\0{node}".encode(), digest_size=16).digest()

    return sorted(nodes, key=place)


def choose(
    user: str, nodes: Mapping[str, str], keep: Sequence[str] = ()
) -> tuple[int, tuple[str, ...]]:
    """How many are needed, and the holders, among nodes by name with their cluster.

    keep: holders that there are; those among `nodes` stay, as many as there is place for.
    CloudError("unreachable") without any node.
    """
    if not nodes:
        raise CloudError("unreachable", "no node is there that could hold a share")
    need, count = size(len(nodes))
    chosen = [node for node in keep if node in nodes][:count]
    share = -(-count // len(set(nodes.values())))  # of one cluster
    of: dict[str, int] = {}
    for node in chosen:
        of[nodes[node]] = of.get(nodes[node], 0) + 1
    ranked = [node for node in rank(user, list(nodes)) if node not in chosen]
    for most in (share, count):  # a cluster may have too few
        for node in ranked:
            if len(chosen) < count and node not in chosen and of.get(nodes[node], 0) < most:
                chosen.append(node)
                of[nodes[node]] = of.get(nodes[node], 0) + 1
    return need, tuple(chosen)
