"""Which content the kernel's pages show, so that an open can say "keep them".

Per inode the `data_version` (see `types.Attr`) that the pages a front let the kernel keep correspond to. Commits of this
process go through the kernel's own pages (writes, truncations and hole punching change them first), so they advance the
entry as long as nothing foreign came between; anything else drops it, and the next open starts with empty pages.
Entries are hints: dropping one costs re-reading, never a stale page. Thread-safe.
"""

import threading
from collections import OrderedDict

from cairnfs.types import Attr, Inode

MAX_ENTRIES = 1 << 17  # about 20 MB of Python objects; the kernel rarely holds pages of more files


class PageVersions:
    """Inode -> data_version of the kernel's pages; the least recently opened are forgotten first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._versions: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._versions)

    def opened(self, attr: Attr) -> bool:
        """An open with fresh attributes: True when the kernel's pages are this very content."""
        with self._lock:
            known = self._versions.get(attr.ino)
            self._versions[attr.ino] = attr.data_version
            self._versions.move_to_end(attr.ino)
            if len(self._versions) > self._max_entries:
                self._versions.popitem(last=False)
        return known == attr.data_version

    def shown(self, ino: Inode) -> int:
        """The data_version of the pages, -1 when not known: a row with a smaller one is older than what was shown."""
        return self._versions.get(ino, -1)

    def committed(self, attr: Attr) -> None:
        """A commit of this process made `attr`; the pages follow if it came right after what they show."""
        with self._lock:
            known = self._versions.get(attr.ino)
            if known is None or known == attr.data_version:
                return
            if known == attr.data_version - 1:
                self._versions[attr.ino] = attr.data_version
            else:
                del self._versions[attr.ino]

    def drop(self, ino: Inode) -> None:
        """The pages are gone (forgotten) or may differ from the content (foreign commit, failed flush)."""
        with self._lock:
            self._versions.pop(ino, None)

    def clear(self) -> None:
        """Nothing is known of any page."""
        with self._lock:
            self._versions.clear()
