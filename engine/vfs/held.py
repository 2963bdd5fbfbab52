"""Locks that owners on this node have on one open inode, and those they believe to have after it was cut off for too long.

What is written under a lock must not be stored once the lock is somebody else's. So while there are any, a commit of content
has the condition that the session still holds locks on the inode (`MetaCore.fence`); and once they are lost, what was written
and not stored is dropped, and their owners can neither write nor lock until they have given back what they had.
"""

import threading

from cairnfs.errors import SessionLost
from cairnfs.meta.locks import changed
from cairnfs.meta.records import HeldLock
from cairnfs.types import Inode, Lock, SessionId

_HERE = SessionId(0)


class HeldHere:
    """The locks of one inode."""

    def __init__(self, ino: Inode) -> None:
        self._ino = ino
        self._lock = threading.Lock()
        self._held: list[HeldLock] = []
        self._lost: list[HeldLock] = []
        self.drops = False  # what is dirty was written under locks that are lost

    def __bool__(self) -> bool:
        return bool(self._held or self._lost)

    @property
    def are_lost(self) -> bool:
        """Whether an owner still believes to have one that is lost."""
        return bool(self._lost)

    def note(self, lock: Lock) -> None:
        """A lock was taken, or (F_UNLCK) is about to be given back."""
        with self._lock:
            self._held = changed(self._held, HeldLock(_HERE, lock))
            if self._lost:
                self._lost = changed(self._lost, HeldLock(_HERE, lock))

    def note_all(self, locks: list[HeldLock]) -> None:
        """After a predecessor of this process has died: all that are held."""
        self._held = [HeldLock(_HERE, held.lock) for held in locks]

    def forget(self, owner: int, *, flock: bool) -> None:
        """All of one kind that an owner has are about to be given back."""
        if not self:
            return
        with self._lock:
            for locks in (self._held, self._lost):
                locks[:] = [held for held in locks if (held.lock.owner, held.lock.flock) != (owner, flock)]

    def lose(self) -> bool:
        """The session that held them is gone. True when there were any."""
        with self._lock:
            lost, self._held = self._held, []
            self._lost = self._lost + lost
            self.drops = self.drops or bool(lost)
            return bool(lost)

    def lose_of(self, owner: int, *, flock: bool) -> None:
        """The same for an owner that may have had some."""
        everything = Lock(0, 0, 2**63 - 1, 0, owner, flock)
        self._lost.append(HeldLock(_HERE, everything))
        self.drops = True

    def check(self, owners: set[int]) -> None:
        """SessionLost (EIO) when one of these owners relies on a lock that is lost."""
        if self._lost and any(held.lock.owner in owners for held in self._lost):
            raise self.error()

    def error(self) -> SessionLost:
        return SessionLost(f"inode {self._ino}: its locks were given up while this node was cut off; what was not stored is lost")
