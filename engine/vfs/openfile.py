"""One inode held open by this process: its write buffer, what is known of its layout, and what compiled code may say of it."""

import errno
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cairnfs.const import CHUNK_BYTES, MAX_FILE_BYTES
from cairnfs.data import Data
from cairnfs.data.writer import FileWriter
from cairnfs.errors import CairnError, FsError, SessionLost
from cairnfs.ext.arena import DIRTY
from cairnfs.meta import Meta
from cairnfs.meta.records import FLAG_XATTR
from cairnfs.types import Attr, Buffer, Inode, Position
from cairnfs.vfs.capacity import Capacity
from cairnfs.vfs.chunks_ahead import ChunksAhead
from cairnfs.vfs.granted import FIRST_BYTES, MOST_BYTES
from cairnfs.vfs.held import HeldHere
from cairnfs.vfs.pages import PageVersions

if TYPE_CHECKING:
    from cairnfs.vfs.openfiles import OpenFiles

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


def may_have_privileges(attr: Attr) -> bool:
    """Set-user-id, set-group-id, or capabilities, which a write of an ordinary user takes away."""
    return bool(attr.mode & (stat.S_ISUID | stat.S_ISGID) or attr.flags & FLAG_XATTR)


class OpenFile:
    """One open inode.

    `changing` is for whatever changes content or size (write, truncate, fallocate, copy into), so that "flush, then
    change the layout" is one step for other writers, compiled code among them. Readers, getattr and flush do not take its lock.
    Whoever looks at `writer`, or asks what is dirty, sees what compiled code has taken until then: it is collected first.
    `known` attributes and layouts are as of the last fetch or own commit; `invalidate` forgets them.
    """

    def __init__(self, ino: Inode, meta: Meta, data: Data, pages: PageVersions, capacity: Capacity, files: "OpenFiles") -> None:
        self.ino = ino
        self.change = threading.RLock()
        self._writer: FileWriter | None = None
        self.unlinked = False  # its last name went while it was open: free it at the last close
        self.locks = HeldHere(ino)
        self.lock_owners: dict[int, object] = {}  # who may hold fcntl locks taken here -> the handle of the latest
        self.unprivileged = False  # known to have neither set-user-id nor capabilities, until that may have changed
        self.n_refs = 0  # guarded by the table's lock
        self.n_direct = 0  # handles with O_DIRECT among them
        self.was_cached = False  # opened without O_DIRECT since the kernel dropped its pages
        self.n_lost = 0  # how often something dirty was dropped that nothing would take, and why, the last time:
        self.lost: CairnError | None = None  # each handle is told once (`FileIo`)
        self.syncing = data.syncing
        self._meta = meta
        self._data = data
        self._pages = pages
        self._capacity = capacity
        self._files = files
        self._arena = files.arena
        self._journal = files.journal
        self._grants = files.grants
        self._collecting = threading.Lock()  # what follows; taken after `change`, before the writer's locks and `_state`
        self.granted = 0  # the handle through which compiled code takes writes, 0: none
        self._credit = 0  # bytes reserved for what it takes
        self._target = 0  # what they were when it was last reserved
        self._state = threading.Lock()  # the fields below
        self._n_writing = 0
        self._marked = False  # compiled code leaves the inode alone, because something is or may be dirty
        self._attr: Attr | None = None
        self._chunks: dict[int, bytes] = {}
        self._ahead = ChunksAhead()
        self._generation = 0
        self._new_bytes = 0  # counted in `capacity`, not committed yet

    # What is known

    def attr(self) -> Attr:
        """Committed attributes, possibly as of an earlier fetch. ESTALE when the inode is gone."""
        return self._attr or (self.refresh() if self._generation else self.recall())

    def recall(self) -> Attr:
        """Committed attributes as of what is known of others' changes: remembered, if they are those that the arena has, else as
        of now. ESTALE. Content of several pieces can then be read without asking the store where it is.
        """
        token = self._generation
        known = self._arena.attr(self.ino)
        attr = None if known is None else self._meta.names.remembered(self.ino, Position(known[0]))
        if attr is None:
            return self.refresh()
        self.learn(attr, token)
        return attr

    def refresh(self) -> Attr:
        """Committed attributes as of now. ESTALE when the inode is gone: the kernel then walks the path again."""
        token = self._generation
        try:
            names = self._meta.names
            attr = names.get(self.ino) if self._arena.attr(self.ino) or self._attr else names.get_first(self.ino)
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
            if not may_have_privileges(attr):
                self.unprivileged = True

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
        attr = self.attr()
        with self._state:
            longest = max(map(len, (attr.tail, *self._chunks.values())))
            along = self._ahead.wanted(chunk_no, -(-attr.size // CHUNK_BYTES), longest)
        layout = self._meta.layout.read(self.ino, chunk_no, Position(attr.version), along)
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
            if self.granted and self._grants is not None:
                self._grants.ring.unplain(self.ino)

    # What compiled code writes

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else, compiled code included, changes content or size meanwhile."""
        with self.change:
            held = self._grants.ring if self._grants is not None and self.granted else None
            if held is not None:
                held.hold(self.ino)
            try:
                self.collect()
                yield
            finally:
                if held is not None:
                    held.let(self.ino)

    def grant(self, fh: int, n_bytes: int = 0) -> None:
        """Let compiled code take the next writes through a handle, which is not one that appends; the last one that was not
        for it had `n_bytes`. Not if somebody else is just changing the file, nor without memory.
        """
        grants = self._grants
        if grants is None or not self.change.acquire(blocking=False):
            return
        try:
            credit = self._credit
            if not self.granted:
                self._target = FIRST_BYTES
            elif credit < max(n_bytes, self._target // 4):
                self._target = min(4 * max(self._target, n_bytes), MOST_BYTES)
            more = self._target - credit if credit < max(n_bytes, self._target // 4) else 0
            self._set_grant(fh, more if more > 0 and grants.reserve(self, more) else 0)
        finally:
            self.change.release()

    def collect(self) -> None:
        """Bring what compiled code has taken into the write buffer. Whoever began before is waited for."""
        grants = self._grants
        if self.granted and grants is not None and (grants.ring.pending(self.ino) or self._collecting.locked()):
            with self._collecting:
                self._take()

    def end_grant(self) -> None:
        """Compiled code leaves all writes to others from now on."""
        grants = self._grants
        if grants is None:
            return
        with self._collecting:
            if not self.granted:
                return
            if not grants.ring.end_idle(self.ino):
                self._take(ends=True)
            self.granted = 0
            credit, self._credit = self._credit, 0
        grants.ended(self, credit)

    def _set_grant(self, fh: int, added: int) -> None:
        grants = self._grants
        if grants is None:
            return
        with self._collecting:
            self._credit += added
            renewed, is_barred = self.granted, self.locks.are_lost
            if not self._credit or (is_barred and renewed):  # who has lost the locks is about to end the grant
                return
            if not is_barred:
                self.granted = fh
                if renewed:
                    grants.ring.hold(self.ino)
                    self._take()  # so that the credit is what compiled code may fill, and nothing of it is in use
                with self._state:
                    granted = grants.ring.grant(self.ino, fh, self._credit, MAX_FILE_BYTES, self.unprivileged)
                if granted:
                    if renewed:
                        grants.ring.let(self.ino)
                    return
            self.granted = 0
            credit, self._credit = self._credit, 0
        grants.ended(self, credit)

    def _take(self, ends: bool = False) -> None:
        """The caller holds `_collecting`."""
        if self._journal is None or self._grants is None:
            return
        with self._state:
            self._n_writing += 1  # before it is taken: so nobody finds the file clean in between
        try:
            found = self._journal.take(self.ino, ends)
            if not found:
                return
            self._mark()
            n_bytes = sum(len(data) for _, data, _ in found)
            self._credit -= n_bytes
            self._grants.spent(n_bytes)
            self._count([(offset, len(data)) for offset, data, _ in found], credited=True)
            writer = self._open_writer()
            for offset, data, when_ns in found:
                writer.write(offset, data, when_ns, reserved=True)
        finally:
            self._written()

    # Dirty data

    @property
    def writer(self) -> FileWriter | None:
        """The write buffer, None before the first write."""
        if self.granted:
            self.collect()
        return self._writer

    @property
    def dirty(self) -> bool:
        """Whether something written is not committed."""
        return self.writer is not None and self._is_dirty()

    def _is_dirty(self) -> bool:
        return self._writer is not None and self._writer.dirty

    def size(self) -> int:
        """Size in bytes including what is not committed."""
        self.collect()
        return self._size()

    def _size(self) -> int:
        writer = self._writer
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

    def write(self, offset: int, data: Buffer, request: int = 0, when_ns: int = 0, *, journaled: bool = True) -> None:
        """Buffer a write. The caller is `changing`. ENOSPC when the volume is full, EIO when uploads keep failing. `request`:
        of an append, see `Journal`; `journaled` is False for what is in the journal already, since `when_ns` (0: now).
        """
        with self._state:
            self._n_writing += 1
        self._mark()
        try:
            self._count([(offset, len(data))], credited=not journaled)  # what is refused must not be in the journal
            if journaled and self._journal is not None:
                self._files.note_write(self.ino, offset, data, request)
            self._open_writer().write(offset, data, when_ns)
        finally:
            self._written()

    def _mark(self) -> None:
        with self._state:
            if not self._marked:
                self._marked = True
                self._arena.mark(self.ino, DIRTY)

    def _written(self) -> None:
        with self._state:
            self._n_writing -= 1
        if not self._is_dirty():
            self._unmark_if_clean()

    def _count(self, pieces: list[tuple[int, int]], *, credited: bool = False) -> None:
        """Count what writes (offset, length) add to the file against the volume's capacity. ENOSPC unless they are `credited`."""
        try:
            size = self._size()
        except CairnError:
            if not credited:
                raise
            return  # it is an estimate, and the writes are acknowledged
        grown = 0
        for offset, n_bytes in pieces:
            end = offset + n_bytes
            if end > size:
                grown += end - max(offset, size)
                size = end
        if grown:
            self._capacity.reserve(grown, sure=credited)
            with self._state:
                self._new_bytes += grown

    def _open_writer(self) -> FileWriter:
        if self._writer is None:
            self._writer = self._data.writers.open(self.ino, self._on_commit)
        return self._writer

    def flush(self) -> None:
        """Store and commit what is dirty; nothing to do costs nothing. EIO or ENOSPC when that fails, ESTALE once
        when the file was deleted elsewhere.
        """
        writer = self.writer
        if self.locks.drops:
            self._drop_lost()
        if writer is None or not writer.dirty:
            self._unmark_if_clean()
            return
        token = self._generation
        try:
            attr = writer.flush()
        except BaseException as error:
            self._pages.drop(self.ino)
            if isinstance(error, FsError) and error.errno == errno.ENOENT:
                self.lose(FsError(errno.ESTALE))
                self._discard()  # another node has deleted the file: nothing will ever take these bytes
            elif isinstance(error, SessionLost):
                self.locks.drops = True
                self._drop_lost()
            stale(error)
            raise
        if attr is not None:
            self.learn(attr, token + 1)  # exactly `_on_commit` came in between, or it is not learned
        self._unmark_if_clean()

    def lose_locks(self) -> bool:
        """The session's locks are gone. True when there were any here; what is dirty goes with the next flush."""
        had_some = self.locks.lose()  # first: a write that has not seen this yet may be about to have the grant renewed
        self.end_grant()
        return had_some

    def _drop_lost(self) -> None:
        """Forget what was written under locks that are gone. SessionLost (EIO) if there was anything."""
        self.locks.drops = False
        if not self.dirty:
            return
        self._pages.drop(self.ino)
        self.lose(self.locks.error())
        self._discard()
        self._files.on_lost((self.ino,))
        raise self.locks.error()

    def lose(self, error: CairnError) -> None:
        """Something that was written is lost. Every handle will be told; so compiled code must not answer their closes."""
        self._mark()
        self.lost, self.n_lost = error, self.n_lost + 1
        if error.errno != errno.ESTALE:  # a file that was deleted elsewhere is no loss
            self._data.losses.add()

    def _discard(self, after: Callable[[], object] | None = None) -> None:
        if (writer := self.writer) is not None:
            writer.discard(after)
            self._settle(False)
        elif after is not None:
            after()
        self._unmark_if_clean()

    def replace(self, change: Callable[[], Attr]) -> Attr:
        """`commit` of an operation that removes all content, and with it what is dirty, which stays if it fails."""
        attrs: list[Attr] = []
        self._discard(lambda: attrs.append(self.commit(change)))
        return attrs[0]

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
        if (writer := self.writer) is not None:
            writer.mtime_set()
            if self._journal is not None:
                self._journal.mtime_set(self.ino)

    def close(self) -> None:
        """Give the buffer back; what is still dirty is lost."""
        self.end_grant()
        self.lost = None
        if self._writer is not None:
            self._discard()
            self._writer.close()
            self._writer = None
        self._unmark_if_clean()

    def _unmark_if_clean(self) -> None:
        """Let compiled code answer for the inode again, unless something is dirty or about to be."""
        if not self._marked:
            return
        with self._state:
            if self._n_writing or self._is_dirty():
                return
            ring = self._grants.ring if self._grants is not None and self.granted else None
            if ring is None or not ring.hold(self.ino):
                if self._journal is not None:
                    self._journal.free(self.ino)
                if self.lost is None:
                    self._marked = False
                    self._arena.unmark(self.ino, DIRTY)
            if ring is not None:
                ring.let(self.ino, not self._marked)

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
