"""Reading files: from layouts to views of verified bytes, without joining or copying them.

Owns the download threads. What a read returns stays valid as long as it is referenced; holes come from one shared buffer of
zeros. Slices that several extents of a request miss are fetched in parallel when waiting for them one by one would cost
more than handing them to other threads. A sequential reader's next slices are fetched ahead, as far as memory allows.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cairnfs.const import CHUNK_BYTES, MIB
from cairnfs.data.budget import Budget
from cairnfs.data.fetch import SMALL_SLICE_BYTES, Fetcher
from cairnfs.data.ports import LayoutSource
from cairnfs.data.readahead import Readahead
from cairnfs.errors import CairnError, CorruptError
from cairnfs.ext import slicer
from cairnfs.metrics import Metrics
from cairnfs.types import Extent, Inode, PackId, SliceRef

log = logging.getLogger(__name__)

_ZEROS = memoryview(bytes(MIB))
_HAND_OVER_S = 0.0003  # what it costs to have another thread fetch something and to collect it
MAX_WAITING_AHEAD = 4096  # slices remembered as fetched ahead; more than any budget lets be under way at once
LONG_LAYOUT_BYTES = 64 * slicer.RECORD_BYTES  # 2.5 KiB: more is read and rewritten with every commit to the chunk


class Reader:
    """Reads ranges of files. Thread-safe."""

    def __init__(
        self,
        fetcher: Fetcher,
        budget: Budget,
        max_downloads: int,
        readahead_bytes: int,
        long_layout: Callable[[Inode, int, bytes], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`long_layout` (inode, chunk number, layout) is told about chunks made of many slices; it must return at once."""
        self.fetcher = fetcher
        self._budget = budget
        self._readahead_bytes = readahead_bytes
        self._long_layout = long_layout
        self._ahead = FetchedAhead(metrics or Metrics())
        self._threads = ThreadPoolExecutor(max_downloads, "cairnfs-download")

    def cursor(self) -> Readahead:
        """What one handle's requests are remembered in; given to each of its reads."""
        return Readahead(self._readahead_bytes)

    def read(self, source: LayoutSource, cursor: Readahead | None, offset: int, size: int) -> list[memoryview]:
        """Exactly `size` bytes at `offset`, in order; the caller keeps the range within the file, what is unmapped is zeros.

        Raises ObjectMissing when a slice's pack is gone (the layout is out of date: fetch it again), ObjectError when the
        store fails, CorruptError when bytes or layout are damaged.
        """
        if size <= 0:
            return []
        advice = None if cursor is None else cursor.observe(offset, size)
        sequential = advice is not None and advice.sequential
        extents = list(self.extents(source, offset, size))
        if len(extents) > 1:
            self._fetch_in_parallel(source.ino, extents, sequential)
        views: list[memoryview] = []
        for _, length, off, ref in extents:
            if ref is None:
                _add_zeros(views, length)
            else:
                self._ahead.reached(ref)
                views += self.fetcher.part(ref, source.ino, off, length, sequential)
        if advice is not None and advice.ahead is not None:
            self._read_ahead(source, *advice.ahead)
        return views

    def extents(self, source: LayoutSource, offset: int, size: int) -> Iterator[Extent]:
        """What a range is made of, in order and without gaps. CorruptError for a malformed layout."""
        end = offset + size
        for chunk_no in range(offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1):
            base = chunk_no * CHUNK_BYTES
            layout = source.layout(chunk_no)
            if len(layout) > LONG_LAYOUT_BYTES and self._long_layout is not None:
                self._long_layout(source.ino, chunk_no, layout)
            try:
                for pos, length, off, i in slicer.extents(layout, max(offset - base, 0), min(end - base, CHUNK_BYTES)):
                    yield Extent(base + pos, length, off, None if i < 0 else _ref(layout, i))
            except ValueError as e:
                raise CorruptError(f"inode {source.ino}: the layout of chunk {chunk_no} is malformed: {e}") from e

    def close(self) -> None:
        """Drop readahead that has not begun and wait for what has."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _fetch_in_parallel(self, ino: Inode, extents: Sequence[Extent], sequential: bool) -> None:
        """Bring slices into the cache that this request needs whole: by this thread where the store takes several requests of
        one, else all but the first by other threads.
        """
        missing = {
            (e.ref.pack, e.ref.stored_off): e.ref
            for e in extents
            if e.ref is not None and _wanted_whole(e, sequential) and not self.fetcher.cached(e.ref)
        }
        if len(missing) < 2:
            return
        if self.fetcher.depth > 1:
            return self.fetcher.bring(missing.values(), ino)
        if (len(missing) - 1) * self.fetcher.get_s < _HAND_OVER_S:
            return
        first, *others = missing.values()
        waiting: list[Future[object]] = [self._threads.submit(self.fetcher.whole, ref, ino) for ref in others]
        self.fetcher.whole(first, ino)
        for future in waiting:
            future.result()

    def _read_ahead(self, source: LayoutSource, start: int, end: int) -> None:
        try:
            self._threads.submit(self._plan_ahead, source, start, end)
        except RuntimeError:
            pass  # closing: nobody will read what would be fetched

    def _plan_ahead(self, source: LayoutSource, start: int, end: int) -> None:
        """Fetch the slices of a range: all by this task where the store takes several requests of one thread, else each by a
        task of its own. Errors are left to the read that needs the bytes.
        """
        try:
            if self.fetcher.depth > 1:
                self.fetcher.bring(self._issued(source, start, end), source.ino, lambda ref: self._budget.release(ref.plain_len))
                return
            for ref in self._worth_fetching(source, start, end):
                self._submit_fetch(ref, source.ino)
        except CairnError as e:
            log.debug("inode %d: no readahead: %s", source.ino, e)

    def _worth_fetching(self, source: LayoutSource, start: int, end: int) -> Iterator[SliceRef]:
        """Slices that a sequential reader of a range will need, with memory reserved for each; as far as there is memory."""
        for extent in self.extents(source, start, end - start):
            ref = extent.ref
            if ref is None or not _wanted_whole(extent, True) or self.fetcher.cached(ref):
                continue
            if not self._budget.try_reserve(ref.plain_len):
                return
            yield ref

    def _issued(self, source: LayoutSource, start: int, end: int) -> Iterator[SliceRef]:
        for ref in self._worth_fetching(source, start, end):
            self._ahead.issued(ref)
            yield ref

    def _submit_fetch(self, ref: SliceRef, ino: Inode) -> None:
        try:
            future = self._threads.submit(self.fetcher.whole, ref, ino)
        except RuntimeError:
            self._budget.release(ref.plain_len)
            return
        self._ahead.issued(ref)
        future.add_done_callback(lambda _: self._budget.release(ref.plain_len))


class FetchedAhead:
    """Which slices were fetched ahead and not read yet, to count how many were worth it. The oldest are forgotten."""

    def __init__(self, metrics: Metrics) -> None:
        self._issued = metrics.readahead_issued
        self._used = metrics.readahead_used
        self._waiting: dict[tuple[int, int], None] = {}
        self._lock = threading.Lock()

    def issued(self, ref: SliceRef) -> None:
        self._issued.add()
        with self._lock:
            self._waiting[ref.pack, ref.stored_off] = None
            if len(self._waiting) > MAX_WAITING_AHEAD:
                del self._waiting[next(iter(self._waiting))]

    def reached(self, ref: SliceRef) -> None:
        """A reader needs bytes of this slice."""
        if not self._waiting or (ref.pack, ref.stored_off) not in self._waiting:
            return
        with self._lock:
            if (ref.pack, ref.stored_off) in self._waiting:
                del self._waiting[ref.pack, ref.stored_off]
                self._used.add()


def _wanted_whole(extent: Extent, sequential: bool) -> bool:
    """Whether a reader takes so much of a slice that it will be fetched whole."""
    plain_len = 0 if extent.ref is None else extent.ref.plain_len
    return plain_len <= SMALL_SLICE_BYTES or (sequential and extent.length * 4 >= plain_len) or extent.length * 2 >= plain_len


def _ref(layout: bytes, i: int) -> SliceRef:
    at = i * slicer.RECORD_BYTES
    _, _, _, plain_len, pack, stored_off, stored_len, crc, codec = slicer.unpack(layout[at : at + slicer.RECORD_BYTES])[0]
    return SliceRef(PackId(pack), stored_off, stored_len, plain_len, crc, codec)


def _add_zeros(views: list[memoryview], length: int) -> None:
    while length > len(_ZEROS):
        views.append(_ZEROS)
        length -= len(_ZEROS)
    views.append(_ZEROS[:length])
