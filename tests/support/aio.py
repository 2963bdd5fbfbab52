"""Asynchronous writes by io_submit(2), which Python does not offer."""

import ctypes
import mmap
import struct
from types import TracebackType

from support.syscalls import LIBC, check

IO_SETUP, IO_DESTROY, IO_GETEVENTS, IO_SUBMIT = 206, 207, 208, 209  # of x86-64
PWRITE = 1
EVENT = struct.Struct("QQqq")  # struct io_event: data, obj, res, res2


class AsyncWriter:
    """One write at a time, from a buffer that stays where it is."""

    def __init__(self, fd: int, buffer: mmap.mmap) -> None:
        self._fd = fd
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._context = ctypes.c_ulong()
        check(LIBC.syscall(IO_SETUP, 1, ctypes.byref(self._context)))

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        LIBC.syscall(IO_DESTROY, self._context)

    def write(self, n_bytes: int, offset: int) -> int:
        """Submit a write, wait for its end: bytes written, or minus errno."""
        # struct iocb: data, key, rw_flags, opcode, priority, fd, buffer, bytes, offset, reserved, flags, eventfd
        block = ctypes.create_string_buffer(
            struct.pack("QIIHhIQQqQII", 0, 0, 0, PWRITE, 0, self._fd, self._address, n_bytes, offset, 0, 0, 0)
        )
        blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        check(LIBC.syscall(IO_SUBMIT, self._context, ctypes.c_long(1), blocks))
        event = ctypes.create_string_buffer(EVENT.size)
        check(LIBC.syscall(IO_GETEVENTS, self._context, ctypes.c_long(1), ctypes.c_long(1), event, None))
        done: int = EVENT.unpack_from(event)[2]
        return done
