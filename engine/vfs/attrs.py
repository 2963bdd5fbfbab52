"""Attributes: getattr with dirty data laid over, setattr including size, access, statfs."""

import errno
import os
from functools import partial

from cairnfs.const import MAX_FILE_BYTES
from cairnfs.errors import FsError
from cairnfs.types import Attr, Caller, Inode, Position, SetAttr, StatFs
from cairnfs.vfs.namespace import RemovedDirs
from cairnfs.vfs.openfile import OpenFile, stale
from cairnfs.vfs.state import VfsState

UNLIMITED_BYTES = 1 << 50  # what df shows of a volume without limits, as JuiceFS does
UNLIMITED_INODES = 10 << 30


class Attributes:
    """Operations on attributes of one inode; what each promises is said at `Vfs`."""

    def __init__(self, state: VfsState, removed: RemovedDirs) -> None:
        self._state = state
        self._meta = state.meta
        self._removed = removed

    def getattr(self, ino: Inode) -> Attr:
        file = self._state.files.get(ino)
        if file is not None:
            dirty = file.dirty_state()
            return self._once_dropped(file.overlay(file.refresh(), dirty))
        try:
            return self._once_dropped(self._state.get(ino))
        except FsError as error:
            gone = self._removed.get(ino)
            if gone is None:
                stale(error)
                raise
            return gone

    def _once_dropped(self, attr: Attr) -> Attr:
        """A file's attributes, when the kernel has dropped the pages that it has of before: the last of these would show zeros
        between what was the end and what is.
        """
        state = self._state
        if state.dropped is not None and attr.is_file and (state.options.read_only or state.pages.older(attr)):
            state.dropped(attr.ino, Position(attr.version))
        return attr

    def setattr(self, c: Caller, ino: Inode, change: SetAttr) -> Attr:
        self._state.writable()
        if change.size is not None:
            attr = self._resize(ino, change.size, change.kill_suidgid)
            if _nothing_else(change):
                return attr
        file = self._state.files.get(ino)
        if file is None:
            return self._set(c, ino, change)
        if change.mtime_ns is None or file.writer is None:
            return self._set_open(c, file, change)
        with file.changing():  # a write in between would win over the time set here
            file.mtime_set()
            return self._set_open(c, file, change)

    def truncate(self, file: OpenFile, size: int, kill_suidgid: bool) -> Attr:
        """Set the size of an open file; what is cut off is gone, what is added is a hole."""
        with file.changing():
            if size:
                file.flush()
            now_ns = self._state.clock.now_ns()
            change = partial(self._meta.layout.truncate, file.ino, size, now_ns, kill_suidgid)
            return file.commit(change) if size else file.replace(change)

    def access(self, ino: Inode, mask: int) -> None:
        """Existence, and that the volume may be written; permissions are the kernel's (default_permissions)."""
        self.getattr(ino)
        if mask & os.W_OK:
            self._state.writable()

    def statfs(self) -> StatFs:
        """Totals of the volume. One without limits shows powers of two of which at most seven eighths are used."""
        arena, limits = self._state.arena, self._meta.format
        position = arena.applied
        usage = self._meta.attrs.statfs()
        total_bytes = usage.total_bytes or _ample(UNLIMITED_BYTES, usage.used_bytes)
        total_inodes = usage.total_inodes or _ample(UNLIMITED_INODES, usage.used_inodes)
        arena.usage_put(position, total_bytes, usage.used_bytes, total_inodes, usage.used_inodes)
        if self._meta.format is not limits:  # refreshed in between: after the refresh's own drop, perhaps
            arena.usage_drop()
        return usage._replace(total_bytes=total_bytes, total_inodes=total_inodes)

    def _set(self, c: Caller, ino: Inode, change: SetAttr) -> Attr:
        try:
            return self._meta.attrs.set(c, ino, change)
        except FsError as error:
            stale(error)
            raise

    def _set_open(self, c: Caller, file: OpenFile, change: SetAttr) -> Attr:
        dirty = file.dirty_state()
        try:
            return file.overlay(self._set(c, file.ino, change), dirty)
        finally:
            file.invalidate()

    def _resize(self, ino: Inode, size: int, kill_suidgid: bool) -> Attr:
        if not 0 <= size <= MAX_FILE_BYTES:
            raise FsError(errno.EFBIG if size > 0 else errno.EINVAL)
        file = self._state.files.acquire(ino)
        try:
            return self.truncate(file, size, kill_suidgid)
        finally:
            self._state.files.release(file)


def _ample(least: int, used: int) -> int:
    total = least
    while used > total // 8 * 7:
        total *= 2
    return total


def _nothing_else(change: SetAttr) -> bool:
    return change == SetAttr(size=change.size, kill_suidgid=change.kill_suidgid)
