"""Operations on ranges of a file that change or ask the layout only: fallocate, lseek for data and holes, copy_file_range.

They store what is dirty first, so that the layout tells the whole truth, and hold the file's `change` lock from then on.
"""

import errno
import os
from collections.abc import Callable

from cairnfs.const import MAX_FILE_BYTES
from cairnfs.errors import FsError
from cairnfs.types import Attr, Caller
from cairnfs.vfs.handles import Handle
from cairnfs.vfs.openfile import OpenFile
from cairnfs.vfs.state import VfsState

FALLOC_KEEP_SIZE = 0x01  # linux/falloc.h
FALLOC_PUNCH_HOLE = 0x02
FALLOC_ZERO_RANGE = 0x10

SUPPORTED_MODES = (
    0,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
    FALLOC_ZERO_RANGE,
    FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE,
)


class Ranges:
    """Operations on ranges through handles of regular files; what each promises is said at `Vfs`."""

    def __init__(self, state: VfsState, drop_privileges: Callable[[Caller, OpenFile], None]) -> None:
        self._state = state
        self._drop_privileges = drop_privileges
        self._layout = state.meta.layout

    def fallocate(self, c: Caller, fh: int, mode: int, offset: int, length: int) -> None:
        file = self._writing(fh).file
        if mode not in SUPPORTED_MODES:
            raise FsError(errno.EOPNOTSUPP)
        if offset < 0 or length <= 0:
            raise FsError(errno.EINVAL)
        if offset + length > MAX_FILE_BYTES:
            raise FsError(errno.EFBIG)
        self._changed_by(c, file)
        with file.changing():
            file.flush()
            file.commit(lambda: self._reshape(file, mode, offset, length))

    def _reshape(self, file: OpenFile, mode: int, offset: int, length: int) -> Attr:
        keep_size = bool(mode & FALLOC_KEEP_SIZE)
        now_ns = self._state.clock.now_ns()
        if mode & FALLOC_PUNCH_HOLE:
            return self._layout.punch(file.ino, offset, length, keep_size=True, now_ns=now_ns)
        if mode & FALLOC_ZERO_RANGE:
            return self._layout.zero(file.ino, offset, length, keep_size, now_ns)
        return self._layout.allocate(file.ino, offset, length, keep_size, now_ns)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_END, SEEK_DATA, SEEK_HOLE. ENXIO past the end, or when there is no more data."""
        file = self._state.handle(fh).file
        if whence == os.SEEK_END:
            return file.size() + offset
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FsError(errno.EINVAL)
        if offset < 0:
            raise FsError(errno.ENXIO)
        file.flush()
        return self._layout.seek(file.ino, offset, whence)

    def copy(self, c: Caller, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int) -> int:
        """Bytes copied by sharing slices: no data is read or written. EINVAL when ranges of one file overlap."""
        source_handle, target_handle = self._state.handle(fh_in), self._writing(fh_out)
        if not source_handle.can_read:
            raise FsError(errno.EBADF)
        if target_handle.append and not self._state.has_kernel:  # which knows whether it appends now
            raise FsError(errno.EBADF)
        if min(off_in, off_out, length) < 0:
            raise FsError(errno.EINVAL)
        source, target = source_handle.file, target_handle.file
        if source is target and off_in < off_out + length and off_out < off_in + length and length:
            raise FsError(errno.EINVAL)
        if off_out + length > MAX_FILE_BYTES:
            raise FsError(errno.EFBIG)
        self._changed_by(c, target)
        source.flush()
        with target.changing():
            target.flush()
            return self._copy(source, off_in, target, off_out, length)

    def _copy(self, source: OpenFile, off_in: int, target: OpenFile, off_out: int, length: int) -> int:
        n_bytes = 0

        def change() -> Attr:
            nonlocal n_bytes
            now_ns = self._state.clock.now_ns()
            n_bytes, attr = self._layout.copy_range(source.ino, off_in, target.ino, off_out, length, now_ns)
            return attr

        target.commit(change)
        return n_bytes

    def _changed_by(self, c: Caller, file: OpenFile) -> None:
        """As a write of an ordinary user, which the kernel tells apart for writes only: here whoever is not root is one."""
        if c.uid:
            self._drop_privileges(c, file)

    def _writing(self, fh: int) -> Handle:
        handle = self._state.handles.get(fh)
        if not handle.can_write:
            raise FsError(errno.EBADF)
        self._state.writable()
        return handle
