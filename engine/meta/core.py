"""What every group of metadata operations stands on: the store, the clock, the volume's format, numbers, and transactions."""

from collections.abc import Callable
from typing import TypeVar

from cairnfs.clock import Clock, SystemClock
from cairnfs.errors import SessionLost
from cairnfs.meta.ids import Ids
from cairnfs.meta.kept_layouts import KeptLayouts
from cairnfs.meta.neighbours import Neighbours
from cairnfs.meta.recall import Recall
from cairnfs.meta.records import locked_key, session_key
from cairnfs.meta.stores.base import Committed, Store
from cairnfs.meta.txn import Txn, transact_at
from cairnfs.meta.volume import VolumeFormat, load_format
from cairnfs.types import Inode, SessionId

T = TypeVar("T")


class MetaCore:
    """Shared by the operation groups of one mounted volume; safe to use from several threads."""

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        """Load the volume's format from `store`. VolumeError when there is no volume or it is newer than this program."""
        self.store = store
        self.clock: Clock = SystemClock() if clock is None else clock
        self.format: VolumeFormat = load_format(store)
        self.ids = Ids(store)
        self.recall = Recall(store)
        self.layouts = KeptLayouts()
        self.neighbours = Neighbours()
        self.renew: Callable[[], None] | None = None  # of whoever has a session: has another one opened in its place
        self.is_fenced: Callable[[Inode], bool] = lambda ino: False  # content changes only while locks are held, see `fence`

    def forget(self) -> None:
        """The store may have gone back: nothing that came of it counts any more."""
        self.recall.clear()
        self.layouts.clear()
        self.ids.forget()

    @property
    def session(self) -> SessionId:
        """The session of this process, 0 before one is opened."""
        return self.store.origin

    def now_ns(self) -> int:
        """The time for new timestamps, nanoseconds since the epoch."""
        return self.clock.now_ns()

    def while_alive(self, txn: Txn) -> None:
        """Condition for what is to end with the session: nobody has taken it for dead. Else another one is opened, and the
        operation runs again.
        """
        if self.renew is not None:
            txn.exists(session_key(self.session), SessionLost(f"session {self.session} was taken for dead"))

    def fence(self, txn: Txn, ino: Inode) -> None:
        """Condition for a change of content by somebody who relies on a lock: the lock is still there. SessionLost (EIO)."""
        if self.is_fenced(ino):
            lost = SessionLost(f"inode {ino}: its locks were given up while this node was cut off; what was written is lost")
            txn.exists(locked_key(self.session, ino), lost)

    def transact(self, build: Callable[[Txn], T]) -> T:
        """`txn.transact` on this volume's store."""
        return self.transact_at(build)[0]

    def transact_at(self, build: Callable[[Txn], T]) -> tuple[T, Committed]:
        """`txn.transact_at` on this volume's store: also the position and the new values of added fields."""
        session = self.store.origin
        try:
            return transact_at(self.store, build, self.recall)
        except SessionLost:
            if self.renew is None:
                raise
            self.renew()
            if self.session == session:
                raise
        return transact_at(self.store, build, self.recall)
