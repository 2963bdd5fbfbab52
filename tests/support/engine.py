"""A whole engine in this process, without a mount: memory or SQLite metadata, objects in a temporary folder, a Vfs on top.

`Engine` opens and closes one volume, any number of times and as often at once as a test likes (two of them on one SQLite
volume behave as two mounts). `Files` says in paths what the Vfs says in inodes and handles.
"""

import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cairnfs.const import MIB, ROOT_INO
from cairnfs.ext.arena import Arena
from cairnfs.options import EngineOptions
from cairnfs.types import Attr, Caller, DirEntry, Inode, SessionId
from cairnfs.vfs import Vfs
from cairnfs.vfs.carried import Carried
from cairnfs.volume import Volume, format_volume, new_format, open_volume

ROOT = Inode(ROOT_INO)
ME = Caller()
TEST_OPTIONS = EngineOptions(buffer_bytes=64 * MIB, cache_bytes=32 * MIB, max_uploads=4, max_downloads=4, background_jobs=False)

_numbers = itertools.count(1)


def new_volume(folder: Path, store: str = "memory", **fmt: Any) -> str:
    """Format a volume whose objects are below `folder`; returns its URL. `store` is "memory" or "sqlite"."""
    number = next(_numbers)
    url = f"memory://engine-{os.getpid()}-{number}" if store == "memory" else f"sqlite3://{folder}/meta-{number}.db"
    format_volume(url, new_format(f"vol{number}", bucket=str(folder / "bucket"), **fmt))
    return url


class Engine:
    """One process's use of a volume: a session, and a Vfs."""

    def __init__(
        self, url: str, options: EngineOptions = TEST_OPTIONS, arena: Arena | None = None, *, carried: Carried | None = None
    ) -> None:
        """`carried`: what a predecessor that was abandoned has left, and this one leaves. A session that is lost is replaced."""
        self.url = url
        arena = arena if carried is None else carried.arena
        self.volume: Volume = open_volume(url, options, arena=arena)
        self.meta = self.volume.meta
        resumed = carried is not None and carried.session and self.meta.sessions.resume(SessionId(carried.session))
        if not resumed and not options.read_only:
            session = self.meta.sessions.open("/in-process", "test")
            if carried is not None:
                carried.session = session
        self.vfs = Vfs(self.meta, self.volume.data, options, self.volume.clock, arena, carried)
        self.files = Files(self.vfs)

    def close(self) -> None:
        self.vfs.close()
        self.meta.sessions.close()
        self.volume.close()

    def abandon(self) -> None:
        """End without storing or cleaning anything, as a killed process does; only threads and descriptors are let go."""
        self.volume.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Files:
    """Whole-path conveniences over a Vfs; paths are relative to the root, with "/" between names."""

    def __init__(self, vfs: Vfs) -> None:
        self.vfs = vfs

    def ino(self, path: str) -> Inode:
        return self.attr(path).ino

    def attr(self, path: str) -> Attr:
        attr = self.vfs.getattr(ME, ROOT)
        for name in filter(None, path.split("/")):
            attr = self.vfs.lookup(ME, attr.ino, os.fsencode(name))
        return attr

    def place(self, path: str) -> tuple[Inode, bytes]:
        """Directory and name of a path whose last name need not exist."""
        folder, _, name = path.rpartition("/")
        return self.ino(folder), os.fsencode(name)

    def mkdir(self, path: str, mode: int = 0o755) -> Attr:
        return self.vfs.mkdir(ME, *self.place(path), mode)

    def create(self, path: str, flags: int = os.O_RDWR, mode: int = 0o644) -> int:
        """Create (or open) a file; returns its handle."""
        return self.vfs.create(ME, *self.place(path), mode, flags)[1].fh

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return self.vfs.open(ME, self.ino(path), flags).fh

    def close(self, fh: int) -> None:
        """As the kernel does at the last close: FLUSH, then RELEASE even when that failed."""
        try:
            self.vfs.flush(ME, fh)
        finally:
            self.vfs.release(ME, fh)

    @contextmanager
    def opened(self, path: str, flags: int = os.O_RDWR) -> Iterator[int]:
        fh = self.open(path, flags)
        try:
            yield fh
        finally:
            self.close(fh)

    @contextmanager
    def created(self, path: str, flags: int = os.O_RDWR) -> Iterator[int]:
        fh = self.create(path, flags)
        try:
            yield fh
        finally:
            self.close(fh)

    def pread(self, fh: int, offset: int, size: int) -> bytes:
        return b"".join(self.vfs.read(ME, fh, offset, size))

    def pwrite(self, fh: int, offset: int, data: bytes) -> None:
        assert self.vfs.write(ME, fh, offset, data) == len(data)

    def write(self, path: str, data: bytes) -> None:
        with self.created(path, os.O_WRONLY | os.O_TRUNC) as fh:
            self.pwrite(fh, 0, data)

    def read(self, path: str) -> bytes:
        with self.opened(path, os.O_RDONLY) as fh:
            return self.pread(fh, 0, self.attr(path).size + 1)

    def unlink(self, path: str) -> None:
        self.vfs.unlink(ME, *self.place(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.vfs.rename(ME, *self.place(old), *self.place(new), flags)

    def list(self, path: str = "", plus: bool = False) -> list[DirEntry]:
        """Every entry but the dots, read in replies of a size that a kernel would use."""
        fh = self.vfs.opendir(ME, self.ino(path)).fh
        try:
            return [e for e in self.read_dir(fh, plus=plus) if e.name not in (b".", b"..")]
        finally:
            self.vfs.releasedir(ME, fh)

    def read_dir(self, fh: int, cookie: int = 0, plus: bool = False, reply_entries: int = 100) -> Iterable[DirEntry]:
        while True:
            reply = list(itertools.islice(self.vfs.readdir(ME, fh, cookie, plus), reply_entries))
            if not reply:
                return
            yield from reply
            cookie = reply[-1].cookie

    def names(self, path: str = "") -> set[str]:
        return {os.fsdecode(entry.name) for entry in self.list(path)}

    def is_dir(self, path: str) -> bool:
        return stat.S_ISDIR(self.attr(path).mode)
