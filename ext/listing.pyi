"""Listings of directories in the arena's log, for compiled code to answer from. `listing_impl.h` is the contract."""

from typing import final

from cairnfs.ext.arena import Arena
from cairnfs.ext.page import Page

MOVED: int
"""In a cookie: it is of another listing than that of its handle's version."""

@final
class Listing:
    """A listing in the making: entries of one directory in the order in which they are listed. Not thread-safe."""

    def __new__(cls, arena: Arena, ino: int, version: int, parent: int) -> Listing:
        """Of the directory `ino`, whose row has `version`; `parent` is what ".." stands for."""

    @property
    def version(self) -> int: ...
    @property
    def n_entries(self) -> int: ...
    def add(self, index: int, name: bytes, ino: int, kind: int) -> None:
        """The entry number `index`; nothing happens when it is there already. One left out, or more than may be kept: give up.
        `kind` is the S_IFMT bits.
        """

    def add_page(self, page: Page, begin: int) -> None:
        """Rows of the directory from `begin` on, which come next."""

    def keep(self) -> bool:
        """All entries are there, and the directory's row has still the version: keep the listing. Whether it is kept."""

def read_on(arena: Arena, ino: int, version: int, cookie: int) -> list[tuple[bytes, int, int, int]] | None:
    """Entries of a kept listing after a cookie, to the end of a page: (name, inode, type, cookie). None: they are not there.

    Cookies are those of a handle of this version: whoever reads on in another listing adds MOVED.
    """

def cookie_of(index: int, following: bytes | None) -> int:
    """The cookie of entry `index`, which the name `following` comes after; None at the end."""

def next_of(cookie: int) -> tuple[int, int]:
    """Where a cookie means to go on: index and hash of the next name, which is 0 at the end, and at the beginning."""

def hash_of(name: bytes) -> int:
    """The hash of a name as it is in cookies."""

def place(ino: int, version: int, page_no: int) -> tuple[int, int]:
    """The slice that a page is: (pack, stored offset). For tests."""

def is_whole(arena: Arena, ino: int) -> bool:
    """Has this mount made all there is in a directory, and knows their names?"""

def page_entries(arena: Arena) -> int:
    """How many entries a full page has; 0 when the arena keeps no listings."""
