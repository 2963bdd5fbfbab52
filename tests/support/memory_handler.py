"""A file system in a dictionary, with the face of `Vfs` as far as the channel's tests need it.

It stands in for the engine so that a failure of these tests is the channel's. Not thread-safe beyond what the GIL gives.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

from cairnfs.errors import FsError
from cairnfs.types import Attr, DirEntry, Inode, Lock, Opened, SetAttr, StatFs

ROOT = 1


class MemoryHandler:
    """Inodes, names, bytes. `calls` records (method, arguments) of every call; `before` has what runs before a method,
    `hooks` what runs in its place.
    """

    def __init__(self) -> None:
        now = time.time_ns()
        root = Attr(Inode(ROOT), stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), 2, 0, mtime_ns=now, btime_ns=now)
        self.attrs: dict[int, Attr] = {ROOT: root}
        self.names: dict[int, dict[bytes, int]] = {ROOT: {}}
        self.data: dict[int, bytearray] = {}
        self.targets: dict[int, bytes] = {}
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        self.handles: dict[int, int] = {}
        self.released: list[int] = []
        self.last_ino = ROOT
        self.last_fh = 0
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.before: dict[str, Callable[..., object]] = {}
        self.hooks: dict[str, Callable[..., Any]] = {}

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(found) or name in ("add", "child", "called"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args + tuple(kwargs.items())))
            if name in self.before:
                self.before[name](*args, **kwargs)
            try:
                return self.hooks.get(name, found)(*args, **kwargs)
            except KeyError:
                raise FsError(errno.ENOENT) from None

        return call

    # For tests

    def add(self, parent: int, name: bytes, mode: int, c: Any = None) -> Attr:
        self.last_ino += 1
        now = time.time_ns()
        uid, gid = (c.uid, c.gid) if c is not None else (0, 0)
        attr = Attr(Inode(self.last_ino), mode, uid, gid, 1, 0, atime_ns=now, mtime_ns=now, ctime_ns=now, btime_ns=now)
        self.attrs[attr.ino] = attr
        self.names[parent][name] = attr.ino
        if attr.is_dir:
            self.names[attr.ino] = {}
        elif attr.is_file:
            self.data[attr.ino] = bytearray()
        return attr

    def child(self, parent: int, name: bytes) -> int:
        return self.names[parent][name]

    def called(self, method: str) -> list[tuple[Any, ...]]:
        return [args for name, args in self.calls if name == method]

    # Names

    def lookup(self, c: Any, parent: int, name: bytes) -> Attr:
        return self.attrs[self.child(parent, name)]

    def forget(self, ino: int, n: int) -> None:
        pass

    def mknod(self, c: Any, parent: int, name: bytes, mode: int, rdev: int = 0) -> Attr:
        attr = self.add(parent, name, mode & ~c.umask, c)
        attr.rdev = rdev
        return attr

    def mkdir(self, c: Any, parent: int, name: bytes, mode: int) -> Attr:
        return self.add(parent, name, stat.S_IFDIR | mode & ~c.umask, c)

    def symlink(self, c: Any, parent: int, name: bytes, target: bytes) -> Attr:
        attr = self.add(parent, name, stat.S_IFLNK | 0o777, c)
        attr.size = len(target)
        self.targets[attr.ino] = target
        return attr

    def readlink(self, c: Any, ino: int) -> bytes:
        return self.targets[ino]

    def link(self, c: Any, ino: int, parent: int, name: bytes) -> Attr:
        self.names[parent][name] = ino
        self.attrs[ino].nlink += 1
        return self.attrs[ino]

    def unlink(self, c: Any, parent: int, name: bytes) -> None:
        self.attrs[self.child(parent, name)].nlink -= 1
        del self.names[parent][name]

    def rmdir(self, c: Any, parent: int, name: bytes) -> None:
        if self.names[self.child(parent, name)]:
            raise FsError(errno.ENOTEMPTY)
        del self.names[parent][name]

    def rename(self, c: Any, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        ino = self.child(parent, name)
        if flags & 1 and new_name in self.names[new_parent]:
            raise FsError(errno.EEXIST)
        del self.names[parent][name]
        self.names[new_parent][new_name] = ino

    # Attributes

    def getattr(self, c: Any, ino: int, fh: int | None = None) -> Attr:
        if ino not in self.attrs:
            raise FsError(errno.ENOENT)
        return self.attrs[ino]

    def setattr(self, c: Any, ino: int, change: SetAttr, fh: int | None = None) -> Attr:
        attr = self.attrs[ino]
        for field in ("uid", "gid", "atime_ns", "mtime_ns"):
            if (value := getattr(change, field)) is not None:
                setattr(attr, field, value)
        if change.mode is not None:
            attr.mode = stat.S_IFMT(attr.mode) | change.mode
        if change.size is not None:
            data = self.data[ino]
            data[change.size :] = bytes(max(0, change.size - len(data)))
            attr.size = change.size
        return attr

    def access(self, c: Any, ino: int, mask: int) -> None:
        pass

    def statfs(self, c: Any) -> StatFs:
        return StatFs(1 << 40, 4097, 1000, 7)

    # Files

    def _open(self, ino: int) -> Opened:
        self.last_fh += 1
        self.handles[self.last_fh] = ino
        return Opened(self.last_fh, True)

    def create(self, c: Any, parent: int, name: bytes, mode: int, flags: int) -> tuple[Attr, Opened]:
        attr = self.add(parent, name, stat.S_IFREG | mode & 0o7777 & ~c.umask, c)
        return attr, self._open(attr.ino)

    def open(self, c: Any, ino: int, flags: int, kill_suidgid: bool = False) -> Opened:
        if flags & os.O_TRUNC:
            self.data[ino].clear()
            self.attrs[ino].size = 0
        return self._open(ino)

    def read(self, c: Any, fh: int, offset: int, size: int) -> list[memoryview]:
        found = memoryview(bytes(self.data[self.handles[fh]][offset : offset + size]))
        return [found[:1000], found[1000:]]

    def write(
        self, c: Any, fh: int, offset: int, data: memoryview, kill_suidgid: bool = False, append: bool | None = None
    ) -> int:
        ino = self.handles[fh]
        known = self.data[ino]
        known.extend(bytes(max(0, offset - len(known))))
        known[offset : offset + len(data)] = data
        self.attrs[ino].size = len(known)
        return len(data)

    def write_mapped(self, c: Any, fh: int, offset: int, data: memoryview, kill_suidgid: bool = False) -> int:
        return self.write(c, fh, offset, data)

    def flush(self, c: Any, fh: int, lock_owner: int | None = None) -> None:
        pass

    def fsync(self, c: Any, fh: int, datasync: bool = False) -> None:
        pass

    def release(self, c: Any, fh: int) -> None:
        del self.handles[fh]
        self.released.append(fh)

    def fallocate(self, c: Any, fh: int, mode: int, offset: int, length: int) -> None:
        pass

    def lseek(self, c: Any, fh: int, offset: int, whence: int) -> int:
        size = len(self.data[self.handles[fh]])
        if offset >= size:
            raise FsError(errno.ENXIO)
        return size if whence == os.SEEK_HOLE else offset

    def copy_file_range(self, c: Any, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int) -> int:
        return self.write(c, fh_out, off_out, memoryview(bytes(self.data[self.handles[fh_in]][off_in : off_in + length])))

    # Directories

    def opendir(self, c: Any, ino: int) -> Opened:
        return self._open(ino)

    def readdir(self, c: Any, fh: int, cookie: int, plus: bool = False) -> Iterator[DirEntry]:
        ino = self.handles.get(fh, ROOT)
        names = [(b".", ino), (b"..", ROOT), *sorted(self.names.get(ino, {}).items())]
        for number, (name, child) in enumerate(names, 1):
            if number > cookie:
                attr = self.attrs[child]
                yield DirEntry(name, attr.ino, stat.S_IFMT(attr.mode), number, attr if plus else None)

    def releasedir(self, c: Any, fh: int) -> None:
        del self.handles[fh]

    def fsyncdir(self, c: Any, fh: int, datasync: bool = False) -> None:
        pass

    # Extended attributes and locks

    def getxattr(self, c: Any, ino: int, name: bytes) -> bytes:
        try:
            return self.xattrs[ino][name]
        except KeyError:
            raise FsError(errno.ENODATA) from None

    def setxattr(self, c: Any, ino: int, name: bytes, value: bytes, flags: int = 0, kill_sgid: bool = False) -> None:
        self.xattrs.setdefault(ino, {})[name] = value

    def listxattr(self, c: Any, ino: int) -> list[bytes]:
        return list(self.xattrs.get(ino, {}))

    def removexattr(self, c: Any, ino: int, name: bytes) -> None:
        try:
            del self.xattrs[ino][name]
        except KeyError:
            raise FsError(errno.ENODATA) from None

    def getlk(self, c: Any, ino: int, fh: int, lock: Lock) -> Lock | None:
        return None

    def setlk(self, c: Any, ino: int, fh: int, lock: Lock, wait: bool) -> None:
        pass

    def syncfs(self, c: Any) -> None:
        pass
