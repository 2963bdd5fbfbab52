"""Verified bytes of slices, from the cache or the object store: the only code that reads packs for files.

Owns the decision between a whole slice and the pages a request needs, and that several threads missing the same slice
fetch it once. Every byte it returns has passed a checksum: whole slices that of the layout, pages those of the pack's
index. What fails is fetched once more, because the wire or the store's cache may be at fault; then it is CorruptError.
"""

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import TypeVar

from cairnfs.cache.memory import WHOLE, Key, SliceCache
from cairnfs.const import CODEC_NONE, KIB, PAGE_BYTES
from cairnfs.data import pack
from cairnfs.data.pack import HEADER_BYTES, MAX_SLICE_BYTES, SliceEntry
from cairnfs.errors import CairnError, CorruptError, ObjectError
from cairnfs.metrics import Metrics
from cairnfs.objects.base import Get, ObjectStore, Outcome
from cairnfs.types import Buffer, Inode, PackId, SliceRef

log = logging.getLogger(__name__)
T = TypeVar("T")

SMALL_SLICE_BYTES = 256 * KIB  # fetched whole: on any store the request costs more than these bytes
MAX_INDEXES = 8192  # about 1 KiB each for packs of one 4 MiB slice
_SMOOTHING = 0.1


class Fetcher:
    """Plain bytes by slice. Thread-safe; never called with a lock held."""

    def __init__(self, objects: ObjectStore, volume_uuid: str, cache: SliceCache, metrics: Metrics | None = None) -> None:
        self._objects = objects
        self._volume = uuid.UUID(volume_uuid).bytes
        self._cache = cache
        self._misses = (metrics or Metrics()).cache_misses
        self._lock = threading.Lock()
        self._flights: dict[Key, Future[Buffer]] = {}
        self._indexes: OrderedDict[PackId, list[SliceEntry]] = OrderedDict()
        self._reported: set[tuple[int, int]] = set()
        self.get_s = 0.001  # smoothed time of one request to the object store

    def cached(self, ref: SliceRef) -> bool:
        """Whether the whole slice is in memory or about to be."""
        key = (ref.pack, ref.stored_off, WHOLE)
        return key in self._cache or key in self._flights

    def whole(self, ref: SliceRef, ino: Inode) -> Buffer:
        """All plain bytes of a slice. ObjectMissing, ObjectError, CorruptError."""
        key = (ref.pack, ref.stored_off, WHOLE)
        found = self._cache.get(key)
        return found if found is not None else self._once(key, lambda: self._checked(ref, ino, lambda: self._load_whole(ref)))

    @property
    def depth(self) -> int:
        """How many slices one thread may fetch at a time."""
        return self._objects.depth

    def bring(self, refs: Iterable[SliceRef], ino: Inode, landed: Callable[[SliceRef], None] = lambda ref: None) -> None:
        """Have whole slices in the cache, fetched by this thread as many at a time as the object store takes.

        `landed` is told of each slice that was taken from `refs`, when nobody waits for it any more. After an error no more are
        taken, and it is raised when all that is under way has ended. Errors as of `whole`.
        """
        flights: dict[int, tuple[SliceRef, Key, Future[Buffer]]] = {}
        others: list[tuple[SliceRef, Future[Buffer]]] = []
        errors: list[CairnError] = []

        def wanted() -> Iterator[Get]:
            todo, numbers = iter(refs), count()
            while not errors and (ref := next(todo, None)) is not None:
                key = (ref.pack, ref.stored_off, WHOLE)
                if key in self._cache:
                    landed(ref)
                    continue
                flight, mine = self._board(key)
                if not mine:
                    others.append((ref, flight))
                    continue
                flights[next(numbers)] = ref, key, flight
                yield Get(pack.pack_name(ref.pack), *_span(ref))

        try:
            for no, outcome in self._objects.many(wanted()):
                ref, key, flight = flights.pop(no)
                try:
                    self._fly(key, flight, partial(self._open_fetched, ref, ino, outcome))
                except CairnError as e:
                    errors.append(e)
                landed(ref)
        finally:
            for ref, key, flight in flights.values():  # after a malformed reference, or a failure that nobody foresaw
                self._land(key)
                flight.set_exception(ObjectError("fetching was given up"))
                landed(ref)
        for ref, flight in others:
            error = flight.exception()
            if isinstance(error, CairnError):
                errors.append(error)
            landed(ref)
        if errors:
            raise errors[0]

    def part(self, ref: SliceRef, ino: Inode, off: int, length: int, sequential: bool) -> list[memoryview]:
        """`length` plain bytes at `off` of a slice, as views in order. Errors as of `whole`."""
        found = self._cache.get((ref.pack, ref.stored_off, WHOLE))
        if found is None and self._by_pages(ref, length, sequential):
            return self._pages(ref, ino, off, length)
        if found is None:
            found = self.whole(ref, ino)
        view = memoryview(found)
        return [view if length == len(view) else view[off : off + length]]

    def _by_pages(self, ref: SliceRef, length: int, sequential: bool) -> bool:
        large = ref.codec == CODEC_NONE and ref.plain_len > SMALL_SLICE_BYTES
        return large and not sequential and length * 2 < ref.plain_len

    # One fetch for all who want the same

    def _once(self, key: Key, load: Callable[[], Buffer]) -> Buffer:
        flight, mine = self._board(key)
        return self._fly(key, flight, load) if mine else flight.result()

    def _board(self, key: Key) -> tuple[Future[Buffer], bool]:
        """The flight that fetches something, and whether it is the caller's, who must see that it lands."""
        with self._lock:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        return flight, mine

    def _fly(self, key: Key, flight: Future[Buffer], load: Callable[[], Buffer]) -> Buffer:
        try:
            landed = self._cache.get(key)  # since the caller looked
            plain = load() if landed is None else landed
            if landed is None:
                self._misses.add()
                self._cache.put(key, plain)
        except BaseException as e:
            self._land(key)
            flight.set_exception(e)
            raise
        self._land(key)
        flight.set_result(plain)
        return plain

    def _land(self, key: Key) -> None:
        with self._lock:
            del self._flights[key]

    def _checked(self, ref: SliceRef, ino: Inode, load: Callable[[], T]) -> T:
        """What `load` returns; a corrupt answer is asked for once more, then reported once per slice."""
        try:
            return load()
        except CorruptError:
            with self._lock:
                self._indexes.pop(ref.pack, None)
        try:
            return load()
        except CorruptError as e:
            slice_id = (ref.pack, ref.stored_off)
            with self._lock:
                known = slice_id in self._reported
                self._reported.add(slice_id)
            if not known:
                log.error("inode %d cannot be read: %s", ino, e)
            e.is_told = True
            raise

    # Whole slices

    def _open_fetched(self, ref: SliceRef, ino: Inode, outcome: Outcome) -> Buffer:
        if isinstance(outcome, ObjectError):
            raise outcome
        fetched = [outcome or b""]
        return self._checked(ref, ino, lambda: self._open(ref, fetched.pop()) if fetched else self._load_whole(ref))

    def _load_whole(self, ref: SliceRef) -> Buffer:
        return self._open(ref, self._get(ref.pack, *_span(ref)))

    def _open(self, ref: SliceRef, data: Buffer) -> Buffer:
        """The plain bytes of a slice, from those at its `_span`."""
        if ref.stored_off != HEADER_BYTES:
            return pack.open_slice(ref, data)
        pack.parse_header(data, self._volume, ref.pack)
        return pack.open_slice(ref, memoryview(data)[HEADER_BYTES:])

    def _get(self, pack_id: PackId, offset: int, length: int) -> bytes:
        started_s = time.perf_counter()
        data = self._objects.get(pack.pack_name(pack_id), offset, length)
        self.get_s += (time.perf_counter() - started_s - self.get_s) * _SMOOTHING
        return data

    # Pages of a large slice

    def _pages(self, ref: SliceRef, ino: Inode, off: int, length: int) -> list[memoryview]:
        first, last = off // PAGE_BYTES, (off + length - 1) // PAGE_BYTES
        pages = [self._cache.get((ref.pack, ref.stored_off, no)) for no in range(first, last + 1)]
        missing = [first + i for i, page in enumerate(pages) if page is None]
        if missing:
            run = self._checked(ref, ino, lambda: self._load_pages(ref, missing[0], missing[-1]))
            for i, fresh in enumerate(run):
                pages[missing[0] + i - first] = fresh
        views: list[memoryview] = []
        for no, page in enumerate(pages, first):
            if page is not None:
                start = no * PAGE_BYTES
                views.append(memoryview(page)[max(0, off - start) : off + length - start])
        return views

    def _load_pages(self, ref: SliceRef, first: int, last: int) -> list[Buffer]:
        entry = self._entry(ref)
        start = first * PAGE_BYTES
        length = min((last + 1) * PAGE_BYTES, ref.stored_len) - start
        data = self._get(ref.pack, ref.stored_off + start, length)
        if len(data) != length:
            where = pack.describe(ref.pack, ref.stored_off, ref.stored_len)
            raise CorruptError(f"{where}: the object ends within the slice, {len(data)} of {length} bytes from {start} on")
        pack.check_pages(entry, ref.pack, first, data)
        # Cached pages are copies, unless there is one: a view would keep the whole run in memory for the sake of one page.
        run: list[Buffer] = [data] if first == last else [data[at : at + PAGE_BYTES] for at in range(0, length, PAGE_BYTES)]
        self._misses.add(len(run))
        for no, page in enumerate(run, first):
            self._cache.put((ref.pack, ref.stored_off, no), page)
        return run

    def _entry(self, ref: SliceRef) -> SliceEntry:
        with self._lock:
            entries = self._indexes.get(ref.pack)
            if entries is not None:
                self._indexes.move_to_end(ref.pack)
        if entries is None:
            entries = self._load_index(ref)
            with self._lock:
                self._indexes[ref.pack] = entries
                while len(self._indexes) > MAX_INDEXES:
                    self._indexes.popitem(last=False)
        return pack.find_entry(entries, ref)

    def _load_index(self, ref: SliceRef) -> list[SliceEntry]:
        """The index of a slice's pack. A pack of one slice, as large slices have, takes one request; others two."""
        if ref.stored_off == HEADER_BYTES:
            end = HEADER_BYTES + ref.stored_len
            expected = pack.ENTRY_BYTES + 4 * -(-ref.stored_len // PAGE_BYTES) + pack.TRAILER_BYTES
            try:
                return pack.parse_footer(self._get(ref.pack, end, expected), self._volume, ref.pack, end)
            except CorruptError:
                pass  # more slices follow, or it is damaged: the header knows
        header = pack.parse_header(self._get(ref.pack, 0, HEADER_BYTES), self._volume, ref.pack)
        footer = self._get(ref.pack, header.index_off, header.index_len + pack.TRAILER_BYTES)
        return pack.parse_footer(footer, self._volume, ref.pack, header.index_off)


def _span(ref: SliceRef) -> tuple[int, int]:
    """Where in its pack what is fetched of a whole slice begins, and its length. CorruptError."""
    if not (0 < ref.stored_len <= MAX_SLICE_BYTES and 0 < ref.plain_len <= MAX_SLICE_BYTES):
        where = pack.describe(ref.pack, ref.stored_off, ref.stored_len)
        raise CorruptError(f"{where}: the layout claims {ref.plain_len} plain bytes")
    # The first slice comes with the header at no extra request, so a misplaced object is called what it is.
    return (0, HEADER_BYTES + ref.stored_len) if ref.stored_off == HEADER_BYTES else (ref.stored_off, ref.stored_len)
