"""What SQLite's shared memory says of the newest commit, whoever made it: the index of the write-ahead log (`PATH-shm`).

The file begins with two copies of a 48-byte header (https://sqlite.org/walformat.html, "WAL-Index Header"), written at the end of
each commit, the second copy first: u32 version @0, u32 change counter @8 (one more with each commit), number of frames @16,
checksums of the last frame @24, salts @32, checksum of the header @40; in the machine's byte order. Bytes 8 to 47 of the first
copy are the mark: while they are the same, nothing has been committed. Behind them is the number of frames that are in the
database file already: u32 @96.
"""

import struct
from pathlib import Path

from cairnfs.ext.arena import MARK_BYTES, Watch
from cairnfs.meta.stores.base import MARK_AT

HEADER_BYTES = 48
N_FRAMES_AT, N_MOVED_AT = 16, 2 * HEADER_BYTES
FRAMES_AT = 8  # in a mark
TRIES = 100

_COUNTER = struct.Struct("=I")


class WalIndex:
    """The mapped header of one file's index. The mapping stays good while the file has connections of this process."""

    def __init__(self, path: Path) -> None:
        """OSError when it cannot be mapped."""
        self.watch = Watch(bytes(Path(f"{path}-shm")), N_MOVED_AT + _COUNTER.size)

    def mark(self) -> bytes | None:
        """The mark at one moment; None while somebody keeps changing it."""
        for _ in range(TRIES):
            header = self.watch.read(0, 2 * HEADER_BYTES)
            if header[:HEADER_BYTES] == header[HEADER_BYTES:]:
                return header[MARK_AT : MARK_AT + MARK_BYTES]
        return None

    def is_moved(self) -> bool:
        """Whether the database file has all that is in the log, so that the next commit may begin it anew."""
        n_moved = self.watch.read(N_MOVED_AT, _COUNTER.size)  # first: who begins the log anew changes the other one first
        return counter(n_moved) >= counter(self.watch.read(N_FRAMES_AT, _COUNTER.size))

    def mark_of_next(self, before: bytes | None) -> bytes | None:
        """The mark after a commit made since `before`, None when it is not, or perhaps not, that of the very next commit."""
        now = self.mark()
        if before is None or now is None or counter(now) != (counter(before) + 1) & 0xFFFFFFFF:
            return None
        return now


def counter(mark: bytes) -> int:
    """The change counter in a mark."""
    found: int = _COUNTER.unpack_from(mark)[0]
    return found


def n_frames(mark: bytes) -> int:
    """How many pages are in the log when a mark is left: those of the newest commit are the last."""
    found: int = _COUNTER.unpack_from(mark, FRAMES_AT)[0]
    return found
