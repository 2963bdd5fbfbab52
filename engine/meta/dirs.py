"""What every change of names has in common: finding what a name stands for, and what happens to the directory itself.

A directory's row is contended: many nodes create in it at once. So its entry count, link count and times change by `Add`
and `Max` effects, and the row is never required to be unchanged. `Max` needs the row to exist, which is what keeps a name
from being put into a directory that was removed in between.
"""

import errno
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cairnfs.clock import is_ahead
from cairnfs.const import MAX_LINKS
from cairnfs.errors import CorruptError, FsError, WayChanged
from cairnfs.meta.core import MetaCore
from cairnfs.meta.records import (
    CTIME_AT,
    MOVES_KEY,
    MTIME_AT,
    NLINK_AT,
    SIZE_AT,
    Dentry,
    decode_attr,
    decode_dentry,
    dentry_key,
    encode_attr,
    inode_key,
    time_field,
)
from cairnfs.meta.stores.base import Committed, Row
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Inode, Position

T = TypeVar("T")

MAX_LOOKS = 20  # each needs another node to remove or replace the name between two reads of ours
GONE, TAKEN = partial(FsError, errno.ENOENT), partial(FsError, errno.EEXIST)  # errors of conditions
REWRITES = 3  # attempts of an operation that bring a directory from the future, before it leaves it there


class Vanished(Exception):
    """A name led to an inode that is not there: it was removed or replaced between two reads, so look again."""


def look_again(attempt: Callable[[], T], parent: Inode, name: bytes) -> T:
    """Run `attempt` until it is not disturbed by a removal. CorruptError (EIO) for a name that leads nowhere for good."""
    for _ in range(MAX_LOOKS):
        try:
            return attempt()
        except Vanished:
            continue
    raise CorruptError(f"directory {parent}: the entry {name!r} names an inode that does not exist; run 'cairnfs fsck'")


def change_names(core: MetaCore, build: Callable[[Txn], T], parent: Inode, name: bytes) -> tuple[T, Committed]:
    """`MetaCore.transact_at` for operations on a name: also starts over when `build` raises Vanished."""
    return look_again(partial(core.transact_at, build), parent, name)


def directory(ino: Inode, row: Row | None) -> Attr:
    """Attributes of a directory that is to change. ENOENT when it is gone, ENOTDIR when it is something else."""
    if row is None:
        raise FsError(errno.ENOENT)
    attr = decode_attr(ino, row)
    if not attr.is_dir:
        raise FsError(errno.ENOTDIR)
    return attr


def entry(txn: Txn, parent: Inode, name: bytes) -> Dentry | None:
    """What the name stands for, None when there is no such name."""
    row = txn.get(dentry_key(parent, name))
    return None if row is None else decode_dentry(parent, name, row.value)


def inode_of(txn: Txn, dentry: Dentry) -> Attr:
    """The inode an entry names. Raises Vanished when it is gone."""
    row = txn.get(inode_key(dentry.ino))
    if row is None:
        raise Vanished
    return decode_attr(dentry.ino, row)


def change_directory(txn: Txn, attr: Attr, now_ns: int, *, entries: int = 0, subdirs: int = 0) -> None:
    """Effects on a directory in which names change: its times, its number of entries, its link count. EMLINK when full."""
    key = inode_key(attr.ino)
    if subdirs > 0 and attr.nlink + subdirs > MAX_LINKS:
        raise FsError(errno.EMLINK)
    mtime_ns = ctime_ns = now_ns
    if is_ahead(max(attr.mtime_ns, attr.ctime_ns), now_ns):
        if txn.attempt < REWRITES:
            _bring_to_present(txn, attr, now_ns)
        else:  # others whose clocks are ahead change it all the time
            mtime_ns, ctime_ns = max(now_ns, attr.mtime_ns + 1), max(now_ns, attr.ctime_ns + 1)
    txn.max(key, MTIME_AT, time_field(mtime_ns))  # before Add, which would make a row that is missing
    txn.max(key, CTIME_AT, time_field(ctime_ns))
    if entries:
        txn.add(key, SIZE_AT, entries)
    if subdirs:
        txn.add(key, NLINK_AT, subdirs)


def walk(txn: Txn, way: Position | None) -> None:
    """Condition for changes of names that were found by walking along a path: no directory and no symbolic link has got another
    name since a position up to which all changes are known (None: not known). WayChanged.
    """
    if way is not None:
        txn.not_since(MOVES_KEY, way, WayChanged)


def tell_walkers(txn: Txn, *moved: Attr | None) -> None:
    """Effect of a change of names on whoever walks through them: see `walk`. Once in a commit."""
    for attr in moved:
        if attr is not None and not attr.is_file and (attr.is_dir or attr.is_symlink):
            txn.add(MOVES_KEY, 0, 1)
            return


def _bring_to_present(txn: Txn, attr: Attr, now_ns: int) -> None:
    """A time in the future, of utimensat() or a wrong clock, would hide every change from a `Max`: rewrite the row this once."""
    key = inode_key(attr.ino)
    present = attr.copy()
    present.mtime_ns, present.ctime_ns = now_ns, min(attr.ctime_ns, now_ns)
    txn.unchanged(key)
    txn.put(key, encode_attr(present))
