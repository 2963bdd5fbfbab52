"""What listings show, and listings for handles of directories that compiled code has given out, where it does not answer itself.

Such a handle's number has the inode above bit 64 and below it the version of the directory's row whose listing it shows; a
cookie says which name comes next (`ext/listing_impl.h`). That is all there is to know of a reader, so nothing is remembered here.
It goes on in the listing it has begun, if that is still there; else in the directory as it is now, at the name its cookie
means. If that name is gone, too, the listing begins anew: entries are given twice rather than left out.
"""

import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

from cairnfs.const import ROOT_INO
from cairnfs.errors import FsError
from cairnfs.ext.listing import MOVED, Listing, cookie_of, hash_of, next_of, read_on
from cairnfs.meta.names import PageOfNames
from cairnfs.types import Attr, DirEntry, Inode
from cairnfs.vfs.state import VfsState

DOT_COOKIE, DOTDOT_COOKIE, FIRST_COOKIE = 1, 2, 3

VERSION_MASK = (1 << 62) - 1  # of a handle's number
SCAN_NAMES = 1024  # names per round trip when a whole directory is read

Found = list[tuple[bytes, int, int, int]]  # name, inode, type and cookie of entries
Later = Callable[[], Attr | None]


class Shown:
    """The attributes of what is listed."""

    def __init__(self, state: VfsState) -> None:
        self._state = state
        self._names = state.meta.names

    def present(self, ino: Inode) -> Attr | None:
        """The directory as it is now; None when it is gone."""
        try:
            return self._names.get(ino)
        except FsError:
            return None

    def dots(self, attr: Attr, cookie: int, plus: bool) -> Iterator[DirEntry]:
        if cookie < DOT_COOKIE:
            yield DirEntry(b".", attr.ino, stat.S_IFDIR, DOT_COOKIE, attr if plus else None)
        ino = parent_of(attr)
        yield DirEntry(b"..", ino, stat.S_IFDIR, DOTDOT_COOKIE, partial(self._names.get, ino) if plus else None)

    def later(self, inos: list[Inode]) -> list[Later]:
        """What gives the attributes of each, None for one just removed."""
        step = _Step(self._state, inos)
        return [partial(step.attr, ino) for ino in inos]


class _Step:
    """Attributes of what is listed next. They are fetched now, since none may be older than the request; but not where compiled
    code would answer with what is in the arena. Should it not do so after all, the rest is fetched at once.
    """

    def __init__(self, state: VfsState, inos: list[Inode]) -> None:
        self._state = state
        self._inos = inos
        self._fetched: dict[Inode, Callable[[], Attr] | None] = {}
        self._fetch(state.arena.unknown(inos) if state.arena.fresh() else inos)

    def attr(self, ino: Inode) -> Attr | None:
        if ino not in self._fetched:
            self._fetch([other for other in self._inos if other not in self._fetched])
        fetched = self._fetched[ino]
        return None if fetched is None else self._state.shown(fetched())

    def _fetch(self, inos: list[Inode]) -> None:
        if inos:
            self._fetched.update(zip(inos, self._state.meta.names.fetch(inos), strict=True))


class CompiledHandles:
    """Reading on for compiled code."""

    def __init__(self, state: VfsState, shown: Shown) -> None:
        self._arena = state.arena
        self._names = state.meta.names
        self._shown = shown

    def entries(self, fh: int, cookie: int, plus: bool) -> Iterator[DirEntry]:
        """Entries after `cookie`. Attributes are those of what names stand for now, so only the present listing has them."""
        ino, own = Inode(fh >> 64), fh & VERSION_MASK
        if cookie < DOTDOT_COOKIE:
            attr = self._shown.present(ino)
            if attr is None:
                return
            yield from self._shown.dots(attr, cookie, plus)
        while True:
            found, is_present = self._after(ino, own, cookie)
            if not found:
                return
            attrs = self._shown.later([Inode(entry[1]) for entry in found]) if plus and is_present else repeat(None)
            for (name, child, kind, cookie), later in zip(found, attrs, strict=False):
                yield DirEntry(name, Inode(child), kind, cookie, later)

    def _after(self, ino: Inode, own: int, cookie: int) -> tuple[Found, bool]:
        """Some entries after `cookie`, none at the end; and whether they are the directory's present ones."""
        attr = self._shown.present(ino)
        if cookie >= FIRST_COOKIE and not cookie & MOVED:
            found = read_on(self._arena, ino, own, cookie)
            if found is not None:
                return found, attr is not None and attr.version == own
        if attr is None:
            return [], False
        found = read_on(self._arena, ino, attr.version, cookie)
        if found is None:
            found = self._read_anew(attr, cookie)
        if attr.version != own:
            found = [(name, child, kind, at | MOVED) for name, child, kind, at in found]
        return found, True

    def _read_anew(self, attr: Attr, cookie: int) -> Found:
        """Find the place in the directory as it is now. The next look finds the listing in the arena, if there is room."""
        index, wanted = next_of(cookie)
        listing = Listing(self._arena, attr.ino, attr.version, parent_of(attr))
        place: tuple[int, bytes | None] | None = None
        before: bytes | None = None
        n = 0
        while page := self._names.list(attr.ino, before, SCAN_NAMES, False):
            for name, child, kind, _ in page:
                listing.add(n, name, child, kind)
                if hash_of(name) == wanted and (place is None or abs(n - index) < abs(place[0] - index)):
                    place = (n, before)
                before = name
                n += 1
        keep_if_unchanged(listing, self._shown.present(attr.ino))
        first, before = (0, None) if place is None else place
        found = self._names.list(attr.ino, before, SCAN_NAMES + 1, False)
        following = [entry.name for entry in found[1:]] + [None] * (len(found) <= SCAN_NAMES)
        return [
            (entry.name, entry.ino, entry.type, cookie_of(first + i, name))
            for i, (entry, name) in enumerate(zip(found, following, strict=False))
        ]


class Gathered:
    """The listing of a directory that somebody reads page by page: left to compiled code once all pages are there, if all are of
    one version of the directory's row. Each page has the row as it was at its moment. The caller locks.
    """

    def __init__(self) -> None:
        self.parent: Inode | None = None  # what ".." stood for when the first page was read, None: the directory was gone
        self._listing: Listing | None = None
        self._last: bytes | None = None

    def add(self, state: VfsState, ino: Inode, after: bytes | None, found: PageOfNames, is_last: bool) -> None:
        """A page of names after `after`; those that are there already may come again."""
        owner = found.directory
        if after is None:
            self.parent = None if owner is None else parent_of(owner)
            self._last = None
            self._listing = Listing(state.arena, ino, owner.version, parent_of(owner)) if owner and state.is_shared else None
        listing = self._listing
        if listing is None:
            return
        is_gap = after is not None and (self._last is None or after > self._last)
        if owner is None or owner.version != listing.version or is_gap:
            self._listing = None
            return
        listing.add_page(found.page, 0 if self._last is None else found.page.n_up_to(self._last))
        self._last = max(self._last or b"", found.page.last or b"")
        if is_last:
            listing.keep()
            self._listing = None


def parent_of(attr: Attr) -> Inode:
    """What ".." stands for."""
    return attr.ino if attr.ino == ROOT_INO else Inode(attr.parent)


def keep_if_unchanged(listing: Listing, present: Attr | None) -> None:
    """Give a complete listing to compiled code if the directory is still as it was when it was begun: every change of its
    entries changes its row.
    """
    if present is not None and present.version == listing.version:
        listing.keep()
