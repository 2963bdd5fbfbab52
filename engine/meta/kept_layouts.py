"""Layouts of chunks beyond the first that were read lately, each with the version that its inode's row had at that moment.

A chunk's row changes only along with the inode's (`layout_edit`). So a layout is the present one while the inode has that
version, and whoever knows the inode need not read it again.
"""

import threading
from collections import OrderedDict

from cairnfs.const import MIB
from cairnfs.types import Inode, Position

MAX_BYTES = 8 * MIB
EACH_BYTES = 300  # what one takes besides its records, about


class KeptLayouts:
    """Those used last. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._left_bytes = max_bytes
        self._kept: OrderedDict[tuple[Inode, int], tuple[Position, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, ino: Inode, chunk_no: int, version: Position) -> bytes | None:
        """The layout of a chunk when the inode's row had a version."""
        with self._lock:
            kept = self._kept.get((ino, chunk_no))
            if kept is None or kept[0] != version:
                return None
            self._kept.move_to_end((ino, chunk_no))
            return kept[1]

    def put(self, ino: Inode, chunk_no: int, version: Position, layout: bytes) -> None:
        """This was read from one snapshot."""
        with self._lock:
            self._drop((ino, chunk_no))
            self._kept[ino, chunk_no] = (version, layout)
            self._left_bytes -= EACH_BYTES + len(layout)
            while self._left_bytes < 0:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Versions of before mean nothing any more."""
        with self._lock:
            for key in list(self._kept):
                self._drop(key)

    def _drop(self, key: tuple[Inode, int]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._left_bytes += EACH_BYTES + len(kept[1])
