"""What every group of metadata operations stands on: the store, the clock, the volume's format, numbers, and transactions."""

from collections.abc import Callable
from typing import TypeVar

from cairnfs.clock import Clock, SystemClock
from cairnfs.meta.ids import Ids
from cairnfs.meta.neighbours import Neighbours
from cairnfs.meta.recall import Recall
from cairnfs.meta.stores.base import Committed, Store
from cairnfs.meta.txn import Txn, transact, transact_at
from cairnfs.meta.volume import VolumeFormat, load_format
from cairnfs.types import SessionId

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
        self.neighbours = Neighbours()

    def forget(self) -> None:
        """The store may have gone back: nothing that came of it counts any more."""
        self.recall.clear()
        self.ids.forget()

    @property
    def session(self) -> SessionId:
        """The session of this process, 0 before one is opened."""
        return self.store.origin

    def now_ns(self) -> int:
        """The time for new timestamps, nanoseconds since the epoch."""
        return self.clock.now_ns()

    def transact(self, build: Callable[[Txn], T]) -> T:
        """`txn.transact` on this volume's store."""
        return transact(self.store, build, self.recall)

    def transact_at(self, build: Callable[[Txn], T]) -> tuple[T, Committed]:
        """`txn.transact_at` on this volume's store: also the position and the new values of added fields."""
        return transact_at(self.store, build, self.recall)
