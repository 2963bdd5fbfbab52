"""Moves committed pages from SQLite's write-ahead log into the database file, on a thread of its own.

SQLite would do this inside whichever commit crosses a threshold, with two fsyncs, so that one request in a few hundred takes
tens of milliseconds. Here a commit only counts the pages it may have written. At `PASSIVE_PAGES` the thread makes a passive
checkpoint, which blocks nobody. The log can start again from its beginning only when everything in it is checkpointed
while nobody writes, which under constant writing never happens by itself; so beyond `RESTART_PAGES` the thread follows with a
checkpoint that holds writers back. It has only those pages to move that were written during the passive one.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable

PASSIVE_PAGES = 4096  # 16 MiB: hot pages (one directory, the usage row) are then moved once per about a thousand commits
RESTART_PAGES = 2 * PASSIVE_PAGES  # 32 MiB: about what the log grows to under constant writing
LOG_LIMIT_BYTES = 2 * RESTART_PAGES * 4096  # a longer log (a reader stood in the way) is cut back to this

_log = logging.getLogger("cairnfs.meta")


class Checkpointer:
    """Owns one connection and one thread, both made when first needed. `wrote` may be called from any thread."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], write_lock: threading.Lock) -> None:
        """`write_lock` is what writers of this process hold: they then wait for it instead of polling SQLite's lock."""
        self._connect = connect
        self._write_lock = write_lock
        self._pages = 0
        self._due = threading.Event()
        self._stop = False
        self._thread: threading.Thread | None = None

    def wrote(self, pages: int) -> None:
        """Count pages of a commit (an upper estimate). Called with the write lock held."""
        self._pages += pages
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
                    self._checkpoint(connection)
                except sqlite3.Error as error:
                    # Nothing is lost: the pages stay in the log, and the next round tries again.
                    _log.warning("the metadata log could not be checkpointed: %s", error)
        finally:
            if connection is not None:
                connection.close()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        _, in_log, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if in_log >= RESTART_PAGES:
            with self._write_lock:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
