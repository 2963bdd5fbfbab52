"""Directory listings: cookies that stay good while others create and delete, in bounded memory.

Entries come in order of name, so "where to go on" is a name. The cookie of an entry is 3 plus its number in the order in
which this handle first gave it out (1 is ".", 2 is ".."); `Trail` remembers which name each cookie stands for. Going back
to a cookie lists anew from that name. On ground covered before, names keep their cookies, names that vanished are left
out and names that appeared are not shown until the directory is rewound (POSIX leaves both open).
Cookie 0 rewinds: the trail is forgotten.

Whoever lists a directory from beginning to end leaves its listing to compiled code, which then answers by itself (`listings`).
"""

import errno
import stat
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

from cairnfs.errors import FsError
from cairnfs.ext.listing import is_whole, page_entries
from cairnfs.ext.page import Page
from cairnfs.meta.names import PageOfNames, listed
from cairnfs.types import DirEntry, Inode, Opened
from cairnfs.vfs.ahead import MAX_ENTRIES, MODEST_ENTRIES, Ahead
from cairnfs.vfs.carried import DIRECTORY
from cairnfs.vfs.handles import FIRST_COMPILED, HandleTable
from cairnfs.vfs.listings import DOTDOT_COOKIE, FIRST_COOKIE, CompiledHandles, Gathered, Shown
from cairnfs.vfs.namespace import RemovedDirs
from cairnfs.vfs.openfile import stale
from cairnfs.vfs.state import VfsState

Put = Callable[[Page, int, int, int, int, bool], tuple[int, int, int]]  # `DirReply.put` of ext/fuse_files.pyx

SEGMENT_ENTRIES = 1024
MAX_LOOSE = 16  # segments that are not compressed: most listings end before it would be worth its time
MAX_SEGMENTS = 1024  # a million names, compressed to about 5 MB; beyond, only the first name of each old segment is kept

FIRST_PAGE_ENTRIES = 128  # what a kernel's readdirplus buffer of 16-32 KiB holds
MAX_PAGE_ENTRIES = 2048
STEP_ENTRIES = 512  # whose attributes are looked for at a time, where entries are read ahead


class Segment:
    """Up to SEGMENT_ENTRIES names in order. Compressed when full and no longer among the newest; then thinned to the first."""

    __slots__ = ("_names", "_packed", "first", "n_names")

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.n_names = 1
        self._names: list[bytes] | None = [first]
        self._packed = b""

    def extend(self, names: Sequence[bytes]) -> None:
        if self._names is None:
            raise ValueError("a compressed segment does not grow")
        self._names += names
        self.n_names += len(names)

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
        self.extend([name])
        return number

    def extend(self, names: Sequence[bytes]) -> None:
        """Remember the next entries."""
        begin = 0
        while begin < len(names):
            room = -self._n_names % SEGMENT_ENTRIES
            if room:
                self._segments[-1].extend(names[begin : begin + room])
            else:
                room = 1
                self._begin_segment(names[begin])
            n = min(room, len(names) - begin)
            self._n_names += n
            begin += n
        if names:
            self.last = names[-1]

    def _begin_segment(self, first: bytes) -> None:
        self._segments.append(Segment(first))
        if len(self._segments) > MAX_LOOSE:
            self._segments[-MAX_LOOSE - 1].compress()
        if len(self._segments) - self._n_thinned > MAX_SEGMENTS:
            self._segments[self._n_thinned].thin()
            self._n_thinned += 1

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
    """One open directory. `lock` guards the trail, what was read ahead, and the listing that is gathered for compiled code."""

    def __init__(self, ino: Inode, n_expected: int = MODEST_ENTRIES + 1, *, resumed: bool = False) -> None:
        """`n_expected`: entries it had when it was opened, if that is known."""
        self.ino = ino
        self.n_expected = n_expected
        self.n_sync_failures = 0
        self.resumed = resumed  # given out by a process that died; what it listed through it is not known
        self.lock = threading.Lock()
        self.page_entries = FIRST_PAGE_ENTRIES
        self.gathered = Gathered()
        self.rewind()

    def rewind(self) -> None:
        self.trail = Trail()
        self.ahead = Ahead(self.n_expected)

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

    def gather(self, ino: Inode) -> PageOfNames | None:
        """All names of a directory that is not large, as a listing for compiled code, with the attributes that the arena lacks.
        None: it is too large, or not to be served by compiled code.
        """
        arena = self._state.arena
        known = arena.attr(ino) if self._reads_ahead and arena.answers() else None
        if known is None or not stat.S_ISDIR(known[1]) or not page_entries(arena):
            return None
        made_here = is_whole(arena, ino)
        limit = MAX_ENTRIES if made_here else MODEST_ENTRIES + 1
        if known[2] >= limit:
            return None
        found = self._names.page(ino, None, limit, not made_here)
        if made_here and (unknown := found.page.unknown(arena)):
            self._names.fetch(list(map(Inode, unknown)))
        Gathered().add(self._state, ino, None, found, len(found.page) < limit)
        return found

    def opendir(self, ino: Inode) -> Opened:
        known = self._state.arena.attr(ino) if self._state.is_shared and self._state.arena.answers() else None
        if known is not None and stat.S_ISDIR(known[1]):  # as compiled code does, which then looks for a listing
            return self._opened(ino, known[2])
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
        return self._opened(attr.ino, attr.size)

    def _opened(self, ino: Inode, n_expected: int) -> Opened:
        handle = DirHandle(ino, n_expected)
        handle.n_sync_failures = self._state.data.syncing.n_told
        return Opened(self.handles.add(handle), False)

    def inodes(self) -> list[Inode]:
        """Directories that are open."""
        return [handle.ino for fh in self.handles.numbers() if (handle := self.handles.find(fh)) is not None]

    def releasedir(self, fh: int) -> None:
        if fh < FIRST_COMPILED:
            self.handles.pop(fh)
            self.handles.closed(fh)

    def fsyncdir(self, fh: int) -> None:
        self._state.sync(self.handles.get(fh) if fh < FIRST_COMPILED else None)

    def readdir(self, fh: int, cookie: int, plus: bool) -> Iterator[DirEntry]:
        """Entries after `cookie`; the caller takes as many as it has room for. Attributes are fetched while iterating,
        so they are never older than the request (the kernel trusts them over what it learned before it).
        """
        if cookie < 0:
            raise FsError(errno.EINVAL)
        if fh >= FIRST_COMPILED:
            return self._compiled.entries(fh, cookie, plus)
        return self._entries(self.handles.get(fh), cookie, plus)

    def read_pages(self, fh: int, cookie: int, plus: bool, put: Put) -> bool:
        """Lay out entries after `cookie` in compiled code, which knows their attributes. False: `readdir` has to give them."""
        if cookie < 0 or fh >= FIRST_COMPILED or not self._state.is_shared or not self._state.arena.answers():
            return False
        handle = self.handles.get(fh)
        with handle.lock:
            if cookie == 0:
                handle.rewind()
            elif cookie != DOTDOT_COOKIE + len(handle.trail):  # not where the reader has come to
                return False
            return self._lay_out(handle, cookie, plus, put)

    def _lay_out(self, handle: DirHandle, cookie: int, plus: bool, put: Put) -> bool:
        trail = handle.trail
        n_given = 0
        while True:
            page, begin, is_last = self._next(handle, trail.last, plus)
            parent = handle.gathered.parent
            if cookie == 0 and parent is None:  # removed while open
                return False
            n_passed, n, n_bytes = put(page, begin, handle.ino, parent or 0, FIRST_COOKIE + len(trail), self._reads_ahead)
            end = begin + n_passed
            trail.extend(page.names(end - n, end))
            n_given += n
            self._adapt(handle, n_given)
            if end < len(page) or is_last:
                return n_bytes > 0 or (cookie > 0 and end == len(page))
            if n < n_passed:  # names that are gone: `_next` would find them again
                return n_bytes > 0

    @property
    def _reads_ahead(self) -> bool:
        return self._state.is_shared and self._state.meta.core.neighbours.started

    def _next(self, handle: DirHandle, after: bytes | None, plus: bool) -> tuple[Page, int, bool]:
        """Entries after a name: a page, its first row of them, whether there are no others. The handle's lock is held."""
        ahead = handle.ahead if self._reads_ahead else None
        made_here = ahead is not None and is_whole(self._state.arena, handle.ino)  # so the arena has attributes, most likely
        with_inodes = plus and self._state.is_shared and not made_here
        found = None if ahead is None else ahead.following(after)
        if found is not None:
            return found
        limit = handle.page_entries if ahead is None else ahead.n_wanted
        scanned = None if ahead is None else ahead.expected(after, with_inodes)
        if scanned is None:
            scanned = self._names.page(handle.ino, after, limit, with_inodes)
        if ahead is not None:
            ahead.put(after, scanned.page)
            ahead.expect(with_inodes, lambda after, limit: self._names.page(handle.ino, after, limit, with_inodes))
        is_last = len(scanned.page) < limit
        handle.gathered.add(self._state, handle.ino, after, scanned, is_last)
        return scanned.page, 0, is_last

    def _adapt(self, handle: DirHandle, n_given: int) -> None:
        """Of what is read for one request only, about as much as the last one had room for."""
        handle.page_entries = min(max(n_given + 1, FIRST_PAGE_ENTRIES), MAX_PAGE_ENTRIES)

    def _entries(self, handle: DirHandle, cookie: int, plus: bool) -> Iterator[DirEntry]:
        attr = self._shown.present(handle.ino) if cookie < DOTDOT_COOKIE else None
        with handle.lock:
            if cookie == 0:
                handle.rewind()
            if handle.resumed and cookie >= FIRST_COOKIE and not len(handle.trail):
                self._walk_again(handle, cookie)
            trail = handle.trail
            after = self._name_before(trail, cookie)
        if attr is not None:  # removed while open there is nothing in it, not even these
            yield from self._shown.dots(attr, cookie, plus)
        yield from self._following(handle, trail, after, plus)

    def _following(self, handle: DirHandle, trail: Trail, after: bytes | None, plus: bool) -> Iterator[DirEntry]:
        """Entries after a name. The handle may be rewound meanwhile, by a request that is served again after a death."""
        arena = self._state.arena
        n_given = 0
        while True:
            with handle.lock:
                page, first, is_last = self._next(handle, after, plus)
            for begin in range(first, len(page), STEP_ENTRIES):
                step = listed(handle.ino, page, begin, begin + STEP_ENTRIES)
                attrs = self._shown.later([entry.ino for entry in step]) if plus else repeat(None)
                for (name, ino, kind, _), later in zip(step, attrs, strict=False):
                    known = arena.name(handle.ino, name) if self._reads_ahead else ino
                    number = None if known == 0 else _number(handle, trail, name)
                    if number is not None:
                        n_given += 1
                        self._adapt(handle, n_given)
                        yield DirEntry(name, ino, kind, FIRST_COOKIE + number, later if known == ino else None)
            if is_last:
                return
            after = page.last

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


def _number(handle: DirHandle, trail: Trail, name: bytes) -> int | None:
    """The entry's number: a new one beyond all ground covered, else the one it has, None when it appeared since."""
    with handle.lock:
        return trail.number(name) if trail.last is not None and name <= trail.last else trail.append(name)
