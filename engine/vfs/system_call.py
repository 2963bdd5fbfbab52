"""Which system call a thread waits in, from /proc: some do not try again what was refused with ESTALE.

`/proc/TID/syscall` has the call's number, its six arguments, stack pointer and instruction pointer (proc(5)); who may trace the
thread may read it. Numbers are those of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h in Linux.
"""

import platform
from typing import NamedTuple

import mmh3

_MAKES_NAMES = {  # mkdir, mknod, symlink, link, each also with ...at, and bind, for sockets
    "x86_64": frozenset({83, 133, 88, 86, 258, 259, 266, 265, 49}),
    "aarch64": frozenset({34, 33, 36, 37, 200}),
}.get(platform.machine())
_FOR_OTHERS = frozenset({425, 426, 427})  # io_uring: what is asked for is in a ring
_MAX_32_BIT = 1 << 32


class SystemCall(NamedTuple):
    """`makes_name`: it looks for a name that must not be there, and fails when that is refused. `mark`: of this call; the next
    one of the thread has another unless it looks the same.
    """

    makes_name: bool
    mark: int


UNKNOWN_CALL = SystemCall(False, 0)  # no right to look, a thread of the kernel, numbers of another machine


def waiting_in(tid: int) -> SystemCall:
    """The system call of a thread that waits for an answer."""
    try:
        with open(f"/proc/{tid}/syscall", "rb") as file:
            return parse(file.read(512))
    except OSError:
        return UNKNOWN_CALL


def parse(line: bytes) -> SystemCall:
    """From the content of /proc/TID/syscall."""
    fields = line.split()
    if _MAKES_NAMES is None or len(fields) != 9 or not fields[0].isdigit():
        return UNKNOWN_CALL
    number = int(fields[0])
    if number in _FOR_OTHERS or int(fields[7], 16) < _MAX_32_BIT:  # numbers of 32-bit programs are others
        return UNKNOWN_CALL
    return SystemCall(number in _MAKES_NAMES, mmh3.hash64(line, signed=False)[0] | 1)
