"""The supervisor of a mount: keeps what must outlive the processes that work, and replaces those that die.

      supervisor                                   worker 0: serves
      ----------                                   ----------------
      a child opens the volume: is it there?
      mounts, agrees with the kernel on features
      reserves shared memory, listens where metrics are asked for
      fork  ------------------------------------>  opens the volume, takes over, serves
      waits
      worker killed or crashed: fork the next  -->  requests, writes and handles go on (engine/vfs/resume.py)
      worker ended by itself: the mount is over, and so is this process
      SIGTERM, SIGINT, SIGHUP: passed on; SIGUSR1 as well
      killed: the worker gets SIGTERM, stores everything and unmounts
      another process takes the mount over (handover.py): this one ends

Once worker 0 serves, others are started, which fetch for it (fetch_worker.py). They are just killed at the end.

It has one thread and opens nothing but the mount: whatever a fork copies is what was reserved.
"""

import faulthandler
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from cairnfs.daemon.control import Control
from cairnfs.daemon.fetch_worker import fetch
from cairnfs.daemon.front_channel import agree, drop_names
from cairnfs.daemon.inherited import Inherited, make_inherited
from cairnfs.daemon.metrics_socket import listen_at
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.mountpoint import check_mountpoint, clear_stale, is_mounted, mount_fuse, unmount
from cairnfs.daemon.running import Registration
from cairnfs.daemon.scout import Scout
from cairnfs.daemon.session import STOP_SIGNALS, Ready, held_signals, work
from cairnfs.daemon.signals import next_signal
from cairnfs.daemon.takeover import take_over
from cairnfs.daemon.worker import INTERRUPTED, NOT_NOW, Worker
from cairnfs.errors import CairnError, MountError
from cairnfs.version import VERSION

log = logging.getLogger(__name__)

POLL_S = 0.1
FIRST_POLL_S = 0.005  # until the mount answers: somebody waits for that
MAX_FAILURES = 10  # processes in a row that were to serve and die before they answer anything: then the mount is given up
STOPPED_S = 1.0  # a worker may be, while somebody waits for it
AGAIN_S = 2.0  # from one process that the stores do not let serve to the next, as long as it takes; requests wait meanwhile


def supervise(request: MountRequest, on_ready: Ready) -> int:
    """Mount, call `on_ready` once the mount answers, keep it served until it is over; returns the exit code.

    Must run in the main thread, before any other is started. Raises what `session.serve` raises.
    """
    with held_signals():
        clear_stale(request.mountpoint)
        taken = take_over(request) if request.take_over else None
        if taken is None:
            check_mountpoint(request.mountpoint)
            registration = Registration(request.mountpoint, {"url": request.url, "version": VERSION})
        else:
            request, registration = taken.request, taken.registration
        try:
            if taken is not None:
                with _held(taken.inherited.fd, registration, request.mountpoint):
                    return _Supervisor(request, on_ready, taken.inherited, registration, taken.control).run()
            with Scout(request) as volume:
                name, uuid = volume.name, volume.uuid
            metrics = None if request.metrics is None else listen_at(request.metrics)
            fd = mount_fuse(request.mountpoint, replace(request.fuse, volume_name=name))
            with _held(fd, registration, request.mountpoint):
                inherited = make_inherited(request, fd, metrics, uuid)
                control = Control(request, inherited, registration, uuid)
                return _Supervisor(request, on_ready, inherited, registration, control).run()
        finally:
            registration.close()


@contextmanager
def _held(fd: int, registration: Registration, mountpoint: Path) -> Iterator[None]:
    """The mount is this process's while the block runs; what is then left of it is cleared away, unless another one has it."""
    try:
        yield
    finally:
        os.close(fd)
        if not registration.given:
            clear_stale(mountpoint)


class _Supervisor:
    """One mount's."""

    def __init__(
        self,
        request: MountRequest,
        on_ready: Ready,
        inherited: Inherited,
        registration: Registration,
        control: Control,
    ) -> None:
        self._request = request
        self._on_ready = on_ready
        self._inherited = inherited
        self._registration = registration
        self._control = control
        self._workers = [Worker(number, self._inherited.carried, self._work) for number in range(request.workers)]
        self._serving, *self._fetching = self._workers
        self._ready = False
        self._stopping = False
        self._failure: str | None = None
        self._remarks: list[str] = []

    def run(self) -> int:
        if not agree(self._inherited, self._request.fuse):
            return 1
        if self._inherited.drops_names:
            drop_names(self._inherited, self._request.fuse)
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, self._ask_for_stacks)
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)  # its own stacks first, even if it hangs
        try:
            return self._watch()
        finally:
            for worker in self._fetching:
                self._end_fetching(worker)
            if self._inherited.metrics is not None:
                self._inherited.metrics.close()

    def _work(self, number: int) -> int:
        try:
            for step in self._inherited.first:
                step()
            if number == 0:
                return work(self._request, self._inherited)
            fetch(self._request, self._inherited, number)
        except Exception as error:
            is_told = isinstance(error, CairnError)  # a store that does not answer, and no fault of ours
            log.error("%s: worker %d has failed: %s", self._request.mountpoint, number, error, exc_info=not is_told)
            if number == 0:
                self._inherited.outcomes.say(failure=str(error))
        return 1

    def _watch(self) -> int:
        self._serving.start()
        while True:
            came = next_signal(STOP_SIGNALS | {signal.SIGCHLD}, POLL_S if self._ready else FIRST_POLL_S)
            self._listen()
            if came is not None and came.number in STOP_SIGNALS:
                self._stopping = True
                self._serving.kill(came.number)
            if self._ready and not self._stopping and self._control.poll(self._working):
                return 0
            status = self._serving.status()
            if status is None:
                self._look_for_life(self._serving)
                if self._serving.answers and not self._stopping:  # else callers wait for who is to serve, and come first
                    self._look_after_fetching()
                continue
            if status >= 0 and not self._has_crashed(status):
                return self._give_up(self._failure or "") if status == NOT_NOW else self._end(status)
            if status == NOT_NOW and time.monotonic() - self._serving.started_s < AGAIN_S:
                continue
            if not self._replace_serving():
                return self._give_up("the process that served the mount was killed too often")

    def _working(self) -> list[int]:
        return [worker.pid for worker in self._workers if worker.pid and worker.status() is None]

    def _ask_for_stacks(self, number: int, frame: FrameType | None) -> None:
        """SIGUSR1: workers write theirs, too."""
        if os.getpid() != self._inherited.supervisor.pid:
            return  # a worker, which has this handler from here
        for worker in self._workers:
            if worker.pid:
                worker.kill(signal.SIGUSR1)

    def _replace_serving(self) -> bool:
        """False when too many processes have died before they answered anything."""
        is_held_up = self._serving.status() == NOT_NOW
        if not self._serving.answers and not is_held_up and self._serving.n_failures + 1 == MAX_FAILURES:
            return False
        if not is_held_up:
            log.warning("%s: the process that served was killed: another one takes over", self._request.mountpoint)
        self._inherited.carried.generation += 1
        self._serving.start()
        if self._stopping:
            self._serving.kill(signal.SIGTERM)  # once it has taken over: to store what the one before had not stored
        return True

    def _look_after_fetching(self) -> None:
        """Start workers that fetch, and replace those that have died."""
        for worker in self._fetching:
            if worker.pid and worker.status() is None:
                self._look_for_life(worker)
                continue
            if worker.pid:
                self._inherited.slots.end_jobs_of(worker.number)
            if time.monotonic() - worker.started_s > worker.restart_s:
                worker.start()

    def _end_fetching(self, worker: Worker) -> None:
        if worker.pid:
            worker.kill(signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)

    def _has_crashed(self, exit_code: int) -> bool:
        """Did a worker end by itself while there was something to serve?"""
        return exit_code > 0 and self._inherited.carried.answered and not self._stopping and is_mounted(self._request.mountpoint)

    def _look_for_life(self, worker: Worker) -> None:
        """Kill a worker that is stopped while requests wait, and one that has shown no sign of life for too long.

        The latter is asked to write its stacks to the log first.
        """
        if self._ready and worker.stopped_s() > STOPPED_S and (worker is not self._serving or self._is_asked()):
            log.error("%s: worker %d is stopped: replaced", self._request.mountpoint, worker.pid)
            worker.kill(signal.SIGKILL)
            return
        silent_s = worker.silent_s() if self._ready else 0
        if silent_s > self._request.worker_timeout_s:
            log.error("%s: worker %d shows no sign of life for %.0f s: replaced", self._request.mountpoint, worker.pid, silent_s)
            worker.dump_and_kill()

    def _is_asked(self) -> bool:
        """Does a request wait for the worker that serves, in its hands or in the kernel's queue?"""
        poll = select.poll()
        poll.register(self._inherited.fd, select.POLLIN)
        return bool(self._inherited.slots.waiting() or poll.poll(0))

    def _listen(self) -> None:
        for said in self._inherited.outcomes.heard():
            if "failure" in said:
                self._failure = str(said["failure"])
            if "ready" in said:
                self._workers[said.get("worker", 0)].answers = True
                if not said.get("worker", 0):
                    self._failure = None  # of one before it
                self._remarks = said.get("remarks", self._remarks)
            if self._serving.answers and not self._ready:
                self._ready = True
                self._inherited.slots.n_fetchers = len(self._fetching)
                self._on_ready(self._remarks)

    def _end(self, exit_code: int) -> int:
        self._listen()
        if self._failure is not None:
            self._registration.fail(self._failure)
        if not self._ready:
            if exit_code == INTERRUPTED:
                raise KeyboardInterrupt
            raise MountError(self._failure or "the process that was to serve the mount has ended; its log says why")
        return exit_code

    def _give_up(self, message: str) -> int:
        log.critical("%s: %s: giving up", self._request.mountpoint, message)
        if is_mounted(self._request.mountpoint):
            try:
                unmount(self._request.mountpoint, lazy=True)
            except MountError as error:
                log.warning("%s", error)
        self._failure = self._failure or message
        return self._end(1)
