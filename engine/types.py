"""Values that cross layer borders: who calls, what an inode is, what a directory entry is.

Times are nanoseconds since the epoch (signed), sizes and offsets are bytes, names are bytes as the kernel gave them.
"""

import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, NewType

Inode = NewType("Inode", int)
PackId = NewType("PackId", int)
Position = NewType("Position", int)
SessionId = NewType("SessionId", int)

Buffer = bytes | bytearray | memoryview

TYPE_NAMES = {  # of inodes, for people
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def never_interrupted() -> bool:
    return False


class _Serving(threading.local):
    """What the present thread serves."""

    request = 0


serving = _Serving()
"""`serving.request` is the front's number of the request that this thread serves, 0 for none. Commits that must not be made twice
carry it in the change log, so that whoever takes over from a process that was killed knows what that had done."""


class Caller(NamedTuple):
    """Who makes a request. `interrupted` tells whether the calling process has been signalled since; `fenced`, that it has passed
    `Vfs.fence`.
    """

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0
    interrupted: Callable[[], bool] = never_interrupted
    fenced: bool = False


@dataclass(slots=True)
class Attr:
    """Attributes of one inode, as stored (`engine.meta.records` has the offset table) plus its number and row version.

    `size` is bytes for files, the target's length for symbolic links, the number of entries for directories.
    `alloc_bytes` counts bytes that the layout maps to stored slices, exactly (holes are not in it).
    `data_version` grows by one with each commit that changes content; equal versions mean equal bytes.
    `parent` is the directory that holds the only name of the inode, 0 when it has or had several names.
    `version` is the position of the commit that last changed the row, 0 when not known.
    `tail` is the layout of chunk 0 for files (slice records), the target for symbolic links, empty otherwise.
    """

    ino: Inode
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    btime_ns: int = 0
    parent: int = 0
    alloc_bytes: int = 0
    data_version: int = 0
    flags: int = 0
    tail: bytes = b""
    version: int = 0

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    def copy(self) -> "Attr":
        return Attr(*_attr_fields(self))


_attr_fields = attrgetter(*Attr.__slots__)  # takes a fifth of the time of dataclasses.replace()


@dataclass(slots=True)
class SetAttr:
    """Which attributes to change; None leaves one as it is. The caller resolves "now" before it gets here."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    kill_suidgid: bool = False


class DirEntry:
    """One entry of a directory listing: `type` is the S_IFMT bits, `cookie` where to go on after this entry."""

    __slots__ = ("_attr", "cookie", "ino", "name", "type")

    def __init__(
        self, name: bytes, ino: Inode, type: int, cookie: int, attr: Attr | Callable[[], Attr | None] | None = None
    ) -> None:
        """`attr`: only for readdirplus; or what gives it when it is asked for."""
        self.name = name
        self.ino = ino
        self.type = type
        self.cookie = cookie
        self._attr = attr

    @property
    def has_attr(self) -> bool:
        """Whether attributes go with the name (None all the same when the inode was just removed)."""
        return self._attr is not None

    @property
    def attr(self) -> Attr | None:
        if callable(self._attr):
            self._attr = self._attr()
        return self._attr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DirEntry) and self._fields() == other._fields()

    def __repr__(self) -> str:
        return "DirEntry({!r}, {}, {:#o}, {}, {!r})".format(*self._fields())

    def _fields(self) -> tuple[bytes, Inode, int, int, Attr | None]:
        return self.name, self.ino, self.type, self.cookie, self.attr


class Opened(NamedTuple):
    """An open file or directory. `keep_cache`: pages the kernel has are still the content. `direct_io`: the kernel asks for
    every read, whatever size the file shows, and keeps no pages.
    """

    fh: int
    keep_cache: bool
    direct_io: bool = False


class Lock(NamedTuple):
    """A byte-range (fcntl) or whole-file (flock) lock. `end` is inclusive, 2**63-1 for "to the end"."""

    type: int  # fcntl.F_RDLCK, F_WRLCK, F_UNLCK
    start: int
    end: int
    pid: int
    owner: int
    flock: bool = False


class StatFs(NamedTuple):
    """Volume totals in bytes and inodes; the fronts turn them into blocks."""

    total_bytes: int
    used_bytes: int
    total_inodes: int
    used_inodes: int


class SliceRef(NamedTuple):
    """Where the bytes of one slice are stored: `plain_len` bytes, found at `stored_off`..+`stored_len` of a pack.

    `crc` is CRC32C of the plain bytes. `codec` is `const.CODEC_*`.
    """

    pack: PackId
    stored_off: int
    stored_len: int
    plain_len: int
    crc: int
    codec: int


class Extent(NamedTuple):
    """`length` bytes of a file at `file_off`, found at `off` within the plain bytes of slice `ref` (None: a hole)."""

    file_off: int
    length: int
    off: int
    ref: SliceRef | None
