"""The supervisor of a mount: keeps what must outlive the process that serves, and replaces that process when it dies.

      supervisor                                   worker
      ----------                                   ------
      a child opens the volume: is it there?
      mounts, agrees with the kernel on features
      reserves shared memory
      fork  ------------------------------------>  opens the volume, takes over, serves
      waits
      worker killed or crashed: fork the next  -->  requests, writes and handles go on (engine/vfs/resume.py)
      worker ended by itself: the mount is over, and so is this process
      SIGTERM, SIGINT, SIGHUP: passed on
      killed: the worker gets SIGTERM, stores everything and unmounts
      another process takes the mount over (handover): this one ends

It has one thread and opens nothing but the mount: whatever a fork copies is what was reserved.
"""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from cairnfs.daemon.control import Control
from cairnfs.daemon.front_channel import agree
from cairnfs.daemon.inherited import Inherited, make_inherited
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.mountpoint import check_mountpoint, clear_stale, is_mounted, mount_fuse, unmount
from cairnfs.daemon.running import Registration
from cairnfs.daemon.scout import Scout
from cairnfs.daemon.session import STOP_SIGNALS, held_signals, work
from cairnfs.daemon.takeover import half_dead, take_over
from cairnfs.errors import MountError
from cairnfs.version import VERSION

log = logging.getLogger(__name__)

POLL_S = 0.1
FIRST_POLL_S = 0.005  # until the mount answers: somebody waits for that
MAX_FAILURES = 10  # workers in a row that die before they answer anything: then the mount is given up
DUMP_S = 0.5  # for a worker to write its stacks
PR_SET_PDEATHSIG = 1
INTERRUPTED = 130  # exit code


def supervise(request: MountRequest, on_ready: Callable[[], None]) -> int:
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
            fd = mount_fuse(request.mountpoint, replace(request.fuse, volume_name=name))
            with _held(fd, registration, request.mountpoint):
                inherited = make_inherited(request, fd)
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
        on_ready: Callable[[], None],
        inherited: Inherited,
        registration: Registration,
        control: Control,
    ) -> None:
        self._request = request
        self._on_ready = on_ready
        self._inherited = inherited
        self._registration = registration
        self._control = control
        self._pid = 0
        self._ready = False
        self._stopping = False
        self._pulse, self._alive_s = 0, time.monotonic()
        self._failure: str | None = None
        self._lingering: set[int] = set()  # killed workers that are not gone yet
        self._answers = False  # the present worker
        self._n_failures = 0  # workers in a row that died before they answered

    def run(self) -> int:
        if not agree(self._inherited, self._request.fuse):
            return 1
        self._start()
        while True:
            number = signal.sigtimedwait(STOP_SIGNALS | {signal.SIGCHLD}, POLL_S if self._ready else FIRST_POLL_S)
            self._listen()
            if number is not None and number.si_signo in STOP_SIGNALS:
                self._stopping = True
                _kill(self._pid, number.si_signo)
            if self._ready and not self._stopping and self._control.poll([self._pid]):
                return 0
            status = self._status()
            if status is None:
                self._look_for_life()
                continue
            if status >= 0 and not self._has_crashed(status):
                return self._end(status)
            if not self._start():
                return self._give_up()

    def _start(self) -> bool:
        """Fork a worker, the first one or a successor. False when too many have died before they answered anything."""
        carried = self._inherited.carried
        if self._pid:
            self._n_failures = 0 if self._answers else self._n_failures + 1
            if self._n_failures == MAX_FAILURES:
                return False
            log.warning("%s: the process that served was killed: another one takes over", self._request.mountpoint)
            carried.generation += 1
        self._answers = False
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _live(self._request, self._inherited, supervisor)
        if self._stopping:
            _kill(self._pid, signal.SIGTERM)  # once it has taken over: to store what the one before had not stored
        return True

    def _status(self) -> int | None:
        """None while the worker runs, its exit code, or a negative number when it was killed (perhaps half: see half_dead)."""
        is_half_dead = half_dead(self._pid)
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if is_half_dead:
            self._lingering.add(self._pid)
            return -1
        self._lingering -= {pid for pid in self._lingering if os.waitpid(pid, os.WNOHANG)[0]}
        return None

    def _has_crashed(self, exit_code: int) -> bool:
        """Did a worker end by itself while there was something to serve?"""
        return exit_code > 0 and self._inherited.carried.answered and not self._stopping and is_mounted(self._request.mountpoint)

    def _look_for_life(self) -> None:
        """Kill a worker that has shown no sign of life for too long, after it was asked to write its stacks to the log."""
        now_s = time.monotonic()
        pulse = self._inherited.carried.pulse
        if pulse != self._pulse or not self._ready:
            self._pulse, self._alive_s = pulse, now_s
        elif now_s - self._alive_s > self._request.worker_timeout_s:
            silent_s = now_s - self._alive_s
            log.error("%s: worker %d shows no sign of life for %.0f s: replaced", self._request.mountpoint, self._pid, silent_s)
            _kill(self._pid, signal.SIGUSR1)
            time.sleep(DUMP_S)
            _kill(self._pid, signal.SIGKILL)
            self._alive_s = time.monotonic()

    def _listen(self) -> None:
        for said in self._inherited.outcomes.heard():
            if "failure" in said:
                self._failure = str(said["failure"])
            if "ready" in said:
                self._answers = True
            if self._answers and not self._ready:
                self._ready = True
                self._on_ready()

    def _end(self, exit_code: int) -> int:
        self._listen()
        if self._failure is not None:
            self._registration.fail(self._failure)
        if not self._ready:
            if exit_code == INTERRUPTED:
                raise KeyboardInterrupt
            raise MountError(self._failure or "the process that was to serve the mount has ended; its log says why")
        return exit_code

    def _give_up(self) -> int:
        message = "the process that served the mount was killed too often"
        log.critical("%s: %s: giving up", self._request.mountpoint, message)
        if is_mounted(self._request.mountpoint):
            try:
                unmount(self._request.mountpoint, lazy=True)
            except MountError as error:
                log.warning("%s", error)
        self._failure = self._failure or message
        return self._end(1)


def _live(request: MountRequest, inherited: Inherited, supervisor: int) -> NoReturn:
    """The life of a worker."""
    exit_code = 1
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        os.setpgid(0, 0)  # what the terminal sends goes to the supervisor, which passes it on
        if os.getppid() != supervisor:
            os.kill(os.getpid(), signal.SIGTERM)
        for step in inherited.first:
            step()
        exit_code = work(request, inherited)
    except KeyboardInterrupt:
        exit_code = INTERRUPTED
    except BaseException as error:
        log.exception("%s: the process that serves the mount has failed", request.mountpoint)
        inherited.outcomes.say(failure=str(error))
    finally:
        logging.shutdown()
        os._exit(exit_code)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
