"""Renaming: one commit for whatever moves, is replaced, or is exchanged.

A directory must not be moved below itself. To know that, its new ancestors are walked from `parent` to `parent`, and
nobody else may move a directory to another parent meanwhile. So such moves, and only they, take turns: each requires
the `moves` counter to be unchanged, as a single kernel does with one mutex per file system. Every commit that gives a
directory or a symbolic link another name adds one to it, for those who walk through these names (`dirs.walk`).
"""

import errno
import stat
from typing import NamedTuple

from cairnfs.const import ROOT_INO
from cairnfs.errors import FsError
from cairnfs.meta.core import MetaCore
from cairnfs.meta.dirs import change_directory, change_names, directory, entry, inode_of, tell_walkers, walk
from cairnfs.meta.links import IsOpen, Unlinked, drop_directory, drop_name
from cairnfs.meta.records import CTIME_AT, MOVES_KEY, decode_attr, dentry_key, dentry_value, encode_attr, inode_key, time_field
from cairnfs.meta.stores.base import Key
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Inode, Position

NOREPLACE = 1  # RENAME_* of renameat2(); WHITEOUT (4) is for overlays on block devices and refused
EXCHANGE = 2


class Renamed(NamedTuple):
    """What became of the inode that was renamed, of its partner in an exchange, and of the inode whose name it took."""

    moved: Attr
    exchanged: Attr | None
    replaced: Unlinked | None


class _Place(NamedTuple):
    """A directory taking part, and the name in it."""

    into: Attr
    name: bytes
    key: Key

    @property
    def ino(self) -> Inode:
        return self.into.ino


def rename(
    core: MetaCore,
    parent: Inode,
    name: bytes,
    new_parent: Inode,
    new_name: bytes,
    flags: int,
    is_open: IsOpen,
    way: Position | None = None,
) -> Renamed:
    """Move a name; what has the new name already loses it, or with EXCHANGE gets the old one.

    Two names of one inode are left as they are. ENOENT, EEXIST (NOREPLACE), EINVAL (a directory into itself or below,
    other flags), ENOTDIR and EISDIR (one is a directory, the other is not), ENOTEMPTY, EMLINK. `is_open`: see `unlink`;
    `way`: see `dirs.walk`.
    """
    if flags not in (0, NOREPLACE, EXCHANGE):
        raise FsError(errno.EINVAL)
    now_ns = core.now_ns()

    def build(txn: Txn) -> Renamed:
        return _Rename(core, txn, now_ns, way).run(parent, name, new_parent, new_name, flags, is_open)

    renamed, committed = change_names(core, build, parent, name)
    for attr in (renamed.moved, renamed.exchanged, renamed.replaced and renamed.replaced.attr):
        if attr is not None and committed.position:
            attr.version = committed.position
    return renamed


class _Rename:
    """One attempt at a rename."""

    def __init__(self, core: MetaCore, txn: Txn, now_ns: int, way: Position | None) -> None:
        self._core = core
        self._txn = txn
        self._now_ns = now_ns
        self._way = way

    def run(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int, is_open: IsOpen) -> Renamed:
        old, new = self._places(parent, name, new_parent, new_name, flags)
        source, target = entry(self._txn, parent, name), entry(self._txn, new_parent, new_name)
        if source is None or (target is None and flags == EXCHANGE):
            raise FsError(errno.ENOENT)
        if target is not None and flags == NOREPLACE:
            raise FsError(errno.EEXIST)
        self._txn.get_many([inode_key(dentry.ino) for dentry in (source, target) if dentry is not None])
        moved = inode_of(self._txn, source)
        if target is None:
            self._require(old, new)
            tell_walkers(self._txn, moved)
            return Renamed(self._move(moved, old, new), None, None)
        there = inode_of(self._txn, target)
        if moved.ino == there.ino:
            return Renamed(moved, None, None)
        self._require(old, new)
        tell_walkers(self._txn, moved, there)
        if flags == EXCHANGE:
            return self._exchange(moved, there, old, new)
        return self._replace(moved, there, old, new, is_open)

    def _places(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int) -> tuple[_Place, _Place]:
        """Both directories, read with both entries and, when it may matter, the counter of moves from one snapshot."""
        name_key, new_key = dentry_key(parent, name), dentry_key(new_parent, new_name)
        keys = [inode_key(parent), inode_key(new_parent), name_key, new_key]
        if parent != new_parent:
            keys.append(MOVES_KEY)
        rows = self._txn.get_many(keys, absent=None if flags == EXCHANGE else new_key)  # as for a new file (`names`)
        into = directory(parent, rows[0])
        new_into = into if parent == new_parent else directory(new_parent, rows[1])
        return _Place(into, name, name_key), _Place(new_into, new_name, new_key)

    def _require(self, old: _Place, new: _Place) -> None:
        walk(self._txn, self._way)
        self._txn.unchanged(old.key)
        self._txn.unchanged(new.key)

    def _move(self, moved: Attr, old: _Place, new: _Place, *, entries: int = 0, subdirs: int = 0) -> Attr:
        """Effects of a name that goes from `old` to `new`; `entries` and `subdirs` are what was removed at `new` (<= 0)."""
        self._txn.delete(old.key)
        self._txn.put(new.key, dentry_value(moved.ino, moved.mode))
        if old.ino == new.ino:
            change_directory(self._txn, old.into, self._now_ns, entries=entries, subdirs=subdirs)
        else:
            self._forbid_loop(moved, new, old)
            is_dir = int(moved.is_dir)
            change_directory(self._txn, old.into, self._now_ns, entries=-1, subdirs=-is_dir)
            change_directory(self._txn, new.into, self._now_ns, entries=1 + entries, subdirs=is_dir + subdirs)
        return self._relocate(moved, old, new)

    def _replace(self, moved: Attr, there: Attr, old: _Place, new: _Place, is_open: IsOpen) -> Renamed:
        if moved.is_dir and not there.is_dir:
            raise FsError(errno.ENOTDIR)
        if there.is_dir and not moved.is_dir:
            raise FsError(errno.EISDIR)
        if there.is_dir:
            replaced = drop_directory(self._txn, there, self._now_ns)
        else:
            replaced = drop_name(self._core, self._txn, there, self._now_ns, is_open)
        return Renamed(self._move(moved, old, new, entries=-1, subdirs=-int(there.is_dir)), None, replaced)

    def _exchange(self, moved: Attr, there: Attr, old: _Place, new: _Place) -> Renamed:
        self._txn.put(old.key, dentry_value(there.ino, there.mode))
        self._txn.put(new.key, dentry_value(moved.ino, moved.mode))
        if old.ino == new.ino:
            change_directory(self._txn, old.into, self._now_ns)
        else:
            self._forbid_loop(moved, new, old)
            self._forbid_loop(there, old, new)
            gained = int(there.is_dir) - int(moved.is_dir)
            change_directory(self._txn, old.into, self._now_ns, subdirs=gained)
            change_directory(self._txn, new.into, self._now_ns, subdirs=-gained)
        return Renamed(self._relocate(moved, old, new), self._relocate(there, new, old), None)

    def _relocate(self, stored: Attr, old: _Place, new: _Place) -> Attr:
        """Effects on the inode itself. Without a new parent its row need not be what was read, so writers do not conflict."""
        key = inode_key(stored.ino)
        attr = stored.copy()
        attr.ctime_ns = max(attr.ctime_ns, self._now_ns)
        if old.ino == new.ino or not stored.parent:
            self._txn.max(key, CTIME_AT, time_field(self._now_ns))
            return attr
        attr.parent = new.ino
        self._txn.unchanged(key)
        self._txn.put(key, encode_attr(attr))
        return attr

    def _forbid_loop(self, moved: Attr, into: _Place, origin: _Place) -> None:
        """EINVAL when `into` is the directory `moved` or lies below it. What is above `origin` cannot be.

        Nobody else may move a directory meanwhile.
        """
        if not stat.S_ISDIR(moved.mode):
            return
        self._txn.unchanged(MOVES_KEY)
        ino, attr = into.ino, into.into
        while ino != moved.ino:
            if ino in (ROOT_INO, origin.ino):
                return
            ino = Inode(attr.parent)
            row = self._txn.get(inode_key(ino))
            if row is None:
                raise FsError(errno.ENOENT)
            attr = decode_attr(ino, row)
        raise FsError(errno.EINVAL)
