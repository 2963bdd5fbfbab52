"""Fetching into the arena for another process that answers from there.

Nothing is decided here: rows pass the store that keeps what passes (`meta.stores.kept`), bytes the slice cache. What the arena
refuses (outdated, no room) the other process fetches for itself.
"""

from cairnfs.const import ROOT_INO
from cairnfs.data import Data
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.meta import Meta
from cairnfs.types import Inode, PackId, SliceRef
from cairnfs.vfs.virtual import NAMES


class Fetching:
    """Of one volume. Thread-safe."""

    def __init__(self, meta: Meta, data: Data, arena: Arena) -> None:
        self._names = meta.names
        self._fetcher = data.reader.fetcher
        self._arena = arena

    def name(self, parent: Inode, name: bytes) -> None:
        """A name, also one that does not exist, and what it stands for. OSError when the store fails."""
        if parent == ROOT_INO and name in NAMES:
            return  # the store does not know these, but they exist
        try:
            self._names.lookup(parent, name)
        except FsError:
            pass  # which is known now

    def inode(self, ino: Inode, *, with_bytes: bool) -> None:
        """Attributes and, if all is one slice, the bytes of a file. OSError when a store fails."""
        if self._arena.attr(ino) is None:
            try:
                self._names.get_first(ino)
            except FsError:
                return
        piece = self._arena.piece(ino) if with_bytes else None
        if piece is None or piece[0] == 0:
            return
        _, _, pack, stored_off, stored_len, plain_len, crc, codec = piece
        if plain_len <= self._arena.max_slice_bytes:
            self._fetcher.whole(SliceRef(PackId(pack), stored_off, stored_len, plain_len, crc, codec), ino)
