"""Names: lookup, creation, links, removal, rename. Checks names; what the operations mean is `engine.meta.names`."""

import errno
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from cairnfs.const import MAX_NAME_BYTES, MAX_SYMLINK_BYTES, ROOT_INO
from cairnfs.errors import FsError, WayChanged
from cairnfs.meta.names import NoSuchName
from cairnfs.types import Attr, Caller, Inode, Position
from cairnfs.vfs.carried import MAX_REMOVED, RemovedRecords
from cairnfs.vfs.openfile import CLEAN, stale
from cairnfs.vfs.state import UNKNOWN, VfsState, check_name

LONGEST_REMOVAL_S = 60.0
MAX_WAYS = 3  # each needs another node to rename a directory or a link in between; one that always does is not waited for
MISLED = frozenset({errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY})

T = TypeVar("T")


class RemovedDirs:
    """Attributes of directories removed here that someone may still be in: `stat(".")` goes on to work, as on a disk.

    A hint kept until the kernel forgets the inode, bounded; without an entry the answer is ENOENT.
    """

    def __init__(self, records: RemovedRecords | None = None) -> None:
        """`records`: where a successor of this process finds them."""
        self._records = records
        self._attrs: OrderedDict[Inode, Attr] = OrderedDict()
        self._removals: set[object] = set()  # under way: their commit may be done, and the attributes not be here yet
        self._lock = threading.Lock()
        self._removed = threading.Condition(self._lock)

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Around an operation that may remove a directory, up to its `add`."""
        removal = object()
        with self._lock:
            self._removals.add(removal)
        try:
            yield
        finally:
            with self._removed:
                self._removals.discard(removal)
                self._removed.notify_all()

    def add(self, attr: Attr) -> None:
        with self._lock:
            self._attrs[attr.ino] = attr
            if len(self._attrs) > MAX_REMOVED:
                self._attrs.popitem(last=False)
            if self._records is not None:
                self._records.add(attr)

    def resume(self) -> None:
        """After a predecessor of this process has died."""
        with self._lock:
            if self._records is not None:
                self._attrs.update({attr.ino: attr for attr in self._records.resume()})

    def get(self, ino: Inode) -> Attr | None:
        """Attributes of a directory that is gone, None when it was not removed here. Waits for removals under way."""
        with self._removed:
            before = set(self._removals)
            self._removed.wait_for(lambda: ino in self._attrs or self._removals.isdisjoint(before), LONGEST_REMOVAL_S)
            attr = self._attrs.get(ino)
        return None if attr is None else attr.copy()

    def drop(self, ino: Inode) -> None:
        if ino in self._attrs:
            with self._lock:
                self._attrs.pop(ino, None)
                if self._records is not None:
                    self._records.remove(ino)


class Namespace:
    """Operations on directory entries; what each promises is said at `Vfs`."""

    def __init__(self, state: VfsState, removed: RemovedDirs) -> None:
        self._state = state
        self._names = state.meta.names
        self._removed = removed

    def lookup(self, c: Caller, parent: Inode, name: bytes) -> Attr:
        if len(name) > MAX_NAME_BYTES:
            raise FsError(errno.ENAMETOOLONG)
        if name in (b".", b".."):
            return self._dot(parent, name)
        self._state.pinned.let_go(c.pid)
        try:
            self._refuse_absent(parent, name)
            return self._pinned(c.pid, parent, name) if self._state.moved.walks(c.pid) else self._found(parent, name)
        except NoSuchName as error:
            self._state.fence(error.position)
            self._state.moved.check(c.pid, parent, name)
            raise

    def _found(self, parent: Inode, name: bytes) -> Attr:
        return self._state.shown(self._names.lookup(parent, name))

    def _pinned(self, pid: int, parent: Inode, name: bytes) -> Attr:
        """`_found`, for a thread on its second try: holds a regular file for it, unless each is gone as soon as it is found."""
        files = self._state.files
        for _ in range(MAX_WAYS):
            attr = self._found(parent, name)
            if not attr.is_file:
                break
            file = files.acquire(attr.ino)  # after a removal that is under way
            try:
                is_there = file.refresh().nlink > 0 or files.keeps(file)
            except FsError:
                is_there = False
            except BaseException:
                files.release(file)
                raise
            if is_there:
                self._state.pinned.hold(pid, file)
                break
            files.release(file)
        return attr

    def _refuse_absent(self, parent: Inode, name: bytes) -> None:
        """ENOENT for a name that is known not to exist, without reading it. Not what was known when the request came, but after a
        fence: whoever opens the name must see what others have made.
        """
        arena = self._state.arena
        if not self._state.is_shared:
            return
        is_absent = arena.name(parent, name) == 0
        if is_absent or not arena.fresh():  # so that changes are noted before the kernel learns what they have made
            self._state.fence(UNKNOWN)
        position = Position(arena.applied)
        if is_absent and arena.fresh() and arena.name(parent, name) == 0:
            raise NoSuchName(position)

    def readlink(self, ino: Inode) -> bytes:
        try:
            attr = self._names.recalled(ino)
        except FsError as error:
            stale(error)
            raise
        if not attr.is_symlink:
            raise FsError(errno.EINVAL)
        return attr.tail

    def create(self, c: Caller, parent: Inode, name: bytes, mode: int) -> Attr:
        """Create a regular file that is opened at once."""
        self._state.writable()
        check_name(name)
        check = partial(self._state.moved.check_change, c.pid, (parent, name))
        return self._walked(check, [(parent, name)], partial(self._names.create, c, parent, name, mode), self._state.way())

    def mknod(self, c: Caller, parent: Inode, name: bytes, mode: int, rdev: int = 0, target: bytes = b"") -> Attr:
        """Create a node of the type in `mode` (a regular file when it has none)."""
        self._state.writable()
        check_name(name)
        if not stat.S_IFMT(mode):
            mode |= stat.S_IFREG
        make = partial(self._names.create, c, parent, name, mode, rdev, target)
        if stat.S_ISSOCK(mode):  # bind has no second try
            return make()
        check = partial(self._state.moved.check_new, c.pid, parent, name)
        return self._walked(check, [(parent, name)], make, self._state.way())

    def mkdir(self, c: Caller, parent: Inode, name: bytes, mode: int) -> Attr:
        return self.mknod(c, parent, name, stat.S_IFDIR | stat.S_IMODE(mode))

    def symlink(self, c: Caller, parent: Inode, name: bytes, target: bytes) -> Attr:
        if not target:
            raise FsError(errno.ENOENT)
        if len(target) > MAX_SYMLINK_BYTES:
            raise FsError(errno.ENAMETOOLONG)
        return self.mknod(c, parent, name, stat.S_IFLNK | 0o777, 0, target)

    def link(self, c: Caller, ino: Inode, parent: Inode, name: bytes) -> Attr:
        self._state.writable()
        check_name(name)
        check = partial(self._state.moved.check_new, c.pid, parent, name)
        file = self._state.files.get(ino)
        dirty = CLEAN if file is None else file.dirty_state()
        attr = self._walked(check, [(parent, name)], partial(self._names.link, ino, parent, name), self._state.way())
        return attr if file is None else file.overlay(attr, dirty)

    def unlink(self, c: Caller, parent: Inode, name: bytes) -> None:
        self._state.writable()
        check_name(name)
        with self._state.files.removal() as removal:
            removal.done(self._changed(c, [(parent, name)], partial(self._names.unlink, parent, name, removal.is_open)))

    def rmdir(self, c: Caller, parent: Inode, name: bytes) -> None:
        self._state.writable()
        if name == b"..":
            raise FsError(errno.ENOTEMPTY)
        check_name(name)
        with self._removed.removing():
            self._removed.add(self._changed(c, [(parent, name)], partial(self._names.rmdir, parent, name)).attr)

    def rename(self, c: Caller, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int) -> None:
        self._state.writable()
        check_name(name)
        check_name(new_name)
        with self._removed.removing(), self._state.files.removal() as removal:
            rename = partial(self._names.rename, parent, name, new_parent, new_name, flags, removal.is_open)
            replaced = self._changed(c, [(parent, name), (new_parent, new_name)], rename).replaced
            if replaced is not None:
                removal.done(replaced)
                if replaced.attr.is_dir:
                    self._removed.add(replaced.attr)

    def _changed(self, c: Caller, names: Sequence[tuple[Inode, bytes]], change: Callable[..., T]) -> T:
        """`_walked`, for names that the kernel has had all the time: nobody has asked what others have made of them."""
        way = self._state.way()
        if way is None:
            self._state.fence(UNKNOWN)
        return self._walked(partial(self._state.moved.check_change, c.pid, *names), names, change, way)

    def _walked(
        self, check: Callable[[], bool], names: Sequence[tuple[Inode, bytes]], change: Callable[..., T], way: Position | None
    ) -> T:
        """Change names in directories that the kernel has found by walking along a path, unless others have changed what it
        leads to: in the same round trip, where they may have and nobody has asked.

        `check` raises ESTALE, or says that the thread has to be let pass; `change` takes `way`, see `dirs.walk`. It was asked for
        before the check: what becomes known after that has not been looked at.
        """
        state = self._state
        for _ in range(MAX_WAYS):
            try:
                if check() or all(parent == ROOT_INO for parent, _ in names):
                    break
            except FsError:
                state.fence(UNKNOWN)  # for the second try, which asks for each name on the way
                raise
            try:
                return change(way=way)
            except WayChanged:
                state.fence(UNKNOWN)
                way = state.way()
            except FsError as error:
                if way is not None and error.errno in MISLED:
                    state.fence(UNKNOWN)
                    check()
                raise
        return change()

    def _dot(self, ino: Inode, name: bytes) -> Attr:
        attr = self._names.get(ino)
        if name == b".":  # of a file, too: so the kernel asks for what a file handle is of (open_by_handle_at, NFS)
            return self._state.shown(attr)
        if not attr.is_dir:
            raise FsError(errno.ENOTDIR)
        if ino == ROOT_INO:
            return attr
        return self._names.get(Inode(attr.parent))
