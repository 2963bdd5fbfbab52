"""Advisory locks: fcntl byte ranges and flock, held in one row per inode so that all nodes see them.

Nothing waits here: a lock that conflicts is refused with EAGAIN and the VFS tries again. The two kinds ignore each other.
A holder is a session and an owner the kernel made up (a process's table of files for fcntl, an open file for flock). The
fcntl locks of one holder never overlap, and neighbours of one type are one lock. A `k` row of the session is written by the
commit that makes it a holder, so that the locks of a session that died can be found; it may outlive the locks.
"""

import errno
import fcntl
from collections.abc import Callable, Sequence

from cairnfs.errors import FsError
from cairnfs.meta.core import MetaCore
from cairnfs.meta.records import (
    HeldLock,
    decode_locks,
    encode_locks,
    locked_key,
    locked_part,
    locks_key,
    number_of,
)
from cairnfs.meta.txn import Txn
from cairnfs.types import Inode, Lock, Position, SessionId

SCAN_INODES = 256


class Locks:
    """Locks of one volume. Every method may raise StoreError and CorruptError (EIO)."""

    def __init__(self, core: MetaCore) -> None:
        self._core = core

    def getlk(self, ino: Inode, lock: Lock) -> Lock | None:
        """The first lock that would keep `lock` from being taken; its pid is 0 when another session holds it."""
        held = decode_locks(ino, self._core.store.read((locks_key(ino),))[0])
        found = first_conflict(held, HeldLock(self._core.session, lock))
        if found is None:
            return None
        return found.lock if found.session == self._core.session else found.lock._replace(pid=0)

    def setlk(self, ino: Inode, lock: Lock) -> Position:
        """Take, change or (F_UNLCK) give up a lock, or raise EAGAIN at once when another holder is in the way.

        Returns the position of the commit, 0 if nothing had to be changed.

        As on Linux, a flock that is to be converted is given up before the new one is tried, and stays so on EAGAIN.
        """

        def build(txn: Txn) -> bool:
            session = self._core.session
            wanted = HeldLock(session, lock)
            held = decode_locks(ino, txn.get(locks_key(ino)))
            marked = any(other.session == session for other in held)
            if first_conflict(held, wanted) is None:
                if lock.type != fcntl.F_UNLCK:
                    self._core.while_alive(txn)
                _store(txn, ino, held, changed(held, wanted), session, marked)
                return True
            if lock.flock:
                given_up = HeldLock(session, lock._replace(type=fcntl.F_UNLCK))
                _store(txn, ino, held, changed(held, given_up), session, marked)
            return False

        taken, committed = self._core.transact_at(build)
        if not taken:
            raise FsError(errno.EAGAIN)
        return committed.position

    def held(self, ino: Inode) -> list[HeldLock]:
        """What this session holds on an inode."""
        held = decode_locks(ino, self._core.store.read((locks_key(ino),))[0])
        return [lock for lock in held if lock.session == self._core.session]

    def release(self, ino: Inode, owner: int, *, flock: bool) -> None:
        """Give up all locks of one kind that an owner of this session holds on an inode."""
        session = self._core.session

        def gone(held: HeldLock) -> bool:
            return held.session == session and held.lock.owner == owner and held.lock.flock == flock

        self._drop(ino, session, gone)

    def drop_session(self, session: SessionId) -> int:
        """Give up every lock of a session, dead or ending; how many inodes had some. The session must take no more."""
        n_inodes = 0
        while page := self._core.store.scan(locked_part(session), None, SCAN_INODES):
            for key, _ in page:
                ino = Inode(number_of(key))
                n_inodes += self._drop(ino, session, lambda held: held.session == session)
        return n_inodes

    def _drop(self, ino: Inode, session: SessionId, gone: Callable[[HeldLock], bool]) -> bool:
        """Remove the locks that are `gone`, and the session's `k` row if it holds no others; whether there were any."""

        def build(txn: Txn) -> bool:
            held, mark = txn.get_many((locks_key(ino), locked_key(session, ino)))
            locks = decode_locks(ino, held)
            left = [lock for lock in locks if not gone(lock)]
            if mark is not None:
                _store(txn, ino, locks, left, session, marked=True)
            return len(left) < len(locks)

        return self._core.transact(build)


def _store(txn: Txn, ino: Inode, before: Sequence[HeldLock], after: Sequence[HeldLock], session: SessionId, marked: bool) -> None:
    """Effects that make `after` the locks of an inode; `marked`: whether the session's `k` row is there."""
    holds = any(held.session == session for held in after)
    if list(before) == list(after) and holds == marked:
        return
    txn.unchanged(locks_key(ino))
    if after:
        txn.put(locks_key(ino), encode_locks(after))
    else:
        txn.delete(locks_key(ino))
    if holds and not marked:
        txn.put(locked_key(session, ino), b"")
    elif marked and not holds:
        txn.delete(locked_key(session, ino))


def first_conflict(held: Sequence[HeldLock], wanted: HeldLock) -> HeldLock | None:
    """The first lock of another holder that excludes `wanted`; an unlock conflicts with nothing."""
    return next((other for other in held if _conflict(other, wanted)), None)


def changed(held: Sequence[HeldLock], wanted: HeldLock) -> list[HeldLock]:
    """The locks after `wanted` was taken (or, F_UNLCK, given up), in the order of their start.

    What its holder had in that range is replaced, locks that stick out are cut or split, equal neighbours are joined.
    """
    others = [lock for lock in held if not _same_holder(lock, wanted)]
    own = [piece for lock in held if _same_holder(lock, wanted) for piece in _outside(lock, wanted.lock)]
    if wanted.lock.type != fcntl.F_UNLCK:
        own.append(wanted)
    return sorted(others + _joined(own), key=lambda lock: (lock.lock.start, lock.session, lock.lock.owner))


def _conflict(other: HeldLock, wanted: HeldLock) -> bool:
    if other.lock.flock != wanted.lock.flock or _same_holder(other, wanted):
        return False
    if other.lock.end < wanted.lock.start or other.lock.start > wanted.lock.end:
        return False
    if wanted.lock.type == fcntl.F_UNLCK:
        return False
    return fcntl.F_WRLCK in (other.lock.type, wanted.lock.type)


def _same_holder(one: HeldLock, other: HeldLock) -> bool:
    return (one.session, one.lock.owner, one.lock.flock) == (other.session, other.lock.owner, other.lock.flock)


def _outside(held: HeldLock, lock: Lock) -> list[HeldLock]:
    """The parts of `held` that lie before and after the range of `lock`."""
    start, end = held.lock.start, held.lock.end
    pieces = ((start, min(end, lock.start - 1)), (max(start, lock.end + 1), end))
    return [held._replace(lock=held.lock._replace(start=low, end=high)) for low, high in pieces if low <= high]


def _joined(own: list[HeldLock]) -> list[HeldLock]:
    """Locks of one holder with neighbours of one type made one."""
    joined: list[HeldLock] = []
    for held in sorted(own, key=lambda lock: lock.lock.start):
        last = joined[-1] if joined else None
        if last is not None and last.lock.type == held.lock.type and last.lock.end + 1 == held.lock.start:
            joined[-1] = held._replace(lock=held.lock._replace(start=last.lock.start))
        else:
            joined.append(held)
    return joined
