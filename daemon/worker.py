"""A worker as its supervisor sees it: started, watched, killed, replaced."""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cairnfs.vfs.carried import Carried

log = logging.getLogger(__name__)

HALF_DEAD_S = 0.02
LONGEST_LOOK_S = 0.3  # of the time between two looks counts; who looks was perhaps stopped itself, like everybody
DUMP_S = 0.5  # for a worker to write its stacks
RESTART_S = 1.0  # from one process of a worker that fetches to the next
LONGEST_RESTART_S = 64.0  # when it cannot do its work: a store may be away for hours
PR_SET_PDEATHSIG = 1
STATE, STATUS = 0, 49  # of a process, in what its /proc/PID/stat says after its name
GONE = ["X"] + STATUS * ["0"]
INTERRUPTED = 130  # exit code
NOT_NOW = 75  # likewise: the stores do not let it begin; a successor may be let (EX_TEMPFAIL)


class Worker:
    """One worker; the process behind it may be replaced. Number 0 serves, the others fetch for it."""

    def __init__(self, number: int, carried: Carried, run: Callable[[int], int]) -> None:
        """`run`, given the number, is its life, and returns its exit code."""
        self.number = number
        self.pid = 0
        self.answers = False  # the present process works
        self.n_failures = 0  # processes in a row that died before they did
        self.started_s = 0.0
        self._carried = carried
        self._run = run
        self._pulse, self._listened_s, self._silent_s = 0, 0.0, 0.0
        self._looked_s, self._stopped_s = 0.0, 0.0
        self._status: int | None = None
        self._lingering: set[int] = set()  # killed processes that are not gone yet

    def start(self) -> None:
        """Fork its process, the first one or a successor."""
        if self.pid:
            self.n_failures = 0 if self.answers else self.n_failures + (self._status != NOT_NOW)
            self._carried.restarts += 1
        self.answers, self._status, self._stopped_s, self._silent_s = False, None, 0.0, 0.0
        self.started_s = time.monotonic()
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(supervisor)

    @property
    def restart_s(self) -> float:
        """From the start of this process to that of a successor: longer with each in a row that died before it answered."""
        return min(LONGEST_RESTART_S, RESTART_S * 2.0 ** min(self.n_failures, 16))

    def _live(self, supervisor: int) -> NoReturn:
        exit_code = 1
        death = signal.SIGKILL if self.number else signal.SIGTERM  # of the supervisor: whoever serves stores everything first
        try:
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)
            os.setpgid(0, 0)  # what the terminal sends goes to the supervisor, which passes it on
            if os.getppid() != supervisor:
                os.kill(os.getpid(), death)
            exit_code = self._run(self.number)
        except KeyboardInterrupt:
            exit_code = INTERRUPTED
        except BaseException:
            log.exception("worker %d has failed", self.number)
        finally:
            logging.shutdown()
            os._exit(exit_code)

    def kill(self, number: int) -> None:
        """Send a signal."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def status(self) -> int | None:
        """None while it runs, its exit code, or a negative number when it was killed; also of what is `half_dead`."""
        if self._status is None:
            self._status = self._ask()
        return self._status

    def _ask(self) -> int | None:
        status = half_dead(self.pid)
        pid, whole = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(whole)
        if status:
            self._lingering.add(self.pid)
            return os.waitstatus_to_exitcode(status)
        self._lingering -= {pid for pid in self._lingering if os.waitpid(pid, os.WNOHANG)[0]}
        return None

    def silent_s(self) -> float:
        """For how long it has shown no sign of life, when looked at again and again."""
        now_s = time.monotonic()
        passed_s, self._listened_s = min(now_s - self._listened_s, LONGEST_LOOK_S), now_s
        pulse = self._carried.pulse(self.number)
        self._silent_s = self._silent_s + passed_s if pulse == self._pulse else 0.0
        self._pulse = pulse
        return self._silent_s

    def stopped_s(self) -> float:
        """For how long it was found stopped (SIGSTOP; a traced process does not count), when looked at again and again."""
        now_s = time.monotonic()
        passed_s, self._looked_s = min(now_s - self._looked_s, LONGEST_LOOK_S), now_s
        self._stopped_s = self._stopped_s + passed_s if _fields(self.pid)[STATE] == "T" else 0.0
        return self._stopped_s

    def dump_and_kill(self) -> None:
        """Ask it to write its stacks to the log, then kill it."""
        self.kill(signal.SIGUSR1)
        time.sleep(DUMP_S)
        self.kill(signal.SIGKILL)
        self._silent_s = 0.0


def half_dead(pid: int) -> int:
    """The status (as wait(2) tells it) of a process that was killed or has failed, but is not gone: a thread waits in the kernel
    for a request that only a successor can answer. 0: it is not like that.

    The threads of a process that ends by itself may take their time, too, on a busy machine: nobody need follow one that ends
    well, nor one that has failed to store something, when it is unmounted.
    """
    for _ in range(2):
        fields = _fields(pid)
        if fields[STATE] not in "ZX" or fields[STATUS] == "0":
            return 0
        time.sleep(HALF_DEAD_S)
    return int(fields[STATUS])


def _fields(pid: int) -> list[str]:
    """What /proc says of a process after its name; of one that is gone, that it is and no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return GONE
