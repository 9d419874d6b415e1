"""A ctl file's verbs as a table of rows, and how a line finds its row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError

EVER: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verb:
    """A row.  least and most: how many arguments (most None: any number).  states: those
    of the subject in which it works (`EVER`: any).  run's docstring is the help."""

    usage: str
    least: int
    most: int | None
    run: Callable[..., Any]
    states: frozenset[str] = EVER

    @property
    def name(self) -> str:
        return self.usage.split()[0]

    @property
    def doc(self) -> str:
        return " ".join((self.run.__doc__ or "").split())


def table(*rows: Verb) -> dict[str, Verb]:
    """name → row, in the order of the help."""
    return {verb.name: verb for verb in rows}


def help_of(verbs: Iterable[Verb]) -> str:
    """A line for each verb: how it is written and what it does."""
    return "".join(f"  {verb.usage:32} {verb.doc}\n" for verb in verbs)


def find(verbs: Mapping[str, Verb], line: str) -> tuple[Verb, list[str]] | None:
    """The row for a line and its arguments, None for an empty line.

    Raises CloudError for bad quoting, a verb that is not in the table and a wrong number
    of arguments.
    """
    words = ndb.words(line)
    if not words:
        return None
    name, *args = words
    verb = verbs.get(name)
    if verb is None:
        raise CloudError("bad", f"no verb {name[:40]!r}", f"verbs: {' '.join(verbs)}")
    if len(args) < verb.least or (verb.most is not None and len(args) > verb.most):
        count = "1 argument" if len(args) == 1 else f"{len(args)} arguments"
        raise CloudError("bad", f"{name}: takes not {count}", f"write: {verb.usage}")
    return verb, args
