"""What the file system means, for every front alike: POSIX operations over metadata and data, synchronous, thread-safe.

`Vfs` is the face: each method is one operation, checked and handed to the part that owns it. Any number of threads may
call it at once; `README.md` has the lock order, and what each operation promises. Permissions are checked by whoever
calls (the kernel, with default_permissions), not here. Every method may raise FsError with the errno that POSIX wants,
StoreError or ObjectError (EIO, ENOSPC) when a store fails, and CorruptError (EIO).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator

from cairnfs.clock import Clock, SystemClock
from cairnfs.const import MIB
from cairnfs.data import Data
from cairnfs.ext.arena import Arena
from cairnfs.meta import Meta
from cairnfs.options import EngineOptions
from cairnfs.types import Attr, Buffer, Caller, DirEntry, Inode, Lock, Opened, Position, SetAttr, StatFs
from cairnfs.vfs.attrs import Attributes
from cairnfs.vfs.carried import Carried, HeldHandle
from cairnfs.vfs.fileio import FileIo
from cairnfs.vfs.locks import Locking
from cairnfs.vfs.moved import Moved
from cairnfs.vfs.namespace import Namespace, RemovedDirs
from cairnfs.vfs.pages import UNKNOWN as NO_VERSION
from cairnfs.vfs.ranges import Ranges
from cairnfs.vfs.readdir import Directories, Put
from cairnfs.vfs.resume import resume
from cairnfs.vfs.state import UNKNOWN, VfsState
from cairnfs.vfs.xattr import Xattrs

log = logging.getLogger("cairnfs.vfs")

OWN_ARENA_BYTES = 4 * MIB  # for what is open and what the kernel's pages show, where compiled code answers nothing


class Vfs:
    """One mounted or embedded volume. The session of `meta` must be open unless `options.read_only`."""

    def __init__(
        self,
        meta: Meta,
        data: Data,
        options: EngineOptions,
        clock: Clock | None = None,
        arena: Arena | None = None,
        carried: Carried | None = None,
    ) -> None:
        """`arena`: that of the volume, if it has one; else a small one of its own. `carried`: what a successor takes over."""
        self.options = options
        clock = SystemClock() if clock is None else clock
        own = Arena(OWN_ARENA_BYTES) if arena is None else arena
        self._state = state = VfsState(meta, data, options, clock, own, carried, is_shared=arena is not None)
        self._removed = RemovedDirs(None if carried is None else carried.removed)
        self._names = Namespace(state, self._removed)
        self._attrs = Attributes(state, self._removed)
        self._locking = Locking(state)
        self._io = FileIo(state, self._names, self._attrs, self._locking)
        meta.core.is_fenced = state.files.is_fenced
        meta.sessions.on_lost = state.files.lose_locks
        self._ranges = Ranges(state, self._io.drop_privileges)
        self._dirs = Directories(state, self._removed)
        self._xattrs = Xattrs(state)

    # Names

    def lookup(self, c: Caller, parent: Inode, name: bytes) -> Attr:
        """Attributes of the entry `name`; "." and ".." work, too. ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE (see `moved`)."""
        return self._names.lookup(c, parent, name)

    def forget(self, ino: Inode, n: int) -> None:
        """The kernel has dropped `n` references to an inode, and its pages with the last. Never fails."""
        self._state.pages.forget(ino)
        self._state.unopened.forget(ino)
        self._removed.drop(ino)

    def mknod(self, c: Caller, parent: Inode, name: bytes, mode: int, rdev: int = 0) -> Attr:
        """Create a file, fifo, socket or device, unopened. EEXIST, ENOENT, ENOSPC, EROFS."""
        return self._names.mknod(c, parent, name, mode, rdev)

    def mkdir(self, c: Caller, parent: Inode, name: bytes, mode: int) -> Attr:
        """Create a directory. EEXIST, ENOENT, EMLINK, ENOSPC, EROFS."""
        return self._names.mkdir(c, parent, name, mode)

    def symlink(self, c: Caller, parent: Inode, name: bytes, target: bytes) -> Attr:
        """Create a symbolic link. EEXIST, ENOENT (also an empty target), ENAMETOOLONG, ENOSPC, EROFS."""
        return self._names.symlink(c, parent, name, target)

    def readlink(self, c: Caller, ino: Inode) -> bytes:
        """Target of a symbolic link. EINVAL when it is none; ESTALE."""
        with self._state.moved.walk(c.pid):
            return self._names.readlink(ino)

    def link(self, c: Caller, ino: Inode, new_parent: Inode, new_name: bytes) -> Attr:
        """Give an inode another name. EEXIST, EPERM (directory), ENOENT (its last name is gone), EMLINK, EROFS."""
        return self._names.link(c, ino, new_parent, new_name)

    def unlink(self, c: Caller, parent: Inode, name: bytes) -> None:
        """Remove a name; an inode that is open here stays until its last close. ENOENT, EISDIR, EROFS."""
        self._names.unlink(c, parent, name)

    def rmdir(self, c: Caller, parent: Inode, name: bytes) -> None:
        """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY, EINVAL ("."), EROFS."""
        self._names.rmdir(c, parent, name)

    def rename(self, c: Caller, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int = 0) -> None:
        """Rename atomically; `flags` as in renameat2(2) without RENAME_WHITEOUT. See `engine.meta.rename` for errors."""
        self._names.rename(c, parent, name, new_parent, new_name, flags)

    # Attributes

    def getattr(self, c: Caller, ino: Inode, fh: int | None = None) -> Attr:
        """Attributes including size and times of data not committed yet. ESTALE: the inode is gone."""
        with self._state.moved.walk(c.pid):
            return self._attrs.getattr(ino)

    def setattr(self, c: Caller, ino: Inode, change: SetAttr, fh: int | None = None) -> Attr:
        """Change attributes, size included. EINVAL, EFBIG, ESTALE, ENOSPC, EROFS."""
        return self._attrs.setattr(c, ino, change)

    def access(self, c: Caller, ino: Inode, mask: int) -> None:
        """ESTALE, or EROFS for writing to a read-only volume; permissions are the kernel's business."""
        with self._state.moved.walk(c.pid):
            self._attrs.access(ino, mask)

    def statfs(self, c: Caller) -> StatFs:
        """Totals of the volume. Data not committed yet is not in them."""
        return self._attrs.statfs()

    # Files

    def create(self, c: Caller, parent: Inode, name: bytes, mode: int, flags: int) -> tuple[Attr, Opened]:
        """Create and open a file; without O_EXCL an existing one is opened. EEXIST, EISDIR, ENOENT, ENOSPC, EROFS."""
        with self._state.moved.walk(c.pid):
            return self._io.create(c, parent, name, mode, flags)

    def open(self, c: Caller, ino: Inode, flags: int, kill_suidgid: bool = False) -> Opened:
        """Open a regular file, with O_TRUNC if given. ESTALE, EISDIR, ELOOP (symbolic link), ENXIO (others), EROFS."""
        try:
            self.fence(c, ino, True)
            with self._state.moved.walk(c.pid):
                return self._io.open(ino, flags, kill_suidgid)
        finally:
            self._state.pinned.let_go(c.pid)

    def fence(self, c: Caller, ino: Inode, is_file: bool = False) -> None:
        """Before an inode is opened: return when everything that others committed before the call is known here, and the kernel
        has dropped what is outdated of a file. EIO, ESTALE.

        Once for a request: who was sent back is let pass once.
        """
        if not c.fenced:
            self._state.fence(UNKNOWN)
            self._state.moved.check(c.pid, ino)
            if is_file and self._state.dropped is not None:
                self._state.dropped(ino, UNKNOWN)

    def read(self, c: Caller, fh: int, offset: int, size: int) -> list[memoryview]:
        """Up to `size` bytes as consecutive views, valid as long as they are referenced; short only at the end of file.
        A negative handle stands for the inode of that number, opened or not; so it does in `lseek`. EBADF, ESTALE, EIO.
        """
        return self._io.read(fh, offset, size)

    def write(self, c: Caller, fh: int, offset: int, data: Buffer, kill_suidgid: bool = False, append: bool | None = None) -> int:
        """Write all of `data` (copied before this returns) at `offset`, or with `append` (None: O_APPEND of the open) at the end.
        EBADF, EFBIG, ENOSPC (the volume is full), EIO (earlier data could not be stored), EROFS.
        """
        return self._io.write(c, fh, offset, data, kill_suidgid, append)

    def write_mapped(self, c: Caller, fh: int, offset: int, data: Buffer, kill_suidgid: bool = False) -> int:
        """A page of a mapping is written back, through any handle of the file: at `offset` even if that one appends."""
        return self._io.write(c, fh, offset, data, kill_suidgid, False, mapped=True)

    def flush(self, c: Caller, fh: int, lock_owner: int | None = None) -> None:
        """A descriptor was closed: store and commit its file's data, free the owner's fcntl locks. EIO, ENOSPC."""
        self._io.flush(fh, lock_owner)

    def fsync(self, c: Caller, fh: int, datasync: bool = False) -> None:
        """When this returns, the file's data and metadata survive loss of power. EIO, ENOSPC."""
        self._io.fsync(fh)

    def release(self, c: Caller, fh: int) -> None:
        """The last descriptor of a handle was closed: give back what was locked through it."""
        self._io.release(fh)

    def fallocate(self, c: Caller, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2): allocate, punch a hole, zero a range. EOPNOTSUPP for other modes; EBADF, EFBIG, ENOSPC, EROFS."""
        self._ranges.fallocate(c, fh, mode, offset, length)

    def lseek(self, c: Caller, fh: int, offset: int, whence: int) -> int:
        """SEEK_END, SEEK_DATA, SEEK_HOLE. EINVAL for others, ENXIO past the end."""
        return self._ranges.lseek(fh, offset, whence)

    def copy_file_range(self, c: Caller, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int) -> int:
        """Copy by sharing stored slices; may copy less than asked. EBADF, EINVAL (overlap), EFBIG, ENOSPC, EROFS."""
        return self._ranges.copy(c, fh_in, off_in, fh_out, off_out, length)

    # Directories

    def gather(self, c: Caller, ino: Inode) -> bool:
        """Before a directory is opened by one who is going to list it: leave its listing to compiled code, and do what `fence`
        does, in one round trip. False: nothing was done, since it is too large, or round trips cost nothing. EIO, ESTALE.
        """
        found = self._dirs.gather(ino)
        if found is None:
            return False
        self._state.fence(found.position)
        self._state.moved.check(c.pid, ino)
        return True

    def opendir(self, c: Caller, ino: Inode) -> Opened:
        """Open a directory. ESTALE, ENOTDIR."""
        self.fence(c, ino)
        with self._state.moved.walk(c.pid):
            return self._dirs.opendir(ino)

    def readdir(self, c: Caller, fh: int, cookie: int, plus: bool = False) -> Iterator[DirEntry]:
        """Entries after `cookie` (0: from the start), with attributes if `plus`. EBADF; EIO while iterating."""
        return self._dirs.readdir(fh, cookie, plus)

    def read_pages(self, c: Caller, fh: int, cookie: int, plus: bool, put: Put) -> bool:
        """`readdir` for fronts that lay out whole pages of entries by `put`. False when nothing was: `readdir` has to serve."""
        return self._dirs.read_pages(fh, cookie, plus, put)

    def releasedir(self, c: Caller, fh: int) -> None:
        """Close a directory. EBADF."""
        self._dirs.releasedir(fh)

    def fsyncdir(self, c: Caller, fh: int, datasync: bool = False) -> None:
        """When this returns, every change of names made so far survives loss of power. EBADF."""
        self._dirs.fsyncdir(fh)

    # Extended attributes

    def getxattr(self, c: Caller, ino: Inode, name: bytes) -> bytes:
        """Value of an extended attribute; `cairnfs.info` is computed. ENODATA, or EOPNOTSUPP for one in security. where the
        volume was never given any; ENOENT, ERANGE (bad name).
        """
        return self._xattrs.get(ino, name)

    def setxattr(self, c: Caller, ino: Inode, name: bytes, value: bytes, flags: int = 0, kill_sgid: bool = False) -> None:
        """Set an extended attribute; `flags` as in setxattr(2). EEXIST, ENODATA, E2BIG, ERANGE, EINVAL (ACL), EROFS."""
        self._xattrs.set(c, ino, name, value, flags, kill_sgid)

    def listxattr(self, c: Caller, ino: Inode) -> list[bytes]:
        """Names of the extended attributes; those in `trusted.` for root only. ENOENT."""
        return self._xattrs.list(c, ino)

    def removexattr(self, c: Caller, ino: Inode, name: bytes) -> None:
        """Remove an extended attribute. ENODATA (not for an ACL), ENOENT, EROFS."""
        self._xattrs.remove(ino, name)

    # Locks

    def getlk(self, c: Caller, ino: Inode, fh: int, lock: Lock) -> Lock | None:
        """A lock that conflicts with `lock`, None when it could be taken."""
        return self._locking.getlk(ino, fh, lock)

    def setlk(self, c: Caller, ino: Inode, fh: int, lock: Lock, wait: bool) -> None:
        """Take or free a lock. EAGAIN when taken by another and not to `wait`; EINTR; EBADF."""
        self._locking.setlk(c, fh, lock, wait)

    # The volume

    def syncfs(self, c: Caller) -> None:
        """Store and commit everything dirty; when this returns it survives loss of power. EIO, ENOSPC."""
        self._io.syncfs()

    @property
    def moved(self) -> Moved:
        """Is to be told what names others have changed."""
        return self._state.moved

    def follow(
        self,
        fence: Callable[[Position], None],
        forget: Callable[[Iterable[Inode]], None],
        way: Callable[[], Position | None] | None = None,
        *,
        show: Callable[[Inode, Position], None] | None = None,
        catch_up: Callable[[], None] | None = None,
        hold: Callable[[], None] | None = None,
        dropped: Callable[[Inode, Position], None] | None = None,
        drop: Callable[[Inode, bool], None] | None = None,
    ) -> None:
        """`fence` returns when everything that others committed before the call was passed to `invalidate`, or with a position
        everything up to there; opens call it. `forget` makes the kernel ask for attributes again, where they changed without a
        commit (what was written is lost), and where it must not take those of the reply that comes next. `way`: the position up
        to which everything was passed, for those who change names and have not asked; None where `fence` costs nothing. `show`
        returns when the kernel has no older pages of an inode than what was committed up to a position (0: before the call);
        whoever takes a lock calls it. `catch_up`: as `fence`, where
        that does not ask and the kernel may keep that names are absent. `hold` returns when nothing is known here that is older
        than whoever follows the log allows; what is answered without asking the store calls it. `dropped` returns when the kernel
        has dropped what is outdated of a file, up to a position or (0) as far as is known; opens call it after `fence`,
        and getattr of what others change. `drop` has it drop the pages of a file, or soon, if it may hold one (True).
        """
        self._state.fence = fence
        self._state.hold = hold or self._state.hold
        self._state.forget = self._state.files.on_lost = forget
        if way is not None:
            self._state.way = way
        self._state.catch_up = catch_up
        self._state.dropped = dropped
        self._state.drop = drop
        self._locking.is_followed = True
        self._locking.show = show

    def released(self, inos: Iterable[Inode]) -> None:
        """Another process has changed the locks of these inodes."""
        self._locking.released(inos)

    def held(self) -> list[Inode]:
        """Inodes that the kernel has handles of."""
        state = self._state
        return [*map(Inode, state.arena.handles()), *(file.ino for file in state.files.all()), *self._dirs.inodes()]

    def resume(self, left: Collection[int]) -> None:
        """Take over from a process that was killed, with its requests in work (`left`). Before any request is served."""
        state = self._state
        if state.carried is not None:
            state.arena.resume()
            self._removed.resume()
            self._resume_virtual(resume(state, self._dirs, state.meta, state.carried, left))

    def _resume_virtual(self, handles: list[HeldHandle]) -> None:
        """Virtual files that were open; there are none here."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]] = ()) -> set[Inode]:
        """Another process has changed these inodes and names: what is known of them here is forgotten. Returns those of which the
        kernel may have pages.
        """
        paged: set[Inode] = set()
        for ino in inos:
            if self.options.read_only or self._state.pages.newest(ino) != NO_VERSION:
                paged.add(ino)
            self._state.pages.drop(ino)
            self._state.files.invalidate(ino)
        return paged

    def invalidate_all(self) -> None:
        """The change log has a gap: everything known here is forgotten."""
        self._state.arena.drop_all()
        self._state.pages.drop_all()
        for file in self._state.files.all():
            self._state.files.invalidate(file.ino)

    def close(self) -> None:
        """Store everything, close every handle, free what was kept for them. Raises what could not be stored."""
        try:
            if not self.options.read_only:
                self._io.syncfs()
        finally:
            self._state.pinned.close()
            for fh in self._state.handles.numbers():
                self._io.release(fh)
            self._state.files.close_compiled()
            self._state.unopened.close()
