"""Entries of a listing that one round trip has brought for several requests, where round trips cost time.

A request may come long after they were read. So an entry is given with attributes only while the arena says that its name still
stands for its inode, which it forgets with every change; and not at all when the name is known to be gone. Attributes come
from the arena, or are fetched: they are never older than the request.

Whoever has read on beyond the first page gets the next one while still busy with the one before.
"""

import threading
from collections.abc import Callable

from cairnfs.ext.page import Page
from cairnfs.meta.names import PageOfNames

FIRST_ENTRIES = 128  # whoever looks at the beginning only need not wait for more
MODEST_ENTRIES = 1000  # of a whole directory, which come at once: a millisecond or two of the server's time
MAX_ENTRIES = 5000  # some MiB here, five milliseconds of the server's time


class Coming(threading.Thread):
    """A page on its way."""

    def __init__(self, after: bytes | None, with_inodes: bool, read: Callable[[], PageOfNames]) -> None:
        super().__init__(name="listing-ahead", daemon=True)
        self.what = (after, with_inodes)
        self._read = read
        self._found: PageOfNames | None = None

    def run(self) -> None:
        try:
            self._found = self._read()
        except Exception:
            pass  # whoever needs it reads by itself, and is told what is wrong

    def wait(self) -> PageOfNames | None:
        """The page, None when it could not be read."""
        self.join()
        return self._found


class Ahead:
    """Of one open directory; the caller locks."""

    def __init__(self, n_expected: int = MODEST_ENTRIES + 1) -> None:
        """`n_expected`: how many entries the directory had a moment ago."""
        self._after: bytes | None = None  # the page has all that follow this name, up to the last of them
        self._page: Page | None = None
        self._is_last = False
        self._coming: Coming | None = None
        self.n_wanted = FIRST_ENTRIES if n_expected > MODEST_ENTRIES else MODEST_ENTRIES + 1

    def following(self, after: bytes | None) -> tuple[Page, int, bool] | None:
        """Entries after a name: a page, its first row of them, whether there are no others. None when they have to be read."""
        page = self._page
        if page is None or (after is None and self._after is not None):
            return None
        if after is None:
            return page, 0, self._is_last
        if self._after is not None and after < self._after:
            return None
        begin = page.n_up_to(after)
        return (page, begin, self._is_last) if begin < len(page) or self._is_last else None

    def put(self, after: bytes | None, page: Page) -> None:
        """`n_wanted` entries after a name were read, and these are there."""
        self._after, self._page = after, page
        self._is_last = len(page) < self.n_wanted
        self.n_wanted = min(4 * self.n_wanted, MAX_ENTRIES)

    def expect(self, with_inodes: bool, read: Callable[[bytes | None, int], PageOfNames]) -> None:
        """Have the page that comes next read, unless there is none or too little has been read yet to tell that it is wanted."""
        if self._is_last or self._after is None or self._page is None:
            return
        after, limit = self._page.last, self.n_wanted
        self._coming = Coming(after, with_inodes, lambda: read(after, limit))
        try:
            self._coming.start()
        except RuntimeError:
            self._coming = None  # no more threads

    def expected(self, after: bytes | None, with_inodes: bool) -> PageOfNames | None:
        """`n_wanted` entries after a name, if they were expected."""
        coming, self._coming = self._coming, None
        return coming.wait() if coming is not None and coming.what == (after, with_inodes) else None
