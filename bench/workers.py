"""Work that several processes do at the same time, each its share, and what it took."""

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from cairnfs.bench.sense import BenchError

READY = "ready"
Work = Callable[[int], Any]  # is told which of the processes it is; what it returns goes to `Outcome.found`


class Outcome(NamedTuple):
    """What the processes took together."""

    seconds: float  # from the start of the first to the end of the last
    cpu_s: float
    storage_bytes: int  # read from block devices, 0 where the kernel does not say
    found: list[Any]
    n_passes: float  # how often each has done its share, on the average


class _Share(NamedTuple):
    started_s: float
    ended_s: float
    cpu_s: float
    storage_bytes: int
    found: Any
    n_passes: int


def storage_read_bytes() -> int | None:
    """Bytes that this process, and its children that have ended, have read from block devices so far; None: nobody counts."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class _Gate:
    """Opens for all processes at once: a pipe whose writing end is closed."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def wait(self) -> None:
        """In a worker."""
        os.close(self._writer)
        os.read(self._reader, 1)

    def open(self) -> None:
        """In the process that started them, once; again does nothing."""
        for fd in (self._reader, self._writer):
            if fd >= 0:
                os.close(fd)
        self._reader = self._writer = -1


def _run(work: Work, worker: int, least_s: float, gate: _Gate, answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever interrupts hears of it from the parent
    try:
        answer.send(READY)
        gate.wait()
        read_before, cpu_before = storage_read_bytes() or 0, _cpu_s()
        started_s = time.perf_counter()
        n_passes, ended_s = 0, started_s
        while n_passes == 0 or ended_s - started_s < least_s:
            found = work(worker)
            n_passes += 1
            ended_s = time.perf_counter()
        n_read = (storage_read_bytes() or 0) - read_before
        answer.send(_Share(started_s, ended_s, _cpu_s() - cpu_before, n_read, found, n_passes))
    except (BenchError, OSError) as error:
        answer.send(str(error))
    except Exception:
        answer.send(f"a process failed:\n{traceback.format_exc()}")
    finally:
        answer.close()


def together(work: Work, n_procs: int, least_s: float = 0) -> Outcome:
    """Run `work` in `n_procs` processes, each again and again for `least_s`. BenchError: one failed, and says why."""
    context = multiprocessing.get_context("fork")
    gate = _Gate()
    shares: list[_Share] = []
    processes, answers = [], []
    try:
        for worker in range(n_procs):
            receiver, sender = context.Pipe(duplex=False)
            answers.append(receiver)
            process = context.Process(target=_run, args=(work, worker, least_s, gate, sender))
            process.start()
            sender.close()
            processes.append(process)
        for receiver in answers:
            _answer(receiver)
        gate.open()
        shares += [_answer(receiver) for receiver in answers]
    finally:
        gate.open()
        for process in processes:
            if len(shares) < n_procs:
                process.terminate()
            process.join()
            process.close()
        for receiver in answers:
            receiver.close()
    return _summed(shares)


def _answer(receiver: Connection) -> Any:
    """What a worker says next. BenchError when that is what went wrong, or nothing."""
    try:
        said = receiver.recv()
    except EOFError:
        raise BenchError("a process was killed") from None
    if isinstance(said, str) and said != READY:
        raise BenchError(said)
    return said


def _summed(shares: list[_Share]) -> Outcome:
    seconds = max(share.ended_s for share in shares) - min(share.started_s for share in shares)
    return Outcome(
        seconds,
        sum(share.cpu_s for share in shares),
        sum(share.storage_bytes for share in shares),
        [share.found for share in shares],
        sum(share.n_passes for share in shares) / len(shares),
    )
