"""All write buffers of a process: who has one, how much memory they take together, and what goes out by itself.

Owns the memory budget's back-pressure and one background thread. The thread uploads blocks that have been dirty for a few
seconds and, when memory runs short, the oldest first; it commits what has been stored for long (see `writer`).
"""

import errno
import logging
import threading
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from cairnfs.cache.memory import WHOLE, SliceCache
from cairnfs.clock import Clock
from cairnfs.const import KIB
from cairnfs.data.budget import Budget
from cairnfs.data.ports import LayoutOps
from cairnfs.data.uploader import Piece, Uploader
from cairnfs.data.writer import FileWriter, OnCommit, WriterServices
from cairnfs.errors import CairnError, ObjectError
from cairnfs.metrics import Metrics
from cairnfs.types import Attr, Buffer, Inode, SliceRef

log = logging.getLogger(__name__)

UPLOAD_AGE_S = 5.0  # a dirty block this old is uploaded: what remains for close and fsync stays small
TICK_S = 1.0
WAIT_SLICE_S = 0.2  # how often a write that waits for memory looks again for something to upload
GRACE_S = 10.0  # beyond the io timeout, so that a waiting write reports the upload's error and not its own
CACHED_PIECE_BYTES = 256 * KIB  # small files are read back soon after they are written; bulk data would empty the cache
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_FAILURES = 3  # uploads refused for lack of space while a write waits, before the write fails too


class Writers:
    """Inode -> FileWriter. Its lock is held for dictionary work only."""

    def __init__(
        self,
        layout: LayoutOps,
        uploader: Uploader,
        budget: Budget,
        cache: SliceCache,
        clock: Clock,
        block_bytes: int,
        fetch: Callable[[SliceRef], Buffer],
        committed: Callable[[Attr, Sequence[Piece]], None],
        io_timeout_s: float,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        self._waits = metrics.buffer_wait_s
        self._commits = metrics.writer_commits
        self._tell_committed = committed
        self._budget = budget
        self._cache = cache
        self._clock = clock
        self._io_timeout_s = io_timeout_s
        self._lock = threading.Lock()
        self._writers: dict[Inode, FileWriter] = {}
        self._last_error: CairnError | None = None
        self._n_full = 0
        self._n_stored = 0
        self._wake = threading.Event()
        self._closing = False
        self.gather: Callable[[], None] | None = None  # has what was written elsewhere put into the buffers
        self._services = WriterServices(
            layout=layout,
            uploader=uploader,
            clock=clock,
            block_bytes=block_bytes,
            fetch=fetch,
            reserve=self._reserve,
            release=budget.release,
            stored=self._stored,
            failed=self._failed,
            closed=self._closed,
            committed=self._committed,
        )
        self._thread = threading.Thread(target=self._run, name="cairnfs-writeback", daemon=True)
        self._thread.start()

    def open(self, ino: Inode, on_commit: OnCommit | None = None) -> FileWriter:
        """The write buffer of an inode, shared by all who open it; to be given back with its `close`.

        `on_commit` gets the attributes of each commit, from whatever thread makes it, before committed bytes leave the
        writer's snapshot. Commits happen in the background only for writers that have one. That of the first open counts.
        """
        with self._lock:
            found = self._writers.get(ino)
            if found is not None:
                found.n_users += 1
                return found
            writer = self._writers[ino] = FileWriter(ino, self._services, on_commit)
            return writer

    def get(self, ino: Inode) -> FileWriter | None:
        """The write buffer of an inode if somebody has it open, without a reference."""
        return self._writers.get(ino)

    def __len__(self) -> int:
        return len(self._writers)

    def close(self) -> None:
        """Stop the background thread. Whoever has writers flushes and closes them before."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _closed(self, writer: FileWriter) -> None:
        with self._lock:
            writer.n_users -= 1
            if writer.n_users:
                return
            del self._writers[writer.ino]
        if writer.dirty:
            n_bytes = writer.discard()
            log.error("inode %d: %d bytes written before close are lost: they could not be stored", writer.ino, n_bytes)

    # Memory

    def _reserve(self, n_bytes: int) -> None:
        if self._budget.try_reserve(n_bytes):
            return
        started_ns = perf_counter_ns()
        try:
            self._wait_for_memory(n_bytes)
        finally:
            self._waits.observe_ns(perf_counter_ns() - started_ns)

    def _wait_for_memory(self, n_bytes: int) -> None:
        started_s = self._clock.monotonic_s()
        n_full, n_stored = self._n_full, self._n_stored
        while True:
            self._relieve(n_bytes)
            if self._budget.reserve(n_bytes, WAIT_SLICE_S):
                return
            if self._n_stored != n_stored:  # slow, or limited, and no failure: others have had the memory
                started_s, n_stored = self._clock.monotonic_s(), self._n_stored
            error = self._last_error
            if error is not None and error.errno in _FULL and self._n_full - n_full >= _FULL_FAILURES:
                raise error
            if self._clock.monotonic_s() - started_s > self._io_timeout_s + GRACE_S:
                raise error or ObjectError(f"no memory for writes: uploads have not gone on for {self._io_timeout_s:g} s")

    def _relieve(self, n_bytes: int) -> None:
        """Start uploads, the oldest dirty data first, until enough memory for some time is on its way back.

        Not more than that: a block that is sealed early becomes a small pack.
        """
        now_s = self._clock.monotonic_s()
        writers = self._by_age(now_s)
        wanted = max(n_bytes, self._budget.limit_bytes // 4) - sum(w.in_flight_bytes() for w in writers)
        for writer in writers:
            if wanted <= 0:
                return
            wanted -= writer.push(now_s)

    def _by_age(self, now_s: float) -> list[FileWriter]:
        with self._lock:
            writers = [w for w in self._writers.values() if w.dirty]
        return sorted(writers, key=lambda w: w.oldest_s() or now_s)

    def _stored(self, pieces: list[Piece]) -> None:
        self._last_error = None
        self._n_stored += 1
        for piece in pieces:
            if piece.ref is not None and piece.data is not None and piece.length <= CACHED_PIECE_BYTES:
                self._cache.put((piece.ref.pack, piece.ref.stored_off, WHOLE), piece.data)

    def _committed(self, attr: Attr, pieces: Sequence[Piece]) -> None:
        self._commits.add()
        self._tell_committed(attr, pieces)

    def _failed(self, error: CairnError) -> None:
        self._last_error = error
        if error.errno in _FULL:
            self._n_full += 1

    # The background thread

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(TICK_S)
            self._wake.clear()
            try:
                self._tick()
            except Exception:
                log.exception("background write-back failed")

    def _tick(self) -> None:
        if self.gather is not None:
            self.gather()
        now_s = self._clock.monotonic_s()
        if self._budget.under_pressure:
            self._relieve(0)
        for writer in self._by_age(now_s):
            if self._closing:
                return
            writer.push(now_s - UPLOAD_AGE_S)
            try:
                writer.commit_if_due(now_s)
            except CairnError as e:
                # The data stays dirty: the next flush tries again and reports to whoever called it.
                log.warning("inode %d: background commit failed: %s", writer.ino, e)
