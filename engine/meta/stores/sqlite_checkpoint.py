"""Moves committed pages from SQLite's write-ahead log into the database file, on a thread of its own.

SQLite would do this inside whichever commit crosses a threshold, with two fsyncs, so that one request in a few hundred takes
tens of milliseconds. Here a commit only counts the pages it may have written. At `PASSIVE_PAGES` the thread makes a passive
checkpoint, which blocks nobody. But the log begins again only when everything in it is checkpointed while nobody writes,
which under constant writing never happens by itself. So beyond `RESTART_PAGES` the next commit, which has the write lock
already, makes a checkpoint that restarts the log; it has only those pages to move that were written since the passive one.

SQLite before 3.51.3 may lose commits ("WAL-reset bug", https://sqlite.org/wal.html) where a checkpoint begins while the database
file has everything, and at that instant a commit begins the log anew: the checkpoint counts frames of the new log as moved. So a
checkpoint begins only while something is left to move, when no commit begins the log anew; and only one at a time, whichever
process makes it, because nothing else moves what is left.
"""

import fcntl
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cairnfs.meta.stores.sqlite_watch import WalIndex

PASSIVE_PAGES = 4096  # 16 MiB: hot pages (one directory, the usage row) are then moved once per about a thousand commits
RESTART_PAGES = 2 * PASSIVE_PAGES  # 32 MiB: about what the log grows to under constant writing
LOG_LIMIT_BYTES = 2 * RESTART_PAGES * 4096  # a longer log (a reader stood in the way) is cut back to this

READERS_WAIT_MS = 50  # a restart waits for reads that began before the log was checkpointed; they take microseconds

_log = logging.getLogger("cairnfs.meta")


class Checkpointer:
    """Owns one connection and one thread, both made when first needed."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], wal_fd: int, index: WalIndex | None) -> None:
        """`connect` makes a connection for the thread. `wal_fd`: the log, which SQLite itself never locks."""
        self._connect = connect
        self._wal_fd = wal_fd
        self._index = index
        self._turn_lock = threading.Lock()  # flock does not tell threads from each other
        self._pages = 0
        self._due = threading.Event()
        self._restart_due = False
        self._stop = False
        self._thread: threading.Thread | None = None

    def wrote(self, writer: sqlite3.Connection, pages: int) -> None:
        """Count the pages of a commit (an upper estimate), and do or order what is due.

        Called with the write lock held, after the commit: whatever fails here must not make it look failed.
        """
        self._pages += pages
        if self._restart_due:
            self._restart_due = False
            with self._turn() as is_ours:
                if is_ours:
                    _restart(writer)
        if self._pages >= PASSIVE_PAGES:
            self._pages = 0
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._run, name="cairnfs-checkpoint", daemon=True)
                self._thread.start()
            self._due.set()

    def close(self) -> None:
        """Stop the thread; returns when a checkpoint under way is done."""
        self._stop = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        self._index = None  # its mapping keeps the file system in use

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether a checkpoint may begin now, and end before others do. If not, a later round will make one."""
        if not self._turn_lock.acquire(blocking=False):
            yield False
            return
        is_locked = False
        try:
            is_locked = self._lock()
            yield is_locked and (self._index is None or not self._index.is_moved())
        finally:
            if is_locked:
                fcntl.flock(self._wal_fd, fcntl.LOCK_UN)
            self._turn_lock.release()

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._wal_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while True:
                self._due.wait()
                self._due.clear()
                if self._stop:
                    return
                try:
                    if connection is None:
                        connection = self._connect()
                    with self._turn() as is_ours:
                        if is_ours:
                            _, in_log, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                            self._restart_due = in_log >= RESTART_PAGES
                except sqlite3.Error as error:
                    _report(error)
        finally:
            if connection is not None:
                connection.close()


def _restart(writer: sqlite3.Connection) -> None:
    """Checkpoint what is left and let the log begin again; if readers stand in the way, a later round will."""
    try:
        writer.execute(f"PRAGMA busy_timeout = {READERS_WAIT_MS}").fetchall()
        try:
            writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        finally:
            writer.execute("PRAGMA busy_timeout = 0").fetchall()
    except sqlite3.Error as error:
        _report(error)


def _report(error: sqlite3.Error) -> None:
    # Nothing is lost: the pages stay in the log, and the next round tries again.
    _log.warning("the metadata log could not be checkpointed: %s", error)
