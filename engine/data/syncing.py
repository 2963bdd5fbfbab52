"""Has what is committed survive a loss of power, and tells everybody who asks for that of what was lost before.

A disk tells of what it could not store once, to whoever syncs it first: perhaps the deleter, which nobody asked. So failures are
counted, and each user is told once of those since it began, and of earlier ones that nobody was told of: as Linux does for
descriptors (errseq_t). Which files they are about nobody knows.
"""

import logging
import threading
from typing import Protocol

from cairnfs.data.ports import MetaPort
from cairnfs.errors import ObjectError
from cairnfs.objects.base import ObjectStore

log = logging.getLogger(__name__)


class SyncUser(Protocol):
    """Whoever syncs. It begins with `Syncing.n_told`."""

    n_sync_failures: int  # those up to this one are not its affair, or it was told of


class Syncing:
    """Of both stores of one volume, by one process."""

    def __init__(self, meta: MetaPort, objects: ObjectStore) -> None:
        self._meta = meta
        self._objects = objects
        self._lock = threading.Lock()  # held over a sync: nobody passes while another one is about to note a failure
        self._n_begun = self._n_ended = self._n_failed = 0
        self._error: ObjectError | None = None
        self.n_told = 0  # of the failures, those that somebody was told of

    def sync(self, user: SyncUser, *, tells: bool = True) -> None:
        """First the packs, then the metadata that names them. Raises if either fails, and what the `user` was not told of yet;
        who `tells` nobody else leaves it to others to do so.
        """
        self._sync_objects()
        error, n_failed = self._error, self._n_failed
        if error is not None and user.n_sync_failures != n_failed:
            user.n_sync_failures = n_failed
            if tells:
                self.n_told = n_failed
            raise ObjectError(str(error), error.errno)
        self._meta.store.sync()

    def _sync_objects(self) -> None:
        """Who comes while others are synced shares the next one with all who wait."""
        wanted = self._n_begun + 1
        with self._lock:
            if self._n_ended >= wanted:
                return
            self._n_begun += 1
            try:
                self._objects.sync()
            except ObjectError as error:
                log.error("what was stored may be lost: %s", error)
                self._error, self._n_failed = error, self._n_failed + 1
            finally:
                self._n_ended = self._n_begun
