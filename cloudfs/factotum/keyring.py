"""The keys of a factotum, as lines of attributes (factotum(4)).  Pure.

    key proto=cap25519 dom=local user=ana !seed=…     added by writing it to ctl
    delkey proto=cap25519 user=ana                    removes those that match

A secret's name begins with `!`; it is shown as its bare name and a question mark, or not at all.
A *template* matches keys that have its values; `user?` asks for a key that has the attribute,
whatever its value.  `confirm=yes` in a key asks its owner before each use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cloudfs import ndb
from cloudfs.errors import CloudError

MOST = 256  # keys
ATTRIBUTES = 32
LINE = 4096  # bytes
# What a conversation is told and no key has: they say nothing of which key will do.
NOT_OF_KEYS = frozenset(
    [
        *("role", "disabled", "binding", "lend", "holder"),
        *("op", "app", "cluster", "node", "until", "price"),
    ]
)


@dataclass(frozen=True, slots=True)
class Key:
    """attrs: what everybody may see.  secrets: the rest, by name without `!`; never printed."""

    attrs: dict[str, str]
    secrets: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        shown = [ndb.record(self.attrs), *(f"!{name}?" for name in self.secrets)]
        return " ".join(["key", *filter(None, shown)])

    def matches(self, wanted: Template) -> bool:
        has = {*self.attrs, *(f"!{name}" for name in self.secrets)}
        return wanted.asks <= has and all(
            self.attrs.get(name) == value for name, value in wanted.values.items()
        )


@dataclass(frozen=True, slots=True)
class Template:
    """values: what a key must have.  asks: attributes that it must have, whatever they are."""

    values: dict[str, str]
    asks: frozenset[str] = frozenset()

    def __str__(self) -> str:
        asked = (f"{name}?" for name in sorted(self.asks))
        return " ".join(filter(None, [ndb.record(self.values), *asked]))

    def without(self, *names: str) -> Template:
        """The same but for these attributes."""
        return Template({k: v for k, v in self.values.items() if k not in names}, self.asks)

    def of_keys(self) -> Template:
        """What of it says which key will do."""
        return self.without("proto", *NOT_OF_KEYS)


def template(line: str) -> Template:
    """From its line; CloudError("bad").  A secret's value is never a condition: it would be
    in what asks for it."""
    values: dict[str, str] = {}
    asks: set[str] = set()
    for name, equals, value in _pairs(line):
        if not equals and name.endswith("?"):
            asks.add(name[:-1])
        elif not equals:
            raise CloudError("bad", "a word without = in a template", "write attr=value or attr?")
        elif name.startswith("!"):
            raise CloudError("bad", f"{name[:40]!r} in a template", "write attr=value or attr?")
        else:
            values[name] = value
    return Template(values, frozenset(asks))


def key(line: str) -> Key:
    """From its line, without the word `key`; CloudError("bad"), which shows no value."""
    attrs: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for name, equals, value in _pairs(line):
        bare = name.removeprefix("!")
        if not equals:  # which may be a piece of a secret that was not quoted
            raise CloudError("bad", "a word in a key has no value", "write attr=value")
        (secrets if name.startswith("!") else attrs)[bare] = value
    if "proto" not in attrs or set(attrs) & set(secrets) or set(attrs) & NOT_OF_KEYS:
        raise CloudError("bad", "a key has a proto=, each attribute once, and no role")
    return Key(attrs, secrets)


class Keyring:
    """Keys in the order in which they were added; a new one of the same attributes replaces."""

    def __init__(self) -> None:
        self._keys: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def add(self, made: Key) -> None:
        """CloudError("toomany")."""
        same = [one for one in self._keys if one.attrs == made.attrs]
        if not same and len(self._keys) >= MOST:
            raise CloudError("toomany", f"a factotum holds at most {MOST} keys", "delkey some")
        self._keys = [one for one in self._keys if one not in same] + [made]

    def remove(self, wanted: Template) -> int:
        """How many matched."""
        before = len(self._keys)
        self._keys = [one for one in self._keys if not one.matches(wanted)]
        return before - len(self._keys)

    def find(self, wanted: Template) -> list[Key]:
        """Those that match, the one added last first, and behind them what others granted: by
        that one is somebody else, which is to be asked for."""
        found = [one for one in reversed(self._keys) if one.matches(wanted)]
        return sorted(found, key=lambda one: "token" in one.attrs)


def _pairs(line: str) -> Iterable[tuple[str, str, str]]:
    if len(line) > LINE:
        raise CloudError("toobig", f"a key has at most {LINE} bytes")
    if line.count("'") % 2:
        raise CloudError("bad", "a quote is not closed", "add a '")
    words = ndb.words(line)
    if len(words) > ATTRIBUTES:
        raise CloudError("toomany", f"a key has at most {ATTRIBUTES} attributes")
    seen = set()
    for word in words:
        name, equals, value = word.partition("=")
        if not name.removeprefix("!").removesuffix("?") or name in seen:
            raise CloudError("bad", "an attribute without a name, or one that comes twice")
        seen.add(name)
        yield name, equals, value
