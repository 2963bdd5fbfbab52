"""The life of one mount process, from opening the volume to the last byte stored.

Owns the order of things; `README.md` beside this file draws the states. Signals are blocked in every thread and taken by
one of their own, so that they work however the front waits in compiled code: the first SIGTERM, SIGINT or SIGHUP asks
for a clean end, a second aborts what still waits in the mount, a third ends the process with whatever is not stored.
"""

import ctypes
import errno
import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from cairnfs.daemon.fronts import Front, make_front
from cairnfs.daemon.heartbeat import registered_session, shared_session
from cairnfs.daemon.inherited import Inherited, Pulse, arena_bytes
from cairnfs.daemon.invalidate import Follower, done_requests, tell_own
from cairnfs.daemon.metrics_socket import listen_at
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.mountpoint import check_mountpoint, clear_stale, is_mounted, unmount
from cairnfs.daemon.running import Registration
from cairnfs.daemon.shown import mount_config, serving, without_password
from cairnfs.daemon.signals import Came, next_signal
from cairnfs.daemon.transport import Transport, descriptor
from cairnfs.daemon.worker import NOT_NOW
from cairnfs.errors import CairnError, MountError, ObjectError, StoreError
from cairnfs.ext.arena import Arena
from cairnfs.meta.stores.base import Hazard, LogTrimmed
from cairnfs.types import Position
from cairnfs.version import VERSION
from cairnfs.vfs import Vfs
from cairnfs.vfs.mounted import MountedVfs
from cairnfs.volume import Volume, open_volume

log = logging.getLogger(__name__)

Ready = Callable[[Sequence[str]], None]  # given what whoever mounts is to read, a line each

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
ABANDON_SIGNAL = signal.SIGUSR2  # from the signal thread to the main thread, while there is no front to stop
BUSY_WAIT_S = 5.0  # how long a signalled mount waits for its users to leave before it detaches from them
BUSY_RETRY_S = 0.2
ANSWER_POLL_S = 0.002
M_ARENA_MAX = -8  # of mallopt(3), where the C library is glibc
N_ARENAS = 2


def serve(request: MountRequest, on_ready: Ready) -> int:
    """Mount, call `on_ready` once the mount answers, serve until unmounted, store everything; returns the exit code.

    Must run in the main thread, before any other is started. Raises CairnError for whatever prevents the mount, and
    KeyboardInterrupt when a signal ends it before there is one.
    """
    share_arenas()
    if request.workers:
        from cairnfs.daemon.supervisor import supervise  # not at the top: it forks workers, which are this module's

        return supervise(request, on_ready)
    if request.take_over:
        from cairnfs.daemon.takeover import refuse_to_take_over

        refuse_to_take_over(request)
    return serve_here(request, on_ready)


def share_arenas() -> None:
    """Have all threads of this process, and of its forks, allocate from few arenas, unless the environment says how many.

    Each arena keeps the holes that its thread has left. With one for each, a mount's memory grew as long as files came and went.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, N_ARENAS)


def work(request: MountRequest, inherited: Inherited) -> int:
    """The life of a worker: serve what was mounted by the supervisor; returns the exit code. Raises as `serve` does."""
    with held_signals():
        watcher = StopWatcher(request.mountpoint, inherited)
        watcher.start()
        Pulse(inherited.carried).start()
        mount = MountProcess(request, partial(_say_ready, inherited), watcher, inherited)
        try:
            mount.run()
        except OSError as error:
            is_early = mount.answered and not mount.serves and isinstance(error, StoreError | ObjectError)
            what = "cannot go on yet: " if is_early else "not everything could be stored: " if mount.answered else ""
            log.error("%s: %s%s", request.mountpoint, what, error)
            inherited.outcomes.say(failure=str(error))
            return NOT_NOW if is_early else 1
        log.info("%s: everything is stored", request.mountpoint)
        return 0


def _say_ready(inherited: Inherited, remarks: Sequence[str]) -> None:
    inherited.outcomes.say(ready=True, remarks=remarks)


def serve_here(request: MountRequest, on_ready: Ready) -> int:
    """`serve` by this very process."""
    with held_signals():
        watcher = StopWatcher(request.mountpoint)
        watcher.start()
        clear_stale(request.mountpoint)
        check_mountpoint(request.mountpoint)
        registration = Registration(request.mountpoint, {"url": request.url, "version": VERSION})
        mount = MountProcess(request, on_ready, watcher)
        try:
            mount.run()
        except OSError as error:
            if not mount.answered:
                raise
            log.error("%s: not everything could be stored: %s", request.mountpoint, error)
            registration.fail(str(error))
            return 1
        finally:
            registration.close()
        log.info("%s: everything is stored", request.mountpoint)
        return 0


@contextmanager
def held_signals() -> Iterator[None]:
    """Signals that stop a mount are held back from every thread; SIGUSR1 writes all stacks to stderr."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    abandoned = signal.signal(ABANDON_SIGNAL, _abandon)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(ABANDON_SIGNAL, abandoned)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _abandon(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def exported_metrics(volume: Volume, request: MountRequest, inherited: Inherited | None) -> Iterator[Callable[[], None]]:
    """Gives what begins to serve the metrics until the block ends, if that was asked for: before everything that is counted
    has its source, counters would seem to begin again.
    """
    if request.metrics is None:
        yield lambda: None
        return
    from cairnfs.daemon.exporter import Exporter  # not at the top: most mounts do without

    labels = {"volume": volume.format.name, "mountpoint": str(request.mountpoint)}
    listening = None if inherited is None else inherited.metrics
    exporter = Exporter(listening or listen_at(request.metrics), volume.metrics, labels)
    try:
        yield exporter.start
    finally:
        exporter.close()


class MountProcess:
    """One mount, served by this process. `answered`: it has been in use, so an error from then on may be lost data."""

    def __init__(
        self,
        request: MountRequest,
        on_ready: Ready,
        watcher: "StopWatcher",
        inherited: Inherited | None = None,
    ) -> None:
        self._request = request
        self._inherited = inherited
        self._on_ready = on_ready
        self._watcher = watcher
        self._ended = threading.Event()
        self._remarks: list[str] = []
        self._front: Front | None = None
        self._serve_metrics: Callable[[], None] = lambda: None
        self.answered = inherited is not None and inherited.carried.answered

    @property
    def serves(self) -> bool:
        """Whether it has begun to."""
        return self._front is not None

    def run(self) -> None:
        """Everything, from opening the volume to closing it. Raises what prevented the mount or was not stored."""
        request = self._request
        inherited = self._inherited
        carried = None if inherited is None else inherited.carried
        arena = Arena(arena_bytes(request)) if carried is None else carried.arena
        turns, uuid = (None, None) if inherited is None else (inherited.carried.turns, inherited.uuid)
        cells, others = (None, []) if carried is None else (carried.cells[0], carried.cells[1:])
        with (
            open_volume(request.url, request.engine, arena=arena, cells=cells, others=others, turns=turns, uuid=uuid) as volume,
            exported_metrics(volume, request, inherited) as self._serve_metrics,
            registered_session(volume, request.mountpoint)
            if inherited is None
            else shared_session(volume, request.mountpoint, inherited.carried, inherited.supervisor),
        ):
            if inherited is not None:
                volume.metrics.worker_restarts.source = lambda: inherited.carried.restarts
                volume.metrics.fuse_fetched.source = lambda: inherited.slots.n_fetched
            self._remark(volume.store.hazards())
            config = partial(self._config, volume)
            vfs = MountedVfs(volume.meta, volume.data, request.engine, volume.clock, volume.metrics, config, arena, carried)
            try:
                self._serve(volume, vfs)
            finally:
                vfs.close()
        n_losses = volume.metrics.losses.value
        if n_losses:
            raise CairnError(f"something written was lost earlier, as its log says ({n_losses} in all)")

    def _remark(self, hazards: Sequence[Hazard]) -> None:
        for hazard in hazards:
            line = f"{self._request.mountpoint}: {hazard.text}"
            log.log(logging.WARNING if hazard.is_known else logging.INFO, "%s", line)
            self._remarks.append(f"warning: {line}" if hazard.is_known else line)

    def _config(self, volume: Volume) -> dict[str, Any]:
        pid = os.getpid() if self._inherited is None else self._inherited.supervisor.pid
        return mount_config(volume, self._request, pid, self._transport())

    def _transport(self) -> Transport:
        return descriptor("nothing is mounted yet") if self._front is None else self._front.transport()

    def _serve(self, volume: Volume, vfs: Vfs) -> None:
        options = replace(self._request.fuse, volume_name=volume.format.name, keeps_absent=self._request.is_pushed)
        carried = None if self._inherited is None else self._inherited.carried
        done = self._take_over(volume, vfs)
        fences = volume.metrics.meta_store_s["fence"].memory
        self._front = front = make_front(
            self._request.front, vfs, self._request.mountpoint, options, volume.arena, self._inherited, done, fences
        )
        volume.metrics.fuse_requests.source = front.counts
        volume.metrics.fuse_answers.source = front.answers
        volume.metrics.fuse_answered_bytes.source = front.answered_bytes
        self._watcher.attach(front)
        told = carried.told if carried is not None and carried.told else None
        is_pushed = self._request.is_pushed
        vfs.moved.knows = front.known
        follower = Follower(volume.store, vfs, front, volume.arena, told, is_pushed, volume.meta.core, vfs.moved)
        follower.on_gap = partial(_look_again, volume)
        if carried is not None:
            follower.on_told = carried.tell
            follower.on_told(follower.position)
        if not is_pushed and volume.store.watch() is None:
            follower.on_read = partial(front.tend, volume.store)
        ask = follower.ask if is_pushed else None
        vfs.follow(
            follower.fence,
            front.invalidate_attributes,
            follower.way,
            show=follower.show,
            catch_up=ask,
            hold=follower.hold,
            dropped=follower.dropped,
            drop=follower.drop,
        )
        volume.store.on_commit = tell_own(front)
        announcer = threading.Thread(target=self._announce, args=(volume,), name="announce", daemon=True)
        announcer.start()
        follower.start()
        try:
            front.run()
        finally:
            self._ended.set()
            follower.stop()
            announcer.join()
        log.info("%s: unmounted", self._request.mountpoint)

    def _take_over(self, volume: Volume, vfs: Vfs) -> Collection[int]:
        """Take over from a worker that was killed. The requests that it had in work and whose effects are there."""
        inherited = self._inherited
        if inherited is None or not inherited.carried.generation:
            return ()
        vfs.resume([unique for _, unique, _ in inherited.slots.waiting()])
        began = inherited.slots.began()
        if began is None:
            return ()
        try:
            return done_requests(volume.store, Position(began))
        except LogTrimmed:
            log.error("%s: the change log does not tell any more what the killed process did", self._request.mountpoint)
            return ()

    def _announce(self, volume: Volume) -> None:
        """Call `on_ready` when a call through the kernel is answered; not at all when the front ends before."""
        request = self._request
        while not (mounted := is_mounted(request.mountpoint)) and not self._ended.wait(ANSWER_POLL_S):
            pass
        if not mounted:
            return
        try:
            os.stat(request.mountpoint)
        except OSError as error:
            log.warning("%s: the new mount does not answer: %s", request.mountpoint, error.strerror)
            return
        self.answered = True
        if self._inherited is not None:
            self._inherited.carried.answered = True
        transport = self._transport()
        try:
            volume.meta.sessions.describe(serving(request, transport))
        except OSError as error:
            log.warning("%s: `status` does not know how it is served: %s", request.mountpoint, error)
        mounted_by = f"front {request.front}, transport {transport.name}"
        log.info("%s: mounted %s, %s, version %s", request.mountpoint, without_password(request.url), mounted_by, VERSION)
        self._serve_metrics()
        self._on_ready(self._remarks)


def _look_again(volume: Volume) -> None:
    """After a gap in the change log: it may be that of another volume."""
    try:
        volume.refresh_format()
    except OSError as error:  # if that could not be told, the next heartbeat looks
        log.error("%s", error)


class StopWatcher(threading.Thread):
    """Takes the signals that ask the mount to end.

    In a worker only those count that its supervisor sends, while that lives: whoever signals all processes of a service means one
    request, and the supervisor passes it on. A worker that takes over goes on until there is a front to stop, because it is the
    only one that can store what its predecessor had not stored.
    """

    def __init__(self, mountpoint: Path, inherited: Inherited | None = None) -> None:
        super().__init__(name="signals", daemon=True)
        self._mountpoint = mountpoint
        self._supervisor = 0 if inherited is None else inherited.supervisor.pid
        self._patient = inherited is not None and inherited.carried.generation > 0
        self._attached = threading.Event()
        self._lock = threading.Lock()
        self._front: Front | None = None
        self._stopping = False

    def attach(self, front: Front) -> None:
        """From now on a signal stops this front. KeyboardInterrupt when one has come already."""
        with self._lock:
            if self._stopping and not self._patient:
                raise KeyboardInterrupt
            self._front = front
            self._attached.set()

    def _next(self, timeout_s: float | None = None) -> int:
        """The next signal that counts; 0 when none comes within `timeout_s`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if deadline_s is None:
                info = signal.sigwaitinfo(STOP_SIGNALS)
                came: Came | None = Came(info.si_signo, info.si_pid)
            else:
                came = next_signal(STOP_SIGNALS, deadline_s - time.monotonic())
            if came is not None and (self._supervisor in (0, came.sender) or os.getppid() != self._supervisor):
                return came.number
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return 0

    def run(self) -> None:
        number = self._next()
        with self._lock:
            self._stopping = True
            front = self._front
        if front is None and self._patient:
            self._attached.wait()
            front = self._front
        if front is None:
            signal.pthread_kill(threading.main_thread().ident or 0, ABANDON_SIGNAL)
            return
        log.info("%s: %s: unmounting", self._mountpoint, signal.Signals(number).name)
        if not self._unmount_when_idle():
            front.stop()
        self._next()
        log.info("%s: asked again: aborting calls that wait", self._mountpoint)
        front.stop()
        self._next()
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
                    log.info("%s: detaching from those who still use it: %s", self._mountpoint, error)
                    return False
            if self._next(BUSY_RETRY_S):
                return False
