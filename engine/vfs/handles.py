"""File handles: what one open() has that the inode has not (flags, position hints, locks taken through it).

Handle numbers are never reused by a process, so a late message for a closed handle meets EBADF and not a stranger's file.
"""

import errno
import itertools
import os
import threading
from typing import Generic, Protocol, TypeVar

from cairnfs.data.readahead import Readahead
from cairnfs.errors import FsError
from cairnfs.types import Inode
from cairnfs.vfs.carried import HandleRecords
from cairnfs.vfs.openfile import OpenFile

FIRST_COMPILED = 1 << 64  # handles from here on were given out by compiled code: the inode's number above bit 64, its own below


class Handle:
    """One open of a file. `lock_owners` took fcntl locks through this handle, `flock_owner` a flock (0: nobody has)."""

    __slots__ = (
        "append",
        "can_read",
        "can_write",
        "cursor",
        "drops",
        "file",
        "flags",
        "flock_owner",
        "is_direct",
        "lock_owners",
        "n_lost",
        "n_sync_failures",
    )

    def __init__(self, file: OpenFile, flags: int, cursor: Readahead) -> None:
        mode = flags & os.O_ACCMODE
        self.file = file
        self.cursor = cursor  # what has been read through this handle, for readahead
        self.flags = flags
        self.can_read = mode != os.O_WRONLY
        self.can_write = mode != os.O_RDONLY
        self.append = bool(flags & os.O_APPEND)
        self.is_direct = bool(flags & os.O_DIRECT)
        self.drops: int | None = None  # the version for which the kernel was told to drop pages, until it uses the handle
        self.lock_owners: set[int] = set()
        self.flock_owner = 0
        self.n_sync_failures = file.syncing.n_told
        self.n_lost = file.n_lost  # of its losses, those that are not this handle's, or that its user was told of

    def noted(self) -> tuple[Inode, int]:
        return self.file.ino, self.flags


class Noted(Protocol):
    """What a handle must tell to be handed on to a successor of this process."""

    def noted(self) -> tuple[Inode, int]:
        """The inode and the O_* flags, DIRECTORY for directories."""
        ...


_T = TypeVar("_T", bound=Noted)


class HandleTable(Generic[_T]):
    """Handle number -> handle, for one kind of handle. With `records`, a successor of this process can find them."""

    def __init__(self, numbers: "itertools.count[int]", records: HandleRecords | None = None) -> None:
        self._numbers = numbers
        self._records = records
        self._handles: dict[int, _T] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: _T) -> int:
        with self._lock:
            fh = next(self._numbers)
            self._handles[fh] = handle
        self._note(fh, handle)
        return fh

    def restore(self, fh: int, handle: _T) -> None:
        """Keep a handle that a predecessor of this process has given out, and noted."""
        self._handles[fh] = handle

    def _note(self, fh: int, handle: _T) -> None:
        if self._records is not None:
            self._records.add(fh, *handle.noted())

    def closed(self, fh: int) -> None:
        """All that a close must do is done: a successor of this process need not do it again."""
        if self._records is not None:
            self._records.remove(fh)

    def get(self, fh: int) -> _T:
        """The handle. EBADF when it is not open."""
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def find(self, fh: int) -> _T | None:
        """The handle, None when there is none."""
        return self._handles.get(fh)

    def adopt(self, fh: int, handle: _T) -> _T:
        """Keep a handle under a number that compiled code has given out; returns the one that is kept, which may be another's."""
        with self._lock:
            kept = self._handles.setdefault(fh, handle)
        if kept is handle:
            self._note(fh, handle)
        return kept

    def pop(self, fh: int) -> _T:
        """The handle, closed by this very call. EBADF when it is not open."""
        handle = self.discard(fh)
        if handle is None:
            raise FsError(errno.EBADF)
        return handle

    def discard(self, fh: int) -> _T | None:
        """The handle, closed by this very call; None when there is none."""
        return self._handles.pop(fh, None)

    def numbers(self) -> list[int]:
        with self._lock:
            return list(self._handles)
