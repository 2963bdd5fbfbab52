"""System calls that Python's os module does not offer, through libc."""

import ctypes
import errno
import os
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)

FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_COLLAPSE_RANGE = 0x08
FALLOC_ZERO_RANGE = 0x10
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
AT_FDCWD = -100
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
STATX_BTIME = 0x800


def check(result: int, path: object = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    check(LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def renameat2(old: Path, new: Path, flags: int) -> None:
    check(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)), str(new))


def utimensat(path: Path, times: list[tuple[int, int]]) -> None:
    """Set (atime, mtime), each (seconds, nanoseconds or UTIME_NOW or UTIME_OMIT)."""
    flat = (ctypes.c_long * 4)(*(n for pair in times for n in pair))
    check(LIBC.utimensat(AT_FDCWD, os.fsencode(path), flat, 0), str(path))


def birth_time_ns(path: Path) -> int | None:
    """stx_btime by statx(2), None when the file system has none (stx_mask without STATX_BTIME)."""
    buffer = ctypes.create_string_buffer(256)
    check(LIBC.statx(AT_FDCWD, os.fsencode(path), 0, STATX_BTIME, buffer), str(path))
    mask = int.from_bytes(buffer.raw[0:4], "little")
    if not mask & STATX_BTIME:
        return None
    seconds = int.from_bytes(buffer.raw[80:88], "little", signed=True)
    return seconds * 10**9 + int.from_bytes(buffer.raw[88:92], "little")


def syncfs(fd: int) -> None:
    check(LIBC.syncfs(fd))


def unsupported(error: OSError) -> bool:
    return error.errno in (errno.EOPNOTSUPP, errno.ENOSYS)
