"""Deaths at every instruction that matters: a forked child is stepped through some work, and killed. x86-64 Linux only."""

import ctypes
import gc
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

SUPPORTED = platform.machine() == "x86_64"

TRACEME, PEEKTEXT, PEEKUSER, POKETEXT, POKEUSER, CONT, SINGLESTEP, DETACH = 0, 1, 3, 4, 6, 7, 9, 17
SEIZE, INTERRUPT = 0x4206, 0x4207  # unlike ATTACH, without a signal that a SIGCONT takes back
WALL = 0x40000000  # waitpid: threads, too
AT_RIP, AT_RSP = 16 * 8, 19 * 8  # in struct user
ADDRESS_BYTES = 8
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
        where, permissions, _, _, _, *names = line.split(maxsplit=5)
        if "".join(names).startswith(file) and permission in permissions:
            start, _, end = where.partition("-")
            found.append(range(int(start, 16), int(end, 16)))
    return found


def code_of(*modules: ModuleType) -> list[range]:
    """The machine code of compiled modules."""
    return [where for module in modules for where in _mapped(os.path.realpath(str(module.__file__)), "x")]


def interpreter() -> list[range]:
    """The machine code of Python itself, and what the kernel gives to every process."""
    inside = ctypes.cast(ctypes.pythonapi.Py_IncRef, ctypes.c_void_p).value or 0
    return [part for part in _mapped("", "x") if inside in part] + _mapped("[vdso]", "x")


class Memory:
    """Shared memory of this process, in one piece or several: looked at, and put back to what it was."""

    def __init__(self, *where: range) -> None:
        self._where = where

    @classmethod
    def made(cls, name: str, make: Callable[[], _T]) -> "tuple[_T, Memory]":
        """Something that maps a memfd when it is made, and that memory."""
        others = _mapped(f"/memfd:{name}", "s")
        thing = make()
        (where,) = [found for found in _mapped(f"/memfd:{name}", "s") if found not in others]
        return thing, cls(where)

    @classmethod
    def joined(cls, *memories: "Memory") -> "Memory":
        """Several as one: the first byte of each follows the last one of the one before."""
        return cls(*[where for memory in memories for where in memory._where])

    def read(self) -> bytes:
        return b"".join(ctypes.string_at(where.start, len(where)) for where in self._where)

    def write(self, content: bytes) -> None:
        at = 0
        for where in self._where:
            ctypes.memmove(where.start, content[at : at + len(where)], len(where))
            at += len(where)

    def places(self, part: range) -> list[range]:
        """The addresses of a part of it."""
        found, at = [], 0
        for where in self._where:
            begin, end = max(part.start - at, 0), min(part.stop - at, len(where))
            if begin < end:
                found.append(range(where.start + begin, where.start + end))
            at += len(where)
        return found


Work = Callable[[], object]


def stepped(work: Work) -> None:
    """In a child: it stops before and after some work."""
    os.kill(os.getpid(), signal.SIGSTOP)
    work()
    os.kill(os.getpid(), signal.SIGSTOP)


class Stepped:
    """A child in which `work` is about to begin, or with `whole` unset the part of it that it calls `stepped` for."""

    def __init__(self, work: Work, whole: bool = True, over: Sequence[range] = ()) -> None:
        """`over`: code that is not stepped through when other code calls it."""
        self._over = over
        self.pid = os.fork()
        if self.pid == 0:
            try:
                gc.disable()
                _ptrace(TRACEME, 0, 0, 0)
                if whole:
                    stepped(work)
                else:
                    work()
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
        """One instruction, or one call; False when the work is over."""
        was_inside = not self._over or self._is_over()
        before = 0 if was_inside else self._ask(PEEKUSER, AT_RSP)
        self._ask(SINGLESTEP)
        if self._stopped(signal.SIGTRAP, signal.SIGSTOP) == signal.SIGSTOP:
            return False
        if not was_inside and self._is_over() and (stack := self._ask(PEEKUSER, AT_RSP)) <= before:  # else it has returned there
            self.run_to(self._ask(PEEKTEXT, stack), stack + ADDRESS_BYTES)
        return True

    def _is_over(self) -> bool:
        at = self.next_at
        return any(at in part for part in self._over)

    def run(self) -> None:
        """Go on to the end of the work."""
        self._ask(CONT)
        self._stopped(signal.SIGSTOP)

    def run_to(self, address: int, stack: int | None = None) -> None:
        """Go on to the instruction at an address, with its stack there if that is given."""
        before = self._ask(PEEKTEXT, address)
        while True:
            self._ask(POKETEXT, address, before & ~LOW_BYTE | INT3)
            self._ask(CONT)
            self._stopped(signal.SIGTRAP)
            self._ask(POKETEXT, address, before)
            self._ask(POKEUSER, AT_RIP, address)
            if stack is None or self._ask(PEEKUSER, AT_RSP) == stack:
                break
            self._ask(SINGLESTEP)  # somebody else's, further inside
            self._stopped(signal.SIGTRAP)

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

    def __init__(
        self,
        work: Work,
        memory: Memory,
        always: range,
        code: list[range],
        whole: bool = True,
        over: Sequence[range] = (),
        prepare: Work = lambda: None,
        react: Callable[[], bool] = lambda: False,
    ) -> None:
        """`always` is watched from the first instruction on, beside what differs when the work is done. `code`: of the work.

        `whole`, `over`: see Stepped. `prepare` is called before each child is made. `react` is called after each change, as
        somebody who waits for it; whether it has changed anything itself.
        """
        self._make = lambda: Stepped(work, whole, over)
        self._memory = memory
        self._prepare = prepare
        self._react = react
        self._before = memory.read()
        child = self._child()
        child.run()
        child.kill()
        parts = [always, *_different(self._before, memory.read())]
        self._watched = [place for part in parts for place in memory.places(part)]
        self._marks: list[tuple[int, int]] = []
        self.n_instructions = self._look(code)
        self.n_changes = len(self._marks)

    def _look(self, code: list[range]) -> int:
        """Find, for each change, an instruction of `code` before it that comes for the first time, and how many changes precede.

        Returns how many instructions there are from the one for the first change to the last change.
        """
        child, seen = self._child(), self._seen()
        met = set[int]()
        mark, reacted = (0, 0), False
        n_instructions = last = n_steps = 0
        while True:
            at = child.next_at
            if at not in met and not reacted and any(at in part for part in code):
                met.add(at)
                mark = at, len(self._marks)
                n_instructions = n_instructions if self._marks else 0
            if not child.step():
                break
            n_instructions, n_steps = n_instructions + 1, n_steps + 1
            assert n_steps < MOST_STEPS
            now = self._seen()
            if now != seen:
                self._marks.append(mark)
                last, reacted = n_instructions, self._react() or reacted
                seen = self._seen()
        child.kill()
        assert self._marks and self._marks[0][0], "the work has changed nothing"
        return last + AFTERWARDS

    def at_changes(self, stride: int = 1) -> Iterator[int]:
        """Right after each change, or every so many, and before the first. Yields its number when the child is dead.

        The memory is then as the child left it, which found it as it was before any work.
        """
        for n in range(0, self.n_changes + 1, stride):
            address, n_before = self._marks[max(n - 1, 0)]
            child, left = self._begun(address), n - n_before
            seen = self._seen()
            while left:
                assert child.step(), f"there is no change {n}"
                now = self._seen()
                if now != seen:
                    left -= 1
                    seen = self._seen() if left and self._react() else now
            child.kill()
            yield n

    def at_instructions(self) -> Iterator[int]:
        """After every instruction; otherwise as `at_changes`. The list of locks that a thread has is memory of its own."""
        for n in range(self.n_instructions):
            child = self._begun(self._marks[0][0])
            for _ in range(n):
                assert child.step(), f"there is no instruction {n}"
            child.kill()
            yield n

    def _child(self) -> Stepped:
        self._memory.write(self._before)
        self._prepare()
        return self._make()

    def _begun(self, address: int) -> Stepped:
        child = self._child()
        child.run_to(address)
        return child

    def _seen(self) -> list[bytes]:
        return [ctypes.string_at(place.start, len(place)) for place in self._watched]


def _different(a: bytes, b: bytes) -> list[range]:
    """Pieces in which two memories differ; neighbours are joined."""
    found: list[range] = []
    for at in range(0, len(a), GRAIN):
        if a[at : at + GRAIN] != b[at : at + GRAIN]:
            if found and found[-1].stop == at:
                found[-1] = range(found[-1].start, at + GRAIN)
            else:
                found.append(range(at, at + GRAIN))
    return found
