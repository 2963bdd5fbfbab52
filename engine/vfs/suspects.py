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
RETRY_S = 10.0  # what the kernel may take to come again on a busy machine
_FOR_EVER = float("inf")
_ANY = Inode(0)  # a directory, or a symbolic link: what is beyond it is not known


class Suspects:
    """The inodes. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[Inode, list[float]] = {}  # one number each, which whoever tells the kernel changes
        self._refused: set[tuple[Inode, int]] = set()
        self._sent_back_s: dict[int, float] = {}  # threads whose next open comes by names that were just asked for

    def add(self, inos: Iterable[Inode], *, beyond: bool = False) -> None:
        """Names of these inodes have changed, with `beyond` also some through which paths go on; the kernel was not told yet."""
        with self._lock:
            for ino in (*inos, _ANY) if beyond else inos:
                self._until[ino] = [_FOR_EVER]
                self._refused = {refused for refused in self._refused if refused[0] != ino}

    def untold(self) -> list[list[float]]:
        """What was added until now, to be given to `told`."""
        with self._lock:
            return [until for until in self._until.values() if until[0] == _FOR_EVER]

    def told(self, untold: list[list[float]]) -> None:
        """The kernel knows of this."""
        if not self._until and not self._sent_back_s:
            return
        now_s = time.monotonic()
        with self._lock:
            for until in untold:
                until[0] = now_s + GRACE_S
            self._until = {ino: until for ino, until in self._until.items() if until[0] >= now_s}
            self._sent_back_s = {pid: at_s for pid, at_s in self._sent_back_s.items() if now_s - at_s < RETRY_S}
            if not self._until:
                self._refused.clear()

    def sent_back(self, pid: int) -> None:
        """A thread's open was answered ESTALE, for whatever reason: its next one must not be, or the application would see it."""
        with self._lock:
            self._sent_back_s[pid] = time.monotonic()

    def refuses(self, ino: Inode, pid: int) -> bool:
        """Whether a thread that opens an inode is to find its way anew."""
        if not self._until and not self._sent_back_s:
            return False
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._sent_back_s.pop(pid, -_FOR_EVER) < RETRY_S:
                self._refused.add((ino, pid))
                return False
            is_suspect = any(now_s <= self._until[each][0] for each in (ino, _ANY) if each in self._until)
            if not is_suspect or (ino, pid) in self._refused:
                return False
            self._refused.add((ino, pid))
            return True
