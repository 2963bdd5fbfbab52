"""The life of one mount process, from opening the volume to the last byte stored.

Owns the order of things; `README.md` beside this file draws the states. Signals are blocked in every thread and taken by
one of their own, so that they work however the front waits in compiled code: the first SIGTERM, SIGINT or SIGHUP asks
for a clean end, a second aborts what still waits in the mount, a third ends the process with whatever is not stored.
"""

import errno
import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cairnfs.daemon.fronts import Front, make_front
from cairnfs.daemon.heartbeat import registered_session
from cairnfs.daemon.invalidate import Follower
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.mountpoint import is_mounted, unmount
from cairnfs.daemon.running import Registration
from cairnfs.errors import MountError
from cairnfs.version import VERSION
from cairnfs.vfs import Vfs
from cairnfs.volume import Volume, open_volume

log = logging.getLogger(__name__)

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
BUSY_WAIT_S = 5.0  # how long a signalled mount waits for its users to leave before it detaches from them
BUSY_RETRY_S = 0.2
ANSWER_POLL_S = 0.002


def serve(request: MountRequest, on_ready: Callable[[], None]) -> int:
    """Mount, call `on_ready` once the mount answers, serve until unmounted, store everything; returns the exit code.

    Must run in the main thread, before any other is started. Raises CairnError for whatever prevents the mount.
    """
    with blocked_signals():
        registration = Registration(request.mountpoint, {"url": request.url, "version": VERSION})
        try:
            with open_volume(request.url, request.engine) as volume:
                _serve_volume(volume, request, on_ready)
            log.info("%s: everything is stored", request.mountpoint)
            return 0
        except NotStored as error:
            log.error("%s: not everything could be stored: %s", request.mountpoint, error)
            registration.fail(str(error))
            return 1
        finally:
            registration.close()


class NotStored(Exception):
    """Unmounted, but data or metadata written before could not be stored."""


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Signals that stop a mount are held back from every thread; SIGUSR1 writes all stacks to stderr."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve_volume(volume: Volume, request: MountRequest, on_ready: Callable[[], None]) -> None:
    with registered_session(volume, request.mountpoint):
        vfs = Vfs(volume.meta, volume.data, request.engine, volume.clock)
        try:
            front = make_front(request.front, vfs, request.mountpoint, request.fuse)
            _serve_front(front, vfs, request, volume, on_ready)
        finally:
            _store_all(vfs)


def _store_all(vfs: Vfs) -> None:
    try:
        vfs.close()
    except OSError as error:
        raise NotStored(str(error)) from error


def _serve_front(front: Front, vfs: Vfs, request: MountRequest, volume: Volume, on_ready: Callable[[], None]) -> None:
    ended = threading.Event()
    follower = Follower(volume.store, vfs, front)
    watcher = StopWatcher(request.mountpoint, front)
    announcer = threading.Thread(target=_announce, args=(request, on_ready, ended), name="announce", daemon=True)
    for thread in (watcher, announcer):
        thread.start()
    follower.start()
    try:
        front.run()
    finally:
        ended.set()
        follower.stop()
        announcer.join()
    log.info("%s: unmounted", request.mountpoint)


def _announce(request: MountRequest, on_ready: Callable[[], None], ended: threading.Event) -> None:
    """Call `on_ready` when a call through the kernel is answered; not at all when the front ends before."""
    while not ended.is_set():
        if is_mounted(request.mountpoint):
            try:
                os.stat(request.mountpoint)
            except OSError as error:
                log.warning("%s: the new mount does not answer: %s", request.mountpoint, error.strerror)
                return
            log.info("%s: mounted %s, front %s, version %s", request.mountpoint, request.url, request.front, VERSION)
            on_ready()
            return
        ended.wait(ANSWER_POLL_S)


class StopWatcher(threading.Thread):
    """Takes the signals that ask the mount to end."""

    def __init__(self, mountpoint: Path, front: Front) -> None:
        super().__init__(name="signals", daemon=True)
        self._mountpoint = mountpoint
        self._front = front

    def run(self) -> None:
        first = signal.sigwait(STOP_SIGNALS)
        log.info("%s: %s: unmounting", self._mountpoint, signal.Signals(first).name)
        if not self._unmount_when_idle():
            self._front.stop()
        signal.sigwait(STOP_SIGNALS)
        log.info("%s: asked again: aborting calls that wait", self._mountpoint)
        self._front.stop()
        signal.sigwait(STOP_SIGNALS)
        log.critical("%s: asked a third time: ending now; what is not stored is lost", self._mountpoint)
        os._exit(1)

    def _unmount_when_idle(self) -> bool:
        """Unmount once nobody uses the mount; False when that takes longer than BUSY_WAIT_S, or on another signal."""
        deadline = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                unmount(self._mountpoint)
                return True
            except MountError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                    log.warning("%s: detaching from those who still use it: %s", self._mountpoint, error)
                    return False
            if signal.sigtimedwait(STOP_SIGNALS, BUSY_RETRY_S) is not None:
                return False
