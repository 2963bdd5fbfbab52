"""Handles of files that are read without having been opened, as the kernel does where a front refuses OPEN.

A handle is made by the first read of an inode and closed when it is the least recently used of too many, or Python is told that
the kernel has forgotten the inode. Readers in work at that moment go on with what they know of it. Thread-safe.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

from cairnfs.types import Inode
from cairnfs.vfs.handles import Handle
from cairnfs.vfs.openfile import OpenFile
from cairnfs.vfs.openfiles import OpenFiles

MAX_HANDLES = 1024  # readers at a time that keep their readahead; what one knows of its file is mostly under a kilobyte


class Unopened:
    """Inode -> handle for reading, the most recently used last."""

    def __init__(self, files: OpenFiles, make: Callable[[OpenFile], Handle], max_handles: int = MAX_HANDLES) -> None:
        self._files = files
        self._make = make
        self._max_handles = max_handles
        self._handles: OrderedDict[Inode, Handle] = OrderedDict()
        self._lock = threading.Lock()  # held for dictionary work only

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, ino: Inode) -> Handle:
        """The handle of an inode, made if there is none. ESTALE when the inode is gone."""
        with self._lock:
            handle = self._handles.get(ino)
            if handle is not None:
                self._handles.move_to_end(ino)
                return handle
        file = self._files.acquire(ino)
        try:
            file.recall()
        except BaseException:
            self._files.release(file)
            raise
        return self._keep(ino, self._make(file))

    def forget(self, ino: Inode) -> None:
        """Close the handle of an inode, if there is one."""
        if ino in self._handles:
            with self._lock:
                handle = self._handles.pop(ino, None)
            self._close(handle)

    def close(self) -> None:
        for ino in list(self._handles):
            self.forget(ino)

    def _keep(self, ino: Inode, handle: Handle) -> Handle:
        surplus: Handle | None = None
        with self._lock:
            kept = self._handles.setdefault(ino, handle)
            if kept is not handle:
                surplus = handle  # another reader of the inode was faster
            elif len(self._handles) > self._max_handles:
                _, surplus = self._handles.popitem(last=False)
        self._close(surplus)
        return kept

    def _close(self, handle: Handle | None) -> None:
        if handle is not None:
            self._files.release(handle.file)
