"""Capabilities: what a user lets somebody do, in a biscuit token that only ever narrows.  Pure.

    user("ana"); cloud("local"); epoch(3);
    check if time($t), $t < 2026-12-01T09:30:00Z;
    check if holder($h), $h == "ed25519:…";
    ---
    check if op($x), {"kill", "read"}.contains($x);
    check if app($x), {"web"}.contains($x);

The first block is signed by the user's key and read with the public one of the user's record, by
any node, offline.  Whoever has a token may add blocks, which can but restrict.  A token is useful
only to its *holder*, who proves a key.

Biscuit tokens can carry any Datalog.  Ours carry the checks above and no others, each block read
as what it says, and a token with anything else is refused: so what a token allows is a plain
value, `Powers`, that costs nothing to ask, and no stranger's program runs on a node.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from biscuit_auth import (
    Algorithm,
    BiscuitBlockError,
    BiscuitBuilder,
    BiscuitSerializationError,
    BiscuitValidationError,
    BlockBuilder,
    DataLogError,
    PrivateKey,
    PublicKey,
    UnverifiedBiscuit,
)
from biscuit_auth import Biscuit as Token

from cloudfs.errors import CloudError

LIFE = 12 * 3600.0  # seconds that a token of a user lives, unless it is said
MOST = 1536  # bytes: with the rest it must pass plan9port's rpc of 2048
BLOCKS = 8
NAMES = 32  # in one check
FUTURE = 300.0  # seconds by which clocks may differ
SETS = ("op", "app", "cluster", "node")

# How the library says that bytes are no token, or one of another key.
UNREADABLE = (
    BiscuitBlockError,
    BiscuitSerializationError,
    BiscuitValidationError,
    DataLogError,
    ValueError,
)

N = TypeVar("N", int, float)
_ED25519 = Algorithm.Ed25519  # type: ignore[attr-defined]  # its stubs are those of 0.3

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.@:+-]{0,127}"
_IS_WORD = re.compile(_WORD)
_FIRST = re.compile(
    rf'user\("({_WORD})"\);\ncloud\("({_WORD})"\);\nepoch\((\d{{1,18}})\);\n(.*)', re.DOTALL
)
_TIME = re.compile(r"check if time\(\$t\), \$t < (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ);")
_HOLDER = re.compile(rf'check if holder\(\$h\), \$h == "({_WORD})";')
_SET = re.compile(rf"check if ({'|'.join(SETS)})\(\$x\), \{{([^{{}}]*)\}}\.contains\(\$x\);")
_PRICE = re.compile(r"check if price\(\$p\), \$p <= (\d{1,18});")
_ELEMENT = re.compile(rf'"({_WORD})"')


@dataclass(frozen=True, slots=True)
class Limits:
    """What a block restricts; None and inf: nothing.

    sets: names that are allowed, for any of SETS.  until: seconds since 1970.
    price: the most an object may cost an hour, in millionths.
    """

    sets: dict[str, frozenset[str]] = field(default_factory=dict)
    until: float | None = None
    price: int | None = None

    @property
    def narrow(self) -> bool:
        """Whether more is restricted than time and where."""
        return self.price is not None or bool(set(self.sets) - {"node", "cluster"})

    def and_also(self, other: Limits) -> Limits:
        """Both at once."""
        sets = dict(self.sets)
        for name, allowed in other.sets.items():
            sets[name] = sets.get(name, allowed) & allowed
        return Limits(sets, _least(self.until, other.until), _least(self.price, other.price))


@dataclass(frozen=True, slots=True)
class Powers:
    """What a verified token allows.  ids: one a block, by which it can be revoked."""

    user: str
    cloud: str
    epoch: int
    holder: str
    limits: Limits
    ids: tuple[str, ...]

    def check(self, now: float, **what: str) -> None:
        """CloudError("denied") unless all of it is allowed: op="kill", app="web", …

        A token that is limited in something does not allow what leaves that open.
        """
        self.in_time(now)
        self.admit(**dict.fromkeys(self.limits.sets, "") | what)

    def in_time(self, now: float) -> None:
        """CloudError("denied") once it has ended."""
        until = self.limits.until
        if until is not None and now >= until:
            raise _denied(
                f"it ended {_date(until)}, and here it is {_date(now)}",
                "log in again: cloudfs login",
            )

    def admit(self, **what: str) -> None:
        """CloudError("denied") where one of these is not allowed, whatever else is."""
        for name, value in what.items():
            allowed = self.limits.sets.get(name)
            if allowed is not None and value not in allowed:
                only = " ".join(sorted(allowed)) or "none"
                raise _denied(f"{name} {value or '(none)'} is not allowed by it, only {only}")

    @property
    def budget(self) -> float | None:
        """The most that an object may cost an hour, None for any."""
        return None if self.limits.price is None else self.limits.price / 1e6


def mint(
    key: bytes, user: str, cloud: str, epoch: int, holder: str, now: float, life: float = LIFE
) -> bytes:
    """A user's token for a holder.  key: the user's Ed25519 seed, 32 bytes."""
    _check_words([user, cloud, holder])
    facts = f'user("{user}"); cloud("{cloud}"); epoch({epoch});'
    checks = f'check if holder($h), $h == "{holder}"; {_until(now + life)}'
    builder = BiscuitBuilder(facts + checks)
    private = PrivateKey.from_bytes(key, _ED25519)  # type: ignore[call-arg]
    return bytes(builder.build(private).to_bytes())


def narrow(token: bytes, public: bytes, limits: Limits) -> bytes:
    """The same token, restricted.  CloudError("toobig") when no more goes in."""
    lines = []
    for name, allowed in limits.sets.items():
        if name not in SETS or not 0 < len(allowed) <= NAMES:
            raise CloudError("bad", f"{name} is restricted to 1 to {NAMES} names", " ".join(SETS))
        _check_words(allowed)
        names = ", ".join(f'"{value}"' for value in sorted(allowed))
        lines.append(f"check if {name}($x), {{{names}}}.contains($x);")
    if limits.price is not None:
        lines.append(f"check if price($p), $p <= {int(limits.price)};")
    if limits.until is not None:
        lines.append(_until(limits.until))
    if not lines:
        return token
    made = bytes(_read(token, public).append(BlockBuilder("\n".join(lines))).to_bytes())
    if len(made) > MOST:
        raise CloudError(
            "toobig", f"the token would have {len(made)} bytes", f"at most {MOST}: restrict it less"
        )
    return made


def verify(
    token: bytes,
    key_of: Callable[[str], bytes],
    now: float,
    *,
    cloud: str,
    epoch_of: Callable[[str], int],
    revoked: Callable[[str], bool] = lambda id: False,
) -> Powers:
    """What a token allows.

    key_of(user): the public key in the user's record, 32 bytes; raises for none.  The name in
    the token only says which key to try: it is proved by the signature.  epoch_of(user): tokens
    of earlier ones are void.  Raises CloudError "denied", or "bad" for what is no token.
    """
    user = _claimed(token)
    read = _read(token, key_of(user))
    if read.block_count() > BLOCKS:
        raise CloudError("toobig", f"a token has at most {BLOCKS} blocks")
    if any(read.block_external_key(index) for index in range(read.block_count())):
        raise CloudError("bad", "the token holds a block of a third party")
    powers = _powers(
        [read.block_source(index) or "" for index in range(read.block_count())],
        tuple(read.revocation_ids),
    )
    until = powers.limits.until or 0.0
    if powers.user != user or powers.cloud != cloud:
        raise _denied(f"it is for {powers.user} in the cloud {powers.cloud}, and this is {cloud}")
    if powers.epoch != epoch_of(user):
        raise _denied("it is of another epoch", "log in again: cloudfs login")
    if any(map(revoked, powers.ids)):
        raise _denied("it was revoked")
    if now >= until:
        raise _denied(f"it ended {_date(until)}, and here it is {_date(now)}", "log in again")
    return powers


# --- reading --------------------------------------------------------------------------------


def peek(token: bytes) -> tuple[str, str, str]:
    """(user, cloud, holder) that a token names, which proves nothing; CloudError("bad")."""
    first = _first_of(token)
    held = next(filter(None, map(_HOLDER.fullmatch, first[4].splitlines())), None)
    if held is None:
        raise CloudError("bad", "the token's first block is not one of ours")
    return first[1], first[2], held[1]


def ids_of(token: bytes) -> list[str]:
    """The ids of a token's blocks, by which it can be revoked; CloudError("bad")."""
    _first_of(token)
    read = UnverifiedBiscuit.from_base64(urlsafe_b64encode(token).decode())
    return [str(id) for id in read.revocation_ids]


def _claimed(token: bytes) -> str:
    """The user that an unverified token names."""
    return _first_of(token)[1]


def _first_of(token: bytes) -> re.Match[str]:
    """What the first block says, as `_FIRST` has it."""
    if len(token) > MOST:
        raise CloudError("toobig", f"a token has at most {MOST} bytes, this one {len(token)}")
    try:
        source = UnverifiedBiscuit.from_base64(urlsafe_b64encode(token).decode()).block_source(0)
    except UNREADABLE:
        raise CloudError("bad", "that is no token") from None
    match = _FIRST.fullmatch(source or "")
    if match is None:
        raise CloudError("bad", "the token's first block is not one of ours")
    return match


def _read(token: bytes, public: bytes) -> Token:
    try:
        key = PublicKey.from_bytes(public, _ED25519)  # type: ignore[call-arg]
        return Token.from_bytes(token, key)
    except UNREADABLE:
        raise _denied("its signature does not fit the user's key") from None


def _powers(blocks: list[str], ids: tuple[str, ...]) -> Powers:
    """What the blocks say; CloudError("bad") where they say anything else."""
    first = _FIRST.fullmatch(blocks[0])
    if first is None:
        raise CloudError("bad", "the token's first block is not one of ours")
    user, cloud, epoch, rest = first.groups()
    holders: list[str] = []
    limits = Limits()
    for source in (rest, *blocks[1:]):
        for line in source.splitlines():
            holder = _HOLDER.fullmatch(line)
            if holder is not None:
                holders.append(holder[1])
            else:
                limits = limits.and_also(_limit(line))
    if len(holders) != 1 or limits.until is None:
        raise CloudError("bad", "a token has one holder, and an end")
    return Powers(user, cloud, int(epoch), holders[0], limits, ids)


def _limit(line: str) -> Limits:
    if match := _TIME.fullmatch(line):
        try:
            when = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise CloudError("bad", "the token ends on a day that is none") from None
        return Limits(until=when.timestamp())
    if match := _SET.fullmatch(line):
        parts = match[2].split(", ")
        names = [element[1] for part in parts if (element := _ELEMENT.fullmatch(part))]
        if len(names) == len(parts) <= NAMES:
            return Limits({match[1]: frozenset(names)})
    if match := _PRICE.fullmatch(line):
        return Limits(price=int(match[1]))
    raise CloudError("bad", "the token says something that this node does not know")


# --- small things ---------------------------------------------------------------------------


def _least(one: N | None, other: N | None) -> N | None:
    return min((x for x in (one, other) if x is not None), default=None)


def _until(when: float) -> str:
    return f"check if time($t), $t < {_date(when)};"


def _date(when: float) -> str:
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        raise CloudError("bad", f"{when:g} is no time") from None


def _check_words(words: Iterable[str]) -> None:
    for word in words:
        if not _IS_WORD.fullmatch(word):
            raise CloudError("bad", f"{word[:80]!r} is no name that a token can hold")


def _denied(why: str, fix: str = "") -> CloudError:
    return CloudError("denied", f"the token does not do: {why}", fix)
