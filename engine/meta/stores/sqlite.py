"""The embedded default store: one SQLite file in WAL mode, for several threads and processes of one machine.

Owns the file's connections: one that writes, under a lock, and a small pool that reads, so that threads may come and go.
Commits survive the death of any process at once (the log's pages are with the kernel) and loss of power after `sync`.

Concurrency: readers never wait for writers. Writers of this process queue at `_write_lock`, those of several processes at
SQLite's write lock. Lock order: `_write_lock`, then SQLite's. A process killed while it writes leaves no lock behind, and
what it had not committed is ignored by everybody else.
"""

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import NoReturn

from cairnfs.errors import CorruptError, StoreError
from cairnfs.ext.arena import Watch
from cairnfs.ext.page import Page
from cairnfs.meta.stores import named, sqlite_file
from cairnfs.meta.stores.base import (
    NO_SESSION,
    NOTHING,
    Absent,
    Add,
    Along,
    Committed,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    EndLink,
    Exists,
    Hazard,
    Key,
    LogRecord,
    LogTrimmed,
    Max,
    NotSince,
    Put,
    Row,
    Scanned,
    Unchanged,
    Via,
)
from cairnfs.meta.stores.fields import added, field, raised
from cairnfs.meta.stores.log_keys import decode_record, encode_record, prefix_end
from cairnfs.meta.stores.sqlite_ahead import LogAhead
from cairnfs.meta.stores.sqlite_checkpoint import LOG_LIMIT_BYTES, Checkpointer
from cairnfs.meta.stores.sqlite_watch import WalIndex
from cairnfs.types import Position, SessionId

log = logging.getLogger(__name__)

LOG_RECORDS = 100_000  # a follower that falls further behind drops its caches instead; about 10 MB of file
TRIM_EVERY = 256  # commits; keeps the cost of trimming under a microsecond each

MAX_READERS = 8  # connections; a read takes some 10 us and Python runs one at a time, so more would only cost descriptors
WRITER_CACHE_KIB = 32 << 10  # the pages a writer changes: the tops of all trees and the directories in use
READER_CACHE_KIB = 2 << 10  # SQLite empties it after every commit of another connection; the kernel caches the file anyway

KEYS_PER_STATEMENT = 64
# Each count of keys is a prepared statement of its own, 3 to 21 KB for each connection and kept as long as it, so larger
# counts are rounded up, with keys that SQLite finds nothing for in under a microsecond. All 64 made 7 MB of nine connections.
KEYS_EXACT = 8

MIN_PAUSE_S = 0.00005  # a commit holds the write lock for about this long,
MAX_PAUSE_S = 0.002  # so waiting in SQLite's own steps of 1 to 100 ms would starve one of two busy processes

_PUT = (
    "INSERT INTO rows VALUES(?, ?, ?, ?) ON CONFLICT(part, key) DO UPDATE SET value = excluded.value, version = excluded.version"
)
_DELETE = "DELETE FROM rows WHERE part = ? AND key = ?"
_SCAN_ALONE = "SELECT found.key, found.version, found.value, 0, NULL FROM rows AS found WHERE found.part = ?"
_SCAN_NAMED = (
    "SELECT found.key, found.version, found.value, coalesce(named.version, 0), named.value FROM rows AS found "
    "LEFT JOIN rows AS named ON named.part = CAST(? || substr(found.value, 1, 8) AS BLOB) AND named.key = ? "
    "WHERE found.part = ?"
)
_LOG = "INSERT INTO log(origin, keys) VALUES(?, ?)"  # takes the position after the newest


class SqliteStore:
    """The store contract over one SQLite file."""

    def __init__(self, path: Path, url: str, create: bool, io_timeout_s: float = 60.0, log_records: int = LOG_RECORDS) -> None:
        """Open the file at `path`, creating it if `create`. VolumeError or StoreError when it cannot be used.

        `io_timeout_s` is how long a call waits for another process's lock before StoreError (EIO).
        """
        self.origin = SessionId(0)
        self._path = path
        self._io_timeout_s = io_timeout_s
        self._log_records = log_records
        self._write_lock = threading.Lock()
        self._closed = False
        self._folder_synced = False
        self._idle: list[sqlite3.Connection] = []
        self._n_readers = 0
        self._n_waiting = 0
        self._returned = threading.Condition(threading.Lock())
        sqlite_file.find(path, url, create)
        self._writer = self._open_writer(url, create)
        self._wal_fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
        self._ahead = LogAhead(self._wal_fd)
        self._index = _map_index(path)
        connect = partial(sqlite_file.connect, path, 0.1, cache_kib=READER_CACHE_KIB)
        self._checkpointer = Checkpointer(connect, self._wal_fd, self._index)

    # --- reading ---

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        with self._reading() as connection:
            if len(keys) <= KEYS_PER_STATEMENT:
                return _fetch(connection, keys)
            connection.execute("BEGIN")
            found = _fetch_all(connection, keys)
            connection.execute("COMMIT")
            return found

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        return named.read_via(self, key, prefix, subkey, along)

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        statement, arguments = (_SCAN_NAMED, (prefix, subkey)) if with_named else (_SCAN_ALONE, ())
        beyond = " AND found.key > ?" if after is not None else ""
        page = (partition, limit) if after is None else (partition, after, limit)
        with self._reading() as connection:
            connection.execute("BEGIN")
            owner = _fetch(connection, [(prefix + partition[1:], subkey)])[0]
            rows = connection.execute(f"{statement}{beyond} ORDER BY found.key LIMIT ?", (*arguments, *page)).fetchall()
            connection.execute("COMMIT")
        return Scanned(owner, Page.of(rows))

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        statement = "SELECT key, value, version FROM rows WHERE part = ?"
        arguments: list[bytes | int] = [partition]
        if after is not None and after >= prefix:
            statement += " AND key > ?"
            arguments.append(after)
        elif prefix:
            statement += " AND key >= ?"
            arguments.append(prefix)
        end = prefix_end(prefix)
        if end is not None:
            statement += " AND key < ?"
            arguments.append(end)
        with self._reading() as connection:
            found = connection.execute(statement + " ORDER BY key LIMIT ?", (*arguments, limit)).fetchall()
        return [(key, Row(value, version)) for key, value, version in found]

    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        end = prefix_end(prefix)
        names: list[bytes] = []
        with self._reading() as connection:
            while len(names) < limit:
                if after is not None and after >= prefix:
                    query, start = "SELECT part FROM rows WHERE part > ? ORDER BY part LIMIT 1", after
                else:
                    query, start = "SELECT part FROM rows WHERE part >= ? ORDER BY part LIMIT 1", prefix
                found = connection.execute(query, (start,)).fetchall()
                if not found or (end is not None and found[0][0] >= end):
                    break
                after = found[0][0]
                names.append(found[0][0])
        return names

    def position(self) -> Position:
        with self._reading() as connection:
            return Position(connection.execute("SELECT max(position) FROM log").fetchall()[0][0] or 0)

    def log(self, after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        with self._reading() as connection:
            connection.execute("BEGIN")
            # Two statements: SQLite answers a lone min() or max() from one end of the tree, but both together by a full scan.
            oldest = connection.execute("SELECT min(position) FROM log").fetchall()[0][0] or 1
            newest = connection.execute("SELECT max(position) FROM log").fetchall()[0][0] or 0
            found = connection.execute(
                "SELECT position, origin, keys FROM log WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
            ).fetchall()
            connection.execute("COMMIT")
        if after + 1 < oldest or after > newest:
            raise LogTrimmed(after)
        try:
            return [LogRecord(Position(at), SessionId(origin), *decode_record(keys)) for at, origin, keys in found]
        except ValueError as error:
            raise CorruptError(f"the metadata file {self._path} is damaged: {error}") from error

    # --- writing ---

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        needed = dict.fromkeys(condition.key for condition in conditions)
        if not effects:
            _check(conditions, dict(zip(needed, self.read(list(needed)), strict=True)))
            return Committed(self.position(), [], {})
        for effect in effects:
            if type(effect) is Add or type(effect) is Max:
                needed[effect.key] = None
        with self._writing() as connection:
            before = self.mark()
            present = dict(zip(needed, _fetch_all(connection, list(needed)), strict=True))
            _check(conditions, present)
            changed, totals = _apply(effects, present)
            position = self._append(connection, encode_record(changed, conditions, effects))
            puts = [(part, key, value, position) for (part, key), value in changed.items() if value is not None]
            if puts:
                connection.executemany(_PUT, puts)
            if len(puts) < len(changed):
                connection.executemany(_DELETE, [key for key, value in changed.items() if value is None])
            connection.execute("COMMIT")
            mark = None if self._index is None else self._index.mark_of_next(before)
            if mark is not None:
                self._ahead.wrote(mark)
            self._checkpointer.wrote(connection, len(changed) + 1 + sum(len(put[2]) for put in puts) // 4096)
        return Committed(position, totals, changed, mark)

    def listen(self, rung: Callable[[], None], ended: threading.Event) -> None:
        return

    def now_ns(self) -> int | None:
        return None

    def watch(self) -> Watch | None:
        return None if self._index is None else self._index.watch

    def mark(self) -> bytes | None:
        return None if self._index is None else self._index.mark()

    def end_link(self) -> EndLink | None:
        return None

    def sync(self) -> None:
        # What is no longer in the log was synced into the database file by the checkpoint that took it out.
        try:
            os.fsync(self._wal_fd)
            if not self._folder_synced:  # the log is a new file since this store was opened, if nobody else had it open
                sqlite_file.sync_folder(self._path)
                self._folder_synced = True
        except OSError as error:
            raise StoreError(f"the metadata file {self._path} could not be synced: {error.strerror}", error.errno) from error

    def wipe(self, first: SessionId = NO_SESSION) -> None:
        with self._writing() as connection:
            newest = connection.execute("SELECT max(position) FROM log").fetchall()[0][0] or 0
            connection.execute("DELETE FROM rows")
            connection.execute("DELETE FROM log")
            # Leaving out one position makes the gap at which every follower drops what it has.
            connection.execute("INSERT INTO log VALUES(?, ?, ?)", (newest + 2, self.origin, b""))
            if first:
                sqlite_file.refuse_before(connection, first)
            connection.execute("COMMIT")

    def hazards(self) -> list[Hazard]:
        return []

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._checkpointer.close()
        with self._returned:
            self._returned.notify_all()
        self._close_idle()
        with self._write_lock:
            self._writer.close()
            self._index = None
        os.close(self._wal_fd)

    def _append(self, connection: sqlite3.Connection, record: bytes) -> Position:
        """Write the log record, which assigns the commit's position, and drop records that are too old."""
        position = connection.execute(_LOG, (self.origin, record)).lastrowid or 0
        if position % TRIM_EVERY == 0:
            connection.execute("DELETE FROM log WHERE position <= ?", (position - self._log_records,))
        return Position(position)

    # --- connections ---

    def _open_writer(self, url: str, create: bool) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite_file.connect(self._path, self._io_timeout_s, cache_kib=WRITER_CACHE_KIB)
            sqlite_file.prepare(connection, self._path, url, create)
            connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}").fetchall()
            # A WAL file exists only after the first access in WAL mode; `sync` needs it from the start.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            connection.execute("PRAGMA busy_timeout = 0").fetchall()  # `_begin` waits instead
            return connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise sqlite_file.open_error(self._path, error) from error
            raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The write connection inside a transaction, which is undone unless the block commits it."""
        with self._write_lock:
            connection = self._writer
            self._check_open()
            try:
                self._begin(connection)
                yield connection
            except sqlite3.Error as error:
                self._fail(error)
            finally:
                if connection.in_transaction:
                    self._undo(connection)

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take SQLite's write lock, waiting for other processes in short random steps."""
        give_up_s: float | None = None
        pause_s = MIN_PAUSE_S
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + self._io_timeout_s
                if not sqlite_file.is_busy(error) or now_s >= give_up_s:
                    raise
            time.sleep(random.uniform(MIN_PAUSE_S, pause_s))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # after some failures SQLite has rolled back already; the failure itself is being raised

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A read connection for the length of the block."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._another_reader()
        try:
            yield connection
        except sqlite3.Error as error:
            self._fail(error)
        finally:
            if connection.in_transaction:
                self._undo(connection)
            self._idle.append(connection)
            # A waiter counts itself before it looks at `_idle`, so either it finds this connection or it is seen here.
            if self._n_waiting:
                with self._returned:
                    self._returned.notify()
            if self._closed:
                self._close_idle()

    def _another_reader(self) -> sqlite3.Connection:
        """A new connection, or once there are `MAX_READERS` the next one that is returned."""
        with self._returned:
            self._n_waiting += 1
            try:
                while True:
                    self._check_open()
                    if self._idle:
                        return self._idle.pop()
                    if self._n_readers < MAX_READERS:
                        connection = sqlite_file.connect(self._path, self._io_timeout_s, cache_kib=READER_CACHE_KIB)
                        self._n_readers += 1
                        return connection
                    self._returned.wait()
            except sqlite3.Error as error:
                self._fail(error)
            finally:
                self._n_waiting -= 1

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the metadata file {self._path} has been closed")

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        raise sqlite_file.store_error(self._path, error) from error


def _map_index(path: Path) -> WalIndex | None:
    """Where it cannot be mapped everything works, but each question for the newest position is asked of SQLite."""
    try:
        return WalIndex(path)
    except OSError as error:
        log.info("%s: the log's index cannot be watched: %s", path, error)
        return None


@lru_cache(KEYS_PER_STATEMENT)
def _fetch_statement(n_keys: int) -> str:
    # One point lookup per key, in order. `(part, key) IN (VALUES ...)` reads as well but scans the whole table.
    values = ", ".join(["(?, ?)"] * n_keys)
    return f"WITH wanted(p, k) AS (VALUES {values}) SELECT value, version FROM wanted LEFT JOIN rows ON part = p AND key = k"


def _fetch(connection: sqlite3.Connection, keys: Sequence[Key]) -> list[Row | None]:
    """Rows of up to KEYS_PER_STATEMENT keys, by one statement and so from one snapshot."""
    if len(keys) == 1:
        found = connection.execute("SELECT value, version FROM rows WHERE part = ? AND key = ?", keys[0]).fetchall()
        return [Row(*found[0])] if found else [None]
    if not keys:
        return []
    arguments: list[bytes | None] = [part_or_key for key in keys for part_or_key in key]
    n_missing = -len(keys) % KEYS_EXACT if len(keys) > KEYS_EXACT else 0
    arguments += [None] * (2 * n_missing)
    found = connection.execute(_fetch_statement(len(keys) + n_missing), arguments).fetchall()
    return [None if value is None else Row(value, version) for value, version in found[: len(keys)]]


def _fetch_all(connection: sqlite3.Connection, keys: Sequence[Key]) -> list[Row | None]:
    """Rows of any number of keys, inside a transaction."""
    if len(keys) <= KEYS_PER_STATEMENT:
        return _fetch(connection, keys)
    steps = range(0, len(keys), KEYS_PER_STATEMENT)
    return [row for start in steps for row in _fetch(connection, keys[start : start + KEYS_PER_STATEMENT])]


def _check(conditions: Sequence[Condition], present: dict[Key, Row | None]) -> None:
    for condition in conditions:
        row = present[condition.key]
        if isinstance(condition, Exists):
            holds = row is not None
        elif isinstance(condition, Absent):
            holds = row is None
        elif isinstance(condition, Unchanged):
            holds = row is not None and row.version == condition.version
        elif isinstance(condition, NotSince):
            holds = row is None or row.version <= condition.position
        else:
            holds = field(None if row is None else row.value, condition.offset) + condition.n <= condition.limit
        if not holds:
            raise ConditionFailed(condition.key, row, condition)


def _apply(effects: Sequence[Effect], present: dict[Key, Row | None]) -> tuple[dict[Key, bytes | None], list[int]]:
    """New value of every row touched (None: deleted), and the totals of the Adds in order."""
    changed: dict[Key, bytes | None] = {}
    totals: list[int] = []
    for effect in effects:
        key = effect.key
        if isinstance(effect, Put):
            changed[key] = effect.value
        elif isinstance(effect, Delete):
            changed[key] = None
        else:
            row = present[key]
            value = changed.get(key, None if row is None else row.value)
            if isinstance(effect, Add):
                changed[key], total = added(value, effect.offset, effect.n)
                totals.append(total)
            elif value is None:
                raise ConditionFailed(key, row, effect)
            else:
                changed[key] = raised(value, effect.offset, effect.value)
    return changed, totals
