"""The Vfs of a mount: what `Vfs` does, observed, and with virtual files in its root.

Whatever names a virtual file, its inode or its handle is answered here, unseen by counters and access log (which would
otherwise log that it is being read); everything else goes to the Vfs through `observe`. The names cannot be removed (EPERM)
or taken (EEXIST), as in JuiceFS.
"""

import errno
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import cast

from cairnfs.clock import Clock
from cairnfs.const import ROOT_INO
from cairnfs.data import Data
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.meta import Meta
from cairnfs.metrics import Metrics
from cairnfs.options import EngineOptions
from cairnfs.types import Attr, Caller, Inode, Opened, SetAttr
from cairnfs.vfs import Vfs
from cairnfs.vfs.accesslog import AccessLog
from cairnfs.vfs.carried import Carried, HeldHandle
from cairnfs.vfs.observe import observed
from cairnfs.vfs.virtual import FIRST_INO, VirtualFiles, is_virtual


class MountedVfs(Vfs):
    """The face for fronts. `config` is called whenever `.config` is opened; it must hold no secrets."""

    def __init__(
        self,
        meta: Meta,
        data: Data,
        options: EngineOptions,
        clock: Clock,
        metrics: Metrics,
        config: Callable[[], Mapping[str, object]],
        arena: Arena | None = None,
        carried: Carried | None = None,
    ) -> None:
        super().__init__(meta, data, options, clock, arena, carried)
        self._state.has_kernel = True
        log = AccessLog(self._state.arena.hush)
        inherited = super()
        seen = observed(lambda op: getattr(inherited, op), metrics, log)
        self._seen = cast(Vfs, SimpleNamespace(**seen))
        for op, call in seen.items():
            if op not in vars(MountedVfs):
                setattr(self, op, call)
        self._virtual = VirtualFiles(
            lambda: metrics.text().encode(),
            lambda: json.dumps(config(), indent=2).encode() + b"\n",
            log,
            clock.now_ns(),
            carried,
        )
        if self._state.files.grants is not None:
            self._state.files.grants.on_collected = metrics.written_bytes.add
        if carried is not None:
            metrics.journal_bytes.source = lambda: carried.journal.ring.used_bytes
        metrics.open_handles.source = self._state.n_handles
        metrics.open_directories.source = lambda: len(self._dirs.handles)
        metrics.open_inodes.source = self._state.n_inodes

    # Names

    def lookup(self, c: Caller, parent: Inode, name: bytes) -> Attr:
        if parent == ROOT_INO and name in self._virtual.names:
            return self._virtual.snapshot(name) if self.options.read_only else self._virtual.attr(self._virtual.names[name])
        return self._seen.lookup(c, parent, name)

    def mknod(self, c: Caller, parent: Inode, name: bytes, mode: int, rdev: int = 0) -> Attr:
        self._taken(parent, name)
        return self._seen.mknod(c, parent, name, mode, rdev)

    def mkdir(self, c: Caller, parent: Inode, name: bytes, mode: int) -> Attr:
        self._taken(parent, name)
        return self._seen.mkdir(c, parent, name, mode)

    def symlink(self, c: Caller, parent: Inode, name: bytes, target: bytes) -> Attr:
        self._taken(parent, name)
        return self._seen.symlink(c, parent, name, target)

    def create(self, c: Caller, parent: Inode, name: bytes, mode: int, flags: int) -> tuple[Attr, Opened]:
        self._taken(parent, name)
        return self._seen.create(c, parent, name, mode, flags)

    def link(self, c: Caller, ino: Inode, new_parent: Inode, new_name: bytes) -> Attr:
        self._taken(new_parent, new_name)
        self._unchangeable(ino)
        return self._seen.link(c, ino, new_parent, new_name)

    def unlink(self, c: Caller, parent: Inode, name: bytes) -> None:
        self._kept(parent, name)
        self._seen.unlink(c, parent, name)

    def rmdir(self, c: Caller, parent: Inode, name: bytes) -> None:
        self._kept(parent, name)
        self._seen.rmdir(c, parent, name)

    def rename(self, c: Caller, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int = 0) -> None:
        self._kept(parent, name)
        self._kept(new_parent, new_name)
        self._seen.rename(c, parent, name, new_parent, new_name, flags)

    # Inodes

    def getattr(self, c: Caller, ino: Inode, fh: int | None = None) -> Attr:
        return self._virtual.attr(ino) if ino >= FIRST_INO else self._seen.getattr(c, ino, fh)

    def setattr(self, c: Caller, ino: Inode, change: SetAttr, fh: int | None = None) -> Attr:
        self._unchangeable(ino)
        return self._seen.setattr(c, ino, change, fh)

    def access(self, c: Caller, ino: Inode, mask: int) -> None:
        if ino >= FIRST_INO:
            self._virtual.attr(ino)
        else:
            self._seen.access(c, ino, mask)

    def getxattr(self, c: Caller, ino: Inode, name: bytes) -> bytes:
        if ino >= FIRST_INO:
            raise FsError(errno.ENODATA)
        return self._seen.getxattr(c, ino, name)

    def setxattr(self, c: Caller, ino: Inode, name: bytes, value: bytes, flags: int = 0, kill_sgid: bool = False) -> None:
        self._unchangeable(ino)
        self._seen.setxattr(c, ino, name, value, flags, kill_sgid)

    def listxattr(self, c: Caller, ino: Inode) -> list[bytes]:
        return [] if ino >= FIRST_INO else self._seen.listxattr(c, ino)

    def removexattr(self, c: Caller, ino: Inode, name: bytes) -> None:
        self._unchangeable(ino)
        self._seen.removexattr(c, ino, name)

    def forget(self, ino: Inode, n: int) -> None:
        if ino >= FIRST_INO:
            self._virtual.forget(ino)
        else:
            super().forget(ino, n)

    # Handles

    def open(self, c: Caller, ino: Inode, flags: int, kill_suidgid: bool = False) -> Opened:
        return self._virtual.open(ino, flags) if ino >= FIRST_INO else self._seen.open(c, ino, flags, kill_suidgid)

    def read(self, c: Caller, fh: int, offset: int, size: int) -> list[memoryview]:
        if fh <= -FIRST_INO:
            return self._virtual.read_unopened(Inode(-fh), offset, size)
        return self._virtual.read(c, fh, offset, size) if is_virtual(fh) else self._seen.read(c, fh, offset, size)

    def flush(self, c: Caller, fh: int, lock_owner: int | None = None) -> None:
        if not is_virtual(fh):
            self._seen.flush(c, fh, lock_owner)

    def fsync(self, c: Caller, fh: int, datasync: bool = False) -> None:
        if not is_virtual(fh):
            self._seen.fsync(c, fh, datasync)

    def release(self, c: Caller, fh: int) -> None:
        if is_virtual(fh):
            self._virtual.release(fh)
        else:
            self._seen.release(c, fh)

    def lseek(self, c: Caller, fh: int, offset: int, whence: int) -> int:
        if is_virtual(fh) or fh <= -FIRST_INO:
            raise FsError(errno.EINVAL)  # copying tools then read on to the end, instead of believing in size 0
        return self._seen.lseek(c, fh, offset, whence)

    def copy_file_range(self, c: Caller, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int) -> int:
        if is_virtual(fh_in):
            raise FsError(errno.EXDEV)  # the kernel then copies by reading and writing
        return self._seen.copy_file_range(c, fh_in, off_in, fh_out, off_out, length)

    def _resume_virtual(self, handles: list[HeldHandle]) -> None:
        for held in handles:
            self._virtual.resume(held)

    # Refusals

    def _taken(self, parent: Inode, name: bytes) -> None:
        if parent == ROOT_INO and name in self._virtual.names:
            raise FsError(errno.EEXIST)

    def _kept(self, parent: Inode, name: bytes) -> None:
        if parent == ROOT_INO and name in self._virtual.names:
            raise FsError(errno.EPERM)

    def _unchangeable(self, ino: Inode) -> None:
        if ino >= FIRST_INO:
            raise FsError(errno.EPERM)
