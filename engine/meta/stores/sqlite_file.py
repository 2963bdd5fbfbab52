"""The SQLite file of a metadata store: finding or creating it, its schema, connections to it, and what its errors mean.

Schema 1: `rows` holds the rows of the store contract, `log` the change log. `log.position` counts commits; its newest record
always stays, so the newest position is never lost. `log.keys` is what `log_keys` makes of the rows touched.
A file that has held other volumes has a trigger `former`, which refuses what their sessions commit.
`application_id` marks the file as ours, `user_version` is the schema's number.
"""

import errno
import os
import random
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from cairnfs.errors import CairnError, CorruptError, StoreError, VolumeError
from cairnfs.meta.stores.base import FORMER
from cairnfs.types import SessionId

SCHEMA_VERSION = 1
APPLICATION_ID = 0x63616972  # "cair"

MAX_WAL_PAUSE_S = 0.01  # for others who make the file at the same moment

_SCHEMA = (
    "CREATE TABLE rows(part BLOB NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, "
    "PRIMARY KEY(part, key)) WITHOUT ROWID",
    "CREATE TABLE log(position INTEGER PRIMARY KEY, origin INTEGER NOT NULL, keys BLOB NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_NO_SPACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code of an error; SQLITE_ERROR when the driver raised it by itself."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """True when another connection held a lock: trying again may succeed."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def store_error(path: Path, error: sqlite3.Error) -> StoreError | CorruptError:
    """What to raise for a failed SQLite call: ENOSPC when the disk is full, EROFS when it is read-only, else EIO."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code in _NO_SPACE or code & 0xFF in _NO_SPACE:
        return StoreError(f"no space left for the metadata in {path}", errno.ENOSPC)
    if code & 0xFF in _DAMAGED:
        return CorruptError(f"the metadata file {path} is damaged: {error}")
    if code & 0xFF == sqlite3.SQLITE_READONLY:
        return StoreError(f"the metadata file {path} cannot be written: {error}", errno.EROFS)
    return StoreError(f"the metadata file {path} failed: {error}")


def open_error(path: Path, error: sqlite3.Error) -> CairnError:
    """What to raise when the file cannot be opened: VolumeError when it is no database at all, else as `store_error`."""
    if primary_code(error) == sqlite3.SQLITE_NOTADB:
        return VolumeError(f"{path} is not an SQLite database; name another file for the metadata")
    return store_error(path, error)


def find(path: Path, url: str, create: bool) -> None:
    """Raise VolumeError when there is no usable file at `path` and none may, or can, be created."""
    folder = path.parent
    if not folder.is_dir():
        raise VolumeError(f"the folder {folder} of the metadata file does not exist", errno.ENOENT)
    if path.is_dir():
        raise VolumeError(f"{path} is a folder; name a file for the metadata", errno.EISDIR)
    if not path.exists() and not create:
        raise VolumeError(f"no volume at {url}: create it with 'cairnfs format {url} NAME'", errno.ENOENT)
    for needed in (folder, path):
        if needed.exists() and not os.access(needed, os.R_OK | os.W_OK):
            raise VolumeError(f"{needed} cannot be written by this user; metadata needs the file and its folder", errno.EACCES)


def connect(path: Path, timeout_s: float, *, cache_kib: int) -> sqlite3.Connection:
    """A connection to an existing or new file, used by one thread at a time; it waits for locks up to `timeout_s`.

    Automatic checkpoints are off: they would run inside the request that happens to cross the threshold. Mapping the file is
    off as well: it made lone reads 10 % faster, but SQLite maps anew after every commit of another connection, and reads
    mixed with one commit in ten took twice as long (600,000 rows); besides, a disk error would be SIGBUS instead of EIO.
    """
    connection = sqlite3.connect(
        f"file://{quote(os.fsencode(path))}?mode=rwc",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute("PRAGMA mmap_size = 0").fetchall()
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        connection.execute("PRAGMA secure_delete = OFF").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path, url: str, create: bool) -> None:
    """Check that the file is ours and of a schema we know, creating the schema in an empty file if allowed.

    Raises VolumeError otherwise, sqlite3.Error when the file cannot be used.
    """
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if empty and not create:
        raise VolumeError(f"no volume at {url}: create it with 'cairnfs format {url} NAME'", errno.ENOENT)
    if not empty and application != APPLICATION_ID:
        raise VolumeError(f"{path} is an SQLite database of another program; name another file for the metadata")
    if not empty and schema != SCHEMA_VERSION:
        raise VolumeError(
            f"{path} has metadata schema {schema}, this version of cairnfs knows schema {SCHEMA_VERSION}: "
            f"{'upgrade cairnfs' if schema > SCHEMA_VERSION else 'the file is damaged'}"
        )
    _use_wal(connection, path)
    if empty:
        _create_schema(connection)


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Readers then never wait for the writer. The mode is kept in the file; setting it again costs nothing."""
    give_up_s = time.monotonic() + connection.execute("PRAGMA busy_timeout").fetchone()[0] / 1000
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait here by itself, lest two wait for each other.
            if not is_busy(error) or time.monotonic() >= give_up_s:
                raise
        time.sleep(random.uniform(0, MAX_WAL_PAUSE_S))
    if mode != "wal":
        raise VolumeError(f"the file system of {path} does not support SQLite's WAL mode; put the metadata on a local disk")


def _create_schema(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:  # nobody was faster
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def refuse_before(connection: sqlite3.Connection, first: SessionId) -> None:
    """Let no session before `first` commit any more. A commit looks up nothing for that: the number is in the schema."""
    connection.execute("DROP TRIGGER IF EXISTS former")
    connection.execute(
        f"CREATE TRIGGER former BEFORE INSERT ON log WHEN NEW.origin BETWEEN 1 AND {first - 1} "
        f"BEGIN SELECT RAISE(ABORT, '{FORMER}'); END"
    )


def sync_folder(path: Path) -> None:
    """Make the names of the file and its log survive loss of power."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
