"""Waiting for a signal, up to a time.

Python's own `sigtimedwait` must not be used: if the process stood still (SIGSTOP, a debugger) until after that time, it returns
what lies about in memory as a signal, SIGHUP for instance. (CPython 3.11 to 3.13 at least.)
"""

import ctypes
import errno
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

SET_BYTES = INFO_BYTES = 128  # of sigset_t and siginfo_t
PID_AT = 16  # in siginfo_t


class Came(NamedTuple):
    """A signal, and who has sent it."""

    number: int
    sender: int


class _TimeSpec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


def next_signal(signals: Iterable[int], timeout_s: float) -> Came | None:
    """The next one of these, which must be blocked; None when none has come in time, or, sooner, when something interrupts."""
    libc = _libc()
    wanted, info = (ctypes.create_string_buffer(size) for size in (SET_BYTES, INFO_BYTES))
    libc.sigemptyset(wanted)
    for number in signals:
        libc.sigaddset(wanted, int(number))
    seconds = max(timeout_s, 0)
    time = _TimeSpec(int(seconds), int(seconds % 1 * 1e9))
    found = libc.sigtimedwait(wanted, info, ctypes.byref(time))
    if found > 0:
        return Came(found, ctypes.c_int.from_buffer(info, PID_AT).value)
    if (error := ctypes.get_errno()) in (errno.EAGAIN, errno.EINTR):
        return None
    raise OSError(error, "sigtimedwait")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
