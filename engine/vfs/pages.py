"""Which content the kernel's pages show, so that an open can say "keep them", and the newest content known per inode.

Per inode, in terms of `data_version` (see `types.Attr`): the newest that this process has committed or opened, and whether
the pages that a front let the kernel keep correspond to it. Commits of this process go through the kernel's own pages
(writes, truncations and hole punching change them first), so the pages follow them as long as nothing foreign came
between; anything else drops them, and the next open starts with empty pages. The kernel empties them when it takes the answer to
an open: until it uses the handle nobody knows that it has, and another open must not keep them.
The table is in the arena, since compiled code opens files as well. Entries are hints, bounded in number (a quarter of a small
arena, two million in 36 MiB): losing one costs re-reading, never a stale page. Thread-safe.
"""

from cairnfs.ext.arena import Arena
from cairnfs.types import Attr, Inode

UNKNOWN = -1


class PageVersions:
    """Inode -> newest version, and whether the pages show it."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def opened(self, attr: Attr) -> bool:
        """An open with fresh attributes: True when the kernel's pages are this very content."""
        return self._arena.shown_opened(attr.ino, attr.data_version)

    def made(self, attr: Attr) -> None:
        """This process has just made the inode: no pages are all its content."""
        self._arena.shown_opened(attr.ino, attr.data_version)
        self._arena.shown_dropped(attr.ino, attr.data_version)

    def dropped(self, ino: Inode, version: int) -> None:
        """The kernel uses a handle that was opened with `version` without keeping pages: by now it has dropped them."""
        self._arena.shown_dropped(ino, version)

    def newest(self, ino: Inode) -> int:
        """The newest version known here: a row with a smaller one was read before a commit that callers know of."""
        return self._arena.shown_newest(ino)

    def older(self, attr: Attr) -> bool:
        """Whether the kernel may have pages of what the inode was before `attr`. Not if an open has just made it drop all."""
        return self._arena.shown_older(attr.ino, attr.data_version)

    def committed(self, attr: Attr) -> None:
        """A commit of this process made `attr`; the pages follow if it came right after what they show."""
        self._arena.shown_committed(attr.ino, attr.data_version)

    def drop(self, ino: Inode) -> None:
        """The pages may differ from the content (foreign commit, failed flush)."""
        self._arena.shown_drop(ino)

    def drop_all(self) -> None:
        """Any page may differ from the content."""
        self._arena.shown_drop_all()

    def forget(self, ino: Inode) -> None:
        """The kernel has forgotten the inode."""
        self._arena.shown_forget(ino)
