"""Opcodes about open files, open directories and locks. Used by `fuse_chan`; Python meets `DirReply.put` only."""

from typing import Any, final

from cairnfs.ext.page import Page

__pyx_capi__: dict[str, Any]
"""What other compiled modules take from this one."""

@final
class DirReply:
    """The reply to a READDIR in the making, for whoever has pages of rows."""

    def put(self, page: Page, begin: int, ino: int, parent: int, cookie: int, is_old: bool) -> tuple[int, int, int]:
        """Lay out rows of the directory `ino` from `begin` on, the first with `cookie`; `parent` is what ".." stands for. An old
        page was read for an earlier request: what its names stand for is looked up again.

        Returns how many rows are done with, how many of them (the last ones) were given, and bytes of the reply so far.
        ValueError when the request is over.
        """
