"""What the data layer needs of the metadata layer, and of whoever reads: the narrow faces it is given.

The data layer imports nothing of `cairnfs.meta`; a `cairnfs.meta.Meta` fits these protocols.
"""

from collections.abc import Sequence
from typing import Protocol

from cairnfs.types import Attr, Inode, PackId, SliceRef

Piece = tuple[int, int, SliceRef]  # file offset, length, the slice whose first `length` bytes belong there
NewPack = tuple[PackId, int, int]  # pack, plain bytes, bytes of the stored object


class PackIds(Protocol):
    def pack(self) -> PackId:
        """A pack id no pack ever had."""
        ...


class LayoutOps(Protocol):
    """The layout operations of `cairnfs.meta` that bytes depend on."""

    def read(self, ino: Inode, chunk_no: int) -> bytes: ...
    def commit_write(
        self, ino: Inode, pieces: Sequence[Piece], *, mtime_ns: int | None, new_packs: Sequence[NewPack], kill_suid: bool = False
    ) -> Attr: ...
    def replace(
        self, ino: Inode, chunk_no: int, expected_layout: bytes, new_layout: bytes, new_packs: Sequence[NewPack] = ()
    ) -> bool: ...
    def garbage(self, limit: int, after: PackId | None = None) -> list[PackId]: ...
    def drop_packs(self, packs: Sequence[PackId]) -> int: ...
    def free_deleted(self, limit: int) -> int: ...


class Format(Protocol):
    """The part of a volume's format that decides how bytes are stored."""

    @property
    def uuid(self) -> str: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def compression(self) -> str: ...


class Synced(Protocol):
    def sync(self) -> None:
        """Return when every commit acknowledged so far survives loss of power."""
        ...


class MetaPort(Protocol):
    @property
    def store(self) -> Synced: ...
    @property
    def format(self) -> Format: ...
    @property
    def ids(self) -> PackIds: ...
    @property
    def layout(self) -> LayoutOps: ...


class LayoutSource(Protocol):
    """A file as its reader knows it: `layout` gives the slice records of one chunk, from a cache or from the store."""

    @property
    def ino(self) -> Inode: ...
    def layout(self, chunk_no: int) -> bytes: ...
