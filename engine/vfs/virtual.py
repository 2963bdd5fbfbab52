"""Files that no volume stores: `.stats`, `.config` and `.accesslog`, in the root of a mount by name, and not listed.

Their inode and handle numbers are at the top of the range, where no real one will ever be. They show size 0, since nobody
knows it before reading, and are opened with direct I/O, so that the kernel reads all the same and keeps no pages of them.

A read-only mount may be read without opening. There each lookup makes an inode of its own, with the content as of now and its
size, until the kernel forgets it; the access log, which has no end, is not offered.

Open handles outlive the process that serves: the access log goes on with what happens from then on, the others have the content
of the moment in which they are read from their beginning. Who was in the middle finds the end: the rest is gone.
"""

import errno
import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cairnfs.errors import FsError
from cairnfs.types import Attr, Caller, Inode, Opened
from cairnfs.vfs.accesslog import AccessLog, LogReader
from cairnfs.vfs.carried import GENERATION_SHIFT, Carried, HeldHandle
from cairnfs.vfs.handles import FIRST_COMPILED

FIRST_INO = (1 << 62) + 16  # inodes from here on are virtual
FIRST_SNAPSHOT = FIRST_INO + 16
MAX_SNAPSHOTS = 64  # the kernel forgets those that nobody reads when it wants memory
FIRST_FH = 1 << 61  # so are handles; a front may need the upper two bits


def is_virtual(fh: int) -> bool:
    """Whether a handle is one of these."""
    return FIRST_FH <= fh < FIRST_COMPILED


REPLACED = b"# the process that served was killed: lines are missing\n"
STATS, CONFIG, ACCESS_LOG = b".stats", b".config", b".accesslog"
NAMES = frozenset((STATS, CONFIG, ACCESS_LOG))  # in the root


class _File(NamedTuple):
    attr: Attr
    open: Callable[[], bytes | LogReader]  # the content is made when the file is opened: pieces then fit together


class VirtualFiles:
    """The files and their open handles."""

    def __init__(
        self,
        stats: Callable[[], bytes],
        config: Callable[[], bytes],
        log: AccessLog,
        now_ns: int,
        carried: Carried | None = None,
    ) -> None:
        """`carried`: what a successor of this process takes over."""
        self._log = log
        self._records = None if carried is None else carried.handles
        used = 0 if carried is None else carried.generation << GENERATION_SHIFT
        self._numbers = itertools.count(FIRST_FH + used)
        self._handles: dict[int, bytes | LogReader] = {}
        self._unmade: dict[int, Inode] = {}  # handles of a predecessor that nobody has read from their beginning yet
        self.names: dict[bytes, Inode] = {}
        self._files: dict[int, _File] = {}
        self._snapshot_numbers = itertools.count(FIRST_SNAPSHOT + used)  # the kernel may have pages of a predecessor's
        self._snapshots: dict[int, bytes] = {}
        self._add(STATS, 0o444, stats, now_ns)
        self._add(CONFIG, 0o444, config, now_ns)
        self._add(ACCESS_LOG, 0o400, log.open, now_ns)

    def _add(self, name: bytes, mode: int, content: Callable[[], bytes | LogReader], now_ns: int) -> None:
        ino = Inode(FIRST_INO + len(self.names))
        uid, gid = os.geteuid(), os.getegid()
        attr = Attr(ino, stat.S_IFREG | mode, uid, gid, 1, 0, atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns, btime_ns=now_ns)
        self.names[name] = ino
        self._files[ino] = _File(attr, content)

    def attr(self, ino: Inode) -> Attr:
        """Attributes of one of the files. ESTALE when it is none of them."""
        return self._file(ino).attr.copy()

    def snapshot(self, name: bytes) -> Attr:
        """A new inode with the content that a file has now. ENOENT for the access log."""
        file = self._files[self.names[name]]
        if name == ACCESS_LOG:
            raise FsError(errno.ENOENT)
        opened = file.open()
        content = opened if isinstance(opened, bytes) else b""
        ino = Inode(next(self._snapshot_numbers))
        attr = replace(file.attr, ino=ino, size=len(content))
        self._files[ino] = _File(attr, lambda: content)
        self._snapshots[ino] = content
        if len(self._snapshots) > MAX_SNAPSHOTS:
            self.forget(Inode(next(iter(self._snapshots))))
        return attr.copy()

    def forget(self, ino: Inode) -> None:
        """The kernel has forgotten an inode: a snapshot goes."""
        if self._snapshots.pop(ino, None) is not None:
            self._files.pop(ino, None)

    def read_unopened(self, ino: Inode, offset: int, size: int) -> list[memoryview]:
        """A piece of a snapshot. ESTALE when it is gone."""
        content = self._snapshots.get(ino)
        if content is None:
            raise FsError(errno.ESTALE)
        return [memoryview(content)[offset : offset + size]]

    def open(self, ino: Inode, flags: int) -> Opened:
        """EACCES for anything but reading: root has all permissions, so the mode does not keep it away."""
        file = self._file(ino)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise FsError(errno.EACCES)
        fh = next(self._numbers)
        self._handles[fh] = file.open()
        if self._records is not None:
            self._records.add(fh, ino, flags)
        return Opened(fh, keep_cache=False, direct_io=True)

    def read(self, c: Caller, fh: int, offset: int, size: int) -> list[memoryview]:
        """The access log goes on where the last read ended, whatever the offset."""
        if offset == 0 and (ino := self._unmade.get(fh)) is not None:
            self._handles[fh] = self._file(ino).open()
            self._unmade.pop(fh, None)
        content = self._handles.get(fh)
        if content is None:
            raise FsError(errno.EBADF)
        if isinstance(content, LogReader):
            return [memoryview(content.read(c, size))]
        return [memoryview(content)[offset : offset + size]]

    def release(self, fh: int) -> None:
        self._unmade.pop(fh, None)
        content = self._handles.pop(fh, None)
        if isinstance(content, LogReader):
            self._log.close(content)
        if self._records is not None:
            self._records.remove(fh)

    def resume(self, held: HeldHandle) -> None:
        """Go on with a handle of a process that was killed. Before any request is served."""
        if held.ino == self.names[ACCESS_LOG]:
            reader = self._log.open()
            reader.put(REPLACED)
            self._handles[held.fh] = reader
        else:
            self._handles[held.fh] = b""
            self._unmade[held.fh] = held.ino

    def _file(self, ino: Inode) -> _File:
        try:
            return self._files[ino]
        except KeyError:
            raise FsError(errno.ESTALE) from None
