"""A worker that fetches for the one that serves: rows and bytes into the arena, when the other's interpreter is busy.

It answers nothing and changes nothing, so its death costs a moment of waiting at most (`ext/fuse_jobs.h`).
"""

import logging
import threading
from dataclasses import replace

from cairnfs.daemon.inherited import Inherited, Pulse
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.ext.fuse_slots import Slots
from cairnfs.meta.passed_on import PassedOn
from cairnfs.types import Inode
from cairnfs.vfs.fetching import Fetching
from cairnfs.volume import open_volume

log = logging.getLogger(__name__)

N_THREADS = 16  # they wait for stores most of the time
WAIT_MS = 1000


def fetch(request: MountRequest, inherited: Inherited, worker: int) -> None:
    """The life of such a worker: until it is killed. Raises what prevents it from working."""
    carried = inherited.carried
    Pulse(carried, worker).start()
    options = replace(request.engine, background_jobs=False, read_only=True)
    with open_volume(
        request.url, options, arena=carried.arena, cells=carried.cells[worker], turns=carried.turns, uuid=inherited.uuid
    ) as volume:
        if volume.store.watch() is None:
            volume.meta.core.neighbours.start()
        volume.meta.core.recall.pass_on(PassedOn(carried.arena))
        fetching = Fetching(volume.meta, volume.data, carried.arena)
        threads = [FetchThread(inherited.slots, worker, fetching, f"fetch-{i}") for i in range(N_THREADS)]
        for thread in threads:
            thread.start()
        inherited.outcomes.say(ready=True, worker=worker)
        for thread in threads:
            thread.join()


class FetchThread(threading.Thread):
    """Does jobs until `stopped` is set."""

    def __init__(self, slots: Slots, worker: int, fetching: Fetching, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._slots = slots
        self._worker = worker
        self._fetching = fetching
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            job = self._slots.take_job(self._worker, WAIT_MS)
            if job is not None:
                self._do(*job)

    def _do(self, slot: int, ino: int, name: bytes | None, with_bytes: bool) -> None:
        try:
            if name is None:
                self._fetching.inode(Inode(ino), with_bytes=with_bytes)
            else:
                self._fetching.name(Inode(ino), name)
        except OSError as error:
            log.debug("inode %d: nothing fetched: %s", ino, error)  # who asked will find out
        finally:
            self._slots.end_job(self._worker, slot)
