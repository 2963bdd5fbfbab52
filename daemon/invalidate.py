"""Follows the volume's change log, and makes the VFS and the kernel forget what other processes have changed.

One thread per mount. It reads the log from the position at which it was made, skips the commits of its own session, and drops
exactly what the others touched: first from the VFS, then from the kernel, so that whatever the kernel asks next is
answered afresh. After a gap in the log everything is dropped. How stale a mount can be is the time between two polls.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Protocol

from cairnfs.errors import CairnError
from cairnfs.meta.records import DENTRY_PREFIX, INODE_PREFIX, LOCKS_SUBKEY
from cairnfs.meta.stores.base import LogRecord, LogTrimmed, Store
from cairnfs.types import Inode, Position

log = logging.getLogger(__name__)

SHORTEST_POLL_S = 0.01  # while others commit
LONGEST_POLL_S = 0.1  # while they do not; ten empty reads of a store per second cost nothing
LOG_BATCH = 1000
INO8 = 8

Changes = tuple[set[Inode], set[tuple[Inode, bytes]]]


class Cached(Protocol):
    """Something that keeps what it knows of inodes and names: the VFS, the kernel behind a front."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> None: ...

    def invalidate_all(self) -> None: ...


class Follower(threading.Thread):
    """The thread; made before the mount, so that nothing is missed."""

    def __init__(self, store: Store, vfs: Cached, front: Cached) -> None:
        super().__init__(name="follower", daemon=True)
        self._store = store
        self._caches = (vfs, front)
        self._position = store.position()
        self._ended = threading.Event()
        self._failing = False

    @property
    def position(self) -> Position:
        """Everything up to this position is known here."""
        return self._position

    def stop(self) -> None:
        """End the thread and wait for it. Also when it was never started."""
        self._ended.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        pause_s = SHORTEST_POLL_S
        while not self._ended.wait(pause_s):
            pause_s = SHORTEST_POLL_S if self._poll() else min(2 * pause_s, LONGEST_POLL_S)

    def _poll(self) -> bool:
        """Catch up with the log, whatever happens. True when others had changed something."""
        try:
            found = self.catch_up()
        except CairnError as error:
            if not self._failing:
                log.warning("cannot read the change log: %s; what other processes change is seen late", error)
            self._failing = True
            return False
        except Exception:
            log.exception("cannot apply the change log")
            return False
        self._failing = False
        return found

    def catch_up(self) -> bool:
        """Apply what the log has. True when others had changed something. StoreError when it cannot be read."""
        if self._store.position() == self._position:
            return False
        found = False
        try:
            while records := self._store.log(self._position, LOG_BATCH):
                found = self._apply(records) or found
                self._position = records[-1].position
        except LogTrimmed:
            self._drop_everything()
            return True
        return found

    def _apply(self, records: list[LogRecord]) -> bool:
        inos, dentries = changes(record for record in records if record.origin != self._store.origin)
        if inos or dentries:
            for cache in self._caches:
                cache.invalidate(inos, dentries)
        return bool(inos or dentries)

    def _drop_everything(self) -> None:
        """The position is taken first: what is committed while caches are dropped will be found in the log."""
        log.warning("the change log no longer reaches back to position %d: dropping every cache", self._position)
        self._position = self._store.position()
        for cache in self._caches:
            cache.invalidate_all()


def changes(records: Iterable[LogRecord]) -> Changes:
    """Inodes and names that records touch. Lock rows change nothing that anybody keeps."""
    inos: set[Inode] = set()
    dentries: set[tuple[Inode, bytes]] = set()
    for record in records:
        for partition, key in record.keys:
            kind, number = partition[:1], partition[1:]
            if len(number) != INO8:
                continue
            ino = Inode(int.from_bytes(number, "big"))
            if kind == DENTRY_PREFIX:
                dentries.add((ino, key))
            elif kind == INODE_PREFIX and key != LOCKS_SUBKEY:
                inos.add(ino)
    return inos, dentries
