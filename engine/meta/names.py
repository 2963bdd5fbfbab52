"""The name space: which names a directory has and which inodes they stand for. The face of `links` and `rename`, too.

Permissions are the kernel's business, and names arrive checked (length, no slash, not "." or ".."). Each change is one
commit. A directory keeps its number of entries in `size`, and one link per subdirectory besides its own two; an inode
with one name knows its directory by `parent`.
"""

import errno
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from cairnfs.const import MAX_SYMLINK_BYTES, ROOT_INO
from cairnfs.errors import FsError
from cairnfs.ext.page import Page
from cairnfs.meta import acl
from cairnfs.meta.core import MetaCore
from cairnfs.meta.dirs import GONE, TAKEN, Vanished, change_directory, directory, look_again, walk
from cairnfs.meta.links import IsOpen, Unlinked, link, release_deleted, rmdir, unlink
from cairnfs.meta.records import (
    ATTR_SUBKEY,
    FLAG_ACCESS_ACL,
    FLAG_DEFAULT_ACL,
    FLAG_XATTR,
    INODE_PREFIX,
    USAGE_KEY,
    USED_INODES_AT,
    decode_attr,
    decode_dentry,
    dentry_key,
    dentry_part,
    dentry_value,
    encode_attr,
    inode_key,
    xattr_key,
)
from cairnfs.meta.rename import Renamed, rename
from cairnfs.meta.stores.base import NO_ROWS, Row
from cairnfs.meta.stores.named import neighbours
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Caller, Inode, Position

SCAN_NAMES = 1024  # names per round trip when a directory is searched for an inode


class Listed(NamedTuple):
    """One name of a directory; `type` is the S_IFMT bits. `attr` is None unless asked for, or when just removed."""

    name: bytes
    ino: Inode
    type: int
    attr: Attr | None


class PageOfNames(NamedTuple):
    """Rows of a directory's names, and the directory as it was at that moment; None when it was gone. `position`: see `Via`."""

    directory: Attr | None
    page: Page
    position: Position = Position(0)


class NoSuchName(FsError):
    """There is no such name, as of `position` (0: not known)."""

    def __init__(self, position: Position) -> None:
        super().__init__(errno.ENOENT)
        self.position = position


class Names:
    """Lookup, creation, links, removal, rename and listing. Every method may raise StoreError and CorruptError (EIO)."""

    def __init__(self, core: MetaCore) -> None:
        self._core = core
        self._store = core.store

    def get(self, ino: Inode) -> Attr:
        """Attributes of an inode. ENOENT."""
        row = self._core.recall.read((inode_key(ino),))[0]
        if row is None:
            raise FsError(errno.ENOENT)
        return decode_attr(ino, row)

    def get_first(self, ino: Inode) -> Attr:
        """`get` of an inode that nothing is known of; its neighbours come along now and then."""
        attr = self.get(ino)
        if attr.parent:
            self._bring_neighbours(Inode(attr.parent))
        return attr

    def lookup(self, parent: Inode, name: bytes) -> Attr:
        """Attributes of the inode that a name stands for; its neighbours come along now and then. NoSuchName (ENOENT)."""
        return look_again(lambda: self._look_up_once(parent, name), parent, name)

    def create(
        self,
        caller: Caller,
        parent: Inode,
        name: bytes,
        mode: int,
        rdev: int = 0,
        target: bytes = b"",
        way: Position | None = None,
    ) -> Attr:
        """Make a new inode of the type in `mode` and give it a name; `target` is that of a symbolic link.

        The umask, or the directory's default ACL instead of it, narrows the permissions; a set-group-id directory gives
        its group. EEXIST, ENOENT (the directory is gone), ENOTDIR, EMLINK, ENAMETOOLONG (target), ENOSPC (inodes). `way`, here
        and below: what paths lead through is as it was at that position (see `dirs.walk`), else WayChanged (ESTALE).
        """
        if len(target) > MAX_SYMLINK_BYTES:
            raise FsError(errno.ENAMETOOLONG)
        new = _new_attr(self._core, caller, parent, mode, rdev, target)
        attr, committed = self._core.transact_at(lambda txn: self._create(txn, new.copy(), name, caller.umask, way))
        attr.version = committed.position
        return attr

    def link(self, ino: Inode, parent: Inode, name: bytes, way: Position | None = None) -> Attr:
        """Give an inode another name. EEXIST, EPERM (a directory), ENOENT (no name left, or no directory), EMLINK."""
        return link(self._core, ino, parent, name, way)

    def unlink(self, parent: Inode, name: bytes, is_open: IsOpen, way: Position | None = None) -> Unlinked:
        """Remove a name of something that is no directory. ENOENT, EISDIR. `is_open`: see `links.unlink`."""
        self._bring(parent, name)
        return unlink(self._core, parent, name, is_open, way)

    def rmdir(self, parent: Inode, name: bytes, way: Position | None = None) -> Unlinked:
        """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY."""
        self._bring(parent, name)
        return rmdir(self._core, parent, name, way)

    def release_deleted(self, ino: Inode) -> None:
        """The last handle of an inode without names was closed: free it. Does nothing for one that is gone or has names."""
        release_deleted(self._core, ino)

    def rename(
        self,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
        flags: int,
        is_open: IsOpen,
        way: Position | None = None,
    ) -> Renamed:
        """Move a name, replacing what is there; `flags` are those of renameat2(). Errors: see `rename.rename`."""
        self._bring(parent, name)
        return rename(self._core, parent, name, new_parent, new_name, flags, is_open, way)

    def list(self, parent: Inode, after: bytes | None, limit: int, with_attrs: bool) -> list[Listed]:
        """Up to `limit` names greater than `after` in bytewise order, in one round trip."""
        if not with_attrs:
            rows = self._store.scan(dentry_part(parent), after, limit)
            return [_listed(parent, name, row) for name, row in rows]
        found = [(_listed(parent, name, row), inode) for name, row, inode in neighbours(self.page(parent, after, limit).page)]
        return [listed if inode is None else listed._replace(attr=decode_attr(listed.ino, inode)) for listed, inode in found]

    def page(self, parent: Inode, after: bytes | None, limit: int, with_inodes: bool = True) -> PageOfNames:
        """`list` as rows, with the directory's own; inode records go along for those who keep what passes."""
        part = dentry_part(parent)
        found = self._core.recall.scan_via(part, after, limit, INODE_PREFIX, ATTR_SUBKEY, with_named=with_inodes)
        owner = None if found.owner is None else decode_attr(parent, found.owner)
        return PageOfNames(owner, found.page, found.position)

    def fetch(self, inos: Sequence[Inode]) -> Sequence[Callable[[], Attr] | None]:
        """Read inodes from one snapshot, to be decoded by those who want to see them; None for one that does not exist."""
        rows = self._store.read([inode_key(ino) for ino in inos])
        return [None if row is None else partial(decode_attr, ino, row) for ino, row in zip(inos, rows, strict=True)]

    def recalled(self, ino: Inode) -> Attr:
        """`get`, or what came of an earlier read if nothing is known to have changed since."""
        key = inode_key(ino)
        row = self._core.recall.known([key]).get(key)
        return self.get(ino) if row is None else decode_attr(ino, row)

    def remembered(self, ino: Inode, version: Position) -> Attr | None:
        """Attributes as of a version of their row; None if that is not remembered."""
        row = self._core.recall.known_at(inode_key(ino), version)
        return None if row is None else decode_attr(ino, row)

    def path_of(self, ino: Inode) -> bytes | None:
        """The path from the root, None when the inode has or had several names, or none. Reads whole directories."""
        names: list[bytes] = []
        while ino != ROOT_INO:
            parent = Inode(self.get(ino).parent)
            name = self._name_in(parent, ino) if parent else None
            if name is None:
                return None
            names.append(name)
            ino = parent
        return b"/" + b"/".join(reversed(names))

    def _look_up_once(self, parent: Inode, name: bytes) -> Attr:
        with self._core.neighbours.beside(parent, name) as page:
            found = self._core.recall.read_via(dentry_key(parent, name), INODE_PREFIX, ATTR_SUBKEY, page.along)
            page.got(found)
        if found.row is None:
            raise NoSuchName(found.position)
        dentry = decode_dentry(parent, name, found.row.value)
        if found.named is None:
            raise Vanished
        return decode_attr(dentry.ino, found.named)

    def _bring(self, parent: Inode, name: bytes) -> None:
        """What a name stands for, for a transaction to recall: in one round trip, if any, that brings neighbours along."""
        core = self._core
        if core.neighbours.started and not core.recall.knows(dentry_key(parent, name)):
            with suppress(FsError, Vanished):  # the transaction sees for itself
                self._look_up_once(parent, name)

    def _bring_neighbours(self, parent: Inode) -> None:
        with self._core.neighbours.beside(parent, None) as page:
            along = page.along
            page.got_page(self.page(parent, along.after, along.limit).page if along.limit else NO_ROWS)

    def _create(self, txn: Txn, attr: Attr, name: bytes, umask: int, way: Position | None) -> Attr:
        parent = Inode(attr.parent)
        into_key, name_key = inode_key(parent), dentry_key(parent, name)
        # The kernel has looked; if a worker that fetches answered it, this one knows nothing of that.
        parent_row, taken = txn.get_many((into_key, name_key), absent=name_key)
        into = directory(parent, parent_row)
        if taken is not None:
            raise FsError(errno.EEXIST)
        walk(txn, way)
        txn.exists(into_key, GONE)
        txn.absent(name_key, TAKEN)
        self._count_inode(txn)
        _inherit_group(attr, into)
        _inherit_permissions(txn, attr, into, umask)
        txn.put(inode_key(attr.ino), encode_attr(attr))
        txn.put(name_key, dentry_value(attr.ino, attr.mode))
        change_directory(txn, into, attr.ctime_ns, entries=1, subdirs=int(attr.is_dir))
        return attr

    def _count_inode(self, txn: Txn) -> None:
        limit = self._core.format.inodes
        if limit:
            txn.at_most(USAGE_KEY, USED_INODES_AT, 1, limit, FsError(errno.ENOSPC))
        txn.add(USAGE_KEY, USED_INODES_AT, 1)

    def _name_in(self, parent: Inode, ino: Inode) -> bytes | None:
        after: bytes | None = None
        while page := self.list(parent, after, SCAN_NAMES, False):
            for listed in page:
                if listed.ino == ino:
                    return listed.name
            after = page[-1].name
        return None


def _listed(parent: Inode, name: bytes, row: Row) -> Listed:
    return Listed(name, *decode_dentry(parent, name, row.value), None)


def listed(parent: Inode, page: Page, begin: int, end: int) -> list[Listed]:
    """Entries that rows of a page stand for. CorruptError (EIO)."""
    return [Listed(name, *decode_dentry(parent, name, row[0]), None) for name, row, _ in page.rows(begin, end)]


def _new_attr(core: MetaCore, caller: Caller, parent: Inode, mode: int, rdev: int, target: bytes) -> Attr:
    now_ns = core.now_ns()
    return Attr(
        core.ids.inode(),
        mode,
        caller.uid,
        caller.gid,
        nlink=2 if stat.S_ISDIR(mode) else 1,
        size=len(target),
        rdev=rdev,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        btime_ns=now_ns,
        parent=parent,
        tail=target,
    )


def _inherit_group(attr: Attr, into: Attr) -> None:
    """Below a set-group-id directory everything has its group, and directories are set-group-id themselves."""
    if into.mode & stat.S_ISGID:
        attr.gid = into.gid
        if attr.is_dir:
            attr.mode |= stat.S_ISGID


def _inherit_permissions(txn: Txn, attr: Attr, into: Attr, umask: int) -> None:
    """Apply the directory's default ACL, or the umask when it has none; symbolic links know neither."""
    if attr.is_symlink:
        attr.mode |= 0o777
        return
    row = txn.get(xattr_key(into.ino, acl.DEFAULT)) if into.flags & FLAG_DEFAULT_ACL else None
    if row is None:
        attr.mode &= ~umask
        return
    access, attr.mode = acl.inherit(acl.parse(row.value), attr.mode)
    if access is not None:
        txn.put(xattr_key(attr.ino, acl.ACCESS), acl.encode(access))
        attr.flags |= FLAG_XATTR | FLAG_ACCESS_ACL
    if attr.is_dir:
        txn.put(xattr_key(attr.ino, acl.DEFAULT), row.value)
        attr.flags |= FLAG_XATTR | FLAG_DEFAULT_ACL
