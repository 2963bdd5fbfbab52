"""Follows the volume's change log, and makes the VFS and the kernel forget what other processes have changed.

One follower per mount. It reads the log from the position at which it was made, skips the commits of its own session, and
drops exactly what the others touched: first from the VFS, then from the kernel, so that whatever the kernel asks next is
answered afresh. After a gap in the log everything is dropped.

Its thread polls. An open does not wait for the next poll: the VFS calls `fence`, which reads what the log has got since and
drops attributes at once, on the thread of the request. Pages and names are left to the follower's own thread, because the
kernel may hold a directory's lock, or a page's, until the very request is answered that would wait for it.
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


class KernelCaches(Cached, Protocol):
    """What a front can make the kernel forget."""

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None: ...


class Follower(threading.Thread):
    """The thread; made before the mount, so that nothing is missed."""

    def __init__(self, store: Store, vfs: Cached, front: KernelCaches) -> None:
        super().__init__(name="follower", daemon=True)
        self._store = store
        self._vfs = vfs
        self._front = front
        self._reading = threading.Lock()  # guards the position and what follows from it
        self._position = store.position()
        self._inos: set[Inode] = set()  # still to be dropped from the kernel
        self._dentries: set[tuple[Inode, bytes]] = set()
        self._everything = False
        self._wake = threading.Event()
        self._ended = False
        self._failing = False

    @property
    def position(self) -> Position:
        """Everything up to this position is known here."""
        return self._position

    def fence(self) -> None:
        """Return when every commit acknowledged before the call is known to the VFS, and the kernel shows no older
        attributes. For requests; StoreError (EIO) when the log cannot be read.
        """
        if self._store.position() != self._position and self._read_log():
            self._wake.set()

    def stop(self) -> None:
        """End the thread and wait for it. Also when it was never started."""
        self._ended = True
        self._wake.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        pause_s = SHORTEST_POLL_S
        while not self._ended:
            self._wake.wait(pause_s)
            self._wake.clear()
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
        """Apply what the log has, to the kernel too. True when others had changed something. StoreError when it cannot be
        read. Not from a request.
        """
        if self._store.position() != self._position:
            self._read_log()
        with self._reading:
            everything, self._everything = self._everything, False
            inos, self._inos = self._inos, set()
            dentries, self._dentries = self._dentries, set()
        if everything:
            self._front.invalidate_all()
        if inos or dentries:
            self._front.invalidate(inos, dentries)
        return bool(everything or inos or dentries)

    def _read_log(self) -> bool:
        """Make the VFS forget what others changed since the position, and note it for the kernel. True when there was any."""
        found = False
        with self._reading:
            try:
                while records := self._store.log(self._position, LOG_BATCH):
                    inos, dentries = changes(record for record in records if record.origin != self._store.origin)
                    if inos or dentries:
                        found = True
                        self._vfs.invalidate(inos, dentries)
                        self._front.invalidate_attributes(inos)
                        self._inos |= inos
                        self._dentries |= dentries
                    self._position = records[-1].position
            except LogTrimmed:
                self._drop_everything()
                return True
        return found

    def _drop_everything(self) -> None:
        """The position is taken first: what is committed while caches are dropped will be found in the log."""
        log.warning("the change log no longer reaches back to position %d: dropping every cache", self._position)
        self._position = self._store.position()
        self._vfs.invalidate_all()
        self._everything = True


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
