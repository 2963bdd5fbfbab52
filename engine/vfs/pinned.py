"""Files that a thread has found on its second try along a path, held until it opens them: the kernel has no third one.

On a disk, whoever walks a path holds the inode that it leads to, and opens it though its name is removed meanwhile. Here the
kernel has a number: another process of the mount may remove the file between LOOKUP and OPEN. That is ESTALE, and the kernel
walks again. From then on (`Moved.walks`) each LOOKUP of the thread holds the regular file that it finds, as a handle would: a
removal leaves it without a name, and whoever gives it back last frees it.

A thread has one such file at most, and for HELD_S. None is carried on: a successor of this process frees every file without a
name that has no handle (`resume`). Another node knows of none, as of what is open here.
"""

import threading
from collections.abc import Callable

from cairnfs.clock import Clock
from cairnfs.vfs.openfile import OpenFile

HELD_S = 2.0  # from a LOOKUP to the OPEN that follows at once, on a busy machine


class Pinned:
    """Thread -> the file held for it. Thread-safe."""

    def __init__(self, release: Callable[[OpenFile], None], clock: Clock) -> None:
        """`release`: gives a reference to a file back, which may take a commit."""
        self._release = release
        self._clock = clock
        self._lock = threading.Lock()  # held for dictionary work only
        self._held: dict[int, tuple[OpenFile, float]] = {}  # -> until when
        self._timer: threading.Timer | None = None  # runs while something is held

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, pid: int, file: OpenFile) -> None:
        """Take over a reference to a file, until `let_go` of the thread, or its time is over."""
        with self._lock:
            before = self._held.pop(pid, None)
            self._held[pid] = (file, self._clock.monotonic_s() + HELD_S)
            self._start_timer()
        if before is not None:
            self._release(before[0])

    def let_go(self, pid: int) -> None:
        """The thread has opened what it had found, or looks for something else."""
        if pid not in self._held:
            return
        with self._lock:
            held = self._held.pop(pid, None)
        if held is not None:
            self._release(held[0])

    def expire(self) -> None:
        """Give back what nobody has come for."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            late = [pid for pid, (_, until_s) in self._held.items() if until_s <= now_s]
            files = [self._held.pop(pid)[0] for pid in late]
        try:
            for file in files:
                self._release(file)
        finally:
            with self._lock:
                self._timer = None
                self._start_timer()

    def close(self) -> None:
        """Give everything back; nobody asks for more."""
        with self._lock:
            timer, self._timer = self._timer, None
            files = [file for file, _ in self._held.values()]
            self._held.clear()
        if timer is not None:
            timer.cancel()
            timer.join()  # it may just be giving something back
        for file in files:
            self._release(file)

    def _start_timer(self) -> None:
        """For the oldest. The caller holds the lock."""
        if self._held and self._timer is None:
            _, until_s = next(iter(self._held.values()))
            self._timer = timer = threading.Timer(max(0.0, until_s - self._clock.monotonic_s()), self.expire)
            timer.name, timer.daemon = "pinned", True
            timer.start()
