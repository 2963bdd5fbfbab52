"""fcntl and flock locks: waiting for them, and letting go of them when handles close. The lock table is `engine.meta.locks`.

A waiter tries again when a lock of that inode is released in this process, when the change log tells that its locks have changed
elsewhere, and from time to time.
There is no queue (whoever tries first wins) and no search for deadlocks between owners.
The kernel names the owner of a flock by the address of its open file description, which may be that of the next one before the
RELEASE of this one is served: no close waits for it. So the owner here is the handle. Who asks for a flock without waiting waits
for a moment all the same if another handle of this mount has it: its RELEASE may be on the way. The owner of an fcntl lock is a
process, which may have taken the next one as well by then: a RELEASE gives back only what was last taken through its own handle.
A lock is also a point of coherence between nodes: taking one forgets what is known of the inode, here and in the kernel, giving
it back stores what is dirty first, so that whoever gets it next sees it, also through files that were open all the while.
"""

import errno
import fcntl
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from cairnfs.errors import CairnError, FsError
from cairnfs.types import Caller, Inode, Lock, Position
from cairnfs.vfs.handles import Handle
from cairnfs.vfs.openfile import OpenFile
from cairnfs.vfs.state import VfsState

log = logging.getLogger("cairnfs.vfs")

_OWNER = (1 << 64) - 1  # of a handle's number: that of compiled code without the inode

FIRST_WAIT_S = 0.002
LONGEST_WAIT_S = 0.1  # what a release elsewhere may take to be noticed where nobody follows the change log
FOLLOWED_WAIT_S = 5.0  # and where it is followed, in case that the log cannot be read
RELEASE_COMES_S = 0.02  # what a RELEASE that is on its way may take
INTERRUPT_CHECK_S = 0.02  # what a signal may take to end a wait


class Releases:
    """Counts releases per inode while somebody waits for one there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Counter[Inode] = Counter()
        self._released: Counter[Inode] = Counter()

    def enter(self, ino: Inode) -> None:
        with self._changed:
            self._waiting[ino] += 1

    def leave(self, ino: Inode) -> None:
        with self._changed:
            self._waiting[ino] -= 1
            if not self._waiting[ino]:
                del self._waiting[ino]
                self._released.pop(ino, None)

    def count(self, ino: Inode) -> int:
        return self._released[ino]

    def notify(self, ino: Inode) -> None:
        if ino in self._waiting:
            with self._changed:
                self._released[ino] += 1
                self._changed.notify_all()

    def wait(self, ino: Inode, seen: int, seconds: float) -> bool:
        """Wait until more than `seen` releases were counted; False when that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._released[ino] != seen, seconds)


def _owned(fh: int, lock: Lock) -> Lock:
    return lock._replace(owner=fh & _OWNER) if lock.flock else lock


class Locking:
    """Operations on locks through open handles."""

    def __init__(self, state: VfsState) -> None:
        self._state = state
        self._locks = state.meta.locks
        self._releases = Releases()
        self.is_followed = False  # the change log's releases come to `released`
        self.show: Callable[[Inode, Position], None] | None = None  # the kernel drops what others have made outdated

    def released(self, inos: Iterable[Inode]) -> None:
        """Another process has changed the locks of these inodes."""
        for ino in inos:
            self._releases.notify(ino)

    def getlk(self, ino: Inode, fh: int, lock: Lock) -> Lock | None:
        """A lock that is in the way of `lock`, None when it could be taken."""
        return self._locks.getlk(ino, _owned(fh, lock))

    def setlk(self, c: Caller, fh: int, lock: Lock, wait: bool) -> None:
        """Take or give back a lock. EAGAIN when it is taken and `wait` is not set, EINTR when the wait was interrupted."""
        handle = self._state.handle(fh)
        file = handle.file
        lock = _owned(fh, lock)
        if lock.type == fcntl.F_UNLCK:
            self._unlock(file, lock)
            return
        file.locks.check({lock.owner})
        if lock.flock:
            file.locks.forget(lock.owner, flock=True)  # it is given up before it is converted
        position = self._take(c, file, lock, wait)
        file.locks.note(lock)
        if lock.flock:
            handle.flock_owner = lock.owner
        else:
            handle.lock_owners.add(lock.owner)
            file.lock_owners[lock.owner] = handle
        self._note_owners(fh, handle)
        try:
            if self.show is not None:
                self.show(file.ino, position)  # EIO leaves the lock taken: what it replaced may have been one
        finally:
            file.invalidate()
            self._state.arena.forget(file.ino)

    def gone(self, fh: int, handle: Handle, owner: int) -> None:
        """The fcntl locks of an owner were given back by a close of a handle: its RELEASE is not to do it again."""
        handle.lock_owners.discard(owner)
        self._note_owners(fh, handle)

    def release_owner(self, file: OpenFile, owner: int) -> None:
        """Give back every fcntl lock of an owner: POSIX does so when a process closes any descriptor of the file."""
        file.lock_owners.pop(owner, None)
        file.locks.forget(owner, flock=False)
        self._locks.release(file.ino, owner, flock=False)
        self._releases.notify(file.ino)

    def release_flock(self, file: OpenFile, owner: int) -> None:
        """Give back the flock of an open file description, at its last close."""
        file.locks.forget(owner, flock=True)
        self._locks.release(file.ino, owner, flock=True)
        self._releases.notify(file.ino)

    def _note_owners(self, fh: int, handle: Handle) -> None:
        if self._state.carried is not None:
            self._state.carried.handles.owners(fh, next(iter(handle.lock_owners), 0), handle.flock_owner)

    def _unlock(self, file: OpenFile, lock: Lock) -> None:
        try:
            if not file.unlinked:
                file.flush()
        except CairnError as error:
            log.info("inode %d: what was written under a lock cannot be stored: %s", file.ino, error)
            raise
        finally:
            file.locks.note(lock)
            self._locks.setlk(file.ino, lock)
            self._releases.notify(file.ino)

    def _take(self, c: Caller, file: OpenFile, lock: Lock, wait: bool) -> Position:
        """The position at which it was taken."""
        position = self._try(file.ino, lock)
        if position is not None:
            return position
        if not wait and not lock.flock:
            raise FsError(errno.EAGAIN)
        self._releases.enter(file.ino)
        try:
            if wait:
                return self._wait_for(c, file.ino, lock)
            return self._wait_for_release(file.ino, lock)
        finally:
            self._releases.leave(file.ino)

    def _wait_for_release(self, ino: Inode, lock: Lock) -> Position:
        give_up_s = time.monotonic() + RELEASE_COMES_S
        while True:
            seen = self._releases.count(ino)
            is_ours = any(held.lock.flock for held in self._locks.held(ino))
            if (position := self._try(ino, lock)) is not None:
                return position
            left_s = give_up_s - time.monotonic()
            if not is_ours or left_s <= 0 or not self._releases.wait(ino, seen, left_s):
                raise FsError(errno.EAGAIN)

    def _wait_for(self, c: Caller, ino: Inode, lock: Lock) -> Position:
        delay = FOLLOWED_WAIT_S if self.is_followed else FIRST_WAIT_S
        seen = self._releases.count(ino)
        while (position := self._try(ino, lock)) is None:
            self._pause(c, ino, seen, delay)
            seen = self._releases.count(ino)
            if not self.is_followed:
                delay = min(2 * delay, LONGEST_WAIT_S)
        return position

    def _pause(self, c: Caller, ino: Inode, seen: int, delay: float) -> None:
        """Until a release here, or `delay` seconds. EINTR when the caller was signalled."""
        left = delay
        while left > 0:
            if c.interrupted():
                raise FsError(errno.EINTR)
            if self._releases.wait(ino, seen, min(left, INTERRUPT_CHECK_S)):
                return
            left -= INTERRUPT_CHECK_S

    def _try(self, ino: Inode, lock: Lock) -> Position | None:
        """None when another holder is in the way."""
        try:
            return self._locks.setlk(ino, lock)
        except FsError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
