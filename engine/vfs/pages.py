"""Which content the kernel's pages show, so that an open can say "keep them", and the newest content known per inode.

Per inode, in terms of `data_version` (see `types.Attr`): the newest that this process has committed or opened, and whether
the pages that a front let the kernel keep correspond to it. Commits of this process go through the kernel's own pages
(writes, truncations and hole punching change them first), so the pages follow them as long as nothing foreign came
between; anything else drops them, and the next open starts with empty pages. Entries are hints, bounded in number: losing one
costs re-reading, never a stale page. Thread-safe.
"""

import threading

from cairnfs.ext.ino_map import InoMap
from cairnfs.types import Attr, Inode

MAX_ENTRIES = 7 << 18  # 1.8 million inodes: what a table of 32 MiB holds

UNKNOWN = -1
SHOWN = 1  # bit of a value: the pages show the newest version, which is in the other bits
ALL_BUT_SHOWN = 2**64 - 1 - SHOWN


class PageVersions:
    """Inode -> newest version << 1 | whether the pages show it."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._entries = InoMap(max_entries)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def opened(self, attr: Attr) -> bool:
        """An open with fresh attributes: True when the kernel's pages are this very content."""
        version = attr.data_version
        with self._lock:
            entry = self._entries.get(attr.ino)
            if entry is not None and version < entry >> 1:
                self._entries.put(attr.ino, entry & ALL_BUT_SHOWN)
                return False
            self._entries.put(attr.ino, version << 1 | SHOWN)
            return entry == version << 1 | SHOWN

    def newest(self, ino: Inode) -> int:
        """The newest version known here: a row with a smaller one was read before a commit that callers know of."""
        entry = self._entries.get(ino)
        return UNKNOWN if entry is None else entry >> 1

    def committed(self, attr: Attr) -> None:
        """A commit of this process made `attr`; the pages follow if it came right after what they show."""
        version = attr.data_version
        with self._lock:
            entry = self._entries.get(attr.ino)
            if entry is None:
                return
            newest = entry >> 1
            shown = entry & SHOWN if newest in (version, version - 1) else 0
            self._entries.put(attr.ino, max(newest, version) << 1 | shown)

    def drop(self, ino: Inode) -> None:
        """The pages may differ from the content (foreign commit, failed flush)."""
        with self._lock:
            entry = self._entries.get(ino)
            if entry is not None:
                self._entries.put(ino, entry & ALL_BUT_SHOWN)

    def drop_all(self) -> None:
        """Any page may differ from the content."""
        with self._lock:
            self._entries.mask_all(ALL_BUT_SHOWN)

    def forget(self, ino: Inode) -> None:
        """The kernel has forgotten the inode."""
        with self._lock:
            self._entries.remove(ino)
