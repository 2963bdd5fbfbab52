"""System calls that Python's os module does not offer, through libc."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)

FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_COLLAPSE_RANGE = 0x08
FALLOC_ZERO_RANGE = 0x10
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
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


class FileHandle(ctypes.Structure):
    """struct file_handle with room for the longest."""

    _fields_ = (("n_bytes", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128))


def file_handle(path: Path) -> FileHandle:
    handle = FileHandle(128)
    check(LIBC.name_to_handle_at(AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(ctypes.c_int()), 0), str(path))
    return handle


@contextmanager
def open_handle(mountpoint: Path, handle: FileHandle) -> Iterator[int]:
    """What a handle is of, opened for reading."""
    root = os.open(mountpoint, os.O_RDONLY)
    try:
        fd = check(LIBC.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY))
    finally:
        os.close(root)
    try:
        yield fd
    finally:
        os.close(fd)


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


SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]


class DirStream:
    """A directory read by getdents64(2), so that a test says how much is read at a time, and from where."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def read(self, n_bytes: int = 4096) -> list[tuple[str, int, int]]:
        """Name, inode and cookie of the next entries, none at the end."""
        buffer = ctypes.create_string_buffer(n_bytes)
        n = check(LIBC.syscall(SYS_GETDENTS64, self.fd, buffer, n_bytes))
        left, found = buffer.raw[:n], []
        while left:
            ino, cookie, length = struct.unpack_from("=QQH", left)
            found.append((os.fsdecode(left[19:length].split(b"\0", 1)[0]), ino, cookie))
            left = left[length:]
        return found

    def rest(self, n_bytes: int = 4096) -> list[tuple[str, int, int]]:
        found = []
        while entries := self.read(n_bytes):
            found += entries
        return found

    def seek(self, cookie: int) -> None:
        os.lseek(self.fd, cookie, os.SEEK_SET)

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> "DirStream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
