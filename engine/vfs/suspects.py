"""Inodes to which a path may have led the kernel that leads elsewhere by now, because another node has changed a name on the way.

The kernel resolves a path before it sends the open, from names that it keeps. When the log has brought the change of such a name,
the open is answered ESTALE, once for every thread: then the kernel asks for every name on the way again, and opens what it finds.
An inode is suspected until the kernel was told of the change, and for as long after that as a path resolved before may take to
arrive here.
"""

import threading
import time
from collections.abc import Iterable

from cairnfs.types import Inode

GRACE_S = 0.2
RETRY_S = 1.0  # what the kernel may take to come again
_FOR_EVER = float("inf")
_ANY = Inode(0)  # a directory, or a symbolic link: what is beyond it is not known


class Suspects:
    """The inodes. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until_s: dict[Inode, float] = {}
        self._refused: set[tuple[Inode, int]] = set()
        self._sent_back_s: dict[int, float] = {}  # threads whose next open comes by names that were just asked for

    def add(self, inos: Iterable[Inode], *, beyond: bool = False) -> None:
        """Names of these inodes have changed, with `beyond` also some through which paths go on; the kernel was not told yet."""
        with self._lock:
            for ino in (*inos, _ANY) if beyond else inos:
                self._until_s[ino] = _FOR_EVER
                self._refused = {refused for refused in self._refused if refused[0] != ino}

    def told(self) -> None:
        """The kernel knows of all that was added."""
        if not self._until_s:
            return
        now_s = time.monotonic()
        with self._lock:
            for ino, until_s in list(self._until_s.items()):
                if until_s == _FOR_EVER:
                    self._until_s[ino] = now_s + GRACE_S
                elif until_s < now_s:
                    del self._until_s[ino]
            if not self._until_s:
                self._refused.clear()
                self._sent_back_s.clear()

    def sent_back(self, pid: int) -> None:
        """A thread's open was answered ESTALE, for whatever reason: its next one must not be, or the application would see it."""
        if self._until_s:
            self._sent_back_s[pid] = time.monotonic()

    def refuses(self, ino: Inode, pid: int) -> bool:
        """Whether a thread that opens an inode is to find its way anew."""
        if not self._until_s:
            return False
        with self._lock:
            if time.monotonic() - self._sent_back_s.pop(pid, 0) < RETRY_S:
                self._refused.add((ino, pid))
                return False
            if max(self._until_s.get(ino, 0), self._until_s.get(_ANY, 0)) < time.monotonic() or (ino, pid) in self._refused:
                return False
            self._refused.add((ino, pid))
            return True
