"""Batches of dirty pieces on their way to the object store: one batch becomes one pack.

Owns the upload threads. A batch is claimed by exactly one thread, a pool thread or one that flushes, whichever comes first;
claiming, and every other change of `state`, happens under the lock of the file it belongs to (see `writer`).
"""

import errno
import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

from cairnfs.data.pack import BuiltPack, PlainSlice, build_pack, pack_name
from cairnfs.data.ports import MetaPort
from cairnfs.errors import CairnError, ObjectError
from cairnfs.metrics import Metrics
from cairnfs.objects.base import ObjectStore
from cairnfs.objects.codec import make_encoder
from cairnfs.types import Buffer, Inode, PackId, SliceRef

log = logging.getLogger(__name__)

MAX_BATCH_SLICES = 1024  # keeps a pack's index small beside its slices
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
    """Pieces that share a pack. `offered`: a commit has named its pack, so the pack may be in a layout already."""

    __slots__ = ("discarded", "error", "n_bytes", "offered", "pack", "pieces", "sealed_s", "state")

    def __init__(self, pieces: list[Piece], sealed_s: float) -> None:
        self.pieces = pieces
        self.n_bytes = sum(p.length for p in pieces)
        self.sealed_s = sealed_s
        self.state = State.WAITING
        self.pack: BuiltPack | None = None
        self.error: CairnError | None = None
        self.discarded = False
        self.offered = False


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
        plain = [PlainSlice(ino, file_off, data) for file_off, data in slices]
        for attempt in range(_MAX_TAKEN_IDS):
            pack = self._ids.pack()
            built = build_pack(self._volume, pack, plain, self._encode)
            try:
                self._objects.put(pack_name(pack), built.parts)
            except ObjectError as e:
                if e.errno != errno.EEXIST or attempt == _MAX_TAKEN_IDS - 1:
                    raise
                # A metadata store that lost its last commits with the power hands out ids again.
                log.warning("pack id %016x is taken by an object that no metadata knows; taking another one", pack)
                continue
            self._uploads.add()
            self._upload_bytes.add(sum(len(data) for _, data in slices))
            # The stored bytes may be compressed copies; only sizes and references are needed from now on.
            return built._replace(parts=[])
        raise ObjectError("no free pack id was found")

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on an upload thread; at once when the threads are being stopped."""
        try:
            self._threads.submit(work)
        except RuntimeError:
            work()

    def forget(self, pack: PackId) -> None:
        """Delete, in the background, a pack that no commit has named. What cannot be deleted is left to `cairnfs gc`."""
        self.submit(lambda: self._delete(pack))

    def close(self) -> None:
        """Wait for uploads in progress."""
        self._threads.shutdown(wait=True)

    def _delete(self, pack: PackId) -> None:
        try:
            self._objects.delete(pack_name(pack))
        except ObjectError as e:
            log.info("unused pack %016x is left behind: %s", pack, e)
