"""Directory listings: cookies that stay good while others create and delete, in bounded memory.

Entries come in order of name, so "where to go on" is a name. The cookie of an entry is 3 plus its number in the order in
which this handle first gave it out (1 is ".", 2 is ".."); `Trail` remembers which name each cookie stands for. Going back
to a cookie lists anew from that name. On ground covered before, names keep their cookies, names that vanished are left
out and names that appeared are not shown until the directory is rewound (POSIX leaves both open).
Cookie 0 rewinds: the trail is forgotten.

Whoever lists a directory from beginning to end leaves its listing to compiled code, which then answers by itself (`listings`).
"""

import errno
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import repeat

from cairnfs.errors import FsError
from cairnfs.ext.listing import Listing
from cairnfs.meta.names import Listed
from cairnfs.types import Attr, DirEntry, Inode, Opened
from cairnfs.vfs.ahead import Ahead
from cairnfs.vfs.carried import DIRECTORY
from cairnfs.vfs.handles import FIRST_COMPILED, HandleTable
from cairnfs.vfs.listings import DOTDOT_COOKIE, FIRST_COOKIE, CompiledHandles, Shown, keep_if_unchanged, parent_of
from cairnfs.vfs.namespace import RemovedDirs
from cairnfs.vfs.openfile import stale
from cairnfs.vfs.state import VfsState

SEGMENT_ENTRIES = 1024
MAX_SEGMENTS = 1024  # a million names, compressed to about 5 MB; beyond, only the first name of each old segment is kept

FIRST_PAGE_ENTRIES = 128  # what a kernel's readdirplus buffer of 16-32 KiB holds
MAX_PAGE_ENTRIES = 2048
STEP_ENTRIES = 512  # whose attributes are looked for at a time, where entries are read ahead


class Segment:
    """Up to SEGMENT_ENTRIES names in order. Compressed when full and no longer the newest; then thinned to the first."""

    __slots__ = ("_names", "_packed", "first", "n_names")

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.n_names = 1
        self._names: list[bytes] | None = [first]
        self._packed = b""

    def append(self, name: bytes) -> None:
        if self._names is None:
            raise ValueError("a compressed segment does not grow")
        self._names.append(name)
        self.n_names += 1

    def compress(self) -> None:
        if self._names is not None:
            self._packed = zlib.compress(b"/".join(self._names), 1)
            self._names = None

    def thin(self) -> None:
        self._names, self._packed = None, b""

    @property
    def thinned(self) -> bool:
        return self._names is None and not self._packed

    def names(self) -> list[bytes]:
        """All names; only the first of a thinned segment."""
        if self._names is not None:
            return self._names
        return zlib.decompress(self._packed).split(b"/") if self._packed else [self.first]


class Trail:
    """Number of an entry -> its name, for every entry given out since the last rewind."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._n_thinned = 0
        self._n_names = 0
        self.last: bytes | None = None

    def __len__(self) -> int:
        return self._n_names

    def append(self, name: bytes) -> int:
        """Remember the next entry; returns its number."""
        number = self._n_names
        self._n_names += 1
        self.last = name
        if number % SEGMENT_ENTRIES:
            self._segments[-1].append(name)
            return number
        if self._segments:
            self._segments[-1].compress()
        self._segments.append(Segment(name))
        if len(self._segments) - self._n_thinned > MAX_SEGMENTS:
            self._segments[self._n_thinned].thin()
            self._n_thinned += 1
        return number

    def name(self, number: int) -> bytes:
        """The name of an entry; that of an earlier one where the trail has been thinned, so that nothing is skipped."""
        names = self._segments[number // SEGMENT_ENTRIES].names()
        return names[min(number % SEGMENT_ENTRIES, len(names) - 1)]

    def number(self, name: bytes) -> int | None:
        """The number of a name, None when it was not there. In a thinned segment every name has the number of the first."""
        at = bisect_right(self._segments, name, key=_first) - 1
        if at < 0:
            return None
        segment = self._segments[at]
        if segment.thinned:
            return at * SEGMENT_ENTRIES
        names = segment.names()
        within = bisect_right(names, name) - 1
        return at * SEGMENT_ENTRIES + within if names[within] == name else None


def _first(segment: Segment) -> bytes:
    return segment.first


class DirHandle:
    """One open directory. `lock` guards the trail, and the listing that is gathered for compiled code."""

    def __init__(self, ino: Inode, *, resumed: bool = False) -> None:
        self.ino = ino
        self.resumed = resumed  # given out by a process that died; what it listed through it is not known
        self.lock = threading.Lock()
        self.trail = Trail()
        self.listing: Listing | None = None
        self.page_entries = FIRST_PAGE_ENTRIES
        self.ahead = Ahead()

    def noted(self) -> tuple[Inode, int]:
        return self.ino, DIRECTORY


class Directories:
    """Operations on open directories; what each promises is said at `Vfs`."""

    def __init__(self, state: VfsState, removed: RemovedDirs) -> None:
        self._state = state
        self._names = state.meta.names
        self._removed = removed
        self._shown = Shown(state)
        self._compiled = CompiledHandles(state, self._shown)
        self.handles: HandleTable[DirHandle] = HandleTable(
            state.numbers, None if state.carried is None else state.carried.handles
        )

    def opendir(self, ino: Inode) -> Opened:
        try:
            attr = self._names.get(ino)
        except FsError as error:
            gone = self._removed.get(ino)
            if gone is None:
                stale(error)
                raise
            attr = gone
        if not attr.is_dir:
            raise FsError(errno.ENOTDIR)
        return Opened(self.handles.add(DirHandle(attr.ino)), False)

    def inodes(self) -> list[Inode]:
        """Directories that are open."""
        return [handle.ino for fh in self.handles.numbers() if (handle := self.handles.find(fh)) is not None]

    def releasedir(self, fh: int) -> None:
        if fh < FIRST_COMPILED:
            self.handles.pop(fh)
            self.handles.closed(fh)

    def fsyncdir(self, fh: int) -> None:
        if fh < FIRST_COMPILED:
            self.handles.get(fh)
        self._state.meta.store.sync()

    def readdir(self, fh: int, cookie: int, plus: bool) -> Iterator[DirEntry]:
        """Entries after `cookie`; the caller takes as many as it has room for. Attributes are fetched while iterating,
        so they are never older than the request (the kernel trusts them over what it learned before it).
        """
        if cookie < 0:
            raise FsError(errno.EINVAL)
        if fh >= FIRST_COMPILED:
            return self._compiled.entries(fh, cookie, plus)
        return self._entries(self.handles.get(fh), cookie, plus)

    def _entries(self, handle: DirHandle, cookie: int, plus: bool) -> Iterator[DirEntry]:
        attr = self._shown.present(handle.ino) if cookie < DOTDOT_COOKIE else None
        with handle.lock:
            if cookie == 0:
                handle.trail = Trail()
                handle.ahead = Ahead()
                handle.listing = self._begin_listing(attr)
            if handle.resumed and cookie >= FIRST_COOKIE and not len(handle.trail):
                self._walk_again(handle, cookie)
            trail = handle.trail
            after = self._name_before(trail, cookie)
            limit = handle.page_entries
        if attr is not None:  # removed while open there is nothing in it, not even these
            yield from self._shown.dots(attr, cookie, plus)
        if self._state.is_shared and self._state.meta.core.neighbours.started:
            yield from self._following(handle, trail, after, plus)
        else:
            yield from self._following_now(handle, trail, after, limit, plus)

    def _following(self, handle: DirHandle, trail: Trail, after: bytes | None, plus: bool) -> Iterator[DirEntry]:
        """Entries after a name, read ahead for requests to come."""
        arena = self._state.arena
        while True:
            with handle.lock:
                found, is_last = handle.ahead.following(after) or self._read_ahead(handle, after, plus)
            for begin in range(0, len(found), STEP_ENTRIES):
                step = found[begin : begin + STEP_ENTRIES]
                attrs = self._shown.later([listed.ino for listed in step]) if plus else repeat(None)
                for (name, ino, kind, _), later in zip(step, attrs, strict=False):
                    known = arena.name(handle.ino, name)
                    number = None if known == 0 else _number(handle, trail, name, ino, kind)
                    if number is not None:
                        yield DirEntry(name, ino, kind, FIRST_COOKIE + number, later if known == ino else None)
            if is_last:
                self._end_listing(handle, trail)
                return
            after = found[-1].name

    def _read_ahead(self, handle: DirHandle, after: bytes | None, plus: bool) -> tuple[Sequence[Listed], bool]:
        n = handle.ahead.n_wanted
        found = self._names.list_along(handle.ino, after, n) if plus else self._names.list(handle.ino, after, n, False)
        handle.ahead.put(after, found)
        return found, len(found) < n

    def _following_now(self, handle: DirHandle, trail: Trail, after: bytes | None, limit: int, plus: bool) -> Iterator[DirEntry]:
        """Entries after a name, read for this request."""
        n_given = 0
        while True:
            found = self._names.list(handle.ino, after, limit, False)
            attrs = self._shown.later([listed.ino for listed in found]) if plus else repeat(None)
            for (name, ino, kind, _), later in zip(found, attrs, strict=False):
                number = _number(handle, trail, name, ino, kind)
                if number is None:
                    continue
                n_given += 1
                handle.page_entries = min(max(n_given + 1, FIRST_PAGE_ENTRIES), MAX_PAGE_ENTRIES)
                yield DirEntry(name, ino, kind, FIRST_COOKIE + number, later)
            if len(found) < limit:
                self._end_listing(handle, trail)
                return
            after = found[-1].name

    def _begin_listing(self, attr: Attr | None) -> Listing | None:
        if attr is None or not self._state.is_shared:
            return None
        return Listing(self._state.arena, attr.ino, attr.version, parent_of(attr))

    def _end_listing(self, handle: DirHandle, trail: Trail) -> None:
        with handle.lock:
            if handle.trail is not trail:
                return  # somebody has rewound it: a READDIR that is served again after a death, while its reader goes on
            listing, handle.listing = handle.listing, None
            is_whole = listing is not None and listing.n_entries == len(handle.trail)
        if listing is not None and is_whole:
            keep_if_unchanged(listing, self._shown.present(handle.ino))

    def _walk_again(self, handle: DirHandle, cookie: int) -> None:
        """The entries up to a cookie were given out by a process that died: the same ones, unless the directory has changed."""
        after: bytes | None = None
        while len(handle.trail) <= cookie - FIRST_COOKIE:
            found = self._names.list(handle.ino, after, MAX_PAGE_ENTRIES, False)
            for name, *_ in found[: cookie - FIRST_COOKIE + 1 - len(handle.trail)]:
                handle.trail.append(name)
            if len(found) < MAX_PAGE_ENTRIES:
                return
            after = found[-1].name

    def _name_before(self, trail: Trail, cookie: int) -> bytes | None:
        if cookie < FIRST_COOKIE or not len(trail):
            return None
        return trail.name(min(cookie - FIRST_COOKIE, len(trail) - 1))


def _number(handle: DirHandle, trail: Trail, name: bytes, ino: int, kind: int) -> int | None:
    """The entry's number: a new one beyond all ground covered, else the one it has, None when it appeared since."""
    with handle.lock:
        if trail.last is not None and name <= trail.last:
            return trail.number(name)
        number = trail.append(name)
        if handle.listing is not None and handle.trail is trail:
            handle.listing.add(number, name, ino, kind)
        return number
