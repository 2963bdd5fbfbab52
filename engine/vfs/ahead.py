"""Entries of a listing that one round trip has brought for several requests, where round trips cost time.

A request may come long after they were read. So an entry is given with attributes only while the arena says that its name still
stands for its inode, which it forgets with every change; and not at all when the name is known to be gone. Attributes come
from the arena, or are fetched: they are never older than the request.
"""

from bisect import bisect_right
from collections.abc import Sequence

from cairnfs.meta.names import Listed

FIRST_ENTRIES = 128  # whoever looks at the beginning only need not wait for more
MAX_ENTRIES = 5000  # some MiB here, five milliseconds of the server's time


class Ahead:
    """Of one open directory; the caller locks."""

    def __init__(self) -> None:
        self._after: bytes | None = None  # entries are all that follow this name, up to the last of them
        self._entries: Sequence[Listed] = ()
        self._is_last = False
        self.n_wanted = FIRST_ENTRIES

    def following(self, after: bytes | None) -> tuple[Sequence[Listed], bool] | None:
        """Entries after a name, and whether there are no others; None when they have to be read."""
        if not self._entries and not self._is_last:
            return None
        if after is None:
            return (self._entries, self._is_last) if self._after is None else None
        if self._after is not None and after < self._after:
            return None
        if self._entries and after < self._entries[-1].name:
            return self._entries[bisect_right(self._entries, after, key=_name) :], self._is_last
        return ((), True) if self._is_last else None

    def put(self, after: bytes | None, entries: Sequence[Listed]) -> None:
        """`n_wanted` entries after a name were read, and these are there."""
        self._after, self._entries = after, entries
        self._is_last = len(entries) < self.n_wanted
        self.n_wanted = min(4 * self.n_wanted, MAX_ENTRIES)


def _name(listed: Listed) -> bytes:
    return listed.name
