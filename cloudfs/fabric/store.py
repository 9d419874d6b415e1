"""Where a node's copy of a table outlives its process, and a power cut."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.fabric.record import Record, pack_record, unpack_record

SCHEMA = """
create table if not exists records (
    owner text not null, key text not null, ends real, record blob not null,
    primary key (owner, key)
) without rowid;
"""


class Store:
    """One table's records in a file of sqlite: what a replica has said yes to stays."""

    def __init__(self, path: Path | str) -> None:
        """Raises CloudError("io") if the file cannot be used."""
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise CloudError("io", f"{path} cannot be used: {error}") from error

    def save(self, record: Record, left: float | None) -> None:
        """left: seconds it still holds, None for ever."""
        ends = None if left is None else time.time() + left
        row = record.owner, record.key, ends, pack_record(record, left)
        self._db.execute("insert or replace into records values (?, ?, ?, ?)", row)

    def load(self) -> Iterator[tuple[Record, float | None]]:
        """The records that still hold, and for how many seconds."""
        self.expire()
        now = time.time()
        for ends, data in self._db.execute("select ends, record from records").fetchall():
            yield unpack_record(data)[0], None if ends is None else ends - now

    def expire(self) -> None:
        """Delete what holds no more."""
        self._db.execute("delete from records where ends <= ?", (time.time(),))

    def close(self) -> None:
        self._db.close()
