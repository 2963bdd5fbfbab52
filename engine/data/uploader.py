"""Batches of dirty pieces on their way to the object store: one batch becomes one pack.

Owns the upload threads, each of which may have several puts under way. A batch is claimed by exactly one thread, a pool thread or
one that flushes, whichever comes first;
claiming, and every other change of `state`, happens under the lock of the file it belongs to (see `writer`).
"""

import errno
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from itertools import count

from cairnfs.clock import Since
from cairnfs.data.pack import BuiltPack, PlainSlice, build_pack, pack_name
from cairnfs.data.ports import MetaPort
from cairnfs.errors import CairnError, ObjectError, ObjectMissing
from cairnfs.metrics import Metrics
from cairnfs.objects.base import ObjectStore, Put
from cairnfs.objects.codec import make_encoder
from cairnfs.types import Buffer, Inode, PackId, SliceRef

log = logging.getLogger(__name__)

MAX_BATCH_SLICES = 1024  # keeps a pack's index small beside its slices
BATCHES_A_THREAD = 16  # where many puts are under way: a thread's work is to build and compress packs
_MAX_TAKEN_IDS = 8


class State(Enum):
    """Where a batch is; transitions are drawn in README.md."""

    WAITING = "waiting"  # sealed, to be uploaded by whoever claims it
    UPLOADING = "uploading"
    STORED = "stored"  # in the object store, not yet in a layout
    FAILED = "failed"  # its bytes are still in memory; a flush or memory pressure tries again


class Piece:
    """A run of written bytes. `data` until it is stored, `ref` from then on."""

    __slots__ = ("data", "file_off", "length", "ref")

    def __init__(self, file_off: int, data: Buffer) -> None:
        self.file_off = file_off
        self.length = len(data)
        self.data: memoryview | None = memoryview(data).toreadonly()
        self.ref: SliceRef | None = None


class Batch:
    """Pieces that share a pack. `offered`: a commit that was not refused has named its pack, which may be in a layout already."""

    __slots__ = ("discarded", "error", "n_bytes", "offered", "pack", "pieces", "sealed_s", "state", "stored")

    def __init__(self, pieces: list[Piece], sealed_s: float) -> None:
        self.pieces = pieces
        self.n_bytes = sum(p.length for p in pieces)
        self.sealed_s = sealed_s
        self.stored: Since | None = None
        self.state = State.WAITING
        self.pack: BuiltPack | None = None
        self.error: CairnError | None = None
        self.discarded = False
        self.offered = False

    @property
    def slices(self) -> list[tuple[int, Buffer]]:
        """(file offset, bytes) of what is to be stored."""
        return [(p.file_off, p.data) for p in self.pieces if p.data is not None]


class Uploader:
    """Turns batches into packs and puts them; also deletes packs that nothing came to refer to."""

    def __init__(self, meta: MetaPort, objects: ObjectStore, max_uploads: int, metrics: Metrics | None = None) -> None:
        self._ids = meta.ids
        self._volume = uuid.UUID(meta.format.uuid).bytes
        self._encode = make_encoder(meta.format.compression)
        self._objects = objects
        metrics = metrics or Metrics()
        self._uploads = metrics.uploads
        self._upload_bytes = metrics.upload_bytes
        self._threads = ThreadPoolExecutor(max_uploads, "cairnfs-upload")

    def store(self, ino: Inode, slices: Sequence[tuple[int, Buffer]]) -> BuiltPack:
        """Store (file offset, bytes) slices of one file as a new pack. Raises ObjectError or StoreError."""
        for attempt in range(_MAX_TAKEN_IDS):
            built = self._build(ino, slices)
            try:
                self._objects.put(pack_name(built.pack), built.parts)
            except ObjectError as e:
                if e.errno != errno.EEXIST or attempt == _MAX_TAKEN_IDS - 1:
                    raise
                # A metadata store that lost its last commits with the power hands out ids again.
                log.warning("pack id %016x is taken by an object that no metadata knows; taking another one", built.pack)
                continue
            return self._stored(built)
        raise ObjectError("no free pack id was found")

    def store_many(self, ino: Inode, batches: Iterable[Batch]) -> Iterator[tuple[Batch, BuiltPack | CairnError]]:
        """Store batches of one file, as many at a time as the object store takes; each with its pack, or why it is not stored, in
        the order in which that is known. A batch is taken from `batches` when its put can be made.
        """
        sent: dict[int, tuple[Batch, BuiltPack]] = {}
        unbuilt: list[tuple[Batch, CairnError]] = []

        def puts() -> Iterator[Put]:
            numbers = count()
            for batch in batches:
                try:
                    built = self._build(ino, batch.slices)
                except CairnError as e:
                    unbuilt.append((batch, e))
                    return
                sent[next(numbers)] = batch, built
                yield Put(pack_name(built.pack), built.parts)

        for n, outcome in self._objects.many(puts()):
            batch, built = sent.pop(n)
            if not isinstance(outcome, ObjectError):
                yield batch, self._stored(built)
            elif outcome.errno == errno.EEXIST:
                yield batch, self._store_under_another_id(ino, batch)
            else:
                yield batch, outcome
        yield from unbuilt

    def n_threads(self, n_batches: int) -> int:
        """How many threads should store so many batches."""
        return -(-n_batches // (1 if self._objects.depth == 1 else BATCHES_A_THREAD))

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on an upload thread; at once when the threads are being stopped."""
        try:
            self._threads.submit(work)
        except RuntimeError:
            work()

    def has(self, pack: PackId) -> bool:
        """Whether the object of a pack is there. ObjectError when that cannot be told."""
        try:
            self._objects.head(pack_name(pack))
        except ObjectMissing:
            return False
        return True

    def forget(self, pack: PackId) -> None:
        """Delete, in the background, a pack that no commit has named. What cannot be deleted is left to `cairnfs gc`."""
        self.submit(lambda: self._delete(pack))

    def close(self) -> None:
        """Wait for uploads in progress."""
        self._threads.shutdown(wait=True)

    def _build(self, ino: Inode, slices: Sequence[tuple[int, Buffer]]) -> BuiltPack:
        plain = [PlainSlice(ino, file_off, data) for file_off, data in slices]
        return build_pack(self._volume, self._ids.pack(), plain, self._encode)

    def _stored(self, built: BuiltPack) -> BuiltPack:
        self._uploads.add()
        self._upload_bytes.add(built.plain_bytes)
        # The stored bytes may be compressed copies; only sizes and references are needed from now on.
        return BuiltPack(built.pack, [], built.refs, built.plain_bytes, built.object_bytes)

    def _store_under_another_id(self, ino: Inode, batch: Batch) -> BuiltPack | CairnError:
        try:
            return self.store(ino, batch.slices)
        except CairnError as e:
            return e

    def _delete(self, pack: PackId) -> None:
        try:
            self._objects.delete(pack_name(pack))
        except ObjectError as e:
            log.info("unused pack %016x is left behind: %s", pack, e)
