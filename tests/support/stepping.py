"""Deaths at every instruction that matters: a forked child is stepped through some work, and killed. x86-64 Linux only."""

import ctypes
import gc
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

SUPPORTED = platform.machine() == "x86_64"

TRACEME, PEEKTEXT, PEEKUSER, POKETEXT, POKEUSER, CONT, SINGLESTEP, DETACH = 0, 1, 3, 4, 6, 7, 9, 17
SEIZE, INTERRUPT = 0x4206, 0x4207  # unlike ATTACH, without a signal that a SIGCONT takes back
WALL = 0x40000000  # waitpid: threads, too
AT_RIP = 16 * 8  # in struct user
WORD, INT3, LOW_BYTE = 2**64 - 1, 0xCC, 0xFF
GRAIN = 256  # memory that the work is found to change is watched in pieces of so many bytes
MOST_STEPS = 500_000
AFTERWARDS = 20  # instructions of the work after the last change that are of interest

_T = TypeVar("_T")

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong]
_ptrace.restype = ctypes.c_long


def _mapped(file: str, permission: str) -> list[range]:
    """Where a file is mapped with a permission in this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, permissions, *_, name = line.split(maxsplit=5)
        if name.startswith(file) and permission in permissions:
            start, _, end = where.partition("-")
            found.append(range(int(start, 16), int(end, 16)))
    return found


def code_of(*modules: ModuleType) -> list[range]:
    """The machine code of compiled modules."""
    return [where for module in modules for where in _mapped(os.path.realpath(str(module.__file__)), "x")]


class Memory:
    """Shared memory of this process: looked at, and put back to what it was."""

    def __init__(self, where: range) -> None:
        self._at, self._n_bytes = where.start, len(where)

    @classmethod
    def made(cls, name: str, make: Callable[[], _T]) -> "tuple[_T, Memory]":
        """Something that maps a memfd when it is made, and that memory."""
        others = _mapped(f"/memfd:{name}", "s")
        thing = make()
        (where,) = [found for found in _mapped(f"/memfd:{name}", "s") if found not in others]
        return thing, cls(where)

    def read(self) -> bytes:
        return ctypes.string_at(self._at, self._n_bytes)

    def write(self, content: bytes) -> None:
        ctypes.memmove(self._at, content, self._n_bytes)

    def pieces(self, where: list[range]) -> list[bytes]:
        return [ctypes.string_at(self._at + piece.start, len(piece)) for piece in where]


class Stepped:
    """A child in which `work` is about to begin."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                gc.disable()
                _ptrace(TRACEME, 0, 0, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                work()
                os.kill(os.getpid(), signal.SIGSTOP)
            finally:
                os._exit(1)
        self._stopped(signal.SIGSTOP)

    def _stopped(self, *expected: int) -> int:
        """Wait until the child stops; the signal that stopped it."""
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSTOPPED(status), f"the child has ended: {status}"
        assert os.WSTOPSIG(status) in expected, f"the child got signal {os.WSTOPSIG(status)}"
        return os.WSTOPSIG(status)

    def _ask(self, request: int, address: int = 0, data: int = 0) -> int:
        ctypes.set_errno(0)
        answer = int(_ptrace(request, self.pid, address, data))
        if answer == -1 and ctypes.get_errno():
            raise OSError(ctypes.get_errno(), f"ptrace {request}")
        return answer & WORD

    @property
    def next_at(self) -> int:
        """The address of the instruction that comes next."""
        return self._ask(PEEKUSER, AT_RIP)

    def step(self) -> bool:
        """One instruction; False when the work is over."""
        self._ask(SINGLESTEP)
        return self._stopped(signal.SIGTRAP, signal.SIGSTOP) == signal.SIGTRAP

    def run(self) -> None:
        """Go on to the end of the work."""
        self._ask(CONT)
        self._stopped(signal.SIGSTOP)

    def run_to(self, address: int) -> None:
        """Go on to the instruction at an address."""
        before = self._ask(PEEKTEXT, address)
        self._ask(POKETEXT, address, before & ~LOW_BYTE | INT3)
        self._ask(CONT)
        self._stopped(signal.SIGTRAP)
        self._ask(POKETEXT, address, before)
        self._ask(POKEUSER, AT_RIP, address)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(self.pid, 0)[1])


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Every thread of a process stands still, held by this one as by a debugger."""
    tids = [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]
    for tid in tids:
        assert _ptrace(SEIZE, tid, 0, 0) == _ptrace(INTERRUPT, tid, 0, 0) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(tid, WALL)
    try:
        yield
    finally:
        _let_go(tids)


def _let_go(tids: list[int]) -> None:
    """Of threads that are traced, wherever they are in dying: that of the process's number is not over before all others are."""
    deadline_s = time.monotonic() + 20
    left = set(tids)
    while left and time.monotonic() < deadline_s:
        for tid in list(left):
            try:
                if _ptrace(DETACH, tid, 0, 0) == 0 or os.waitpid(tid, WALL | os.WNOHANG)[0]:
                    left.discard(tid)
            except ChildProcessError:
                left.discard(tid)
        time.sleep(0.01)
    assert not left, f"threads {left} neither go on nor die"


class Deaths:
    """Deaths of a child that does some work, at every change that it makes to shared memory, or at every instruction."""

    def __init__(self, work: Callable[[], object], memory: Memory, always: range, code: list[range]) -> None:
        """`always` is watched from the first instruction on, beside what differs when the work is done. `code`: of the work."""
        self._work = work
        self._memory = memory
        self._before = memory.read()
        child = Stepped(work)
        child.run()
        child.kill()
        self._watched = [always, *_different(self._before, memory.read(), always.stop)]
        self._memory.write(self._before)
        self._begin, self.n_instructions, self.n_changes = self._look(code)

    def _look(self, code: list[range]) -> tuple[int, int, int]:
        """The last instruction of `code` before the first change; instructions from there to the last, and changes."""
        child, seen = Stepped(self._work), self._memory.pieces(self._watched)
        begin = n_instructions = n_changes = last = 0
        while True:
            at = 0 if n_changes else child.next_at
            if any(at in part for part in code):
                begin, n_instructions = at, 0
            if not child.step():
                break
            n_instructions += 1
            assert n_instructions < MOST_STEPS
            now = self._memory.pieces(self._watched)
            if now != seen:
                n_changes, last, seen = n_changes + 1, n_instructions, now
        child.kill()
        assert begin and n_changes, "the work has changed nothing"
        return begin, last + AFTERWARDS, n_changes

    def at_changes(self, stride: int = 1) -> Iterator[int]:
        """Right after each change, or every so many, and before the first. Yields its number when the child is dead.

        The memory is then as the child left it, which found it as it was before any work.
        """
        for n in range(0, self.n_changes + 1, stride):
            child, seen, left = self._begun(), self._memory.pieces(self._watched), n
            while left:
                assert child.step(), f"there is no change {n}"
                now = self._memory.pieces(self._watched)
                left -= now != seen
                seen = now
            child.kill()
            yield n

    def at_instructions(self) -> Iterator[int]:
        """After every instruction; otherwise as `at_changes`. The list of locks that a thread has is memory of its own."""
        for n in range(self.n_instructions):
            child = self._begun()
            for _ in range(n):
                assert child.step(), f"there is no instruction {n}"
            child.kill()
            yield n

    def _begun(self) -> Stepped:
        self._memory.write(self._before)
        child = Stepped(self._work)
        child.run_to(self._begin)
        return child


def _different(a: bytes, b: bytes, start: int) -> list[range]:
    """Pieces from `start` on in which two memories differ; neighbours are joined."""
    found: list[range] = []
    for at in range(start, len(a), GRAIN):
        if a[at : at + GRAIN] != b[at : at + GRAIN]:
            if found and found[-1].stop == at:
                found[-1] = range(found[-1].start, at + GRAIN)
            else:
                found.append(range(at, at + GRAIN))
    return found
