"""Numbers that are never used twice: inodes, packs, sessions.

Each process takes a batch from a counter in the store, by one commit, and hands them out itself. What is left of a batch when
a process ends is never used. A store that may have lost that numbers were given out goes on well beyond them.
"""

import threading

from cairnfs.errors import StoreError
from cairnfs.meta import records
from cairnfs.meta.stores.base import Add, Committed, ConditionFailed, Exists, Store
from cairnfs.meta.stores.fields import field
from cairnfs.types import Inode, PackId, SessionId

INODE_BATCH = 1024  # one extra commit per 1,024 creates; 2**53 numbers last for 8 * 10**12 mounts
PACK_BATCH = 256


class _Batch:
    """Numbers from one counter, safe to take from several threads."""

    def __init__(self, store: Store, offset: int, batch: int) -> None:
        self._store = store
        self._offset = offset
        self._batch = batch
        self._lock = threading.Lock()
        self._next = 0
        self._end = 0
        self._n_asked = 0  # how often for a batch
        self._refused: tuple[int, StoreError] | None = None  # the last of them in vain, and why

    def take(self) -> int:
        came = self._n_asked
        with self._lock:
            if self._next == self._end:
                if self._refused is not None and self._refused[0] > came:
                    # While this call waited for its turn, and each would wait for the store as long again.
                    raise StoreError(str(self._refused[1]), self._refused[1].errno) from self._refused[1]
                self._take_batch()
            self._next += 1
            return self._next - 1

    def _take_batch(self) -> None:
        self._n_asked += 1
        try:
            self._end = take_numbers(self._store, self._offset, self._batch) + self._batch
        except StoreError as error:
            self._refused = self._n_asked, error
            raise
        self._next = self._end - self._batch

    def forget(self) -> None:
        with self._lock:
            self._next = self._end


class Ids:
    """The allocators of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inodes = _Batch(store, records.NEXT_INODE_AT, INODE_BATCH)
        self._packs = _Batch(store, records.NEXT_PACK_AT, PACK_BATCH)

    def forget(self) -> None:
        """Use no more numbers of the present batches: the store has lost that they were given out."""
        self._inodes.forget()
        self._packs.forget()

    def inode(self) -> Inode:
        """An inode number no inode ever had. StoreError when the store fails."""
        return Inode(self._inodes.take())

    def pack(self) -> PackId:
        """A pack id no pack ever had. StoreError when the store fails."""
        return PackId(self._packs.take())

    def session(self) -> tuple[SessionId, PackId]:
        """A session id no session ever had, and a pack id that nobody had until then. StoreError when the store fails."""
        committed = _added(self._store, records.NEXT_SESSION_AT, 1)
        return SessionId(committed.added[0] - 1), PackId(field(committed.rows[records.NEXT_KEY], records.NEXT_PACK_AT))


def take_numbers(store: Store, offset: int, n: int) -> int:
    """Reserve `n` consecutive numbers of a counter in the `next` row; returns the first. StoreError, also without a volume."""
    return _added(store, offset, n).added[0] - n


def _added(store: Store, offset: int, n: int) -> Committed:
    try:
        return store.commit([Exists(records.NEXT_KEY)], [Add(records.NEXT_KEY, offset, n, unused=True)])
    except ConditionFailed as failure:
        raise StoreError("the metadata store holds no volume any more") from failure
