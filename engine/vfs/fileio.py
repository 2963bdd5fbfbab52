"""Open files: create, open, read, write, flush, fsync, release.

A read takes a snapshot of dirty data first, then the layout, then stored bytes, and lays the first over the last: what was
dirty and gets committed in between is then seen twice, never not at all.
"""

import errno
import logging
import os
import stat

from cairnfs.const import MAX_FILE_BYTES
from cairnfs.errors import CairnError, CorruptError, FsError, ObjectError, ObjectMissing, StoreError
from cairnfs.types import Attr, Buffer, Caller, Inode, Opened, PackId, SetAttr, SliceRef, serving
from cairnfs.vfs.attrs import Attributes
from cairnfs.vfs.handles import FIRST_COMPILED, Handle
from cairnfs.vfs.locks import Locking
from cairnfs.vfs.namespace import Namespace
from cairnfs.vfs.openfile import OpenFile, may_have_privileges
from cairnfs.vfs.state import VfsState

log = logging.getLogger("cairnfs.vfs")

MAX_TOLD = 1024  # damaged places that are remembered as told of
MAX_CREATE_RACES = 16  # times a name may vanish between "exists" and "open" before create gives up


class FileIo:
    """Operations on regular files through handles; what each promises is said at `Vfs`."""

    def __init__(self, state: VfsState, names: Namespace, attrs: Attributes, locking: Locking) -> None:
        self._state = state
        self._names = names
        self._attrs = attrs
        self._locking = locking
        self._told: set[str] = set()

    # Opening

    def create(self, c: Caller, parent: Inode, name: bytes, mode: int, flags: int) -> tuple[Attr, Opened]:
        """Create and open in one step; without O_EXCL an existing file is opened, but for the kernel: ESTALE."""
        self._state.writable()
        files = self._state.files
        for _ in range(MAX_CREATE_RACES):
            try:
                before = files.n_removals, files.n_invalidations
                attr = self._names.create(c, parent, name, stat.S_IFREG | stat.S_IMODE(mode))
            except FsError as error:
                if error.errno != errno.EEXIST or flags & os.O_EXCL:
                    raise
                self._state.refuse_unseen()
            else:
                file = files.acquire(attr.ino)
                if before == (files.n_removals, files.n_invalidations):
                    file.learn(attr, file.token())
                elif not self._still_there(file):
                    files.release(file)
                    continue
                self._state.pages.made(attr)
                return attr, self._handed_out(Handle(file, flags, self._state.data.reader.cursor()), False)
            try:
                attr = self._names.lookup(c, parent, name)
                opened = self.open(attr.ino, flags)
                return (self._attrs.getattr(attr.ino) if flags & os.O_TRUNC else attr), opened
            except FsError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
        raise FsError(errno.ESTALE)

    def open(self, ino: Inode, flags: int, kill_suidgid: bool = False) -> Opened:
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if writing or flags & os.O_TRUNC:
            self._state.writable()
        file = self._state.files.acquire(ino)
        try:
            self._state.hold()
            # A commit of our own that is on its way may be known elsewhere already, and so be in the store, but not here.
            attr = file.refresh() if self._state.arena.is_committing() else file.recall()
            _check_regular(attr)
            if not attr.nlink and not self._state.files.keeps(file):
                raise FsError(errno.ESTALE)  # another node has removed the name by which the kernel found it
            if flags & os.O_TRUNC:
                attr = self._attrs.truncate(file, 0, kill_suidgid)
            return self._opened(file, attr, flags)
        except BaseException:
            self._state.files.release(file)
            raise

    def _opened(self, file: OpenFile, attr: Attr, flags: int) -> Opened:
        handle = Handle(file, flags, self._state.data.reader.cursor())
        keep_cache = self._state.pages.opened(attr)
        if not keep_cache:
            handle.drops = attr.data_version
        return self._handed_out(handle, keep_cache)

    def _handed_out(self, handle: Handle, keep_cache: bool) -> Opened:
        fh = self._state.handles.add(handle)
        self._state.files.count_direct(handle, 1)
        if handle.can_write and not handle.append and handle.drops is None:
            handle.file.grant(fh)
        return Opened(fh, keep_cache)

    def _used(self, handle: Handle) -> None:
        """The kernel uses a handle for the first time since it was told to drop pages."""
        version, handle.drops = handle.drops, None
        if version is not None:
            self._state.pages.dropped(handle.file.ino, version)

    def _still_there(self, file: OpenFile) -> bool:
        try:
            file.refresh()
        except FsError:
            return False
        return True

    # Reading and writing

    def read(self, fh: int, offset: int, size: int) -> list[memoryview]:
        self._state.hold()
        compiled = fh < 0 or fh >= FIRST_COMPILED
        ino = Inode(-fh if fh < 0 else fh >> 64) if compiled else self._state.handle(fh).file.ino
        unanswered = self._state.unanswered
        unanswered.check(ino, offset)
        began_s = unanswered.now_s()
        try:
            found = self._read_piece(ino, offset, size) if compiled else None
            return self._read_opened(fh, offset, size) if found is None else found
        except (ObjectError, StoreError) as error:
            unanswered.note(ino, offset, size, began_s, is_metadata=isinstance(error, StoreError))
            raise

    def _read_opened(self, fh: int, offset: int, size: int) -> list[memoryview]:
        handle = self._state.handle(fh)
        if handle.drops is not None:
            self._used(handle)
        if not handle.can_read:
            raise FsError(errno.EBADF)
        if offset < 0 or size < 0:
            raise FsError(errno.EINVAL)
        file = handle.file
        try:
            return self._read(handle, offset, size)
        except ObjectMissing:
            file.invalidate()  # a compaction or another node's change has moved the bytes since the layout was read
        except CorruptError as error:
            self._tell(file.ino, offset, error)
            raise FsError(errno.EIO) from error
        try:
            return self._read(handle, offset, size)
        except (ObjectError, CorruptError) as error:
            self._tell(file.ino, offset, error)
            raise FsError(errno.EIO) from error

    def _tell(self, ino: Inode, offset: int, error: ObjectError | CorruptError) -> None:
        """Once: who reads what is damaged or missing tries again, and so does the kernel, page by page."""
        what = f"inode {ino}: {error}"
        if what in self._told or (isinstance(error, CorruptError) and error.is_told):
            return
        if len(self._told) == MAX_TOLD:
            self._told.clear()
        self._told.add(what)
        log.error("inode %d at %d: %s", ino, offset, error)

    def _read_piece(self, ino: Inode, offset: int, size: int) -> list[memoryview] | None:
        """Read a small file from what the arena knows of it, without opening it. None when that is not enough."""
        piece = self._state.arena.piece(ino)
        if piece is None or offset < 0 or size < 0:
            return None
        file_size, off, pack, stored_off, stored_len, plain_len, crc, codec = piece
        n_bytes = min(size, file_size - offset)
        if n_bytes <= 0:
            return []
        ref = SliceRef(PackId(pack), stored_off, stored_len, plain_len, crc, codec)
        try:
            return self._state.data.reader.fetcher.part(ref, ino, off + offset, n_bytes, False)
        except ObjectMissing:
            self._state.arena.forget(ino)
        except CorruptError:
            pass  # the other way tries again and says what is wrong
        return None

    def _read(self, handle: Handle, offset: int, size: int) -> list[memoryview]:
        file = handle.file
        writer = file.writer
        dirty_end, pieces = (0, []) if writer is None else (writer.dirty_end, writer.snapshot(offset, size))
        attr = file.attr()
        end = min(offset + size, max(attr.size, dirty_end))
        if end <= offset:
            return []
        stored_end = max(min(end, attr.size), offset)
        stored = self._state.data.reader.read(file, handle.cursor, offset, stored_end - offset)
        if not pieces and stored_end == end:
            return stored
        out = bytearray(end - offset)
        at = 0
        for part in stored:
            out[at : at + len(part)] = part
            at += len(part)
        for piece_off, data in pieces:
            at = piece_off - offset
            out[at : at + len(data)] = data
        return [memoryview(out)[: end - offset]]

    def write(
        self, c: Caller, fh: int, offset: int, data: Buffer, kill_suidgid: bool, append: bool | None, *, mapped: bool = False
    ) -> int:
        handle = self._state.handles.get(fh)
        if handle.drops is not None:
            self._used(handle)
        if not handle.can_write:
            raise FsError(errno.EBADF)
        self._state.writable()
        file = handle.file
        file.locks.check(handle.lock_owners | {handle.flock_owner})
        n_bytes = len(data)
        if append is None:
            append = handle.append
        if kill_suidgid:
            self.drop_privileges(c, file)
        believed = offset
        is_direct = handle.is_direct and not mapped
        with file.changing():
            request = 0
            if append:
                request = serving.request
                if request in self._state.left and self._state.appended(request):
                    return n_bytes  # it is in the journal of the process that was killed before it could say so
                offset = self._append_at(file, offset)
            if offset < 0:
                raise FsError(errno.EINVAL)
            if offset + n_bytes > MAX_FILE_BYTES:
                raise FsError(errno.EFBIG)
            was_clean = is_direct and not file.dirty
            if n_bytes:
                file.write(offset, data, request)
            if not append and not mapped:
                file.grant(fh, n_bytes)
        # The kernel drops pages before a direct write, and not again after an asynchronous one: reads in between bring them back.
        is_passed_by = is_direct and (was_clean or self._state.files.is_cached(file))
        if self._state.drop is not None and (offset != believed or is_passed_by):
            self._state.drop(file.ino, not is_direct)
        return n_bytes

    def drop_privileges(self, c: Caller, file: OpenFile) -> None:
        """Take set-user-id, set-group-id and capabilities away. Asked for with every write of an ordinary user."""
        if file.unprivileged:
            return
        attr = file.attr()
        if may_have_privileges(attr):
            self._attrs.setattr(c, file.ino, SetAttr(kill_suidgid=True))
        file.unprivileged = True

    def _append_at(self, file: OpenFile, offset: int) -> int:
        """End of file. The kernel put the bytes into its pages where it believes the end is: elsewhere, they are wrong."""
        end = file.size()
        if end != offset:
            self._state.pages.drop(file.ino)
        return end

    # Storing and closing

    def flush(self, fh: int, lock_owner: int | None) -> None:
        """One close() of a handle. Data of a file without a name is not stored: it goes with the last handle."""
        handle = self._state.handle(fh)
        file = handle.file
        try:
            self._store(handle, wanted=not file.unlinked)
        except CairnError as error:
            log.info("inode %d: close() fails: %s", file.ino, error)  # few programs say so
            raise
        finally:
            if lock_owner is not None and lock_owner in file.lock_owners:
                self._locking.release_owner(file, lock_owner)
                self._locking.gone(fh, handle, lock_owner)

    def fsync(self, fh: int) -> None:
        handle = self._state.handle(fh)
        self._store(handle)
        self._state.sync(handle)

    def _store(self, handle: Handle, *, wanted: bool = True) -> None:
        """Store what is dirty, if that is `wanted`. Each handle for writing is told once of what was lost while it was open,
        whoever met with the error first: as Linux does it.
        """
        file = handle.file
        try:
            if wanted:
                file.flush()
        except CairnError:
            handle.n_lost = file.n_lost
            raise
        error = file.lost if handle.can_write and handle.n_lost != file.n_lost else None
        handle.n_lost = file.n_lost
        if error is not None:
            raise error

    def release(self, fh: int) -> None:
        handles = self._state.handles
        handle = handles.pop(fh) if fh < FIRST_COMPILED else handles.discard(fh)
        try:
            if handle is not None:
                self._used(handle)
                self._close(handle)
        finally:
            handles.closed(fh)
            if fh >= FIRST_COMPILED:
                self._state.files.closed_compiled(Inode(fh >> 64))

    def _close(self, handle: Handle) -> None:
        """Give back the locks taken through a handle, and its reference."""
        try:
            if handle.flock_owner:
                self._locking.release_flock(handle.file, handle.flock_owner)
            for owner in tuple(handle.lock_owners):
                if handle.file.lock_owners.get(owner) is handle:
                    self._locking.release_owner(handle.file, owner)
        finally:
            self._state.files.count_direct(handle, -1)
            self._state.files.release(handle.file)

    def syncfs(self) -> None:
        """Store everything dirty, then sync. Tries every file; raises the first error."""
        first: OSError | None = None
        for file in self._state.files.all():
            try:
                if not file.unlinked:
                    file.flush()
            except OSError as error:
                if error.errno != errno.ESTALE:
                    log.error("inode %d: cannot be stored: %s", file.ino, error)
                    first = first or error
        self._state.sync()
        if first is not None:
            raise first


def _check_regular(attr: Attr) -> None:
    if attr.is_dir:
        raise FsError(errno.EISDIR)
    if attr.is_symlink:
        raise FsError(errno.ELOOP)
    if not attr.is_file:
        raise FsError(errno.ENXIO)
