"""Metadata: the POSIX operations, written once over the store contract.

`Meta` is the face of one volume's metadata. It groups the operations: `names` (directories and inodes), `attrs`, `xattrs`
(with ACLs), `layout` (what a file's bytes are made of), `locks`, `sessions`. Every operation is one commit, in `txn`; rows
are described in `records`, stores are in `stores`.
"""

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

__all__ = ["Meta"]


class Meta:
    """The metadata of one volume; safe to use from several threads. The store stays the caller's to close."""

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
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
        self.sessions = Sessions(self.core, self.locks.drop_session)

    @property
    def format(self) -> VolumeFormat:
        """What the volume is, as it was when it was opened."""
        return self.core.format
