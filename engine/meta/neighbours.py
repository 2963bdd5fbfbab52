"""What a miss brings along: other entries of the same directory, so that walking or reading one costs few round trips.

For stores on another machine. The first miss of a directory brings all of it if it is small. Each further one brings a page,
twice as many entries as the last, up to MAX_PAGE: in a directory of modest size the next ones in order of name, whichever is
asked for, so that it is here after some ten round trips; in a larger one those after the name, but only while names are asked
for in order. Names that do not exist count for nothing, nor do names of a directory that was brought whole, until REPEATED of
them were missed again. Where the rows go is not decided here: to the arena and to `Recall`, which take them as of the moment
they were read.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from cairnfs.ext.page import Page as PageOfRows
from cairnfs.meta.stores.base import NOTHING, Along, Via
from cairnfs.types import Inode

FIRST_WHOLE = 32  # entries that the server finds in the time of a few lookups
FIRST_PAGE = 64
MAX_PAGE = 1000  # some 200 KB and a millisecond of the server's time
MODEST = 20_000  # entries: 20 pages
REPEATED = 16
IN_ORDER = 3  # names asked for in order before a large directory is read ahead
MAX_DIRECTORIES = 16_384  # some 5 MB


class Walk:
    """What was brought of one directory. Its fields belong to whoever has `busy` set, the others change only `n_missed`."""

    __slots__ = ("after", "busy", "n_brought", "n_in_order", "n_missed", "n_rows", "page", "whole")

    def __init__(self) -> None:
        self.busy = False
        self.n_rows = 0  # entries of the directory, as far as known
        self.whole = False
        self.begin()

    def begin(self) -> None:
        self.after: bytes | None = None  # in a large directory the last name asked for or brought, else the last one brought
        self.page = 0  # entries of the last page
        self.n_brought = 0
        self.n_missed = 0
        self.n_in_order = 0

    def along(self, name: bytes | None) -> Along:
        """What to bring along with `name`, or with an inode whose name is not known."""
        if self.n_missed == 0 and not self.whole:
            return Along(FIRST_WHOLE)
        if self.whole and self.n_missed < REPEATED:
            return NOTHING
        if self.n_rows <= MODEST:
            return self._next(self.after)
        return NOTHING if name is None or self.n_in_order < IN_ORDER else self._next(name)

    def _next(self, after: bytes | None) -> Along:
        size = min(2 * self.page or FIRST_PAGE, MAX_PAGE)
        return Along(size, size, after)

    def missed(self, name: bytes | None) -> None:
        self.n_missed += 1
        if name is None or self.n_rows <= MODEST:
            return
        self.n_in_order = self.n_in_order + 1 if self.after is None or name > self.after else 0
        if not self.n_in_order:
            self.page = 0
        self.after = name

    def brought(self, along: Along, found: PageOfRows, n_rows: int) -> None:
        """This came of `along`; `n_rows` is 0 when it is not known."""
        self.n_rows = n_rows or self.n_rows
        if not along.limit:
            self.whole = self.whole or 0 < self.n_rows <= along.whole
            return
        if self.whole:  # and has been missed again
            self.whole = False
            self.begin()
        self.page = along.limit
        self.n_brought += len(found)
        self.after = found.last or self.after
        if len(found) < along.limit or 0 < self.n_rows <= len(found) or self.n_brought > MODEST >= self.n_rows:
            self.begin()
            self.whole = True


class Neighbours:
    """Directories in which something was missed lately. Thread-safe; brings nothing along before `start`."""

    def __init__(self, max_directories: int = MAX_DIRECTORIES) -> None:
        self.started = False
        self._max_directories = max_directories
        self._walks: OrderedDict[Inode, Walk] = OrderedDict()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Round trips cost time, and somebody keeps what passes."""
        self.started = True

    @contextmanager
    def beside(self, parent: Inode, name: bytes | None) -> Iterator["Page"]:
        """Around the read for a miss in a directory. Of several at a time one brings neighbours."""
        if not self.started:
            yield Page(None, name, NOTHING)
            return
        with self._lock:
            walk = self._walks.setdefault(parent, Walk())
            self._walks.move_to_end(parent)
            if len(self._walks) > self._max_directories:
                self._walks.popitem(last=False)
            along = NOTHING if walk.busy else walk.along(name)
            page = Page(walk, name, along)
            walk.busy = walk.busy or bool(along.whole)
        try:
            yield page
        finally:
            with self._lock:
                page.end()


class Page:
    """One read: `along` is what to ask for, `got` and `got_page` tell what came of it."""

    def __init__(self, walk: Walk | None, name: bytes | None, along: Along) -> None:
        self.along = along
        self._walk = walk
        self._name = name
        self._exists = False
        self._found: PageOfRows | None = None
        self._n_rows = 0

    def got(self, via: Via) -> None:
        self._exists = via.row is not None
        self._found, self._n_rows = via.page, via.n_rows

    def got_page(self, found: PageOfRows) -> None:
        """Of an inode that exists: what comes after `along.after`."""
        self._exists = True
        self._found = found

    def end(self) -> None:
        walk = self._walk
        if walk is None:
            return
        if self._exists:
            walk.missed(self._name)
        if self.along.whole:
            walk.busy = False
            if self._found is not None:
                walk.brought(self.along, self._found, self._n_rows)
