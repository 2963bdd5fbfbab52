"""The facts of a volume in a temporary database, so that rows can be compared in any order with little memory.

SQLite keeps a nameless database in a file that is deleted as soon as it is open, and in memory as far as `CACHE_KIB` allows.
About 150 bytes are needed per file. Numbers are at most 2**63-1 here; `storable` tells.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from cairnfs.const import ROOT_INO

CACHE_KIB = 64 << 10
MAX_DEPTH = 1000  # of a path in a message
UNREADABLE = 0  # type of an inode whose record cannot be decoded: it exists, and nothing else is known of it

_SCHEMA = """
CREATE TABLE inode(ino INTEGER PRIMARY KEY, version INT, type INT, nlink INT, size INT, parent INT, alloc INT, mapped INT,
                   last_end INT, flags INT, wanted_flags INT);
CREATE TABLE dentry(parent INT, name BLOB, ino INT, type INT, version INT);
CREATE TABLE ref(pack INT, ino INT, bytes INT, stored_end INT);
CREATE TABLE slice(pack INT, stored_off INT, stored_len INT, plain_len INT, crc INT, codec INT, ino INT,
                   PRIMARY KEY (pack, stored_off, stored_len, plain_len, crc, codec)) WITHOUT ROWID;
CREATE TABLE pack(pack INTEGER PRIMARY KEY, version INT, live INT, plain INT, object INT);
CREATE TABLE object(pack INTEGER PRIMARY KEY, size INT);
CREATE TABLE mark(pack INTEGER PRIMARY KEY);
CREATE TABLE sustained(session INT, ino INT);
CREATE TABLE session(session INTEGER PRIMARY KEY);
CREATE TABLE deleted(ino INTEGER PRIMARY KEY);
CREATE TABLE stray(ino INTEGER PRIMARY KEY, n_rows INT);
CREATE TABLE labelled(ino INTEGER PRIMARY KEY);
"""
_INDEXES = """
CREATE INDEX dentry_by_ino ON dentry(ino);
CREATE INDEX dentry_by_parent ON dentry(parent);
CREATE INDEX ref_by_pack ON ref(pack);
CREATE INDEX sustained_by_ino ON sustained(ino);
DELETE FROM stray WHERE ino IN (SELECT ino FROM deleted) OR ino IN (SELECT ino FROM inode);
DELETE FROM ref WHERE ino IN (SELECT ino FROM stray);
"""


def storable(*numbers: int) -> bool:
    """Whether numbers from rows can be kept; no inode or pack that was ever allocated is beyond."""
    return all(0 <= number < 1 << 63 for number in numbers)


class Index:
    """Tables named after what they hold; `finish` must be called between filling and asking."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def add(self, table: str, *values: object) -> None:
        """Add a row to a table; one that is there already stays."""
        self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def add_many(self, table: str, rows: Iterable[tuple[object, ...]], n_columns: int) -> None:
        """Add rows to a table."""
        self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * n_columns)})", rows)

    def finish(self) -> None:
        """All facts are in: make them searchable."""
        self._db.executescript(_INDEXES)

    def ask(self, query: str, *values: object) -> Iterator[Any]:
        """The rows of a query."""
        yield from self._db.execute(query, values)

    def number(self, query: str, *values: object) -> int:
        """The one number a query gives; 0 for NULL."""
        return int(self._db.execute(query, values).fetchone()[0] or 0)

    def path(self, ino: int) -> str:
        """A path of an inode for messages, as far as entries lead towards the root."""
        parts: list[str] = []
        at = ino
        while at != ROOT_INO and len(parts) < MAX_DEPTH:
            row = self._db.execute("SELECT parent, name FROM dentry WHERE ino = ? LIMIT 1", (at,)).fetchone()
            if row is None:
                return f"inode {ino}" if at == ino else f"inode {at}: {'/'.join(reversed(parts))}"
            at = row[0]
            parts.append(row[1].decode("utf-8", "backslashreplace"))
        return "/" + "/".join(reversed(parts))

    def paths_of_pack(self, pack: int, limit: int) -> tuple[int, list[str]]:
        """How many files refer to a pack, and paths of some."""
        n_files = self.number("SELECT COUNT(DISTINCT ino) FROM ref WHERE pack = ?", pack)
        inos = self.ask("SELECT DISTINCT ino FROM ref WHERE pack = ? LIMIT ?", pack, limit)
        return n_files, [self.path(ino) for (ino,) in inos]
