"""Objects as files in a folder: one local disk, or a shared file system such as NFS, CephFS or Lustre.

Owns everything below `root`. An object appears whole or not at all: its bytes go into an unnamed file (O_TMPFILE) that is
then linked under its final name without replacing, so a killed process leaves nothing behind. The sync comes after the
link, because then one journal commit of the disk covers the bytes and the name; an object that loses power between the
two may be torn, but nothing refers to it yet. Where unnamed files are not supported a hidden name is used instead.

A store made with sync "fsync" syncs nothing but by `sync`, and then the disk, whoever has put what. The kernel writes by itself
within half a minute. After a loss of power, what was put since may be missing or torn, though metadata may name it.

The folders that objects are in lie apart on the disk where the file system can have that (`file_io.spread`). ext4 makes the
folders of one folder neighbours otherwise, whose files share tables of inodes. Without a journal it steps over each inode
there that was freed within the last minutes: when 6,000 objects had been deleted, making one took 700 us, apart 10. With a
journal it makes no difference.

The folder must hold the marker object `cairnfs_uuid`. A folder that lost it (an unmounted disk, a deleted tree) is an
error and is never created again by a write.
"""

import errno
import itertools
import os
from collections.abc import Iterator, Sequence

from cairnfs.errors import ObjectError, ObjectMissing, UsageError, VolumeError
from cairnfs.ext import file_io
from cairnfs.objects.base import MARKER, NotOurs, ObjectInfo, OneByOne, checked_name
from cairnfs.types import Buffer

_MAX_PARTS = 512  # IOV_MAX is 1024 on Linux
# What the user can act upon keeps its errno; all else is EIO to an application.
_TELLING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EFBIG})
_NO_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_FILE_MODE = 0o644
SYNCS = ("close", "fsync")  # when an object is synced: as it is put, which is before close(2) returns; or by `sync`, for fsync(2)


class FileStore(OneByOne):
    """An object store in the folder `root`, which must exist and carry the marker (see `cairnfs.objects.create_bucket`)."""

    def __init__(self, root: str, sync: str = SYNCS[0]) -> None:
        """UsageError for another `sync` than those of SYNCS."""
        if sync not in SYNCS:
            raise UsageError(f"'{sync}' is not when to sync: choose {' or '.join(SYNCS)}")
        self.root = os.path.abspath(root)
        self._syncs = sync == SYNCS[0]
        self._marker = os.path.join(self.root, MARKER)
        self._unnamed_files = os.path.isdir("/proc/self/fd")  # what gives them a name
        self._serial = itertools.count()

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        path = self._path(name)
        try:
            try:
                self._store(path, parts)
            except FileNotFoundError:
                self._make_folders(os.path.dirname(path))
                self._store(path, parts)
        except OSError as e:
            raise self._error(e, "store", name) from e

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._path(name)
        try:
            if length is None:
                length = max(0, os.stat(path).st_size - offset)
            return file_io.get(path, offset, length)
        except OSError as e:
            raise self._error(e, "read", name) from e

    def head(self, name: str) -> ObjectInfo:
        try:
            st = os.stat(self._path(name))
        except OSError as e:
            raise self._error(e, "look at", name) from e
        return ObjectInfo(name, st.st_size, st.st_mtime)

    def delete(self, name: str) -> None:
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            self.check()
        except OSError as e:
            raise self._error(e, "delete", name) from e

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self.check()
        folder = prefix.rpartition("/")[0]
        yield from (info for info in self._walk(folder, prefix) if info.name > after)

    def sync(self) -> None:
        if self._syncs:
            return
        try:
            file_io.sync(self.root)
        except OSError as e:
            raise ObjectError(f"what is in {self.root} could not be synced: {e.strerror}", e.errno or errno.EIO) from e

    def check(self) -> None:
        try:
            os.stat(self._marker)
        except OSError as e:
            raise NotOurs(
                f"{self.root} is not this volume's folder now ({MARKER}: {e.strerror}): mount the disk or restore the folder"
            ) from e

    def close(self) -> None:
        """Nothing is held open between calls."""

    @property
    def where(self) -> str:
        return self.root

    def prepare(self) -> None:
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as e:
            raise VolumeError(f"cannot use {self.root} for objects: {e.strerror}") from e

    def present(self) -> bool:
        return os.path.isdir(self.root)

    def vacant(self) -> bool:
        return not os.path.isdir(self.root) or not os.listdir(self.root)

    def tidy(self) -> None:
        """Remove the folders of deleted objects and the root, as far as they are empty."""
        for folder, _, _ in os.walk(self.root, topdown=False):
            try:
                os.rmdir(folder)
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise self._error(e, "remove the folder of", os.path.relpath(folder, self.root)) from e

    def _path(self, name: str) -> str:
        return f"{self.root}/{checked_name(name)}"

    def _store(self, path: str, parts: Sequence[Buffer]) -> None:
        folder = path.rpartition("/")[0]
        if self._unnamed_files:
            if file_io.put(folder, path, parts, self._syncs):
                return
            self._unnamed_files = False
        self._store_by_hidden_name(folder, path, parts)

    def _store_by_hidden_name(self, folder: str, path: str, parts: Sequence[Buffer]) -> None:
        hidden = f"{folder}/.{os.getpid()}-{next(self._serial)}-{os.path.basename(path)}"
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        try:
            _write_all(fd, parts)
            if self._syncs:
                os.fsync(fd)
            _publish(hidden, path)
        finally:
            os.close(fd)
            _remove_if_there(hidden)
        self._sync_folder(folder)

    def _make_folders(self, folder: str) -> None:
        """Make the folders between the root and an object; the root itself must be there and be ours."""
        self.check()
        at = self.root
        for part in os.path.relpath(folder, self.root).split("/"):
            above, at = at, f"{at}/{part}"
            if at == folder and above != self.root:
                file_io.spread(above)
            try:
                os.mkdir(at)
            except FileExistsError:
                continue
            self._sync_folder(above)

    def _sync_folder(self, folder: str) -> None:
        if not self._syncs:
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below one folder in order of full name; only one folder per level is held in memory."""
        try:
            with os.scandir(f"{self.root}/{folder}" if folder else self.root) as found:
                entries = sorted(_sort_name(e) for e in found if not e.name.startswith("."))
        except FileNotFoundError:
            return
        except OSError as e:
            raise self._error(e, "list", folder) from e
        for entry in entries:
            name = f"{folder}/{entry}" if folder else entry
            if name.endswith("/"):
                if name.startswith(prefix) or prefix.startswith(name):
                    yield from self._walk(name[:-1], prefix)
            elif name.startswith(prefix):
                try:
                    yield self.head(name)
                except ObjectMissing:
                    continue  # deleted since the folder was read

    def _error(self, e: OSError, doing: str, name: str) -> ObjectError:
        if isinstance(e, ObjectError):
            return e
        if e.errno == errno.ENOENT:
            try:
                self.check()
            except ObjectError as vanished:
                return vanished
            return ObjectMissing(f"object {name} does not exist in {self.root}")
        code = e.errno if e.errno in _TELLING else errno.EIO
        return ObjectError(f"cannot {doing} object {name} in {self.root}: {e.strerror}", code)


def _sort_name(entry: os.DirEntry[str]) -> str:
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name


def _write_all(fd: int, parts: Sequence[Buffer]) -> None:
    for first in range(0, len(parts), _MAX_PARTS):
        some = parts[first : first + _MAX_PARTS]
        expected = sum(len(p) for p in some)
        written = os.writev(fd, some)
        if written < expected:
            _write_rest(fd, b"".join(some), written)


def _write_rest(fd: int, data: bytes, written: int) -> None:
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _publish(hidden: str, path: str) -> None:
    try:
        os.link(hidden, path)
    except OSError as e:
        if e.errno not in _NO_LINK:
            raise
        if os.path.lexists(path):  # no hard links here: names are unique by construction, this catches a reused one
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from e
        os.rename(hidden, path)


def _remove_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
