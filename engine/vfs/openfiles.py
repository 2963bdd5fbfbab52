"""Inodes held open by this process: one `OpenFile` per inode, shared by all its handles.

Owns the write buffer of an inode, what is known of its layout, and the agreement with unlink: an inode that is open when
its last name goes stays until the last handle is closed, and an open never succeeds on an inode about to be freed.
Lock order and scenarios: `README.md` beside this file.
"""

import errno
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

from cairnfs.data import Data
from cairnfs.data.writer import FileWriter
from cairnfs.errors import CairnError, FsError
from cairnfs.ext.arena import ADOPTED, BARRED, DIRTY, Arena
from cairnfs.meta import Meta
from cairnfs.meta.links import Unlinked
from cairnfs.types import Attr, Buffer, Inode
from cairnfs.vfs.capacity import Capacity
from cairnfs.vfs.pages import PageVersions

log = logging.getLogger("cairnfs.vfs")

MAX_CACHED_CHUNKS = 64  # layouts kept per open file: 4 GiB of file, at most a few hundred KiB when written in small pieces


def stale(error: BaseException) -> None:
    """Raise ESTALE for the ENOENT of an operation on an inode number, ENOENT being for names. On ESTALE the kernel walks the
    path again, and finds what another node has put in its place.
    """
    if isinstance(error, FsError) and error.errno == errno.ENOENT:
        raise FsError(errno.ESTALE) from error


class Dirty(NamedTuple):
    """What is not committed: the end of it (0: nothing), the mtime it will set (None: none), bytes it adds to the file."""

    end: int
    mtime_ns: int | None
    new_bytes: int


CLEAN = Dirty(0, None, 0)


class OpenFile:
    """One open inode.

    `change` is held by whatever changes content or size (write, truncate, fallocate, copy into), so that "flush, then
    change the layout" is one step for other writers. Readers, getattr and flush do not take it.
    `known` attributes and layouts are as of the last fetch or own commit; `invalidate` forgets them.
    """

    def __init__(self, ino: Inode, meta: Meta, data: Data, pages: PageVersions, capacity: Capacity, arena: Arena) -> None:
        self.ino = ino
        self.change = threading.RLock()
        self.writer: FileWriter | None = None
        self.unlinked = False  # its last name went while it was open: free it at the last close
        self.lock_owners: set[int] = set()  # owners that may hold fcntl locks taken through this process
        self.unprivileged = False  # known to have neither set-user-id nor capabilities, until that may have changed
        self.n_refs = 0  # guarded by the table's lock
        self._meta = meta
        self._data = data
        self._pages = pages
        self._capacity = capacity
        self._arena = arena
        self._state = threading.Lock()  # the fields below
        self._n_writing = 0
        self._marked = False  # compiled code leaves the inode alone, because something is or may be dirty
        self._attr: Attr | None = None
        self._chunks: dict[int, bytes] = {}
        self._generation = 0
        self._new_bytes = 0  # counted in `capacity`, not committed yet

    # What is known

    def attr(self) -> Attr:
        """Committed attributes, possibly as of an earlier fetch. ESTALE when the inode is gone."""
        return self._attr or self.refresh()

    def refresh(self) -> Attr:
        """Committed attributes as of now. ESTALE when the inode is gone: the kernel then walks the path again."""
        token = self._generation
        try:
            attr = self._meta.names.get(self.ino)
        except FsError as error:
            stale(error)
            raise
        self.learn(attr, token)
        return attr

    def learn(self, attr: Attr, token: int) -> None:
        """Remember fetched attributes, unless something was invalidated or committed since `token` was taken."""
        with self._state:
            known = self._attr
            if token != self._generation or (known is not None and attr.version < known.version):
                return
            if known is None or known.data_version != attr.data_version:
                self._chunks.clear()
            self._attr = attr

    def token(self) -> int:
        """Taken before a fetch, given back to `learn`."""
        return self._generation

    def layout(self, chunk_no: int) -> bytes:
        """The layout of one chunk, from what is known or fetched."""
        if chunk_no == 0:
            return self.attr().tail
        known = self._chunks.get(chunk_no)
        if known is not None:
            return known
        token = self._generation
        layout = self._meta.layout.read(self.ino, chunk_no)
        with self._state:
            if token == self._generation:
                if len(self._chunks) >= MAX_CACHED_CHUNKS:
                    self._chunks.pop(next(iter(self._chunks)))
                self._chunks[chunk_no] = layout
        return layout

    def invalidate(self) -> None:
        """The inode may have been changed otherwise than by a commit of content here: fetch anew."""
        with self._state:
            self._forget()
        self.unprivileged = False

    # Dirty data

    @property
    def dirty(self) -> bool:
        """Whether something written is not committed."""
        return self.writer is not None and self.writer.dirty

    def size(self) -> int:
        """Size in bytes including what is not committed."""
        writer = self.writer
        dirty_end = writer.dirty_end if writer is not None else 0
        return max(dirty_end, self.attr().size)

    def dirty_state(self) -> "Dirty":
        """What `overlay` needs, to be taken before the row is fetched: a commit in between is then seen twice, not never."""
        writer = self.writer
        return CLEAN if writer is None else Dirty(writer.dirty_end, writer.mtime_ns, self._new_bytes)

    def overlay(self, attr: Attr, dirty: "Dirty") -> Attr:
        """`attr`, just fetched, as it will be when what is dirty is committed."""
        if dirty.end <= attr.size and dirty.mtime_ns is None:
            return attr
        shown = attr.copy()
        if dirty.end > attr.size:
            shown.size = dirty.end
            shown.alloc_bytes += dirty.new_bytes
        if dirty.mtime_ns is not None:
            shown.mtime_ns = dirty.mtime_ns
            shown.ctime_ns = max(attr.ctime_ns, dirty.mtime_ns)
        return shown

    def write(self, offset: int, data: Buffer) -> None:
        """Buffer a write. The caller holds `change`. ENOSPC when the volume is full, EIO when uploads keep failing."""
        with self._state:
            self._n_writing += 1
            if not self._marked:
                self._marked = True
                self._arena.mark(self.ino, DIRTY)
        try:
            self._write(offset, data)
        finally:
            with self._state:
                self._n_writing -= 1
            if not self.dirty:
                self._unmark_if_clean()

    def _write(self, offset: int, data: Buffer) -> None:
        grown = offset + len(data) - max(offset, self.size())
        if grown > 0:
            self._capacity.reserve(grown)
            with self._state:
                self._new_bytes += grown
        if self.writer is None:
            self.writer = self._data.writers.open(self.ino, self._on_commit)
        self.writer.write(offset, data)

    def flush(self) -> None:
        """Store and commit what is dirty; nothing to do costs nothing. EIO or ENOSPC when that fails, ESTALE once
        when the file was deleted elsewhere.
        """
        writer = self.writer
        if writer is None or not writer.dirty:
            self._unmark_if_clean()
            return
        token = self._generation
        try:
            attr = writer.flush()
        except BaseException as error:
            self._pages.drop(self.ino)
            if isinstance(error, FsError) and error.errno == errno.ENOENT:
                self.discard()  # another node has deleted the file: nothing will ever take these bytes
            stale(error)
            raise
        if attr is not None:
            self.learn(attr, token + 1)  # exactly `_on_commit` came in between, or it is not learned
        self._unmark_if_clean()

    def discard(self) -> None:
        """Forget what is dirty: the caller holds `change` and is about to remove all content."""
        if self.writer is not None:
            self.writer.discard()
            self._settle(False)
        self._unmark_if_clean()

    def commit(self, change: Callable[[], Attr]) -> Attr:
        """Run an operation that commits a change of content or size and returns the new attributes. The caller holds
        `change`, so that nothing dirty is written meanwhile.
        """
        token = self._generation
        try:
            attr = change()
        except BaseException as error:
            self.invalidate()
            self._pages.drop(self.ino)
            stale(error)
            raise
        self._on_commit(attr)
        self.learn(attr, token + 1)
        return attr

    def mtime_set(self) -> None:
        """The modification time is about to be set explicitly: it must outlive the commit of what is dirty now."""
        if self.writer is not None:
            self.writer.mtime_set()

    def close(self) -> None:
        """Give the buffer back; what is still dirty is lost."""
        if self.writer is not None:
            self.discard()
            self.writer.close()
            self.writer = None
        self._unmark_if_clean()

    def _unmark_if_clean(self) -> None:
        """Let compiled code answer for the inode again, unless something is dirty or about to be."""
        if self._marked:
            with self._state:
                if not self._n_writing and not self.dirty:
                    self._marked = False
                    self._arena.unmark(self.ino, DIRTY)

    def _on_commit(self, attr: Attr) -> None:
        """A commit of this process is done. Until this returns, what it committed is still in the writer's snapshots, so
        no reader falls between the old layout and the new one.
        """
        with self._state:
            self._forget()
        self._settle(True)
        self._pages.committed(attr)

    def _settle(self, committed: bool) -> None:
        with self._state:
            new_bytes, self._new_bytes = self._new_bytes, 0
        self._capacity.settle(new_bytes, committed)

    def _forget(self) -> None:
        self._generation += 1
        self._attr = None
        self._chunks.clear()


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
        if self._closed:
            self._files.n_removals += 1
            self._files.unbar(self._closed)
        self._files.unbar_compiled([*self._closed, *self._pinned])
        for file in self._pinned.values():
            self._files.release(file)


class OpenFiles:
    """Inode -> OpenFile. Its lock is held for dictionary work only, never over I/O."""

    def __init__(self, meta: Meta, data: Data, pages: PageVersions, capacity: Capacity, arena: Arena) -> None:
        self._arena = arena
        self._meta = meta
        self._data = data
        self._pages = pages
        self._capacity = capacity
        self._lock = threading.Lock()
        self._unbarred = threading.Condition(self._lock)
        self._files: dict[Inode, OpenFile] = {}
        self._barred: dict[Inode, int] = {}
        self._compiled: dict[Inode, OpenFile] = {}  # a reference for all handles that compiled code has of it
        self._barred_there: Counter[Inode] = Counter()  # marked BARRED for compiled code
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
                self._unbarred.wait()
            return self._referenced(ino)

    def _referenced(self, ino: Inode) -> OpenFile:
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile(ino, self._meta, self._data, self._pages, self._capacity, self._arena)
        file.n_refs += 1
        return file

    # Handles that compiled code gives out: it counts them in the arena, per inode

    def adopt(self, ino: Inode) -> OpenFile:
        """A reference for a handle that compiled code has given out; its close and that of all others are told of."""
        self._arena.mark(ino, ADOPTED)
        return self.acquire(ino)

    def closed_compiled(self, ino: Inode) -> None:
        """A handle that compiled code has given out was closed, and that is ours to see to."""
        with self._lock:
            file = None if self._arena.close(ino) else self._compiled.pop(ino, None)
        if file is not None:
            self.release(file)

    def close_compiled(self) -> None:
        """Nobody will close handles of compiled code any more: give back what they hold."""
        with self._lock:
            files, self._compiled = list(self._compiled.values()), {}
        for file in files:
            self.release(file)

    def unbar_compiled(self, inos: Iterable[Inode]) -> None:
        """Let compiled code open the inodes again, if it finds them as they should be."""
        with self._lock:
            for ino in inos:
                self._barred_there[ino] -= 1
                if not self._barred_there[ino]:
                    del self._barred_there[ino]
                    self._arena.unmark(ino, BARRED)

    def _bar_there(self, ino: Inode) -> bool:
        """Keep compiled code from opening the inode. True when it has handles already: they then hold one reference."""
        n_open = self._arena.bar(ino)
        if n_open:
            self._arena.mark(ino, BARRED)
        self._barred_there[ino] += 1
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
                    if file.writer is None and not file.unlinked:
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
            self.unbar({file.ino})

    def invalidate(self, ino: Inode) -> None:
        """Another process may have changed the inode."""
        self.n_invalidations += 1
        file = self._files.get(ino)
        if file is not None:
            file.invalidate()

    def removal(self) -> Removal:
        return Removal(self)

    def pin_or_bar(self, ino: Inode) -> OpenFile | None:
        """A reference if the inode is open; else None, and nobody can open it until `unbar`. Either way compiled code cannot
        until `unbar_compiled`.
        """
        with self._lock:
            if self._bar_there(ino) or ino in self._files:
                return self._referenced(ino)
            self._bar(ino)
            return None

    def unbar(self, inos: Iterable[Inode]) -> None:
        """Let the inodes be opened again, if they still exist."""
        with self._lock:
            for ino in inos:
                self._barred[ino] -= 1
                if not self._barred[ino]:
                    del self._barred[ino]
            self._unbarred.notify_all()

    def _bar(self, ino: Inode) -> None:
        self._barred[ino] = self._barred.get(ino, 0) + 1

    def _flush_late(self, file: OpenFile) -> bool:
        """Data written after the last flush() of any handle (by a mapping, say) has nobody to report an error to."""
        try:
            file.flush()
        except CairnError as error:
            if error.errno != errno.ESTALE:
                log.error("inode %d: data written before close is lost: %s", file.ino, error)
            return False
        return True

    def _free(self, ino: Inode) -> None:
        try:
            self._meta.names.release_deleted(ino)
        except CairnError as error:
            log.warning("inode %d has no name and is not freed yet: %s", ino, error)
