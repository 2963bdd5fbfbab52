"""What the parts of the VFS share: the layers below, the tables of what is open, and the checks every request needs."""

import errno
import itertools
import os
from collections.abc import Callable, Iterable

from cairnfs.clock import Clock
from cairnfs.const import MAX_NAME_BYTES
from cairnfs.data import Data
from cairnfs.data.syncing import SyncUser
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.meta import Meta
from cairnfs.options import EngineOptions
from cairnfs.types import Attr, Inode, Position
from cairnfs.vfs.capacity import Capacity
from cairnfs.vfs.carried import GENERATION_SHIFT, Carried
from cairnfs.vfs.handles import FIRST_COMPILED, Handle, HandleTable
from cairnfs.vfs.moved import Moved
from cairnfs.vfs.openfiles import OpenFiles
from cairnfs.vfs.pages import PageVersions
from cairnfs.vfs.pinned import Pinned
from cairnfs.vfs.unanswered import Unanswered
from cairnfs.vfs.unopened import Unopened

UNKNOWN = Position(0)


def _alone(position: Position) -> None:
    """The fence of a volume that nobody follows: each open reads the inode afresh, and no kernel keeps anything."""


def _nobody(inos: Iterable[Inode]) -> None:
    """The kernel that is to ask for attributes again, where there is none."""


def _nowhere() -> None:
    """Up to where changes are known, if nobody follows them, or the fence tells without asking the store."""


class VfsState:
    """One per Vfs. `numbers` gives handle numbers to files and directories alike, so one never passes for the other."""

    def __init__(
        self,
        meta: Meta,
        data: Data,
        options: EngineOptions,
        clock: Clock,
        arena: Arena,
        carried: Carried | None = None,
        *,
        is_shared: bool,
    ) -> None:
        """`is_shared`: compiled code answers from the arena."""
        self.arena = arena
        self.is_shared = is_shared
        self.carried = carried
        self.left: frozenset[int] = frozenset()  # requests that a predecessor of this process had in work when it died
        self.meta = meta
        self.data = data
        self.options = options
        self.clock = clock
        journal, records = (None, None) if carried is None else (carried.journal, carried.handles)
        self.fence: Callable[[Position], None] = _alone
        self.forget: Callable[[Iterable[Inode]], None] = _nobody
        self.dropped: Callable[[Inode, Position], None] | None = None
        self.drop: Callable[[Inode, bool], None] | None = None
        self.way: Callable[[], Position | None] = _nowhere
        self.catch_up: Callable[[], None] | None = None
        self.hold: Callable[[], None] = _nowhere
        self.n_sync_failures = 0  # told to those who have no handle: syncfs, directories that compiled code has opened
        self.has_kernel = False  # who checks permissions, of what it has found
        self.moved = Moved(self._parent_of, arena, clock, carried)
        self.pages = PageVersions(arena)
        self.capacity = Capacity(meta, clock)
        self.unanswered = Unanswered(clock, data.n_answers)
        self.files = OpenFiles(meta, data, self.pages, self.capacity, arena, journal)
        self.pinned = Pinned(self.files.release, clock)
        self.numbers = itertools.count(1 if carried is None else (carried.generation << GENERATION_SHIFT) + 1)
        self.handles: HandleTable[Handle] = HandleTable(self.numbers, records)
        self.unopened = Unopened(self.files, lambda file: Handle(file, os.O_RDONLY, data.reader.cursor()))

    def refuse_unseen(self) -> None:
        """ESTALE where the kernel was about to create what somebody else has made since it looked, and so has not checked whether
        this caller may open it: it looks again, and finds it.
        """
        if self.catch_up is not None:
            self.catch_up()
        if self.has_kernel:
            raise FsError(errno.ESTALE)

    def handle(self, fh: int) -> Handle:
        """An open handle; for a negative number the one for reading the inode of that number, which nobody need have opened.
        One that compiled code has given out becomes one of ours. EBADF, ESTALE.
        """
        if fh < 0:
            return self.unopened.get(Inode(-fh))
        return self.handles.get(fh) if fh < FIRST_COMPILED else self._adopted(fh)

    def _adopted(self, fh: int) -> Handle:
        found = self.handles.find(fh)
        if found is not None:
            return found
        file = self.files.adopt(Inode(fh >> 64))
        handle = self.handles.adopt(fh, made := Handle(file, os.O_RDONLY, self.data.reader.cursor()))
        if handle is not made:
            self.files.release(file)
        return handle

    def get(self, ino: Inode) -> Attr:
        """Attributes of an inode as they are stored. ENOENT."""
        return self.meta.names.get(ino) if self.arena.attr(ino) else self.meta.names.get_first(ino)

    def _parent_of(self, ino: Inode) -> Inode | None:
        return Inode(self.meta.names.recalled(ino).parent) or None

    def appended(self, request: int) -> bool:
        """Whether a predecessor of this process has noted the append of a request."""
        return self.carried is not None and self.carried.journal.appended(request)

    def n_handles(self) -> int:
        """Open handles of files, those of compiled code included."""
        return sum(fh < FIRST_COMPILED for fh in self.handles.numbers()) + sum(self.arena.handles().values())

    def n_inodes(self) -> int:
        """Inodes that are open, whoever opened them."""
        return len(self.arena.handles().keys() | {file.ino for file in self.files.all()})

    def writable(self) -> None:
        """EROFS when the volume was opened read-only."""
        if self.options.read_only:
            raise FsError(errno.EROFS)

    def sync(self, user: SyncUser | None = None) -> None:
        """What is committed survives a loss of power when this returns. `user`: the handle, for those who have one."""
        self.data.syncing.sync(user or self)

    def shown(self, attr: Attr) -> Attr:
        """`attr`, just fetched, as the callers of this process must see it: with data that they wrote and that was not
        committed when it was fetched. (The row is read again when dirty data may have been committed in between.)

        For LOOKUP and READDIRPLUS, which cannot wait until the kernel has dropped pages of before, whose last one would show
        zeros behind what was the end: it holds the directory's lock meanwhile. So it is made to ask for the attributes of such
        a file again, and drops those of the reply.
        """
        file = self.files.get(attr.ino)
        if file is not None and file.writer is not None:
            dirty = file.dirty_state()
            attr = file.overlay(self.meta.names.get(attr.ino), dirty)
        elif self.pages.newest(attr.ino) > attr.data_version:
            attr = self.meta.names.get(attr.ino)
        if attr.is_file and self.pages.older(attr):
            self.forget((attr.ino,))
        return attr


def check_name(name: bytes) -> None:
    """A name that may be created: ENAMETOOLONG, or EINVAL for an empty one, a dot name, a slash or NUL inside."""
    if len(name) > MAX_NAME_BYTES:
        raise FsError(errno.ENAMETOOLONG)
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise FsError(errno.EINVAL)
