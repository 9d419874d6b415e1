"""What must outlive the daemon: one row an object, in sqlite with a write-ahead log.

A commit is a write without fsync (synchronous=NORMAL): a killed daemon loses nothing,
and after a power cut the processes are gone as well.  Measured: 20-40 µs a commit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SCHEMA = """
create table if not exists objects (id text primary key, record text not null);
create table if not exists moved (id text primary key, record text not null);
create table if not exists held (user text, id text, record text not null,
  primary key (user, id));
create table if not exists node (name text primary key, value text not null);
create table if not exists people (kind text, name text, lines text not null,
  primary key (kind, name));
create table if not exists shares (user text, dealing text, record text not null,
  primary key (user, dealing));
create table if not exists sealed (user text, digest text, line text not null,
  primary key (user, digest));
create table if not exists runs (name text, id text, record text not null,
  primary key (name, id));
"""

# Rows stay in the order in which they came.
KEEP_RUN = """
insert into runs values (?, ?, ?)
on conflict (name, id) do update set record = excluded.record
"""


class Records:
    """Tables: id → an object's record, id → where one went that was here, user and id → what
    was promised of another's, name → a value of the node's own, group and id → what became of
    a verb of the group, all JSON; what is known of users and groups, signed lines (people.py);
    and what this node holds for users: shares of keys, and their sealed keys (holder.py)."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.execute("pragma secure_delete=on")  # shares that are not needed any more
        self._db.executescript(SCHEMA)

    def put(self, id: str, record: dict[str, Any]) -> None:
        self._db.execute("insert or replace into objects values (?, ?)", (id, json.dumps(record)))

    def drop(self, id: str) -> None:
        self._db.execute("delete from objects where id = ?", (id,))

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for id, text in self._db.execute("select id, record from objects order by rowid"):
            yield id, json.loads(text)

    def put_moved(self, id: str, record: list[Any]) -> None:
        self._db.execute("insert or replace into moved values (?, ?)", (id, json.dumps(record)))

    def drop_moved(self, id: str) -> None:
        self._db.execute("delete from moved where id = ?", (id,))

    def all_moved(self) -> Iterator[tuple[str, list[Any]]]:
        for id, text in self._db.execute("select id, record from moved order by rowid"):
            yield id, json.loads(text)

    def put_held(self, user: str, id: str, record: dict[str, Any]) -> None:
        """Written to the disk itself: a promise must outlive a power cut too."""
        self._db.execute("pragma synchronous=full")
        try:
            self._db.execute(
                "insert or replace into held values (?, ?, ?)", (user, id, json.dumps(record))
            )
        finally:
            self._db.execute("pragma synchronous=normal")

    def drop_held(self, user: str, id: str) -> None:
        self._db.execute("delete from held where user = ? and id = ?", (user, id))

    def all_held(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for user, id, text in self._db.execute("select user, id, record from held"):
            yield user, id, json.loads(text)

    def set(self, name: str, value: Any) -> None:
        """Keep a value of the node's own."""
        self._db.execute("insert or replace into node values (?, ?)", (name, json.dumps(value)))

    def get(self, name: str, default: Any) -> Any:
        """The value kept under that name, else default."""
        row = self._db.execute("select value from node where name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    # --- users and groups -------------------------------------------------------------------

    def put_people(self, kind: str, name: str, lines: str) -> None:
        """The lines of one name, in their order; none: forget it."""
        if lines:
            self._db.execute("insert or replace into people values (?, ?, ?)", (kind, name, lines))
        else:
            self._db.execute("delete from people where kind = ? and name = ?", (kind, name))

    def all_people(self) -> list[str]:
        """The lines of every name."""
        return [lines for (lines,) in self._db.execute("select lines from people")]

    def drop_people(self) -> None:
        self._db.execute("delete from people")

    def put_share(self, user: str, dealing: str, record: dict[str, Any]) -> None:
        self._db.execute(
            "insert or replace into shares values (?, ?, ?)", (user, dealing, json.dumps(record))
        )

    def drop_share(self, user: str, dealing: str) -> None:
        self._db.execute("delete from shares where user = ? and dealing = ?", (user, dealing))

    def all_shares(self) -> list[tuple[str, str, dict[str, Any]]]:
        found = self._db.execute("select user, dealing, record from shares")
        return [(user, dealing, json.loads(text)) for user, dealing, text in found]

    def put_sealed(self, user: str, digest: str, line: str) -> None:
        self._db.execute("insert or replace into sealed values (?, ?, ?)", (user, digest, line))

    def drop_sealed(self, user: str, digest: str) -> None:
        self._db.execute("delete from sealed where user = ? and digest = ?", (user, digest))

    def sealed_of(self, user: str) -> list[str]:
        found = self._db.execute("select line from sealed where user = ? order by rowid", (user,))
        return [line for (line,) in found]

    def sealed_users(self) -> list[str]:
        return [user for (user,) in self._db.execute("select distinct user from sealed")]

    def put_run(self, name: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Keep a run's own record (id "") and those of some of its objects, together."""
        self._db.execute("begin")
        for id, record in rows:
            text = json.dumps(record)
            self._db.execute(KEEP_RUN, (name, id, text))
        self._db.execute("commit")

    def drop_run(self, name: str) -> None:
        self._db.execute("delete from runs where name = ?", (name,))

    def all_runs(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for name, id, text in self._db.execute("select * from runs order by rowid"):
            yield name, id, json.loads(text)

    def close(self) -> None:
        self._db.close()
