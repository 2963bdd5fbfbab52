"""Further names of an inode, and the end of names: link, unlink, rmdir, and what follows when the last name is gone."""

import errno
import stat
from collections.abc import Callable
from typing import NamedTuple

from cairnfs.const import MAX_LINKS
from cairnfs.errors import FsError
from cairnfs.meta.core import MetaCore
from cairnfs.meta.dirs import GONE, TAKEN, change_directory, change_names, directory, entry, inode_of, tell_walkers, walk
from cairnfs.meta.free import free_inode
from cairnfs.meta.records import decode_attr, decode_dentry, dentry_key, dentry_value, encode_attr, inode_key, sustained_key
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Inode, Position

IsOpen = Callable[[Inode], bool]


class Unlinked(NamedTuple):
    """What became of an inode that lost a name. `kept`: it has none left, but its row stays for those who hold it open."""

    attr: Attr
    kept: bool


def link(core: MetaCore, ino: Inode, parent: Inode, name: bytes, way: Position | None = None) -> Attr:
    """Give an inode another name; from then on it does not know its directory (`parent` 0). `way`: see `dirs.walk`.

    ENOENT when it has no name left or the directory is gone, EPERM for a directory, EEXIST, EMLINK, ENOTDIR.
    """
    now_ns = core.now_ns()

    def build(txn: Txn) -> Attr:
        key, into_key, name_key = inode_key(ino), inode_key(parent), dentry_key(parent, name)
        row, parent_row, taken = txn.get_many((key, into_key, name_key), absent=name_key)  # as for a new file (`names`)
        into = directory(parent, parent_row)
        if row is None:
            raise FsError(errno.ENOENT)
        attr = _with_another_name(decode_attr(ino, row), now_ns)
        if taken is not None:
            raise FsError(errno.EEXIST)
        walk(txn, way)
        txn.unchanged(key)
        txn.exists(into_key, GONE)
        txn.absent(name_key, TAKEN)
        txn.put(key, encode_attr(attr))
        txn.put(name_key, dentry_value(ino, attr.mode))
        change_directory(txn, into, now_ns, entries=1)
        return attr

    attr, committed = core.transact_at(build)
    attr.version = committed.position
    return attr


def unlink(core: MetaCore, parent: Inode, name: bytes, is_open: IsOpen, way: Position | None = None) -> Unlinked:
    """Remove a name of something that is no directory. ENOENT, EISDIR. `way`: see `dirs.walk`.

    `is_open` is asked when no other name is left, perhaps more than once: whether this session holds the inode open. Then
    it stays without a name until `release_deleted`; otherwise the same commit frees it.
    """
    now_ns = core.now_ns()

    def build(txn: Txn) -> Unlinked:
        key = dentry_key(parent, name)
        row, parent_row = txn.get_many((key, inode_key(parent)))
        dentry = None if row is None else decode_dentry(parent, name, row.value)
        if dentry is None:
            raise FsError(errno.ENOENT)
        if stat.S_ISDIR(dentry.type):
            raise FsError(errno.EISDIR)
        attr = inode_of(txn, dentry)
        walk(txn, way)
        txn.unchanged(key)
        txn.delete(key)
        tell_walkers(txn, attr)
        change_directory(txn, directory(parent, parent_row), now_ns, entries=-1)
        return drop_name(core, txn, attr, now_ns, is_open)

    unlinked, committed = change_names(core, build, parent, name)
    unlinked.attr.version = committed.position
    return unlinked


def rmdir(core: MetaCore, parent: Inode, name: bytes, way: Position | None = None) -> Unlinked:
    """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY. `way`: see `dirs.walk`; who is in it finds that it is gone.

    Its row goes at once even when it is open somewhere, so that no node can create a name in it.
    """
    now_ns = core.now_ns()

    def build(txn: Txn) -> Unlinked:
        _, parent_row = txn.get_many((dentry_key(parent, name), inode_key(parent)))
        dentry = entry(txn, parent, name)
        if dentry is None:
            raise FsError(errno.ENOENT)
        if not stat.S_ISDIR(dentry.type):
            raise FsError(errno.ENOTDIR)
        attr = inode_of(txn, dentry)
        walk(txn, way)
        txn.unchanged(dentry_key(parent, name))
        txn.delete(dentry_key(parent, name))
        change_directory(txn, directory(parent, parent_row), now_ns, entries=-1, subdirs=-1)
        return drop_directory(txn, attr, now_ns)

    unlinked, committed = change_names(core, build, parent, name)
    unlinked.attr.version = committed.position
    return unlinked


def release_deleted(core: MetaCore, ino: Inode) -> None:
    """Free an inode that has no name left, at its last close. One that is gone, or has a name, is left alone."""

    def build(txn: Txn) -> None:
        row = txn.get(inode_key(ino))
        txn.delete(sustained_key(core.session, ino))
        if row is None:
            return
        attr = decode_attr(ino, row)
        if attr.nlink == 0:
            free_inode(txn, attr)

    core.transact(build)


def drop_name(core: MetaCore, txn: Txn, attr: Attr, now_ns: int, is_open: IsOpen) -> Unlinked:
    """Effects of taking one name from an inode that is no directory. `attr`, as it is stored, becomes what it is afterwards."""
    kept = attr.nlink == 1 and is_open(attr.ino)
    freed = attr.nlink == 1 and not kept
    if freed:
        free_inode(txn, attr)
    attr.nlink -= 1
    attr.ctime_ns = now_ns
    if attr.nlink == 0:
        attr.parent = 0
    if freed:
        return Unlinked(attr, kept)
    key = inode_key(attr.ino)
    txn.unchanged(key)
    txn.put(key, encode_attr(attr))
    if kept:
        core.while_alive(txn)
        txn.put(sustained_key(core.session, attr.ino), b"")
    return Unlinked(attr, kept)


def drop_directory(txn: Txn, stored: Attr, now_ns: int) -> Unlinked:
    """Effects of removing a directory that has lost its name. ENOTEMPTY, also for a name created in it before the commit."""
    if stored.size:
        raise FsError(errno.ENOTEMPTY)
    free_inode(txn, stored)
    attr = stored.copy()
    attr.nlink, attr.parent, attr.ctime_ns = 0, 0, now_ns
    return Unlinked(attr, kept=False)


def _with_another_name(stored: Attr, now_ns: int) -> Attr:
    if stored.is_dir:
        raise FsError(errno.EPERM)
    if stored.nlink == 0:
        raise FsError(errno.ENOENT)
    if stored.nlink >= MAX_LINKS:
        raise FsError(errno.EMLINK)
    attr = stored.copy()
    attr.nlink += 1
    attr.parent = 0
    attr.ctime_ns = now_ns
    return attr
