"""Deletes the objects of packs that no layout names any more, in the background.

The metadata decides: a pack whose live bytes reached zero stays at zero. Its object goes first, then its rows, so that a
crash in between leaves rows that are looked at again, never an object nobody knows of. Before objects go, the commits that
freed them must be safe from loss of power: else a file could come back whose bytes are gone.
"""

import logging
import threading
from collections.abc import Iterator, Sequence

from cairnfs.data.pack import pack_name
from cairnfs.data.ports import MetaPort
from cairnfs.data.syncing import Syncing
from cairnfs.errors import CairnError, ObjectError
from cairnfs.objects.base import Delete, ObjectStore
from cairnfs.types import PackId

log = logging.getLogger(__name__)

PERIOD_S = 5.0
GATHER_S = 0.2  # after a notice: one sync serves what is freed in this time
BATCH = 256
DROPPED_TOGETHER = 64  # one commit's work: well under a millisecond of a metadata server, which serves nobody else meanwhile
FREE_CHUNKS = 64  # chunks of deleted large files freed between two looks at the packs


class Deleter:
    """One thread; `start` it once, `notify` it when something was freed, `close` it."""

    def __init__(self, meta: MetaPort, objects: ObjectStore, syncing: Syncing) -> None:
        self._meta = meta
        self._objects = objects
        self._syncing = syncing
        self.n_sync_failures = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="cairnfs-deleter", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Something was removed or overwritten: look soon."""
        self._wake.set()

    def close(self) -> None:
        """Stop after the object being deleted; what is left is found again by any process of the volume."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def run_once(self) -> int:
        """Delete all there is to delete now; returns how many packs. Raises CairnError when the metadata store fails."""
        n_deleted = 0
        while not self._stop.is_set():
            n_freed = self._meta.layout.free_deleted(FREE_CHUNKS)
            n_deleted += self._delete_garbage()
            if n_freed < FREE_CHUNKS:
                break
        return n_deleted

    def _delete_garbage(self) -> int:
        n_deleted = 0
        after: PackId | None = None
        while not self._stop.is_set():
            packs = self._meta.layout.garbage(BATCH, after)
            if not packs:
                break
            if not self._store_is_usable():
                break
            self._syncing.sync(self, tells=False)  # what has taken the place of these packs, too
            n_deleted += self._delete(packs)
            after = packs[-1]
        return n_deleted

    def _store_is_usable(self) -> bool:
        """Asked once per batch, so that `close` does not wait for the retries of a store that is down."""
        try:
            self._objects.check()
        except ObjectError as e:
            self._note_failure(f"unused packs cannot be deleted now: {e}")
            return False
        return True

    def _delete(self, packs: Sequence[PackId]) -> int:
        """Delete objects, then the rows of those that are gone: of many in one commit."""
        n_deleted = 0
        gone: list[PackId] = []
        for i, error in self._objects.many(self._deletions(packs)):
            if isinstance(error, ObjectError):
                self._note_failure(f"pack {packs[i]:016x} cannot be deleted now: {error}")
                continue
            self._failing = False
            gone.append(packs[i])
            if len(gone) == DROPPED_TOGETHER:
                n_deleted += self._meta.layout.drop_packs(gone)
                gone = []
        return n_deleted + (self._meta.layout.drop_packs(gone) if gone else 0)

    def _deletions(self, packs: Sequence[PackId]) -> Iterator[Delete]:
        for pack in packs:
            if self._stop.is_set():
                return
            yield Delete(pack_name(pack))

    def _note_failure(self, message: str) -> None:
        if not self._failing:
            log.warning("%s", message)
        self._failing = True

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._wake.wait(PERIOD_S):
                self._stop.wait(GATHER_S)
            self._wake.clear()
            try:
                self.run_once()
            except CairnError as e:
                log.warning("deletion of unused packs is put off: %s", e)
            except Exception:
                log.exception("deletion of unused packs failed")
