"""The portable front: pyfuse3's `Operations` over the VFS. Thin: it translates values and errors, and decides nothing.

pyfuse3 serves requests as tasks on one trio thread, while the VFS is synchronous and may wait (for a store, for memory).
So each VFS call runs on a worker thread of trio's, at most `max_threads` at once: a slow read holds up nothing else. That
costs two thread switches per request, which is why the compiled channel is the front to use where speed matters.

pyfuse3 has no handlers for fcntl and flock locks, fallocate, lseek and copy_file_range. The kernel then keeps locks to
itself (they work between processes of this machine only), refuses fallocate with EOPNOTSUPP, and does without the other two.
It also applies the umask before it asks, so the umask narrows what a default ACL gives. That no file
has an attribute in security. is not told (see `getxattr`), so `ls -l` asks for one on every file. libfuse serves the descriptor
of a mount that `mountpoint` has made, so options and messages are those of the compiled front.
"""

import errno
import logging
import os
import select
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from cairnfs.const import MAX_NAME_BYTES
from cairnfs.daemon.mountpoint import Mounted, abort, find_mount, mount_fuse, unmount
from cairnfs.daemon.transport import Transport, descriptor
from cairnfs.errors import MountError
from cairnfs.meta.records import SECURITY
from cairnfs.meta.stores.base import Store
from cairnfs.metrics import Distribution
from cairnfs.options import FuseOptions
from cairnfs.types import Attr, Caller, DirEntry, Inode, Opened, SetAttr, StatFs
from cairnfs.vfs import Vfs

try:
    import pyfuse3
    import trio
except ImportError as error:
    raise MountError(f"the front pyfuse3 cannot be used ({error}): install pyfuse3, or choose --front channel") from error

if TYPE_CHECKING:
    from pyfuse3 import FileHandleT, FlagT, InodeT, ModeT, ReaddirToken, RequestContext

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0  # what the kernel may keep when nothing else is asked for: pyfuse3 cannot take everything back
BLOCK_BYTES = 4096  # st_blksize and the unit of statfs
DIR_BLOCK_BYTES = 64 << 10  # st_blksize of a directory: by how much readdir(3) of glibc reads it
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DIR_BYTES = 4096  # st_size of a directory: the number of entries would only confuse tools
OPCODE_OF = {"write_mapped": "WRITE", "_fill": "READDIRPLUS"}  # of other calls it is their name
GENERATION = 1  # inode numbers are never reused

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Pyfuse3Front:
    """One mount through pyfuse3. pyfuse3 keeps its session in module globals: one such mount per process."""

    def __init__(self, vfs: Vfs, mountpoint: Path, options: FuseOptions) -> None:
        self._operations = VfsOperations(vfs, options)
        self._mountpoint = mountpoint
        self._options = options
        self._lock = threading.Lock()
        self._notifying = threading.Lock()  # keeps the session from being destroyed under a notification
        self._stopping = False
        self._token: trio.lowlevel.TrioToken | None = None

    def run(self) -> None:
        """Mount and serve until unmounted or stopped. MountError when it cannot be mounted."""
        fd = mount_fuse(self._mountpoint, self._options)
        mounted = find_mount(self._mountpoint)
        try:
            self._init(fd)
            try:
                trio.run(self._serve)
            finally:
                with self._lock:
                    self._token = None
                _fail_waiting_calls(fd, mounted)
                with self._notifying:
                    pyfuse3.close(unmount=False)  # closes the descriptor
        finally:
            self._detach()

    def stop(self) -> None:
        """From any thread: detach the mount, and make `run` return once the requests under way are answered."""
        with self._lock:
            self._stopping = True
            token = self._token
        if token is not None:
            self._detach()
            try:
                token.run_sync_soon(pyfuse3.terminate)
            except trio.RunFinishedError:
                pass

    def counts(self) -> dict[str, int]:
        """Requests served so far, by the kernel's name of the opcode. What libfuse answers by itself is not in it."""
        return dict(self._operations.n_requests)

    def trust(self, followed: bool) -> None:
        """Nothing to do: what the kernel is told ends by itself."""

    def known(self, inos: list[Inode]) -> list[Inode]:
        """All: libfuse does not tell."""
        return inos

    def answers(self) -> dict[str, Distribution]:
        """Of these, requests answered without Python: none."""
        return {}

    def answered_bytes(self) -> int:
        """Bytes of files in these answers."""
        return 0

    def transport(self) -> Transport:
        """How requests come: libfuse reads them."""
        return descriptor("the front pyfuse3 has no io_uring")

    def tend(self, store: Store) -> None:
        """No compiled code answers here."""

    def invalidate_all(self) -> None:
        """pyfuse3 cannot make the kernel drop all names at once: names and attributes stay for their timeout."""
        log.warning("%s: what the kernel keeps is dropped after its timeout only: pyfuse3 cannot say more", self._mountpoint)

    def leaving(self, on: bool) -> None:
        """Nothing is opened without Python."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> set[Inode]:
        """Make the kernel forget attributes and pages of inodes, and names. From any thread but trio's; may wait for
        requests on the same directories. Returns those inodes that it does not know.
        """
        with self._notifying:
            if self._token is None:
                return set()
            unknown = {ino for ino in inos if not _notify(pyfuse3.invalidate_inode, ino)}
            for parent, name in dentries:
                _notify(pyfuse3.invalidate_entry, parent, name)
        return unknown

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None:
        """Make the kernel ask for attributes again. Requests may call it: it takes no lock of the kernel's, nor the one that
        `invalidate` may hold while it waits for requests.
        """
        if self._token is not None:
            for ino in inos:
                _notify(pyfuse3.invalidate_inode, ino, True)

    invalidate_own = invalidate_attributes

    def _init(self, fd: int) -> None:
        try:
            pyfuse3.init(self._operations, f"/dev/fd/{fd}", {"debug"} if self._options.debug else set())
        except RuntimeError as error:
            os.close(fd)
            raise MountError(f"{self._mountpoint} cannot be served by pyfuse3: {error}", errno.EIO) from error

    async def _serve(self) -> None:
        with self._lock:
            if self._stopping:
                return
            self._token = trio.lowlevel.current_trio_token()
        self._operations.limit(self._options.max_threads)
        await pyfuse3.main(self._options.min_threads, self._options.max_threads)

    def _detach(self) -> None:
        """Take the mountpoint out of the way, whatever still uses the mount."""
        try:
            unmount(self._mountpoint, lazy=True)
        except MountError as error:
            if error.errno != errno.EINVAL:
                log.warning("%s: %s", self._mountpoint, error)


Front = Pyfuse3Front


def _fail_waiting_calls(fd: int, mounted: Mounted | None) -> None:
    """Nobody will read what the kernel still has to ask. A notification may wait for one of those calls, without end."""
    poll = select.poll()
    poll.register(fd, 0)
    disconnected = any(events & select.POLLERR for _, events in poll.poll(0))
    if mounted is not None and not disconnected:
        abort(mounted)


def _notify(tell: Callable[..., None], *args: object) -> bool:
    """Tell the kernel to forget something. False (ENOENT): it knows nothing of it."""
    try:
        tell(*args)
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.warning("the kernel did not take an invalidation: %s", error)
        return False
    return True


class VfsOperations(pyfuse3.Operations):
    """Requests of the kernel as calls of the VFS, each on a worker thread."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, vfs: Vfs, options: FuseOptions) -> None:
        super().__init__()
        self._vfs = vfs
        self._options = options
        self.n_requests: Counter[str] = Counter()  # by opcode; changed on the trio thread only
        self._limiter: trio.CapacityLimiter | None = None

    def limit(self, n_threads: int) -> None:
        """How many calls may be in the VFS at once. To be set on the trio thread before serving."""
        self._limiter = trio.CapacityLimiter(n_threads)

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a VFS call on a worker thread. Anything but FUSEError would end the whole mount."""
        name = function.__name__
        self.n_requests[OPCODE_OF.get(name) or name.upper()] += 1
        try:
            return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._limiter)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            log.exception("unexpected error in a request")
            raise pyfuse3.FUSEError(errno.EIO) from error

    # Names

    async def lookup(self, parent_inode: "InodeT", name: bytes, ctx: "RequestContext") -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.lookup, caller(ctx), Inode(parent_inode), name))

    async def forget(self, inode_list: "Sequence[tuple[InodeT, int]]") -> None:
        self.n_requests["FORGET" if len(inode_list) == 1 else "BATCH_FORGET"] += 1
        for ino, n in inode_list:
            self._vfs.forget(Inode(ino), n)  # memory only: a thread would cost more

    async def mknod(
        self, parent_inode: "InodeT", name: bytes, mode: "ModeT", rdev: int, ctx: "RequestContext"
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.mknod, caller(ctx), Inode(parent_inode), name, mode, rdev))

    async def mkdir(self, parent_inode: "InodeT", name: bytes, mode: "ModeT", ctx: "RequestContext") -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.mkdir, caller(ctx), Inode(parent_inode), name, mode))

    async def symlink(self, parent_inode: "InodeT", name: bytes, target: bytes, ctx: "RequestContext") -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.symlink, caller(ctx), Inode(parent_inode), name, target))

    async def readlink(self, inode: "InodeT", ctx: "RequestContext") -> bytes:
        return await self._call(self._vfs.readlink, caller(ctx), Inode(inode))

    async def link(
        self, inode: "InodeT", new_parent_inode: "InodeT", new_name: bytes, ctx: "RequestContext"
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.link, caller(ctx), Inode(inode), Inode(new_parent_inode), new_name))

    async def unlink(self, parent_inode: "InodeT", name: bytes, ctx: "RequestContext") -> None:
        await self._call(self._vfs.unlink, caller(ctx), Inode(parent_inode), name)

    async def rmdir(self, parent_inode: "InodeT", name: bytes, ctx: "RequestContext") -> None:
        await self._call(self._vfs.rmdir, caller(ctx), Inode(parent_inode), name)

    async def rename(
        self,
        parent_inode_old: "InodeT",
        name_old: bytes,
        parent_inode_new: "InodeT",
        name_new: bytes,
        flags: "FlagT",
        ctx: "RequestContext",
    ) -> None:
        old, new = Inode(parent_inode_old), Inode(parent_inode_new)
        await self._call(self._vfs.rename, caller(ctx), old, name_old, new, name_new, flags)

    # Attributes

    async def getattr(self, inode: "InodeT", ctx: "RequestContext") -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.getattr, caller(ctx), Inode(inode)))

    async def setattr(
        self,
        inode: "InodeT",
        attr: pyfuse3.EntryAttributes,
        fields: "pyfuse3.SetattrFields",
        fh: "FileHandleT | None",
        ctx: "RequestContext",
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._call(self._vfs.setattr, caller(ctx), Inode(inode), changes(attr, fields), fh))

    async def access(self, inode: "InodeT", mode: "ModeT", ctx: "RequestContext") -> bool:
        """Never asked with default_permissions."""
        await self._call(self._vfs.access, caller(ctx), Inode(inode), mode)
        return True

    async def statfs(self, ctx: "RequestContext") -> pyfuse3.StatvfsData:
        return totals(await self._call(self._vfs.statfs, caller(ctx)))

    # Files

    async def create(
        self, parent_inode: "InodeT", name: bytes, mode: "ModeT", flags: "FlagT", ctx: "RequestContext"
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        attr, opened = await self._call(self._vfs.create, caller(ctx), Inode(parent_inode), name, mode, flags)
        return file_info(opened), self._entry(attr)

    async def open(self, inode: "InodeT", flags: "FlagT", ctx: "RequestContext") -> pyfuse3.FileInfo:
        return file_info(await self._call(self._vfs.open, caller(ctx), Inode(inode), flags))

    async def read(self, fh: "FileHandleT", off: int, size: int) -> bytes:
        return b"".join(await self._call(self._vfs.read, NOBODY, fh, off, size))

    async def write(self, fh: "FileHandleT", off: int, buf: bytes) -> int:
        """pyfuse3 does not tell pages written back from a mapping, which come through any handle, also one with O_APPEND.
        They begin at a page border; there, the kernel's offset is taken as it is.
        """
        write = self._vfs.write if off % PAGE_BYTES else self._vfs.write_mapped
        return await self._call(write, NOBODY, fh, off, buf)

    async def flush(self, fh: "FileHandleT") -> None:
        await self._call(self._vfs.flush, NOBODY, fh)

    async def fsync(self, fh: "FileHandleT", datasync: bool) -> None:
        await self._call(self._vfs.fsync, NOBODY, fh, datasync)

    async def release(self, fh: "FileHandleT") -> None:
        await self._call(self._vfs.release, NOBODY, fh)

    # Directories

    async def opendir(self, inode: "InodeT", ctx: "RequestContext") -> "FileHandleT":
        opened = await self._call(self._vfs.opendir, caller(ctx), Inode(inode))
        return pyfuse3.FileHandleT(opened.fh)

    async def readdir(self, fh: "FileHandleT", start_id: int, token: "ReaddirToken") -> None:
        await self._call(self._fill, fh, start_id, token)

    async def releasedir(self, fh: "FileHandleT") -> None:
        await self._call(self._vfs.releasedir, NOBODY, fh)

    async def fsyncdir(self, fh: "FileHandleT", datasync: bool) -> None:
        await self._call(self._vfs.fsyncdir, NOBODY, fh, datasync)

    # Extended attributes

    async def getxattr(self, inode: "InodeT", name: bytes, ctx: "RequestContext") -> bytes:
        """Of an attribute in security. that nobody has yet, ENODATA always: pyfuse3 asks for an attribute before it sets one with
        XATTR_CREATE or XATTR_REPLACE, and takes nothing else for its absence.
        """
        try:
            return await self._call(self._vfs.getxattr, caller(ctx), Inode(inode), name)
        except pyfuse3.FUSEError as error:
            if error.errno == errno.EOPNOTSUPP and name.startswith(SECURITY):
                raise pyfuse3.FUSEError(errno.ENODATA) from None
            raise

    async def setxattr(self, inode: "InodeT", name: bytes, value: bytes, ctx: "RequestContext") -> None:
        await self._call(self._vfs.setxattr, caller(ctx), Inode(inode), name, value)

    async def listxattr(self, inode: "InodeT", ctx: "RequestContext") -> list[bytes]:
        return await self._call(self._vfs.listxattr, caller(ctx), Inode(inode))

    async def removexattr(self, inode: "InodeT", name: bytes, ctx: "RequestContext") -> None:
        await self._call(self._vfs.removexattr, caller(ctx), Inode(inode), name)

    # Values

    def _fill(self, fh: int, cookie: int, token: "ReaddirToken") -> None:
        """Entries until the kernel's buffer is full. pyfuse3 always answers READDIRPLUS, which cannot name what is gone."""
        for entry in self._vfs.readdir(NOBODY, fh, cookie, plus=True):
            shown = self._dir_entry(entry)
            if shown is not None and not pyfuse3.readdir_reply(token, entry.name, shown, entry.cookie):
                return

    def _dir_entry(self, entry: DirEntry) -> pyfuse3.EntryAttributes | None:
        return None if entry.attr is None else self._entry(entry.attr)

    def _entry(self, attr: Attr) -> pyfuse3.EntryAttributes:
        is_dir = stat.S_ISDIR(attr.mode)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(attr.ino)
        entry.generation = GENERATION
        entry_timeout_s = self._options.dir_entry_timeout_s if is_dir else self._options.entry_timeout_s
        entry.entry_timeout = TIMEOUT_S if entry_timeout_s is None else entry_timeout_s
        entry.attr_timeout = TIMEOUT_S if self._options.attr_timeout_s is None else self._options.attr_timeout_s
        entry.st_mode = pyfuse3.ModeT(attr.mode)
        entry.st_nlink = attr.nlink
        entry.st_uid, entry.st_gid, entry.st_rdev = attr.uid, attr.gid, attr.rdev
        entry.st_size = DIR_BYTES if is_dir else attr.size
        entry.st_blksize = DIR_BLOCK_BYTES if is_dir else BLOCK_BYTES
        entry.st_blocks = (attr.alloc_bytes + 511) // 512
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
        return entry


NOBODY = Caller()  # requests on handles come without their caller, and need none


def caller(ctx: "RequestContext") -> Caller:
    """Who asks. pyfuse3 does not tell of interrupts."""
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def file_info(opened: Opened) -> pyfuse3.FileInfo:
    """An open file as pyfuse3 wants it."""
    return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(opened.fh), keep_cache=opened.keep_cache, direct_io=opened.direct_io)


def changes(attr: pyfuse3.EntryAttributes, fields: "pyfuse3.SetattrFields") -> SetAttr:
    """What a SETATTR asks for. pyfuse3 has put in the time where the kernel said "now"."""
    return SetAttr(
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
    )


def totals(usage: StatFs) -> pyfuse3.StatvfsData:
    """Volume totals in blocks."""
    data = pyfuse3.StatvfsData()
    used_blocks = -(-usage.used_bytes // BLOCK_BYTES)
    data.f_bsize = data.f_frsize = BLOCK_BYTES
    data.f_blocks = usage.total_bytes // BLOCK_BYTES
    data.f_bfree = data.f_bavail = max(0, data.f_blocks - used_blocks)
    data.f_files = usage.total_inodes
    data.f_ffree = data.f_favail = max(0, usage.total_inodes - usage.used_inodes)
    data.f_namemax = MAX_NAME_BYTES
    return data
