"""The write buffer of one open inode: dirty bytes, their uploads, and the commit that makes them content.

Owns what was written and is not committed. Bytes go block (dirty, growing) -> batch (sealed, uploading, stored) -> commit;
sealed bytes never change, a later write to the same range goes to a new block, and the commit lays pieces down in the
order they were sealed. Uploads come first, then one commit. Nothing is dropped except by `discard` and `close`.

`on_commit` must make readers see the new layout before it returns: only then do committed bytes leave `snapshot`.

Lock order: `_flushing` (one flush, commit or discard at a time; held over I/O), then `_lock` (state; never over I/O).
Whoever waits for memory holds neither. States and scenarios: README.md.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

from cairnfs.clock import Clock, Since
from cairnfs.data.dirty import DirtyBlock
from cairnfs.data.pack import BuiltPack
from cairnfs.data.ports import LayoutOps
from cairnfs.data.uploader import MAX_BATCH_SLICES, Batch, Piece, State, Uploader
from cairnfs.errors import CairnError, CorruptError, FsError
from cairnfs.ext.journal import UNTIMED_NS
from cairnfs.types import Attr, Buffer, Inode, SliceRef

OnCommit = Callable[[Attr], None]
Snapshot = list[tuple[int, Buffer]]

COMMIT_BATCHES = 128  # a background commit is due at this many stored batches: 512 MiB of sequential writing
COMMIT_AGE_S = 30.0  # or at this age of the oldest: what Linux allows its own dirty pages
OLD_S = 1800.0  # what was stored so long ago and is named by nobody may have been collected: half of the grace of gc


class WriterServices:
    """What all writers of a process share; see `writers.Writers`."""

    def __init__(
        self,
        layout: LayoutOps,
        uploader: Uploader,
        clock: Clock,
        block_bytes: int,
        fetch: Callable[[SliceRef], Buffer],
        reserve: Callable[[int], None],
        release: Callable[[int], None],
        stored: Callable[[list[Piece]], None],
        failed: Callable[[CairnError], None],
        closed: Callable[["FileWriter"], None],
        committed: Callable[[Attr, Sequence[Piece]], None],
    ) -> None:
        self.layout = layout
        self.uploader = uploader
        self.clock = clock
        self.block_bytes = block_bytes
        self.fetch = fetch  # plain bytes of a stored slice
        self.reserve = reserve  # memory for bytes to come; may wait and start uploads of any writer
        self.release = release
        self.stored = stored  # pieces that were just stored, still with their bytes
        self.failed = failed  # an upload failed
        self.closed = closed  # a user of a writer has gone
        self.committed = committed  # pieces became content; must return at once


class FileWriter:
    """Buffers writes to one inode. Thread-safe; offsets and sizes in bytes."""

    def __init__(self, ino: Inode, services: WriterServices, on_commit: OnCommit | None = None) -> None:
        self.ino = ino
        self.n_users = 1  # guarded by Writers
        self._s = services
        self._on_commit = on_commit
        self._flushing = threading.Lock()
        self._lock = threading.Lock()
        self._settled: threading.Condition | None = None  # made by whoever waits for uploads of others: few files are as large
        self._blocks: dict[int, DirtyBlock] = {}
        self._batches: list[Batch] = []  # in the order they were sealed
        self._dirty_end = 0
        self._mtime_ns: int | None = None
        self._n_writes = 0
        self._commit_not_before_s = 0.0  # a background commit that failed is left alone for a while

    # What is dirty

    @property
    def dirty(self) -> bool:
        """Whether anything written is not committed."""
        return bool(self._blocks or self._batches)

    @property
    def dirty_end(self) -> int:
        """File offset after the last byte that is not committed, 0 when all is."""
        return self._dirty_end

    @property
    def mtime_ns(self) -> int | None:
        """When the last uncommitted write was made; None without one, or when the time was set explicitly since."""
        return self._mtime_ns

    def mtime_set(self) -> None:
        """The modification time is about to be set explicitly: the commit of earlier writes must leave it alone.

        Waits for a commit that is under way, because that carries their time.
        """
        with self._flushing, self._lock:
            self._mtime_ns = None

    def snapshot(self, offset: int, size: int) -> Snapshot:
        """(file offset, bytes) of dirty data within a range, to be laid over stored data in the order given.

        To be taken before the layout is read, so that what is committed in between is seen twice and not never.
        ObjectMissing when data was committed and replaced meanwhile: read the layout again and take another one.
        """
        end = offset + size
        stored: list[tuple[int, SliceRef, int, int]] = []
        found: Snapshot = []
        with self._lock:
            for piece in (p for b in self._batches for p in b.pieces):
                a, b = max(offset, piece.file_off), min(end, piece.file_off + piece.length)
                if a >= b:
                    continue
                if piece.data is not None:
                    found.append((a, piece.data[a - piece.file_off : b - piece.file_off]))
                elif piece.ref is not None:
                    stored.append((len(found), piece.ref, a - piece.file_off, b - piece.file_off))
                    found.append((a, b""))
            for block_no in sorted(self._blocks):
                found.extend(self._blocks[block_no].copy(offset, end))
        for i, ref, a, b in stored:
            found[i] = (found[i][0], memoryview(self._s.fetch(ref))[a:b])
        return found

    # Changing it

    def write(self, offset: int, data: Buffer, when_ns: int = 0, *, reserved: bool = False) -> None:
        """Copy `data` into the buffer, as of `when_ns` (0: now; UNTIMED_NS: the modification time stays). Waits for memory;
        raises what keeps uploads from giving it back (EIO, ENOSPC). Not if it is `reserved`: then the caller has the memory, and
        hands it over.
        """
        view = memoryview(data).cast("B")
        block_bytes = self._s.block_bytes
        while view:
            n_bytes = min(len(view), block_bytes - offset % block_bytes)
            self._write_in_block(offset, view[:n_bytes], when_ns or self._s.clock.now_ns(), reserved)
            offset += n_bytes
            view = view[n_bytes:]

    def flush(self) -> Attr | None:
        """Store and commit everything written before the call; None when there was nothing.

        Raises the first error (ObjectError, StoreError, FsError with EIO, ENOSPC, ENOENT); the data stays dirty then.
        """
        if not self.dirty:
            return None
        with self._flushing:
            with self._lock:
                self._seal_all()
                batches = list(self._batches)
            if not batches:
                return None
            self._store_all(batches)
            return self._commit(batches)

    def discard(self, after: Callable[[], object] | None = None) -> int:
        """Forget everything dirty, after a flush or commit in progress is over; returns how many bytes were dropped.

        `after`: what makes it superfluous, done first, with no flush or commit meanwhile. If that fails, everything stays.
        """
        if after is None and not self.dirty:
            return 0
        with self._flushing:
            if after is not None:
                after()
            with self._lock:
                self._seal_all()
                batches, self._batches = self._batches, []
                self._dirty_end, self._mtime_ns = 0, None
                for batch in batches:
                    batch.discarded = True
                unused = [b for b in batches if b.state is not State.UPLOADING]
            for batch in unused:
                self._drop(batch)
            return sum(b.n_bytes for b in batches)

    def close(self) -> None:
        """One user less. The last one drops what is still dirty, which only a failed flush leaves; that is logged."""
        self._s.closed(self)

    # Called by Writers, in the background

    def oldest_s(self) -> float | None:
        """When the oldest byte that is in no upload yet was written (monotonic)."""
        with self._lock:
            return min((b.born_s for b in self._blocks.values()), default=None)

    def push(self, older_than_s: float) -> int:
        """Start uploading blocks born before a time, and batches that failed before it; returns how many bytes that is."""
        with self._lock:
            again = [b for b in self._batches if b.state is State.FAILED and b.sealed_s <= older_than_s]
            _try_again(again)
            started = again + self._seal(sorted(no for no, b in self._blocks.items() if b.born_s <= older_than_s))
        self._upload_in_background(len(started))
        return sum(b.n_bytes for b in started)

    def in_flight_bytes(self) -> int:
        """Bytes whose memory comes back when uploads that are queued or going on are done."""
        with self._lock:
            return sum(b.n_bytes for b in self._batches if b.state in (State.WAITING, State.UPLOADING))

    def commit_if_due(self, now_s: float) -> None:
        """Commit stored batches when many or old ones have gathered, unless a flush does it already. Raises as flush does."""
        if self._on_commit is None or not self._batches or now_s < self._commit_not_before_s:
            return
        if not self._flushing.acquire(blocking=False):
            return
        try:
            with self._lock:
                ready = self._stored_prefix()
            if len(ready) >= COMMIT_BATCHES or (ready and now_s - ready[0].sealed_s >= COMMIT_AGE_S):
                self._commit_not_before_s = now_s + COMMIT_AGE_S
                self._commit(ready)
                self._commit_not_before_s = 0.0
        finally:
            self._flushing.release()

    # Sealing

    def _write_in_block(self, offset: int, view: memoryview, when_ns: int, reserved: bool) -> None:
        n_bytes = len(view)
        if not reserved:
            self._s.reserve(n_bytes)
        grown = 0
        sealed: list[Batch] = []
        try:
            with self._lock:
                block_no = offset // self._s.block_bytes
                block = self._blocks.get(block_no) or self._new_block(block_no)
                grown = block.write(offset, view)
                self._blocks[block_no] = block
                self._dirty_end = max(self._dirty_end, offset + n_bytes)
                if when_ns != UNTIMED_NS:
                    self._mtime_ns = when_ns
                self._n_writes += 1
                if block.full:
                    sealed = self._seal([block_no])
        finally:
            if grown < n_bytes:
                self._s.release(n_bytes - grown)
        if sealed:
            self._upload_in_background(len(sealed))

    def _new_block(self, block_no: int) -> DirtyBlock:
        return DirtyBlock(block_no * self._s.block_bytes, self._s.block_bytes, self._s.clock.monotonic_s())

    def _seal_all(self) -> list[Batch]:
        return self._seal(sorted(self._blocks))

    def _seal(self, block_nos: list[int]) -> list[Batch]:
        """Make batches of blocks: small runs, also of several blocks, share a pack of at most a block's size."""
        now_s = self._s.clock.monotonic_s()
        sealed: list[Batch] = []
        pieces: list[Piece] = []
        n_bytes = 0
        for file_off, data in (run for no in block_nos for run in self._blocks[no].runs()):
            if pieces and (n_bytes + len(data) > self._s.block_bytes or len(pieces) == MAX_BATCH_SLICES):
                sealed.append(Batch(pieces, now_s))
                pieces, n_bytes = [], 0
            pieces.append(Piece(file_off, data))
            n_bytes += len(data)
        if pieces:
            sealed.append(Batch(pieces, now_s))
        self._batches += sealed
        for no in block_nos:  # only now: `dirty` is asked without the lock
            del self._blocks[no]
        return sealed

    # Uploading

    def _upload_in_background(self, n_batches: int) -> None:
        """So many batches are waiting, besides others."""
        for _ in range(self._s.uploader.n_threads(n_batches)):
            self._s.uploader.submit(self._upload_waiting)

    def _upload_waiting(self, among: Sequence[Batch] | None = None) -> None:
        """Upload what is waiting, the oldest first, and record the outcomes; never raises.

        `among`: the batches of a flush, which needs them all. When one has failed, the rest is not tried and has failed, too.
        """
        claimed: list[Batch] = []
        errors: list[CairnError] = []

        def waiting() -> Iterator[Batch]:
            while not (errors and among) and (batch := self._claim(among)) is not None:
                claimed.append(batch)
                yield batch

        try:
            for batch, pack in self._s.uploader.store_many(self.ino, waiting()):
                claimed.remove(batch)
                if isinstance(pack, CairnError):
                    errors.append(pack)
                    self._note_failed(batch, pack)
                else:
                    self._note_stored(batch, pack)
        except Exception as e:  # a failure nobody foresaw must not leave a batch "uploading" for ever
            errors.append(CairnError(f"upload failed: {e!r}"))
            for batch in claimed:
                self._note_failed(batch, errors[0])
        while errors and among and (left := self._claim(among)) is not None:
            self._note_failed(left, errors[0], tried=False)

    def _upload(self, batch: Batch) -> None:
        """`_upload_waiting` for one batch that was claimed: a small file has no other."""
        try:
            self._note_stored(batch, self._s.uploader.store(self.ino, batch.slices))
        except CairnError as e:
            self._note_failed(batch, e)
        except Exception as e:
            self._note_failed(batch, CairnError(f"upload failed: {e!r}"))

    def _claim(self, among: Sequence[Batch] | None) -> Batch | None:
        with self._lock:
            for batch in self._batches if among is None else among:
                if batch.state is State.WAITING and not batch.discarded:
                    batch.state = State.UPLOADING
                    return batch
        return None

    def _note_stored(self, batch: Batch, pack: BuiltPack) -> None:
        batch.pack = pack
        for piece, ref in zip(batch.pieces, pack.refs, strict=True):
            piece.ref = ref
        self._s.stored(batch.pieces)
        with self._lock:
            for piece in batch.pieces:
                piece.data = None
            batch.state, batch.stored = State.STORED, Since(self._s.clock)
            discarded = batch.discarded
            if self._settled is not None:
                self._settled.notify_all()
        self._s.release(batch.n_bytes)
        if discarded:
            self._s.uploader.forget(pack.pack)

    def _note_failed(self, batch: Batch, error: CairnError, *, tried: bool = True) -> None:
        with self._lock:
            batch.state = State.FAILED
            batch.error = error
            batch.sealed_s = self._s.clock.monotonic_s()
            discarded = batch.discarded
            if self._settled is not None:
                self._settled.notify_all()
        if discarded:
            self._s.release(batch.n_bytes)
        elif tried:
            self._s.failed(error)

    def _store_all(self, batches: list[Batch]) -> None:
        """Have every batch stored: this thread works through them, pool threads help where that is of use."""
        with self._lock:
            _try_again([b for b in batches if b.state is State.FAILED])
            todo = [b for b in batches if b.state is State.WAITING]
            if len(todo) == 1:
                todo[0].state = State.UPLOADING
        if len(todo) == 1:
            self._upload(todo[0])
        else:
            for _ in range(self._s.uploader.n_threads(len(todo)) - 1):
                self._s.uploader.submit(lambda: self._upload_waiting(batches))
            self._upload_waiting(batches)
        with self._lock:
            # What has failed may be tried again by a push meanwhile, and is not stored then.
            if not _are_settled(batches):
                self._settled = self._settled or threading.Condition(self._lock)
                self._settled.wait_for(lambda: _are_settled(batches))
            for batch in batches:
                if batch.error is not None:
                    raise batch.error

    # Committing

    def _stored_prefix(self) -> list[Batch]:
        """Batches that can be committed without overtaking an earlier one."""
        ready: list[Batch] = []
        for batch in self._batches:
            if batch.state is not State.STORED:
                break
            ready.append(batch)
        return ready

    def _commit(self, batches: list[Batch]) -> Attr:
        """Commit the first batches, all stored. The caller holds `_flushing`."""
        pieces = [(p.file_off, p.length, p.ref) for b in batches for p in b.pieces if p.ref is not None]
        packs = [(b.pack.pack, b.pack.plain_bytes, b.pack.object_bytes) for b in batches if b.pack is not None]
        self._check_old(batches)
        with self._lock:
            mtime_ns, n_writes = self._mtime_ns, self._n_writes
            first_offered = [batch for batch in batches if not batch.offered]
            for batch in first_offered:
                batch.offered = True
        try:
            attr = self._s.layout.commit_write(self.ino, pieces, mtime_ns=mtime_ns, new_packs=packs)
        except FsError:
            for batch in first_offered:
                batch.offered = False  # nothing was applied
            raise
        if self._on_commit is not None:
            self._on_commit(attr)
        with self._lock:
            del self._batches[: len(batches)]
            if self._n_writes == n_writes and not self.dirty:
                self._mtime_ns = None
            self._dirty_end = self._find_dirty_end()
        self._s.committed(attr, [p for b in batches for p in b.pieces])
        return attr

    def _check_old(self, batches: list[Batch]) -> None:
        """Ask for objects that were stored long ago; and for those that a commit without an answer has named: if it was applied,
        and all of them was overwritten since, they are deleted.
        """
        for batch in batches:
            is_old = batch.stored is None or batch.stored.is_longer(OLD_S)
            if batch.pack is not None and (is_old or batch.offered) and not self._s.uploader.has(batch.pack.pack):
                how = "overwritten elsewhere and deleted" if batch.offered else "collected before it was committed"
                raise CorruptError(
                    f"inode {self.ino}: what was stored of it was {how}, while this node stood still or was cut off"
                )

    def _find_dirty_end(self) -> int:
        ends = [b.end for b in self._blocks.values()]
        ends += [p.file_off + p.length for b in self._batches for p in b.pieces]
        return max(ends, default=0)

    def _drop(self, batch: Batch) -> None:
        if batch.state is not State.STORED:
            self._s.release(batch.n_bytes)
        elif batch.pack is not None and not batch.offered:
            self._s.uploader.forget(batch.pack.pack)


def _are_settled(batches: list[Batch]) -> bool:
    return all(b.state in (State.STORED, State.FAILED) for b in batches)


def _try_again(failed: list[Batch]) -> None:
    for batch in failed:
        batch.state = State.WAITING
        batch.error = None
