"""Rows of files of several slices that workers which fetch have read, for the one that serves: it reads their bytes, and would
have to ask the store where these are. The arena's own entries have no room for that.

A row is kept as a slice of the arena, (1 << 63 | inode, version modulo 2^32): its version, 8 bytes, then its value. Packs are
numbered from 1 up, and listings have that bit with inodes of directories. It is the present row while the arena's attributes
have its version; nothing is ever invalidated, and what is old goes when others need the room.
"""

import stat
from collections.abc import Mapping

from cairnfs.ext.arena import Arena
from cairnfs.ext.page import Page
from cairnfs.ext.slicer import RECORD_BYTES
from cairnfs.meta.records import ATTR_SUBKEY, INODE_PREFIX, TAIL_AT, ino_of_part
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Position

PACK = 1 << 63
VERSION_BYTES = 8
INO_BYTES = 8  # at the beginning of a directory's entry
MODE_AT = 2


class PassedOn:
    """In one arena, which any of its processes may use."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def put(self, rows: Mapping[Key, Row | None]) -> None:
        """These were read."""
        for (part, subkey), row in rows.items():
            if row is not None and part[:1] == INODE_PREFIX and subkey == ATTR_SUBKEY:
                self._put(ino_of_part(part), row.value, row.version)

    def put_page(self, page: Page) -> None:
        """These entries of a directory were read, with the inodes that they name."""
        for _, (dentry, _), named in page:
            if named is not None:
                self._put(int.from_bytes(dentry[:INO_BYTES]), *named)

    def _put(self, ino: int, value: bytes, version: int) -> None:
        if len(value) > TAIL_AT + RECORD_BYTES and stat.S_ISREG(int.from_bytes(value[MODE_AT : MODE_AT + 2])):
            self._arena.slice_put(PACK | ino, _place(version), version.to_bytes(VERSION_BYTES) + value)

    def get(self, key: Key, version: Position) -> Row | None:
        """The row of an inode at a version."""
        found = self._arena.slice_get(PACK | ino_of_part(key[0]), _place(version))
        if found is None or found[:VERSION_BYTES] != version.to_bytes(VERSION_BYTES):
            return None
        return Row(found[VERSION_BYTES:], version)


def _place(version: int) -> int:
    return version & 0xFFFFFFFF
