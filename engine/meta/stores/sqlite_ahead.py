"""Has the kernel bring the part of SQLite's write-ahead log that is about to be written over.

The log begins again where it began, over what was checkpointed. Its frames are not aligned to pages (each has a header of 24
bytes), so where the kernel has let go of the old pages, a commit waits for the disk to read each page of which it writes a part:
ten reads for a new file, one after the other, for a log of 40 MB that other files have pushed out of memory.
"""

import os
from contextlib import suppress

from cairnfs.meta.stores.sqlite_watch import n_frames

HEADER_BYTES, FRAME_BYTES = 32, 24 + 4096  # of the log, and of each page in it (https://sqlite.org/walformat.html)
AHEAD_BYTES = 2 << 20  # about a hundred commits


class LogAhead:
    """Of one log, for whoever has the write lock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._from = self._to = 0  # what the kernel was asked for last

    def wrote(self, mark: bytes) -> None:
        """After a commit that left this mark (see `sqlite_watch`)."""
        end = HEADER_BYTES + n_frames(mark) * FRAME_BYTES
        if self._from <= end <= self._to - AHEAD_BYTES // 2:
            return
        self._from, self._to = end, end + AHEAD_BYTES
        with suppress(OSError):  # the commit is done, and must not look as if it had failed
            os.posix_fadvise(self._fd, end, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
