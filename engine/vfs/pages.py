"""Which content the kernel's pages show, so that an open can say "keep them", and the newest content known per inode.

Per inode, in terms of `data_version` (see `types.Attr`): what the pages that a front let the kernel keep correspond to, and
the newest that this process has committed or opened. Commits of this process go through the kernel's own pages (writes,
truncations and hole punching change them first), so they advance the former as long as nothing foreign came between;
anything else drops it, and the next open starts with empty pages. Entries are hints, bounded in number: losing one costs
re-reading, never a stale page. Thread-safe.
"""

import threading
from collections import OrderedDict

from cairnfs.types import Attr, Inode

MAX_ENTRIES = 1 << 17  # about 30 MB of Python objects; the kernel rarely holds pages of more files

UNKNOWN = -1


class _Entry:
    __slots__ = ("newest", "pages")

    def __init__(self, version: int) -> None:
        self.newest = version
        self.pages = version


class PageVersions:
    """Inode -> versions; the least recently opened are forgotten first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Inode, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def opened(self, attr: Attr) -> bool:
        """An open with fresh attributes: True when the kernel's pages are this very content."""
        with self._lock:
            entry = self._entries.get(attr.ino)
            if entry is None:
                self._entries[attr.ino] = _Entry(attr.data_version)
                if len(self._entries) > self._max_entries:
                    self._entries.popitem(last=False)
                return False
            self._entries.move_to_end(attr.ino)
            keep = entry.pages == attr.data_version
            entry.pages = attr.data_version
            entry.newest = max(entry.newest, attr.data_version)
            return keep

    def newest(self, ino: Inode) -> int:
        """The newest version known here: a row with a smaller one was read before a commit that callers know of."""
        entry = self._entries.get(ino)
        return UNKNOWN if entry is None else entry.newest

    def committed(self, attr: Attr) -> None:
        """A commit of this process made `attr`; the pages follow if it came right after what they show."""
        with self._lock:
            entry = self._entries.get(attr.ino)
            if entry is None:
                return
            if entry.pages not in (attr.data_version, attr.data_version - 1):
                entry.pages = UNKNOWN
            elif entry.pages != UNKNOWN:
                entry.pages = attr.data_version
            entry.newest = max(entry.newest, attr.data_version)

    def drop(self, ino: Inode) -> None:
        """The pages may differ from the content (foreign commit, failed flush)."""
        with self._lock:
            entry = self._entries.get(ino)
            if entry is not None:
                entry.pages = UNKNOWN

    def drop_all(self) -> None:
        """Any page may differ from the content."""
        with self._lock:
            for entry in self._entries.values():
                entry.pages = UNKNOWN

    def forget(self, ino: Inode) -> None:
        """The kernel has forgotten the inode."""
        if ino in self._entries:
            with self._lock:
                self._entries.pop(ino, None)
