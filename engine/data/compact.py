"""Rewrites chunks that are made of many small slices, in the background, so that reads and commits stay cheap.

Reading a chunk of thousands of slices takes as many requests, and every commit to it rewrites its whole layout. The bytes
that are visible in runs of small neighbours are stored again as slices of up to a block, and the layout is exchanged if it
is still the same. Somebody who writes to the chunk meanwhile wins; then the new pack is deleted and the chunk is looked at
again when it comes up. Large slices and holes stay as they are, so bytes are rewritten about log(block / write size) times.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence

from cairnfs.clock import Clock, Since
from cairnfs.const import CHUNK_BYTES
from cairnfs.data.fetch import SMALL_SLICE_BYTES, Fetcher
from cairnfs.data.ports import MetaPort, NewPack
from cairnfs.data.uploader import Piece, Uploader
from cairnfs.data.writer import OLD_S
from cairnfs.errors import CairnError, ObjectMissing
from cairnfs.ext import slicer
from cairnfs.types import Attr, Inode, PackId, SliceRef

log = logging.getLogger(__name__)

MAX_RECORDS = 64  # a chunk with more is looked at
MIN_RUN = 4  # neighbours worth rewriting
TOUCHES = 32  # small commits to a chunk beyond the first before its layout is read to see how long it has become
MAX_REMEMBERED = 4096
MAX_QUEUED = 1024

Chunk = tuple[Inode, int]
Record = tuple[int, int, int, int, int, int, int, int, int]  # as slicer.unpack gives them


def plan(layout: bytes, block_bytes: int) -> list[tuple[int, int]]:
    """The ranges [start, end) of a chunk that should each become one slice: runs of small neighbours without holes."""
    runs: list[tuple[int, int]] = []
    start = end = n_records = 0
    for pos, length, *_ in [*slicer.unpack(layout), (CHUNK_BYTES + 1, block_bytes)]:
        small = length * 4 < block_bytes
        if n_records and (not small or pos != end or pos + length - start > block_bytes):
            if n_records >= MIN_RUN:
                runs.append((start, end))
            n_records = 0
        if small:
            if not n_records:
                start = pos
            end = pos + length
            n_records += 1
    return runs


class Compactor:
    """One thread and a bounded queue of chunks to look at; what does not fit is noticed again later."""

    def __init__(self, meta: MetaPort, fetcher: Fetcher, uploader: Uploader, clock: Clock) -> None:
        self._meta = meta
        self._clock = clock
        self._fetcher = fetcher
        self._uploader = uploader
        self._block_bytes = meta.format.block_bytes
        self._queue: queue.Queue[Chunk | None] = queue.Queue(MAX_QUEUED)
        self._lock = threading.Lock()
        self._queued: set[Chunk] = set()
        self._seen: OrderedDict[Chunk, int] = OrderedDict()  # hash of the layout that was looked at last
        self._touches: OrderedDict[Chunk, int] = OrderedDict()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="cairnfs-compactor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the chunk being rewritten."""
        self._closing = True
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass  # the thread sees the flag with its next chunk
        if self._thread is not None:
            self._thread.join()

    def long_layout(self, ino: Inode, chunk_no: int, layout: bytes) -> None:
        """Somebody came across a chunk with more than MAX_RECORDS slices. Returns at once."""
        if self._seen.get((ino, chunk_no)) != hash(layout):
            self._suggest((ino, chunk_no))

    def committed(self, attr: Attr, pieces: Sequence[Piece]) -> None:
        """Pieces were committed to a file. Returns at once."""
        if len(attr.tail) > MAX_RECORDS * slicer.RECORD_BYTES:
            self.long_layout(attr.ino, 0, attr.tail)
        small = [p for p in pieces if p.length * 4 < self._block_bytes and p.file_off >= CHUNK_BYTES]
        for piece in small:
            self._touch((attr.ino, piece.file_off // CHUNK_BYTES))

    def compact(self, ino: Inode, chunk_no: int) -> bool:
        """Rewrite what is fragmented in a chunk; whether the layout was exchanged. Raises CairnError."""
        layout = self._meta.layout.read(ino, chunk_no)
        _remember(self._seen, (ino, chunk_no), hash(layout))
        if len(layout) <= MAX_RECORDS * slicer.RECORD_BYTES:
            return False
        changed = layout
        packs: list[NewPack] = []
        began = Since(self._clock)
        try:
            for start, end in plan(layout, self._block_bytes):
                if self._closing:
                    break
                ref, pack = self._rewrite(ino, chunk_no, layout, start, end)
                changed = _overlay(changed, start, end, ref)
                packs.append(pack)
            if began.is_longer(OLD_S):
                raise CairnError("it took so long that what was stored may have been collected")
        except BaseException:
            for pack_id, _, _ in packs:
                self._uploader.forget(pack_id)
            raise
        return bool(packs) and self._exchange(ino, chunk_no, layout, changed, packs)

    def _rewrite(self, ino: Inode, chunk_no: int, layout: bytes, start: int, end: int) -> tuple[SliceRef, NewPack]:
        parts = [(_ref(record), record[2], record[1]) for record in slicer.unpack(layout) if start <= record[0] < end]
        self._fetcher.bring((ref for ref, _, _ in parts if ref.plain_len <= SMALL_SLICE_BYTES), ino)
        views = [view for ref, off, length in parts for view in self._fetcher.part(ref, ino, off, length, sequential=False)]
        built = self._uploader.store(ino, [(chunk_no * CHUNK_BYTES + start, b"".join(views))])
        return built.refs[0], (built.pack, built.plain_bytes, built.object_bytes)

    def _exchange(self, ino: Inode, chunk_no: int, layout: bytes, changed: bytes, packs: list[NewPack]) -> bool:
        if self._meta.layout.replace(ino, chunk_no, layout, changed, packs):
            log.debug("inode %d: chunk %d rewritten, %d slices less", ino, chunk_no, (len(layout) - len(changed)) // 40)
            return True
        # Refused, or applied by an attempt whose answer was lost: only packs that are in no layout may go.
        named = {record[4] for record in slicer.unpack(self._meta.layout.read(ino, chunk_no))}
        for pack, _, _ in packs:
            if pack not in named:
                self._uploader.forget(pack)
        return False

    def _touch(self, chunk: Chunk) -> None:
        with self._lock:
            n = self._touches.get(chunk, 0) + 1
            _remember(self._touches, chunk, n % TOUCHES)
        if n == TOUCHES:
            self._suggest(chunk)

    def _suggest(self, chunk: Chunk) -> None:
        with self._lock:
            if chunk in self._queued or self._thread is None:
                return
            try:
                self._queue.put_nowait(chunk)
            except queue.Full:
                return
            self._queued.add(chunk)

    def _run(self) -> None:
        while True:
            chunk = self._queue.get()
            if chunk is None or self._closing:
                return
            with self._lock:
                self._queued.discard(chunk)
            try:
                self.compact(*chunk)
            except ObjectMissing:
                pass  # the chunk was rewritten or removed since its layout was read
            except CairnError as e:
                log.info("inode %d: chunk %d is not rewritten now: %s", *chunk, e)
            except Exception:
                log.exception("inode %d: rewriting chunk %d failed", *chunk)


def _overlay(layout: bytes, start: int, end: int, ref: SliceRef) -> bytes:
    record = slicer.pack_record(
        start, end - start, 0, ref.plain_len, ref.pack, ref.stored_off, ref.stored_len, ref.crc, ref.codec
    )
    return slicer.overlay(layout, start, end - start, record)[0]


def _ref(record: Record) -> SliceRef:
    _, _, _, plain_len, pack, stored_off, stored_len, crc, codec = record
    return SliceRef(PackId(pack), stored_off, stored_len, plain_len, crc, codec)


def _remember(table: OrderedDict[Chunk, int], chunk: Chunk, value: int) -> None:
    table[chunk] = value
    table.move_to_end(chunk)
    if len(table) > MAX_REMEMBERED:
        table.popitem(last=False)
