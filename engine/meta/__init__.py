"""Metadata: the POSIX operations, written once over the store contract.

`Meta` is the face of one volume's metadata. It groups the operations: `names` (directories and inodes), `attrs`, `xattrs`
(with ACLs), `layout` (what a file's bytes are made of), `locks`, `sessions`. Every operation is one commit, in `txn`; rows
are described in `records`, stores are in `stores`.
"""

from collections.abc import Callable
from typing import Any

from cairnfs.clock import Clock
from cairnfs.meta.attrs import Attrs
from cairnfs.meta.core import MetaCore
from cairnfs.meta.layout import Layout
from cairnfs.meta.locks import Locks
from cairnfs.meta.names import Names
from cairnfs.meta.sessions import Sessions
from cairnfs.meta.stores.base import Store
from cairnfs.meta.volume import VolumeFormat
from cairnfs.meta.xattrs import Xattrs
from cairnfs.metrics import Counter, Metrics

__all__ = ["Meta"]


class Meta:
    """The metadata of one volume; safe to use from several threads. The store stays the caller's to close."""

    def __init__(self, store: Store, clock: Clock | None = None, metrics: Metrics | None = None) -> None:
        """Load the volume's format. VolumeError when the store holds no volume, or one newer than this program."""
        self.core = MetaCore(store, clock)
        self.store = store
        self.clock = self.core.clock
        self.ids = self.core.ids
        self.names = Names(self.core)
        self.attrs = Attrs(self.core)
        self.xattrs = Xattrs(self.core)
        self.layout = Layout(self.core)
        self.locks = Locks(self.core)
        self.sessions = Sessions(self.core, lambda session: self.locks.drop_session(session))
        if metrics is not None:
            metrics.sessions.source = lambda: self.sessions.n_known
            for name, counter in metrics.meta_operations.items():
                group, _, operation = name.partition(".")
                _count(getattr(self, group), operation, counter)

    @property
    def format(self) -> VolumeFormat:
        """What the volume is, as it was when it was opened."""
        return self.core.format


def _count(group: object, operation: str, counter: Counter) -> None:
    """Count the calls of one operation of a group, also those that another operation of the group makes."""
    call: Callable[..., Any] = getattr(group, operation)
    add = counter.add

    def counted(*args: Any, **kwargs: Any) -> Any:
        add()
        return call(*args, **kwargs)

    setattr(group, operation, counted)
