"""Inodes held open by this process: one `OpenFile` per inode, shared by all its handles.

Owns the agreement with unlink: an inode that is open when
its last name goes stays until the last handle is closed, and an open never succeeds on an inode about to be freed.
Lock order and scenarios: `README.md` beside this file.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from types import TracebackType

from cairnfs.data import Data
from cairnfs.data.journal import Journal
from cairnfs.errors import CairnError
from cairnfs.ext.arena import ADOPTED, BARRED, Arena
from cairnfs.meta import Meta
from cairnfs.meta.links import Unlinked
from cairnfs.types import Buffer, Inode
from cairnfs.vfs.capacity import Capacity
from cairnfs.vfs.granted import Grants
from cairnfs.vfs.handles import Handle
from cairnfs.vfs.openfile import OpenFile
from cairnfs.vfs.pages import PageVersions

log = logging.getLogger("cairnfs.vfs")

LATE_S = 0.001


def _nobody(inos: Iterable[Inode]) -> None:
    """Who is told of data that was lost unless somebody else is."""


class Removal:
    """Context of one operation that may remove names: answers `is_open` and keeps the answers true until it ends.

    Open inodes are pinned, so that their last close happens after the removal and frees them. For the others, opens wait.
    """

    def __init__(self, files: "OpenFiles") -> None:
        self._files = files
        self._pinned: dict[Inode, OpenFile] = {}
        self._closed: set[Inode] = set()

    def is_open(self, ino: Inode) -> bool:
        """Whether this process holds the inode open; stays so until the context ends. May be asked again on a retry."""
        if ino in self._pinned:
            return True
        if ino in self._closed:
            return False
        file = self._files.pin_or_bar(ino)
        if file is None:
            self._closed.add(ino)
            return False
        self._pinned[ino] = file
        return True

    def done(self, unlinked: Unlinked) -> None:
        """The operation's outcome for one inode: the last close of one that was kept will free it."""
        if unlinked.kept:
            self._pinned[unlinked.attr.ino].unlinked = True

    def __enter__(self) -> "Removal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.end_removal(self._closed, self._pinned)
        for file in self._pinned.values():
            self._files.release(file)


class OpenFiles:
    """Inode -> OpenFile. Its lock is held for dictionary work only, never over I/O."""

    def __init__(
        self, meta: Meta, data: Data, pages: PageVersions, capacity: Capacity, arena: Arena, journal: Journal | None = None
    ) -> None:
        self.arena = arena
        self.journal = journal
        self.grants = None if journal is None else Grants(journal, data.budget, capacity)
        if self.grants is not None:
            data.writers.gather = self.grants.collect
        self._meta = meta
        self._data = data
        self._pages = pages
        self._capacity = capacity
        self._lock = threading.Lock()
        self._unbarred = threading.Condition(self._lock)
        self._n_waiting = 0  # for it
        self._files: dict[Inode, OpenFile] = {}
        self._barred: dict[Inode, int] = {}
        self._compiled: dict[Inode, OpenFile] = {}  # a reference for all handles that compiled code has of it
        self._barred_there: dict[Inode, int] = {}  # marked BARRED for compiled code -> by how many removals
        self.n_removals = 0  # of inodes that were not open; grows before they can be opened again
        self.n_invalidations = 0  # grows before each
        self.on_lost: Callable[[Iterable[Inode]], None] = _nobody

    def __len__(self) -> int:
        return len(self._files)

    def get(self, ino: Inode) -> OpenFile | None:
        """The inode if it is open, without a reference."""
        return self._files.get(ino)

    def all(self) -> list[OpenFile]:
        with self._lock:
            return list(self._files.values())

    def acquire(self, ino: Inode) -> OpenFile:
        """A reference to the inode, to be given back with `release`. Waits while somebody removes or closes it for good."""
        with self._lock:
            while ino in self._barred:
                self._wait()
            return self._referenced(ino)

    def _referenced(self, ino: Inode) -> OpenFile:
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile(ino, self._meta, self._data, self._pages, self._capacity, self)
        file.n_refs += 1
        return file

    def count_direct(self, handle: Handle, n: int) -> None:
        """A handle was opened (1) or is closed (-1)."""
        if not handle.is_direct:
            handle.file.was_cached = True
            return
        with self._lock:
            handle.file.n_direct += n

    def is_cached(self, file: OpenFile) -> bool:
        """Whether anybody had a file open without O_DIRECT since this was asked last, and so may have read it into the kernel's
        pages, which are dropped now. Compiled code opens no dirty file; what it has opened and closed before is not seen.
        """
        with self._lock:
            n_compiled = self.arena.mark(file.ino, 0)
            self.arena.unmark(file.ino, 0)
            was_cached, file.was_cached = file.was_cached, file.n_refs > file.n_direct or n_compiled > 0
            return was_cached or file.was_cached

    # Handles that compiled code gives out: it counts them in the arena, per inode

    def adopt(self, ino: Inode) -> OpenFile:
        """A reference for a handle that compiled code has given out; its close and that of all others are told of."""
        self.arena.mark(ino, ADOPTED)
        return self.acquire(ino)

    def closed_compiled(self, ino: Inode) -> None:
        """A handle that compiled code has given out was closed, and that is ours to see to."""
        with self._lock:
            file = None if self.arena.close(ino) else self._compiled.pop(ino, None)
        if file is not None:
            self.release(file)

    def close_compiled(self) -> None:
        """Nobody will close handles of compiled code any more: give back what they hold."""
        with self._lock:
            files, self._compiled = list(self._compiled.values()), {}
        for file in files:
            self.release(file)

    def _unbar_there(self, ino: Inode) -> None:
        """Let compiled code open the inode again, if it finds it as it should be."""
        n_removals = self._barred_there[ino] - 1
        if n_removals:
            self._barred_there[ino] = n_removals
        else:
            del self._barred_there[ino]
            self.arena.unmark(ino, BARRED)

    def _bar_there(self, ino: Inode) -> bool:
        """Keep compiled code from opening the inode. True when it has handles already: they then hold one reference."""
        n_open = self.arena.bar(ino)
        if n_open:
            self.arena.mark(ino, BARRED)
        self._barred_there[ino] = self._barred_there.get(ino, 0) + 1
        if n_open and ino not in self._compiled:
            self._compiled[ino] = self._referenced(ino)
        return n_open > 0

    def release(self, file: OpenFile) -> None:
        """Give a reference back. The last one stores what is dirty, or frees the inode when it has no name left."""
        stored = True
        while True:
            with self._lock:
                if file.n_refs > 1 or file.unlinked or not file.dirty or not stored:
                    file.n_refs -= 1
                    if file.n_refs:
                        return
                    del self._files[file.ino]
                    if file.writer is None and not file.granted and not file.unlinked and file.lost is None:
                        return
                    self._bar(file.ino)
                    break
            stored = self._flush_late(file)
        try:
            file.close()
            if not stored:
                self.on_lost((file.ino,))
            if file.unlinked:
                self._free(file.ino)
        finally:
            with self._lock:
                self._unbar(file.ino)
                self._wake()

    def keeps(self, file: OpenFile) -> bool:
        """Whether an inode without a name is one that this process has removed and holds, as the caller does. Waits while it is
        just being removed: the commit may be known before its outcome.
        """
        with self._lock:
            while file.ino in self._barred_there:
                self._wait()
            return file.unlinked

    def is_fenced(self, ino: Inode) -> bool:
        """Whether somebody here relies on locks of an inode whose content is about to change. SessionLost when they are gone."""
        file = self._files.get(ino)
        if file is not None and file.locks.drops:
            raise file.locks.error()
        return file is not None and bool(file.locks)

    def lose_locks(self) -> None:
        """All locks that are held here are gone, because this node was cut off for too long."""
        for file in self.all():
            if file.lose_locks():
                log.error("inode %d: its locks were given up while this node was cut off: writing to it fails", file.ino)

    def invalidate(self, ino: Inode) -> None:
        """Another process may have changed the inode."""
        self.n_invalidations += 1
        file = self._files.get(ino)
        if file is not None:
            file.invalidate()

    def note_write(self, ino: Inode, offset: int, data: Buffer, request: int) -> None:
        """Put a write into the journal; commits the oldest files when it is full. Raises what keeps them from being committed."""
        journal = self.journal
        if journal is None:
            return
        view = memoryview(data).cast("B")
        while view:
            part = view[: journal.longest_bytes]
            while not journal.add(ino, offset, part, request):
                self._commit_oldest(journal, ino)
            offset += len(part)
            view = view[len(part) :]

    def _commit_oldest(self, journal: Journal, writing: Inode) -> None:
        """The caller holds `change` of the inode `writing`: nobody else writes to that one."""
        oldest = journal.oldest()
        file = None if oldest is None else self.get(oldest)
        if oldest is None or file is None:
            time.sleep(LATE_S)  # compiled code is just putting something into the ring
            return
        try:
            file.flush()
        except CairnError:
            if oldest == writing or file.dirty:
                raise
            log.info("inode %d: what was dirty is lost, which its own handles are told", oldest)
        if oldest == writing and not file.dirty:
            journal.free(oldest)
        elif oldest == journal.oldest():
            time.sleep(LATE_S)  # somebody is just writing to it

    def resume_unlinked(self, ino: Inode) -> None:
        """After a predecessor of this process has died: the inode has no name, and was held open. Freed if it is no longer."""
        n_open = self.arena.mark(ino, ADOPTED)
        with self._lock:
            if n_open:
                self._compiled[ino] = self._referenced(ino)
            file = self._files.get(ino)
            if file is not None:
                file.unlinked = True
        if not n_open:
            self.arena.unmark(ino, ADOPTED)
        if file is None:
            self._free(ino)

    def removal(self) -> Removal:
        return Removal(self)

    def pin_or_bar(self, ino: Inode) -> OpenFile | None:
        """A reference if the inode is open; else None, and nobody can open it until then. Either way compiled code cannot
        until `end_removal`.
        """
        with self._lock:
            if self._bar_there(ino) or ino in self._files:
                return self._referenced(ino)
            self._bar(ino)
            return None

    def end_removal(self, closed: Collection[Inode], pinned: Collection[Inode]) -> None:
        """Let the inodes be opened again, if they still exist: those that `pin_or_bar` found closed, and those it has pinned."""
        with self._lock:
            if closed:
                self.n_removals += 1
            for ino in closed:
                self._unbar(ino)
                self._unbar_there(ino)
            for ino in pinned:
                self._unbar_there(ino)
            self._wake()

    def _wait(self) -> None:
        """Until somebody lets something be opened. The caller holds the lock, as for what follows."""
        self._n_waiting += 1
        try:
            self._unbarred.wait()
        finally:
            self._n_waiting -= 1

    def _wake(self) -> None:
        if self._n_waiting:  # hardly ever, and each removal and close comes here
            self._unbarred.notify_all()

    def _bar(self, ino: Inode) -> None:
        self._barred[ino] = self._barred.get(ino, 0) + 1

    def _unbar(self, ino: Inode) -> None:
        n_bars = self._barred[ino] - 1
        if n_bars:
            self._barred[ino] = n_bars
        else:
            del self._barred[ino]

    def _flush_late(self, file: OpenFile) -> bool:
        """Data written after the last flush() of any handle (by a mapping, say) has nobody to report an error to."""
        try:
            file.flush()
        except CairnError as error:
            if error.errno != errno.ESTALE:
                log.error("inode %d: data written before close is lost: %s", file.ino, error)
                self._data.losses.add()
            return False
        return True

    def _free(self, ino: Inode) -> None:
        try:
            self._meta.names.release_deleted(ino)
        except CairnError as error:
            log.warning("inode %d has no name and is not freed yet: %s", ino, error)
